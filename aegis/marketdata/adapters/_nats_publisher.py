"""Ticks to NATS: each on its contract's subject, and batches of each exchange."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
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

    ``singles`` and ``batches`` say which of the two forms are published. Each tick is packed
    once: a batch is the packed ticks one after another, behind the number of them.
    """

    def __init__(self, cluster: Cluster, *, singles: bool = True, batches: bool = True) -> None:
        self._transport = cluster.transport
        self._singles = singles
        self._batches = batches
        self._packer = msgpack.Packer()
        self._counts: Counter[str] = Counter()

    def publish(self, ticks: Sequence[Tick]) -> None:
        """Publish ticks in their order.

        Raises:
            Unavailable: the server is not there, and too much waits for it already.
        """
        pack = self._packer.pack
        packed: list[bytes] = [pack(tick) for tick in ticks]
        messages: list[tuple[str, bytes]] = []
        if self._singles:
            for tick, data in zip(ticks, packed, strict=True):
                messages.append((tick_subject(tick.exchange, tick.symbol), data))
        batches = list(self._batches_of(ticks, packed)) if self._batches else []
        self._transport.publish_all(messages + batches)
        self._counts["ticks"] += len(messages)
        self._counts["batches"] += len(batches)

    def statistics(self) -> Mapping[str, int]:
        """Return how many messages left, by kind."""
        return dict(self._counts)

    def _batches_of(
        self, ticks: Sequence[Tick], packed: Sequence[bytes]
    ) -> Iterator[tuple[str, bytes]]:
        """Yield the ticks of each exchange in their order, at most `BATCH` together."""
        groups: defaultdict[str, list[bytes]] = defaultdict(list)
        for tick, data in zip(ticks, packed, strict=True):
            groups[tick.exchange].append(data)
        for exchange, group in groups.items():
            for start in range(0, len(group), BATCH):
                batch = group[start : start + BATCH]
                header: bytes = self._packer.pack_array_header(len(batch))
                yield batch_subject(exchange), header + b"".join(batch)
