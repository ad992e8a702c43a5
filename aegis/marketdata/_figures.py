"""What a feed counts: in the process of its gateway, in a form that travels to its owner.

What comes with every tick is one append; buckets are filled twice a second, from all
that came since.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from aegis.marketdata._tick import Tick

__all__ = ["BRIDGE_BOUNDS", "LAG_BOUNDS", "Durations", "Figures", "added"]

LAG_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
"""Of the buckets of lags, in seconds: the limits of alerts are among them."""

BRIDGE_BOUNDS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0),
)
"""Of the buckets of the way from the gateway's callback to the publisher, in seconds."""

RECENT: Final = 10
"""Percentiles are of so many fillings: of 5 s."""

SAMPLES: Final = 256
"""Lags of one filling that are kept for percentiles, evenly taken of all in their order."""


class Durations:
    """How many durations fell into each bucket, and their sum, in seconds."""

    __slots__ = ("bounds", "buckets", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0.0

    def take(self, seconds: list[float]) -> None:
        """Count all of a list, which is sorted by that.

        What is negative, since two clocks differ, counts as 0.
        """
        seconds.sort()
        below = 0
        for index, bound in enumerate(self.bounds):
            through = bisect_right(seconds, bound, below)
            self.buckets[index] += through - below
            below = through
        self.buckets[-1] += len(seconds) - below
        self.total += sum(seconds[bisect_right(seconds, 0.0) :])

    def plain(self) -> list[float]:
        """Return the sum and the buckets."""
        return [self.total, *self.buckets]


class Figures:
    """What one life of a gateway's process has counted so far."""

    def __init__(self) -> None:
        self.ticks: Counter[tuple[str, str]] = Counter()
        """By exchange and what became of them."""
        self.lags: defaultdict[str, list[float]] = defaultdict(list)
        """By exchange, since the last `fill`."""
        self.bridged: list[float] = []
        """From the gateway's callback until they were published, since the last `fill`."""
        self.reconnects: Counter[str] = Counter()
        """By the code of the reason."""
        self.login_failures: Counter[str] = Counter()
        """By code."""
        self.escalations: Counter[tuple[str, str]] = Counter()
        """By exchange and kind."""
        self._lag_times: dict[str, Durations] = {}
        self._bridge_times = Durations(BRIDGE_BOUNDS)
        self._recent: deque[list[float]] = deque(maxlen=RECENT)

    def count(self, outcome: str, ticks: Iterable[Tick]) -> None:
        """Count what became of ticks."""
        for exchange, number in Counter([tick.exchange for tick in ticks]).items():
            self.ticks[exchange, outcome] += number

    def outcomes(self) -> dict[str, int]:
        """Return the number of ticks by what became of them."""
        totals: Counter[str] = Counter()
        for (_, outcome), number in self.ticks.items():
            totals[outcome] += number
        return dict(totals)

    def fill(self) -> None:
        """Put what has come into its buckets; to be called twice a second."""
        recent: list[float] = []
        for exchange, lags in self.lags.items():
            times = self._lag_times.get(exchange)
            if times is None:
                times = self._lag_times[exchange] = Durations(LAG_BOUNDS)
            times.take(lags)
            recent += lags
            lags.clear()
        self._bridge_times.take(self.bridged)
        self.bridged.clear()
        recent.sort()
        self._recent.append(recent[:: len(recent) // SAMPLES + 1])

    def lag(self, *shares: float) -> list[float | None]:
        """Return below which lag each of these shares of the newest ticks were."""
        lags = sorted(lag for filling in self._recent for lag in filling)
        count = len(lags)
        return [lags[min(count - 1, int(count * share))] if lags else None for share in shares]

    def plain(self) -> dict[str, Any]:
        """Return all counts, as values that travel."""
        ticks: dict[str, dict[str, int]] = {}
        for (exchange, outcome), number in self.ticks.items():
            ticks.setdefault(exchange, {})[outcome] = number
        escalations: dict[str, dict[str, int]] = {}
        for (exchange, kind), number in self.escalations.items():
            escalations.setdefault(exchange, {})[kind] = number
        return {
            "ticks": ticks,
            "lag": {exchange: times.plain() for exchange, times in self._lag_times.items()},
            "bridge": self._bridge_times.plain(),
            "reconnects": dict(self.reconnects),
            "login_failures": dict(self.login_failures),
            "escalations": escalations,
        }


def added(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sums of two sets of plain figures, such as those of two lives."""
    return {key: _sum(first.get(key), second.get(key)) for key in {**first, **second}}


def _sum(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return second if first is None else first
    if isinstance(first, Mapping):
        return added(cast("Mapping[str, Any]", first), second)
    if isinstance(first, list):
        return [a + b for a, b in zip(cast("list[float]", first), second, strict=True)]
    return first + second
