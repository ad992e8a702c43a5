"""Tests of what leaves a feed: each tick on its subject, and the batches of each exchange."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from aegis.marketdata import Tick, _subjects
from aegis.marketdata._subjects import TickSubjects, tick_subject
from aegis.marketdata.adapters._nats_publisher import BATCH, NatsTickPublisher
from tests.support.marketdata import tick

TICKS = [
    tick(exchange=exchange, symbol=f"x{number}", sequence=number)
    for number in range(1, 2 * BATCH + 3)
    for exchange in ("SHFE", "DCE")
]


def published(ticks: list[Tick], **forms: bool) -> list[tuple[str, bytes]]:
    sent: list[tuple[str, bytes]] = []

    def publish_all(messages: Iterable[tuple[str, bytes]]) -> None:
        sent.extend(messages)

    cluster: Any = SimpleNamespace(transport=SimpleNamespace(publish_all=publish_all))
    NatsTickPublisher(cluster, **forms).publish(ticks)
    return sent


def test_each_tick_is_on_the_subject_of_its_contract_in_the_order_of_the_ticks() -> None:
    sent = published(TICKS, batches=False)
    assert [subject for subject, _ in sent] == [tick_subject(t.exchange, t.symbol) for t in TICKS]
    assert [Tick.from_wire(data) for _, data in sent] == TICKS


@pytest.mark.parametrize("singles", [True, False])
def test_batches_have_all_ticks_of_an_exchange_in_their_order_whatever_else_leaves(
    singles: bool,
) -> None:
    batches = [
        (subject, msgpack.unpackb(data, use_list=False))
        for subject, data in published(TICKS, singles=singles)
        if subject.startswith("md.batch.")
    ]
    for exchange in ("SHFE", "DCE"):
        mine = [batch for subject, batch in batches if subject == f"md.batch.{exchange}"]
        assert [len(batch) for batch in mine] == [BATCH, BATCH, 2]
        told = [Tick.from_fields(fields) for batch in mine for fields in batch]
        assert told == [tick for tick in TICKS if tick.exchange == exchange]


def test_no_more_subjects_than_the_limit_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_subjects, "_CONTRACTS", 3)
    subjects = TickSubjects()
    for number in range(10):
        assert subjects["SHFE", f"a {number}"] == f"md.tick.SHFE.a=20{number}"
        assert len(subjects) <= 3
