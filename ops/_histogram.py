"""A histogram that takes its values in batches.

That of prometheus-client takes a lock and walks its buckets, several microseconds for each
value; here whoever observes appends to a list, and a batch is sorted once and cut at each
bound. The exposition is still its.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final

__all__ = ["BOUNDS", "Histogram"]

BOUNDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds of the buckets in seconds; one more has no bound."""


class Histogram:
    """How many values fell into each bucket, and their sum."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
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
            if through > below:
                self.buckets[index] += through - below
                below = through
                if below == count:
                    break
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
