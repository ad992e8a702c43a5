"""Counting ticks, timing them and checking their numbers: what a subscriber of the bench does.

It holds no list of latencies, since an hour has millions: each is rounded down to seven
binary digits (less than 1.6 %) and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from attrs import define, field

from aegis.marketdata._tick import Tick, TickFlag

__all__ = ["Latencies", "Tally"]

_DIGITS: Final = 7

_EPOCH: Final = Tick._fields.index("epoch")
_SEQUENCE: Final = Tick._fields.index("sequence")
_EXCHANGE: Final = Tick._fields.index("exchange")
_RECEIVED: Final = Tick._fields.index("received_ns")
_FLAGS: Final = Tick._fields.index("flags")
_SNAPSHOT: Final = int(TickFlag.SNAPSHOT)


@define
class Latencies:
    """How often each latency was seen; in microseconds."""

    counts: Counter[int] = field(factory=Counter[int])

    def add(self, microseconds: int) -> None:
        """Count one."""
        shift = microseconds.bit_length() - _DIGITS
        self.counts[microseconds >> shift << shift if shift > 0 else microseconds] += 1

    def merge(self, other: Latencies) -> None:
        """Count what another has counted."""
        self.counts.update(other.counts)

    def percentile_ms(self, share: float) -> float | None:
        """Return the latency that ``share`` of all do not exceed (nearest rank)."""
        rank = share * self.counts.total()
        below = 0
        for microseconds in sorted(self.counts):
            below += self.counts[microseconds]
            if below >= rank:
                return microseconds / 1000
        return None

    @classmethod
    def from_plain(cls, counts: Mapping[int, int]) -> Self:
        """Return what another process has counted."""
        return cls(Counter(counts))


class Tally:
    """What came of one form of the ticks: alone on their subjects, or in batches.

    Each feed numbers the ticks of an exchange from 1 in each of its epochs. ``missed``
    counts numbers that were left out, ``repeated`` ticks whose number was there before.
    """

    def __init__(self) -> None:
        self.received = 0
        self.missed = 0
        self.repeated = 0
        self.latencies = Latencies()
        self._epoch = 0
        self._numbers: dict[str, int] = {}

    def take(self, fields: Sequence[Any], now_ns: int) -> None:
        """Take the fields of a tick that came at ``now_ns``."""
        self.received += 1
        if fields[_EPOCH] != self._epoch:
            self._epoch = fields[_EPOCH]
            self._numbers.clear()
        exchange, sequence = fields[_EXCHANGE], fields[_SEQUENCE]
        skipped = sequence - self._numbers.get(exchange, 0) - 1
        if skipped < 0:
            self.repeated += 1
            return
        self.missed += skipped
        self._numbers[exchange] = sequence
        if not fields[_FLAGS] & _SNAPSHOT:  # Of a snapshot the state may be of long ago.
            self.latencies.add(max(0, now_ns - fields[_RECEIVED]) // 1000)

    def to_plain(self) -> dict[str, Any]:
        """Return the counts so far, and the latencies since this was last asked."""
        latencies, self.latencies = self.latencies, Latencies()
        return {
            "received": self.received,
            "missed": self.missed,
            "repeated": self.repeated,
            "latencies": dict(latencies.counts),
        }
