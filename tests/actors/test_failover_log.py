"""What is told of a failover as a whole, from what the leader and the new owner tell."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import asdict

from aegis.actors import _failover_log
from aegis.actors._failover_log import FailoverLog, Promotion
from aegis.ops._live_failovers import failover_rows
from aegis.transport._codec import decode_value, encode_value


def promoted(*resource_ids: str, epoch: int = 7, **facts: Any) -> dict[str, Any]:
    return {
        "service_name": "account",
        "instance_id": "acct-2",
        "node_id": "node-2",
        "old_instance_id": "acct-1",
        "old_node_id": "node-1",
        "cause": "died",
        "epochs": dict.fromkeys(resource_ids, epoch),
        "durations": {"detected": 0.03, "decided": 0.01},
        **facts,
    }


def heard(log: FailoverLog, event: dict[str, Any]) -> None:
    log.promoted(event, at=0.0)


def answered(*resource_ids: str, epoch: int = 7) -> dict[str, Any]:
    return {
        "service_name": "account",
        "epochs": dict.fromkeys(resource_ids, epoch),
        "fenced_ms": 1.0,
        "replayed_ms": 2.0,
        "covered_ms": 3.0,
        "first_answer_ms": 4.0,
    }


def test_a_failover_has_the_cause_and_the_time_of_every_step() -> None:
    log = FailoverLog()
    heard(log, promoted("R-1"))
    [failover] = log.answered(answered("R-1"))
    assert (failover.old_instance_id, failover.instance_id) == ("acct-1", "acct-2")
    assert (failover.cause, failover.epochs) == ("died", {"R-1": 7})
    assert failover.durations == pytest.approx(
        {
            "detected": 0.03,
            "decided": 0.01,
            "fenced": 0.001,
            "replayed": 0.002,
            "covered": 0.003,
            "first_answer": 0.004,
            "total": 0.044,
        }
    )
    assert failover.to_wire()["resource_ids"] == ["R-1"]


def test_a_failover_is_told_once() -> None:
    log = FailoverLog()
    heard(log, promoted("R-1"))
    assert len(log.answered(answered("R-1"))) == 1
    assert log.answered(answered("R-1")) == []


def test_the_answer_of_another_epoch_belongs_to_another_failover() -> None:
    log = FailoverLog()
    heard(log, promoted("R-1", epoch=8))
    assert log.answered(answered("R-1", epoch=7)) == []
    assert len(log.answered(answered("R-1", epoch=8))) == 1


def test_resources_that_were_promoted_together_are_told_together() -> None:
    log = FailoverLog()
    heard(log, promoted("R-1", "R-2", "R-3"))
    heard(log, promoted("R-4", cause="stalled", old_instance_id="acct-9"))
    told = log.answered(answered("R-1", "R-2", "R-4"))
    assert [(f.old_instance_id, sorted(f.epochs)) for f in told] == [
        ("acct-1", ["R-1", "R-2"]),
        ("acct-9", ["R-4"]),
    ]


def test_promotions_that_are_never_answered_are_forgotten_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_failover_log, "MAX_REMEMBERED", 2)
    log = FailoverLog()
    heard(log, promoted("R-1", "R-2", "R-3"))
    assert log.answered(answered("R-1")) == []
    assert len(log.answered(answered("R-2", "R-3"))) == 1
    assert len(log) == 2


def test_where_nobody_was_the_owner_nothing_failed() -> None:
    log = FailoverLog()
    heard(log, promoted("R-1", old_instance_id=""))
    assert log.answered(answered("R-1")) == []
    assert list(log.newest_first()) == []


@pytest.mark.parametrize("leader_first", [True, False])
def test_the_leader_and_the_new_owner_may_tell_in_either_order(leader_first: bool) -> None:
    log = FailoverLog()
    if leader_first:
        heard(log, promoted("R-1"))
    log.serving(answered("R-1"))
    if not leader_first:
        heard(log, promoted("R-1"))
    [promotion] = log.newest_first()
    assert promotion.away("R-1") == pytest.approx(0.043)
    assert promotion.answered == set()


def test_a_promotion_is_under_way_for_each_resource_until_it_is_served() -> None:
    log = FailoverLog()
    heard(log, promoted("R-1", "R-2"))
    assert list(log.serving(answered("R-2"))) == ["R-2"]
    assert log.serving(answered("R-2")) == {}, "told twice, it ends once"
    [promotion] = log.newest_first()
    assert promotion.away("R-1") is None
    assert promotion.away("R-2") == pytest.approx(0.043)


def test_the_newest_failover_comes_first() -> None:
    log = FailoverLog()
    heard(log, promoted("R-1", "R-2", epoch=7))
    heard(log, promoted("R-1", epoch=8))
    assert [list(one.epochs.values()) for one in log.newest_first()] == [[8], [7, 7]]


def test_what_is_kept_of_a_failover_is_all_that_is_told_of_it() -> None:
    log, later = FailoverLog(), FailoverLog()
    log.promoted(promoted("R-1", "R-2", trace_id="7" * 32), at=12.5)
    log.serving(answered("R-2"))
    [promotion] = log.newest_first()
    record = decode_value(encode_value(promotion.to_record()))
    assert later.recall([Promotion.from_record(record)]) == 1
    [recalled] = later.newest_first()
    assert asdict(recalled) == asdict(promotion)


def test_what_others_remember_stands_where_its_time_puts_it() -> None:
    log, other = FailoverLog(), FailoverLog()
    for epoch, at in ((5, 1.0), (9, 3.0)):
        other.promoted(promoted("R-1", epoch=epoch), at=at)
    log.promoted(promoted("R-1", epoch=7), at=2.0)
    assert log.recall(other.newest_first()) == 2
    assert [promotion.at for promotion in log.newest_first()] == [3.0, 2.0, 1.0]
    assert log.recall(other.newest_first()) == 0, "known by now"


def test_what_others_remember_completes_what_was_heard_here() -> None:
    log, other = FailoverLog(), FailoverLog()
    heard(log, promoted("R-1", "R-2"))
    heard(other, promoted("R-1", "R-2"))
    other.serving(answered("R-1"))
    assert log.recall(other.newest_first(), past=10.0) == 0
    [promotion] = log.newest_first()
    assert set(promotion.steps) == {"R-1"}
    assert not promotion.past, "its end is still waited for"


def test_a_failover_of_long_ago_has_ended_even_if_nobody_told_how() -> None:
    log, other = FailoverLog(), FailoverLog()
    other.promoted(promoted("R-1"), at=5.0)
    other.promoted(promoted("R-1", epoch=8), at=50.0)
    log.recall(other.newest_first(), past=10.0)
    rows = list(failover_rows(log).values())
    assert [(one.serving, one.total_ms) for one in rows] == [(0, None), (1, None)]
