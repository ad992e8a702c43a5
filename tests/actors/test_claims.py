"""Claims of service groups: one commit a message, the first wins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.actors._claims import (
    CLAIM_TTL,
    MAX_CLOCK_DISTANCE_MS,
    Claim,
    ClaimStep,
    is_too_far,
)
from aegis.errors import ProtocolError

SENT = 1_700_000_000_000


def claim() -> Claim:
    return Claim(first_sent_ms=SENT, connection=1, status=200, reply=b"mine")


def test_a_claim_of_one_s_own_is_answered() -> None:
    mine = claim()
    assert mine.begin(wall_ms=SENT, connection=1) is ClaimStep.APPEND
    assert mine.appended() is ClaimStep.ANSWER
    assert (mine.status, mine.reply) == (200, b"mine")


def test_who_loses_the_race_answers_what_the_winner_wrote() -> None:
    mine, winner = claim(), Claim(SENT, 1, 422, b"theirs")
    assert mine.refused() is ClaimStep.READ
    assert mine.found(winner.to_wire()) is ClaimStep.ANSWER
    assert (mine.status, mine.reply) == (422, b"theirs")


@pytest.mark.parametrize("sign", [-1, 1])
def test_nothing_is_appended_far_from_the_first_attempt(sign: int) -> None:
    near = SENT + sign * MAX_CLOCK_DISTANCE_MS
    assert claim().begin(wall_ms=near, connection=1) is ClaimStep.APPEND
    assert claim().begin(wall_ms=near + sign, connection=1) is ClaimStep.SILENCE


def test_nothing_is_appended_on_a_later_connection() -> None:
    assert claim().begin(wall_ms=SENT, connection=2) is ClaimStep.SILENCE


def test_a_claim_whose_hour_is_over_is_answered_with_silence() -> None:
    assert claim().found(None) is ClaimStep.SILENCE


@pytest.mark.parametrize("wire", [7, [], [1], [1, 200], "text", [2, 200, b"", None]])
def test_what_is_no_claim_is_told_so(wire: object) -> None:
    with pytest.raises(ProtocolError):
        claim().found(wire)


@given(
    first=st.floats(0, 10 * 3600),
    second=st.floats(0, 10 * 3600),
    skews=st.tuples(st.floats(-1190, 1190), st.floats(-1190, 1190)),
)
def test_no_two_instances_commit_more_than_a_claim_s_life_apart(
    first: float, second: float, skews: tuple[float, float]
) -> None:
    """As long as two hosts' clocks differ by less than 40 minutes."""
    accepted = [
        not is_too_far(0, int((moment + skew) * 1000))
        for moment, skew in zip((first, second), skews, strict=True)
    ]
    if all(accepted):
        assert abs(first - second) < CLAIM_TTL
