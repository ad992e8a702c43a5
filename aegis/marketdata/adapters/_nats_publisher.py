"""Ticks to NATS: each on its contract's subject, and batches of each exchange."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgpack

from aegis import Cluster
from aegis.marketdata._subjects import TickSubjects, batch_subject
from aegis.marketdata._tick import Tick

__all__ = ["NatsTickPublisher"]

BATCH: Final = 64
"""Ticks in one message for those who take all of an exchange: some 10 KB."""


class NatsTickPublisher:
    """An `EventPublisherPort` over the connection of a cluster.

    ``singles`` and ``batches`` say which of the two forms are published. Each tick is packed
    once: a batch is the packed ticks one after another, behind the number of them; where
    only batches are published, each is packed as a whole, which takes half the time.
    """

    def __init__(self, cluster: Cluster, *, singles: bool = True, batches: bool = True) -> None:
        self._transport = cluster.transport
        self._singles = singles
        self._batches = batches
        self._packer = msgpack.Packer()
        self._subjects = TickSubjects()
        self._counts: Counter[str] = Counter()

    def publish(self, ticks: Sequence[Tick]) -> None:
        """Publish ticks in their order.

        Raises:
            Unavailable: the server is not there, and too much waits for it already.
        """
        singles: list[tuple[str, bytes]] = []
        if self._singles:
            pack, subjects = self._packer.pack, self._subjects
            singles = [(subjects[tick.exchange, tick.symbol], pack(tick)) for tick in ticks]
        batches = list(self._batches_of(ticks, singles)) if self._batches else []
        self._transport.publish_all(singles + batches)
        self._counts["ticks"] += len(singles)
        self._counts["batches"] += len(batches)

    def statistics(self) -> Mapping[str, int]:
        """Return how many messages left, by kind."""
        return dict(self._counts)

    def _batches_of(
        self, ticks: Sequence[Tick], singles: Sequence[tuple[str, bytes]]
    ) -> Iterator[tuple[str, bytes]]:
        """Yield the ticks of each exchange in their order, at most `BATCH` together."""
        groups: defaultdict[str, list[Any]] = defaultdict(list)
        if singles:
            for tick, (_, data) in zip(ticks, singles, strict=True):
                groups[tick.exchange].append(data)
        else:
            for tick in ticks:
                groups[tick.exchange].append(tick)
        for exchange, group in groups.items():
            for start in range(0, len(group), BATCH):
                batch = group[start : start + BATCH]
                if singles:
                    header: bytes = self._packer.pack_array_header(len(batch))
                    yield batch_subject(exchange), header + b"".join(batch)
                else:
                    yield batch_subject(exchange), self._packer.pack(batch)
