"""The pace of a bulk subscription, and what becomes of contracts without an answer."""

from __future__ import annotations

from aegis.marketdata._subscriptions import Pace, Subscriptions

KEYS = [f"SHFE.c{number:05}" for number in range(10_000)]


def test_no_more_is_outstanding_than_the_pace_allows() -> None:
    subscriptions = Subscriptions(Pace(batch=500, outstanding=2_000))
    subscriptions.want(KEYS)
    batches = [subscriptions.next_batch(0.0) for _ in range(10)]
    assert [len(batch) for batch in batches] == [500] * 4 + [0] * 6
    for key in batches[0][:300]:
        subscriptions.confirm(key)
    assert len(subscriptions.next_batch(0.1)) == 300
    assert subscriptions.outstanding == 2_000


def test_every_contract_is_asked_for_once_where_all_are_answered() -> None:
    subscriptions = Subscriptions()
    subscriptions.want(KEYS)
    asked: list[str] = []
    while not subscriptions.complete:
        for key in (batch := subscriptions.next_batch(0.0)):
            subscriptions.confirm(key)
        asked += batch
    assert asked == KEYS
    assert subscriptions.confirmed == set(KEYS)


def test_only_what_had_no_answer_is_asked_for_again() -> None:
    subscriptions = Subscriptions(Pace(answer_timeout=5.0, attempts=3))
    subscriptions.want(KEYS[:4])
    assert subscriptions.next_batch(0.0) == KEYS[:4]
    subscriptions.confirm(KEYS[0])
    subscriptions.refuse(KEYS[1], "no such contract")
    assert subscriptions.next_batch(4.9) == []
    assert subscriptions.next_batch(5.0) == KEYS[2:4]
    assert subscriptions.next_batch(10.0) == KEYS[2:4]
    subscriptions.confirm(KEYS[2])
    assert subscriptions.next_batch(15.0) == []
    assert subscriptions.silent == {KEYS[3]}
    assert subscriptions.refused == {KEYS[1]: "no such contract"}
    assert subscriptions.complete


def test_a_late_tick_confirms_what_was_given_up() -> None:
    subscriptions = Subscriptions(Pace(answer_timeout=1.0, attempts=1))
    subscriptions.want(KEYS[:1])
    subscriptions.next_batch(0.0)
    subscriptions.next_batch(1.0)
    assert subscriptions.silent == {KEYS[0]}
    subscriptions.confirm(KEYS[0])
    assert subscriptions.silent == set()
    assert subscriptions.confirmed == {KEYS[0]}


def test_after_a_lost_session_everything_is_asked_for_again() -> None:
    subscriptions = Subscriptions()
    subscriptions.want(KEYS[:3])
    subscriptions.next_batch(0.0)
    subscriptions.confirm(KEYS[0])
    subscriptions.refuse(KEYS[1], "flow control")
    subscriptions.lost()
    assert subscriptions.next_batch(0.0) == KEYS[:3]


def test_what_is_dropped_is_told_only_where_it_was_asked_for() -> None:
    subscriptions = Subscriptions(Pace(batch=2, outstanding=2))
    subscriptions.want(KEYS[:4])
    subscriptions.next_batch(0.0)
    subscriptions.confirm(KEYS[0])
    assert subscriptions.drop([KEYS[0], KEYS[1], KEYS[3], "SHFE.other"]) == KEYS[:2]
    assert subscriptions.wanted == {KEYS[2]}
    assert subscriptions.next_batch(0.0) == [KEYS[2]]
    subscriptions.confirm(KEYS[0])  # It still comes for a while.
    assert subscriptions.confirmed == set()


def test_stalled_contracts_can_be_asked_for_again() -> None:
    subscriptions = Subscriptions()
    subscriptions.want(KEYS[:2])
    subscriptions.next_batch(0.0)
    subscriptions.confirm(KEYS[0])
    assert subscriptions.retry([KEYS[0], KEYS[1], "SHFE.other"]) == 1
    assert subscriptions.next_batch(0.0) == [KEYS[0]]
    assert subscriptions.statistics()["outstanding"] == 2
