"""Ticks to NATS: each on its contract's subject, and batches of each exchange."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgpack

from aegis import Cluster
from aegis.marketdata._subjects import batch_subject, tick_subject
from aegis.marketdata._tick import Tick

__all__ = ["NatsTickPublisher"]

BATCH: Final = 64
"""Ticks in one message for those who take all of an exchange: some 10 KB."""


class NatsTickPublisher:
    """An `EventPublisherPort` over the connection of a cluster.

    ``singles`` and ``batches`` say which of the two forms are published.
    """

    def __init__(self, cluster: Cluster, *, singles: bool = True, batches: bool = True) -> None:
        self._transport = cluster.transport
        self._singles = singles
        self._batches = batches
        self._counts: Counter[str] = Counter()

    def publish(self, ticks: Sequence[Tick]) -> None:
        """Publish ticks in their order.

        Raises:
            Unavailable: the server is not there, and too much waits for it already.
        """
        publish = self._transport.publish
        if self._singles:
            for tick in ticks:
                publish(tick_subject(tick.exchange, tick.symbol), msgpack.packb(tick))
            self._counts["ticks"] += len(ticks)
        if self._batches:
            for exchange, batch in _by_exchange(ticks):
                publish(batch_subject(exchange), msgpack.packb(batch))
                self._counts["batches"] += 1

    def statistics(self) -> Mapping[str, int]:
        """Return how many messages left, by kind."""
        return dict(self._counts)


def _by_exchange(ticks: Sequence[Tick]) -> Iterable[tuple[str, Sequence[Tick]]]:
    """Yield the ticks of each exchange in their order, at most `BATCH` together."""
    groups: dict[str, list[Tick]] = {}
    for tick in ticks:
        groups.setdefault(tick.exchange, []).append(tick)
    for exchange, group in groups.items():
        for start in range(0, len(group), BATCH):
            yield exchange, group[start : start + BATCH]
