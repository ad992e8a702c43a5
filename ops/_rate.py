"""How fast a counter grows that is told now and then (sans-I/O)."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["Rate"]

RATE_SECONDS: Final = 2.0
"""Over how long rates are taken: long enough that single beats do not make them jump."""


class Rate:
    """The rate of one counter over the last seconds. Times are boot-clock seconds."""

    __slots__ = ("_told",)

    def __init__(self) -> None:
        self._told: deque[tuple[float, int]] = deque()

    def heard(self, now: float, count: int) -> None:
        """Take over what the counter says; one that is lower than before has begun anew."""
        told = self._told
        if told and count < told[-1][1]:
            told.clear()
        told.append((now, count))
        while len(told) > 2 and now - told[0][0] > RATE_SECONDS:
            told.popleft()

    @property
    def heard_at(self) -> float:
        """When it was told last; minus infinity if never."""
        return self._told[-1][0] if self._told else float("-inf")

    def per_second(self) -> float | None:
        """Return the rate; None as long as the counter has not been told twice."""
        if len(self._told) < 2:
            return None
        (began, first), (ended, last) = self._told[0], self._told[-1]
        return (last - first) / (ended - began) if ended > began else None
