"""Circuit breakers (sans-I/O): which instances a caller spares for a while.

An instance that does not answer several times in a row gets no new messages until its
time is over; then one message tries it, and its answer, or the lack of it, decides.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

__all__ = ["FAILURES", "OPEN_SECONDS", "Breakers"]

FAILURES: Final = 3
"""So many attempts in a row without an answer open the breaker of an instance."""

OPEN_SECONDS: Final = 5.0
"""How long an instance is spared before one message tries it again."""

MAX_BREAKERS: Final = 10_000
"""Instances of which failures are remembered; the oldest goes when one more fails."""


@define(slots=True)
class _Breaker:
    failures: int = 0
    closed_from: float = 0.0


@define(slots=True)
class Breakers:
    """The breakers of all instances that a caller has found silent; usually none.

    ``now`` is a reading of any clock, in seconds.
    """

    _breakers: dict[str, _Breaker] = field(factory=dict[str, _Breaker])

    def __bool__(self) -> bool:
        return bool(self._breakers)

    def admits(self, instance: str, now: float) -> bool:
        """Whether a new message may go to ``instance``."""
        breaker = self._breakers.get(instance)
        return breaker is None or breaker.failures < FAILURES or now >= breaker.closed_from

    def sent(self, instance: str, now: float) -> None:
        """Take note that a message goes to ``instance``: of those spared, only one may."""
        breaker = self._breakers.get(instance)
        if breaker is not None and breaker.failures >= FAILURES:
            breaker.closed_from = now + OPEN_SECONDS

    def failed(self, instance: str, now: float, *, at_once: bool = False) -> None:
        """Take note that ``instance`` did not answer; ``at_once`` if it cannot be there."""
        breaker = self._breakers.get(instance)
        if breaker is None:
            if len(self._breakers) >= MAX_BREAKERS:
                del self._breakers[next(iter(self._breakers))]
            breaker = self._breakers[instance] = _Breaker()
        breaker.failures = FAILURES if at_once else breaker.failures + 1
        breaker.closed_from = now + OPEN_SECONDS

    def answered(self, instance: str) -> None:
        """Take note that ``instance`` answered: it is as good as any."""
        self._breakers.pop(instance, None)
