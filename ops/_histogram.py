"""A histogram that takes its values in batches.

That of prometheus-client takes a lock and walks its buckets, several microseconds for each
value; here whoever observes appends to a list, and a batch is sorted once and cut at each
bound. The exposition is still its: see `Histogram.family`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.core import HistogramMetricFamily

__all__ = ["BOUNDS", "Histogram"]

BOUNDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds of the buckets in seconds; one more has no bound."""

_SHOWN: Final = (*(f"{bound:g}" for bound in BOUNDS), "+Inf")


class Histogram:
    """How many values fell into each bucket, and their sum."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * len(_SHOWN)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.buckets[bisect_left(BOUNDS, value)] += 1
        self.total += value

    def take(self, values: list[float]) -> int:
        """Count all of ``values`` and empty the list; return how many there were."""
        count = len(values)
        values.sort()
        below = 0
        for index, bound in enumerate(BOUNDS):
            through = bisect_right(values, bound, below)
            self.buckets[index] += through - below
            below = through
        self.buckets[-1] += count - below
        self.total += sum(values)
        values.clear()
        return count

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.buckets)

    @staticmethod
    def quantile(buckets: Sequence[int], share: float) -> float | None:
        """Return below which value ``share`` of all lie, in seconds; None if there are none.

        Within a bucket they count as evenly spread; of the last, the lower bound is given.
        """
        rank = share * sum(buckets)
        if not rank:
            return None
        below = 0.0
        for count, lower, upper in zip(buckets, (0.0, *BOUNDS), BOUNDS, strict=False):
            if count and below + count >= rank:
                return lower + (upper - lower) * (rank - below) / count
            below += count
        return BOUNDS[-1]

    @staticmethod
    def family(
        name: str,
        documentation: str,
        labels: Sequence[str],
        histograms: Iterable[tuple[Sequence[str], Histogram]],
    ) -> HistogramMetricFamily:
        """Return histograms of one name, with the values of their labels, to be scraped."""
        family = HistogramMetricFamily(name, documentation, labels=labels)
        for values, histogram in histograms:
            cumulative = list(zip(_SHOWN, accumulate(histogram.buckets), strict=True))
            family.add_metric(list(values), cumulative, histogram.total)
        return family
