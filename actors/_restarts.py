"""Which children a supervisor restarts, when, and when it gives up (sans-I/O).

`Restarts` is told of each exit, with the time, and answers with a `Plan`. The shell
that carries plans out is `aegis.actors._supervisor`. The words are those of OTP.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from attrs import define, field, frozen

__all__ = [
    "DEFAULT_LIMITS",
    "Child",
    "Exit",
    "Plan",
    "RestartLimits",
    "RestartType",
    "Restarts",
    "Strategy",
    "restart_delay",
]


class Strategy(StrEnum):
    """Who is restarted when a child ends."""

    ONE_FOR_ONE = "one_for_one"
    """That child alone."""
    ONE_FOR_ALL = "one_for_all"
    """All children."""
    REST_FOR_ONE = "rest_for_one"
    """That child and those that were started after it."""


class RestartType(StrEnum):
    """Whether a child that ended is started again."""

    PERMANENT = "permanent"
    """Always."""
    TRANSIENT = "transient"
    """If a failure ended it."""
    TEMPORARY = "temporary"
    """Never."""


class Exit(StrEnum):
    """How a child ended."""

    NORMAL = "normal"
    """It was asked to stop, by others than its supervisor."""
    FAILED = "failed"
    """A failure ended it, or it did not start."""
    FAILED_FOR_GOOD = "failed_for_good"
    """A failure ended it that its class wants no restart after."""
    ESCALATED = "escalated"
    """A failure ended it that its class wants the supervisor to fail with."""


def _positive(_: object, attribute: object, value: float) -> None:
    if not value > 0:
        name = getattr(attribute, "name", "")
        raise ValueError(f"{name} must be positive, not {value}")


def _not_negative(_: object, attribute: object, value: float) -> None:
    if not value >= 0:
        name = getattr(attribute, "name", "")
        raise ValueError(f"{name} must not be negative, not {value}")


@frozen(kw_only=True)
class RestartLimits:
    """How often and how fast children are restarted.

    More than ``max_restarts`` within ``window`` seconds make the supervisor fail. A
    child's first restart waits ``first_delay`` seconds; each further one within the
    window waits twice as long, up to ``max_delay``. Up to the share ``jitter`` of a
    delay is taken off at random, so that children do not all come back at once.
    """

    max_restarts: int = field(default=3, validator=_not_negative)
    window: float = field(default=5.0, validator=_positive)
    first_delay: float = field(default=0.05, validator=_not_negative)
    max_delay: float = field(default=10.0, validator=_not_negative)
    jitter: float = field(default=0.2, validator=_not_negative)


DEFAULT_LIMITS: Final = RestartLimits()


def restart_delay(attempt: int, *, first: float, limit: float) -> float:
    """Return how long to wait, in seconds, before restart ``attempt``.

    Attempts count from 0. The delay doubles from ``first`` up to ``limit``
    (seconds), so a child that fails at boot cannot spin its supervisor.

    Raises:
        ValueError: ``attempt`` is negative.
    """
    if attempt < 0:
        raise ValueError("attempts count from 0")
    # Beyond 2**63 a float power is slow to no purpose, and at last overflows.
    return min(first * 2.0 ** min(attempt, 63), limit)


@frozen
class Child:
    """What a decision needs to know of one child."""

    name: str
    restart: RestartType = RestartType.PERMANENT


@frozen
class Plan:
    """What to do after an exit: escalate, or the four steps in this order.

    ``forget`` are children that end for good. ``stop`` are others that have to stop
    first, in this order. After ``delay`` seconds ``start`` are to be started, in
    this order.
    """

    forget: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    delay: float = 0.0
    escalate: bool = False


@define(eq=False)
class Restarts:
    """The restarts of one supervisor.

    Children are given in the order in which they were started.
    """

    strategy: Strategy = Strategy.ONE_FOR_ONE
    limits: RestartLimits = DEFAULT_LIMITS
    # At most max_restarts + 1 entries: then the supervisor fails and forgets them.
    _recent: deque[tuple[float, str]] = field(factory=deque[tuple[float, str]], init=False)

    def child_exited(
        self, children: Sequence[Child], name: str, exit: Exit, *, now: float, draw: float = 0.0
    ) -> Plan:
        """Return what to do about the end of child ``name`` at time ``now``.

        ``draw`` is a random number from 0 up to 1, for the jitter.
        """
        position = next(i for i, child in enumerate(children) if child.name == name)
        restart = children[position].restart
        if exit is Exit.ESCALATED:
            return self._escalate()
        if (
            exit is Exit.FAILED_FOR_GOOD
            or restart is RestartType.TEMPORARY
            or (restart is RestartType.TRANSIENT and exit is Exit.NORMAL)
        ):
            return Plan(forget=(name,))
        self._drop_old(now)
        attempt = sum(1 for _, recent in self._recent if recent == name)
        self._recent.append((now, name))
        if len(self._recent) > self.limits.max_restarts:
            return self._escalate()
        group = self._group(children, position)
        kept = tuple(c.name for c in group if c.restart is not RestartType.TEMPORARY)
        return Plan(
            forget=tuple(c.name for c in reversed(group) if c.restart is RestartType.TEMPORARY),
            stop=tuple(other for other in reversed(kept) if other != name),
            start=kept,
            delay=self._delay(attempt, draw),
        )

    def reset(self) -> None:
        """Forget earlier restarts: the supervisor itself begins anew."""
        self._recent.clear()

    def _escalate(self) -> Plan:
        self._recent.clear()
        return Plan(escalate=True)

    def _drop_old(self, now: float) -> None:
        while self._recent and self._recent[0][0] <= now - self.limits.window:
            self._recent.popleft()

    def _group(self, children: Sequence[Child], position: int) -> Sequence[Child]:
        if self.strategy is Strategy.ONE_FOR_ALL:
            return children
        if self.strategy is Strategy.REST_FOR_ONE:
            return children[position:]
        return children[position : position + 1]

    def _delay(self, attempt: int, draw: float) -> float:
        limits = self.limits
        delay = restart_delay(attempt, first=limits.first_delay, limit=limits.max_delay)
        return delay * max(0.0, 1.0 - limits.jitter * draw)
