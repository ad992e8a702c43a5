"""What stays missing or stalled is told once, and once when it is over."""

from __future__ import annotations

from aegis.marketdata._calendar import Phase
from aegis.marketdata._coverage import ExchangeCoverage
from aegis.marketdata._escalation import TRIES, Escalations, Notice


def shfe(*missing: str, stalled: tuple[str, ...] = ()) -> list[ExchangeCoverage]:
    return [
        ExchangeCoverage("DCE", Phase.OPEN, 5, 5),
        ExchangeCoverage("SHFE", Phase.OPEN, 9, 9, list(missing), list(stalled)),
    ]


def escalated(*contracts: str, kind: str = "missing") -> Notice:
    return Notice("feed_escalated", "SHFE", kind, contracts)


def recovered(*contracts: str, kind: str = "missing") -> Notice:
    return Notice("feed_recovered", "SHFE", kind, contracts)


def test_what_comes_back_in_time_is_nobodys_business() -> None:
    escalations = Escalations()
    for _ in range(3):
        for _ in range(TRIES):
            assert escalations.take(shfe("a")) == []
        assert escalations.take(shfe()) == []


def test_what_persists_is_told_once_and_once_when_it_is_over() -> None:
    escalations = Escalations()
    for _ in range(TRIES):
        assert escalations.take(shfe("a", "b")) == []
    assert escalations.take(shfe("b", "a")) == [escalated("a", "b")]
    assert escalations.take(shfe("a", "b")) == []
    assert escalations.take(shfe("b")) == [recovered("a")]
    assert escalations.take(shfe("b")) == []
    assert escalations.take(shfe()) == [recovered("b")]
    assert escalations.take(shfe()) == []


def test_what_joins_later_is_told_of_by_itself() -> None:
    escalations = Escalations()
    escalations.take(shfe("a"))
    escalations.take(shfe("a", "b"))
    assert escalations.take(shfe("a", "b")) == [escalated("a")]
    assert escalations.take(shfe("a", "b")) == [escalated("b")]


def test_what_comes_back_begins_anew() -> None:
    escalations = Escalations()
    for _ in range(TRIES + 1):
        escalations.take(shfe("a"))
    assert escalations.take(shfe()) == [recovered("a")]
    assert escalations.take(shfe("a")) == []


def test_missing_and_stalled_are_told_apart() -> None:
    escalations = Escalations()
    for _ in range(TRIES):
        escalations.take(shfe("a", stalled=("b",)))
    assert escalations.take(shfe("a", stalled=("b",))) == [
        escalated("a"),
        escalated("b", kind="stalled"),
    ]


def test_an_exchange_that_is_wanted_no_more_has_nothing_missing() -> None:
    escalations = Escalations()
    for _ in range(TRIES + 1):
        escalations.take(shfe("a"))
    assert escalations.take([]) == [recovered("a")]


def test_a_break_changes_nothing() -> None:
    escalations = Escalations()
    in_break = [ExchangeCoverage("SHFE", Phase.BREAK, 9, 9, ["a", "b"])]
    for _ in range(TRIES):
        escalations.take(shfe("a"))
    for _ in range(5):
        assert escalations.take(in_break) == []
    assert escalations.take(shfe("a")) == [escalated("a")]
    for _ in range(5):
        assert escalations.take(in_break) == []
    assert escalations.take(shfe("a", "b")) == []
    assert escalations.take(shfe("b")) == [recovered("a")]


def test_of_many_contracts_the_first_are_named() -> None:
    notice = escalated(*(f"c{number:02}" for number in range(30)))
    facts = notice.facts()
    assert (facts["count"], len(facts["contracts"]), facts["contracts"][0]) == (30, 10, "c00")
