"""What is news of a contract, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from aegis.marketdata._arbiter import Arbiter, Verdict
from aegis.marketdata._tick import Level, TickFlag
from tests.support.marketdata import ns, tick

LATER = {"time_ns": ns("2026-11-23 10:00:01"), "volume": 101}
STALE = int(TickFlag.STALE)

CASES: list[tuple[str, dict[str, Any], dict[str, Any], Verdict]] = [
    ("later", {}, LATER, Verdict.NEWS),
    ("the same again", {}, {}, Verdict.DUPLICATE),
    ("the same from another feed", {}, {"feed": "b", "received_ns": 5}, Verdict.DUPLICATE),
    ("earlier", LATER, {}, Verdict.OLDER),
    (
        "earlier with the same volume",
        {**LATER, "volume": 100},
        {"levels": (Level(3098.0, 5, 3101.0, 7),)},
        Verdict.OLDER,
    ),
    ("later with less volume", {}, {**LATER, "volume": 99}, Verdict.OLDER),
    # CZCE tells whole seconds: two genuine ticks carry the same time.
    ("the same time, more volume", {}, {"volume": 105}, Verdict.NEWS),
    (
        "the same time, another book",
        {},
        {"levels": (Level(3098.0, 5, 3101.0, 7),)},
        Verdict.NEWS,
    ),
    (
        "the next day begins at 0",
        {},
        {"trading_day": 20261124, "time_ns": ns("2026-11-23 21:00:00"), "volume": 0},
        Verdict.NEWS,
    ),
    ("the day before", {"trading_day": 20261124, "volume": 0}, {**LATER}, Verdict.OLDER),
    ("stale after a real one", {}, {**LATER, "flags": STALE}, Verdict.OLDER),
    (
        "a real one after a stale one with more volume",
        {"flags": STALE, "time_ns": ns("2026-11-23 15:00:00"), "volume": 10**6},
        {"volume": 0},
        Verdict.NEWS,
    ),
    ("stale after stale", {"flags": STALE}, {**LATER, "flags": STALE}, Verdict.NEWS),
    ("the same stale one", {"flags": STALE}, {"flags": STALE}, Verdict.DUPLICATE),
]


@pytest.mark.parametrize(
    ("first", "second", "verdict"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_the_second_of_two_ticks_is_judged_by_the_first(
    first: dict[str, Any], second: dict[str, Any], verdict: Verdict
) -> None:
    arbiter = Arbiter()
    assert arbiter.judge(tick(**first)) is Verdict.NEWS
    assert arbiter.judge(tick(**second)) is verdict
    kept = tick(**second) if verdict is Verdict.NEWS else tick(**first)
    assert arbiter.last["SHFE", "rb2701"] == kept
    assert arbiter.judged[verdict] == (2 if verdict is Verdict.NEWS else 1)


def test_contracts_of_the_same_name_at_two_exchanges_are_two() -> None:
    arbiter = Arbiter()
    assert arbiter.judge(tick()) is Verdict.NEWS
    assert arbiter.judge(tick(exchange="DCE")) is Verdict.NEWS


def test_what_was_forgotten_is_news_again() -> None:
    arbiter = Arbiter()
    arbiter.judge(tick(**LATER))
    arbiter.forget("SHFE", "rb2701")
    assert arbiter.judge(tick()) is Verdict.NEWS
