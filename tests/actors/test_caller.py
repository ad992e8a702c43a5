"""The caller: one identity a message, and honesty about what became of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.actors._caller import (
    FIRST_BACKOFF,
    FIRST_SILENCE,
    LAST_BACKOFF,
    LAST_SILENCE,
    MAX_UNRESOLVED,
    Call,
    Destination,
    Done,
    Retry,
    new_session,
)
from aegis.actors._sessions import WINDOW
from aegis.contracts import session_start_ms
from aegis.errors import AegisError, NotFound, Unavailable

UNJOURNALED = [400, 404, 408, 410, 413]
RETRIED = [421, 429, 503]


def refusal(**facts: object) -> dict[str, object]:
    return {"message": "no", **facts}


def code_of(done: Done | Retry | None) -> int:
    assert isinstance(done, Done)
    assert done.error is not None
    return done.error.code


def test_a_session_tells_its_start() -> None:
    assert session_start_ms(new_session(1_700_000_000_000, "ab12")) == 1_700_000_000_000


def test_numbers_count_up_and_low_is_the_lowest_that_is_open() -> None:
    destination = Destination("1-a")
    assert [destination.open() for _ in range(3)] == [1, 2, 3]
    destination.close(2)
    assert destination.low == 1
    destination.close(1)
    assert destination.low == 3
    destination.close(3)
    assert destination.low == 4


def test_the_window_is_full_while_the_oldest_is_open() -> None:
    destination = Destination("1-a")
    for _ in range(WINDOW):
        assert destination.has_room
        destination.open()
    destination.close(WINDOW)
    assert not destination.has_room
    destination.close(1)
    assert destination.has_room


@given(st.lists(st.booleans() | st.integers(1, 12), max_size=80))
def test_every_open_number_lies_within_the_window(steps: list[bool | int]) -> None:
    destination, opened = Destination("1-a", window=4), set[int]()
    for action in steps:
        if isinstance(action, bool):
            if destination.has_room:
                opened.add(destination.open())
        else:
            destination.close(action)
            opened.discard(action)
        assert all(destination.low <= n < destination.low + 4 for n in opened)
        assert not opened or destination.low == min(opened)


def test_a_value_ends_the_call() -> None:
    call = Call(10.0)
    call.attempt()
    assert call.answered(200, 7) == Done(7)


@pytest.mark.parametrize("status", [422, 500])
def test_an_answer_of_the_handler_ends_the_call_after_any_number_of_attempts(status: int) -> None:
    call = Call(10.0)
    for _ in range(3):
        call.attempt()
    assert code_of(call.answered(status, refusal())) == status


@pytest.mark.parametrize("status", UNJOURNALED)
def test_a_refusal_of_the_only_attempt_ends_the_call(status: int) -> None:
    call = Call(10.0)
    call.attempt()
    assert code_of(call.answered(status, refusal())) == status


@pytest.mark.parametrize("status", UNJOURNALED + RETRIED)
def test_a_refusal_after_several_attempts_proves_nothing(status: int) -> None:
    call = Call(10.0, message_id="1-a-1")
    call.attempt()
    call.attempt()
    assert call.answered(status, refusal()) is None
    done = call.expired()
    assert code_of(done) == 504
    assert done.error is not None
    assert done.error.facts["message_id"] == "1-a-1"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_or_absent_owner_is_tried_again_and_told_at_the_deadline(status: int) -> None:
    call = Call(10.0)
    call.attempt()
    assert call.answered(status, refusal()) is None
    assert isinstance(call.refused(0.0, 0.5), Retry)
    assert code_of(call.expired()) == status


def test_moved_is_no_proof_even_for_the_only_attempt() -> None:
    """A fenced owner says so of commands that it has run, and whose append may stand."""
    call = Call(10.0)
    call.attempt()
    assert call.answered(421, refusal()) is None
    assert code_of(call.expired()) == 504


def test_moved_after_the_only_delivered_attempt_is_no_proof_either() -> None:
    call = Call(10.0)
    call.attempt()
    assert call.answered(421, refusal()) is None
    call.attempt()
    call.undelivered()
    assert code_of(call.expired()) == 504


def test_an_attempt_that_reached_nobody_does_not_count() -> None:
    call = Call(10.0)
    call.attempt()
    call.undelivered()
    call.attempt()
    assert code_of(call.answered(404, refusal())) == 404


def test_silence_is_an_unknown_outcome() -> None:
    call = Call(10.0)
    call.attempt()
    assert code_of(call.expired()) == 504


def test_a_call_that_never_left_did_not_run() -> None:
    call = Call(10.0)
    assert isinstance(call.refused(0.0, 0.5, error=NotFound("none")), Retry)
    assert code_of(call.expired()) == 404
    assert code_of(Call(1.0).expired()) == 503


def test_a_message_that_took_effect_with_its_reply_gone_is_no_refusal() -> None:
    call = Call(10.0, message_id="1-a-1")
    call.attempt()
    done = call.answered(410, refusal(done=True))
    assert code_of(done) == 504
    assert isinstance(done, Done)
    assert done.error is not None
    assert done.error.facts["message_id"] == "1-a-1"
    assert call.too_old_to_begin(done.error) is None


def test_only_the_only_attempt_may_begin_anew_above_the_floor() -> None:
    call = Call(10.0)
    call.attempt()
    done = call.answered(410, refusal(floor=99))
    assert isinstance(done, Done)
    assert call.too_old_to_begin(done.error) == 99
    call.attempt()
    assert call.too_old_to_begin(done.error) is None


def test_a_query_may_be_refused_at_any_attempt() -> None:
    call = Call(10.0, exact=False)
    call.attempt()
    call.attempt()
    assert code_of(call.answered(404, refusal())) == 404


@given(st.lists(st.floats(0, 0.999), min_size=1, max_size=30))
def test_backoff_grows_to_its_limit_and_no_further(jitters: list[float]) -> None:
    call = Call(1e9)
    for attempt, jitter in enumerate(jitters):
        call.attempt()
        call.answered(503, refusal())
        decision = call.refused(0.0, jitter)
        assert isinstance(decision, Retry)
        expected = min(LAST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(10, attempt))
        assert 0.5 * expected <= decision.delay <= 1.5 * expected
        assert decision.moved


def test_no_wait_goes_beyond_the_deadline() -> None:
    call = Call(1.0)
    call.attempt()
    decision = call.refused(0.999, 0.5, error=Unavailable("gone"))
    assert isinstance(decision, Retry)
    assert decision.delay == pytest.approx(0.001)
    assert isinstance(call.refused(1.0, 0.5), Done)


def test_a_refusal_does_not_make_the_next_silence_longer() -> None:
    call = Call(1e9)
    call.attempt()
    assert call.silence() == FIRST_SILENCE
    call.answered(421, refusal())
    call.refused(0.0, 0.0)
    call.attempt()
    assert call.silence() == FIRST_SILENCE
    call.attempt()
    assert call.silence() == 2 * FIRST_SILENCE
    for _ in range(20):
        call.attempt()
    assert call.silence() == LAST_SILENCE


steps = st.sampled_from(["lost", "ran, lost", "ran, moved", "refused", "nobody", "late refusal"])


@given(st.lists(steps, max_size=8))
def test_a_final_refusal_means_that_no_attempt_ran(history: list[str]) -> None:
    """Each attempt meets one fate; whatever the mix, only 504 leaves open what happened."""
    call, ran, owed = Call(100.0), False, 0
    error: AegisError | None = None
    for fate in history:
        call.attempt()
        ran = ran or fate.startswith("ran")
        done: Done | None = None
        if fate == "ran, moved":
            done = call.answered(421, refusal())
        elif fate == "refused":
            done = call.answered(429, refusal())
        elif fate == "nobody":
            call.undelivered()
        elif fate == "late refusal":
            owed += 1
        if done is not None:
            error = done.error
            break
    else:
        for _ in range(owed):
            call.answered(408, refusal())
        error = call.expired().error
    assert error is not None
    assert error.code == 504 or not ran


def test_what_is_left_unknown_stays_open_but_not_for_ever() -> None:
    destination = Destination("1-a", window=4)
    left = [destination.open() for _ in range(2)]
    for n in left:
        destination.leave(n)
    answered = destination.open()
    destination.close(answered)
    assert destination.low == left[0]
    assert destination.is_idle
    destination.open()
    assert not destination.has_room
    assert destination.abandon_oldest()
    assert (destination.low, destination.has_room) == (left[1], True)
    destination.close(left[1])  # It was resolved.
    assert not destination.abandon_oldest()


def test_at_most_so_many_are_left_open() -> None:
    destination = Destination("1-a")
    for _ in range(MAX_UNRESOLVED + 2):
        destination.leave(destination.open())
    assert destination.low == 3
