"""The rows of `aegis bench failover`: what is done, what is asked for, what was found."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

from attrs import define, field, frozen

from aegis.ops._bench_stats import Figures, median_figures, percentile

__all__ = [
    "HEARTBEAT_TIMEOUT",
    "MANY_RESOURCES",
    "PLANS",
    "RESOURCES",
    "FailoverReport",
    "FollowingReport",
    "Goal",
    "Plan",
    "Row",
    "RowReport",
]

RESOURCES: Final = 4
MANY_RESOURCES: Final = 1_000

HEARTBEAT_TIMEOUT: Final = 2.0
"""Seconds; what `aegis run` has if nothing else is said."""


class Row(StrEnum):
    """What becomes of the owner; `STANDBY`: nothing, what a standby costs is measured."""

    KILL = "kill"
    KILL_LEADER = "kill-leader"
    KILL_UNPROVEN = "kill-unproven"
    KILL_LEADER_UNPROVEN = "kill-leader-unproven"
    STOP = "stop"
    TERM = "term"
    SERVER = "server"
    MANY = "many"
    STANDBY = "standby"


@frozen
class Goal:
    """What a row should stay below, in milliseconds; None: nothing is asked."""

    median_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    p99_ratio: float | None = None
    """At most so many times what it is without a standby."""

    def __str__(self) -> str:
        texts = {
            "<": self.median_ms,
            "p99 <": self.p99_ms,
            "max <": self.max_ms,
            "p99 ≤": self.p99_ratio,
        }
        return ", ".join(f"{sign}{limit:g}" for sign, limit in texts.items() if limit is not None)


@frozen
class Plan:
    """How a row is measured."""

    title: str
    goal: Goal
    signal: int = signal.SIGKILL
    leads: bool = False
    """Whether the owner leads as well; else a process of its own does."""
    proof: bool = True
    """Whether the nodes have the system account, and so a proof of death."""
    by_call: bool = False
    """Whether the longest wait of any call counts, not the time to the new owner."""
    resources: int = RESOURCES


_PROVEN: Final = Goal(median_ms=100, p99_ms=250)
_BY_SILENCE: Final = Goal(max_ms=(HEARTBEAT_TIMEOUT + 0.3) * 1000)

PLANS: Final = {
    Row.KILL: Plan("SIGKILL owner", _PROVEN),
    Row.KILL_LEADER: Plan("SIGKILL owner+leader", _PROVEN, leads=True),
    Row.KILL_UNPROVEN: Plan("SIGKILL owner, no proof", _BY_SILENCE, proof=False),
    Row.KILL_LEADER_UNPROVEN: Plan("SIGKILL both, no proof", _BY_SILENCE, leads=True, proof=False),
    Row.STOP: Plan("SIGSTOP owner", _BY_SILENCE, signal.SIGSTOP),
    Row.TERM: Plan("SIGTERM owner, any call", Goal(max_ms=100), signal.SIGTERM, by_call=True),
    Row.SERVER: Plan("SIGKILL nats-server", Goal()),
    Row.MANY: Plan(
        f"SIGKILL, {MANY_RESOURCES:,} resources", Goal(max_ms=2000), resources=MANY_RESOURCES
    ),
    Row.STANDBY: Plan("a standby follows", Goal(p99_ratio=1.3)),
}


@define
class RowReport:
    """What the commands of a row came to."""

    row: Row
    acknowledged: int = 0
    effects: int = 0
    failed: list[str] = field(factory=list[str])
    wrong: list[str] = field(factory=list[str])

    @property
    def plan(self) -> Plan:
        """How the row is measured."""
        return PLANS[self.row]

    @property
    def ok(self) -> bool:
        """Whether nothing failed, was lost or took effect twice; speed is no matter."""
        return not self.failed and not self.wrong and self.acknowledged == self.effects

    @property
    def count(self) -> int:
        """How often it was measured."""
        raise NotImplementedError

    @property
    def meets(self) -> bool | None:
        """Whether the goal is reached; None if there is none, or nothing was measured."""
        raise NotImplementedError

    def cells(self) -> list[str]:
        """Return median, p99, max and longest call, as they are shown."""
        raise NotImplementedError

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        goal = self.plan.goal
        return {
            "row": str(self.row),
            "title": self.plan.title,
            "count": self.count,
            "target_median_ms": goal.median_ms,
            "target_p99_ms": goal.p99_ms,
            "target_max_ms": goal.max_ms,
            "target_p99_ratio": goal.p99_ratio,
            "meets": self.meets,
            "acknowledged": self.acknowledged,
            "effects": self.effects,
            "failed": self.failed,
            "wrong": self.wrong,
        }


@define
class FailoverReport(RowReport):
    """How long it took until commands went on; times in seconds."""

    times: list[float] = field(factory=list[float])
    """From the signal until every resource had acknowledged a command of its new owner."""
    longest_calls: list[float] = field(factory=list[float])
    """The longest wait of any call from one signal to the next."""

    @property
    def count(self) -> int:
        """How many signals were sent."""
        return len(self.times)

    def figure(self, share: float) -> float:
        """Return a percentile of what counts in this row, in milliseconds."""
        values = self.longest_calls if self.plan.by_call else self.times
        return percentile(sorted(values), share) * 1000

    @property
    def longest_call_ms(self) -> float:
        """The longest wait of any call."""
        return max(self.longest_calls) * 1000

    @property
    def meets(self) -> bool | None:
        """Whether the goal is reached."""
        goal = self.plan.goal
        limits = {0.5: goal.median_ms, 0.99: goal.p99_ms, 1.0: goal.max_ms}
        asked = {share: limit for share, limit in limits.items() if limit is not None}
        if not asked or not self.times:
            return None
        return all(self.figure(share) < limit for share, limit in asked.items())

    def cells(self) -> list[str]:
        """Return median, p99, max and longest call, as they are shown."""
        if not self.times:
            return ["-"] * 4
        figures = [*map(self.figure, (0.5, 0.99, 1.0)), self.longest_call_ms]
        return [f"{figure:,.0f}" for figure in figures]

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        plain = super().to_plain() | {
            "times_ms": [round(seconds * 1000, 2) for seconds in self.times],
            "longest_calls_ms": [round(seconds * 1000, 2) for seconds in self.longest_calls],
        }
        if self.times:
            plain |= {
                "median_ms": round(self.figure(0.5), 2),
                "p99_ms": round(self.figure(0.99), 2),
                "max_ms": round(self.figure(1.0), 2),
                "longest_call_ms": round(self.longest_call_ms, 2),
            }
        return plain


@define
class FollowingReport(RowReport):
    """Command latency of resources that a standby follows, and of others beside them.

    Both have the same owner and were measured in turns, one figure a round.
    """

    following: list[Figures] = field(factory=list[Figures])
    alone: list[Figures] = field(factory=list[Figures])

    @property
    def count(self) -> int:
        """How many rounds there were."""
        return len(self.following)

    def ratios(self) -> tuple[float, float]:
        """Return how many times p50 and p99 are with a standby what they are without."""
        following, alone = median_figures(self.following), median_figures(self.alone)
        return following.p50_ms / alone.p50_ms, following.p99_ms / alone.p99_ms

    @property
    def meets(self) -> bool | None:
        """Whether the goal is reached."""
        limit = self.plan.goal.p99_ratio
        return None if limit is None or not self.following else self.ratios()[1] <= limit

    def cells(self) -> list[str]:
        """Return the ratios, as they are shown."""
        if not self.following:
            return ["-"] * 4
        return [*(f"×{ratio:.2f}" for ratio in self.ratios()), "", ""]

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        plain = super().to_plain()
        if self.following:
            plain["ratio_p50"], plain["ratio_p99"] = (round(r, 3) for r in self.ratios())
        for name, rounds in (("following", self.following), ("alone", self.alone)):
            plain[f"{name}_p50_ms"] = _each([figures.p50_ms for figures in rounds])
            plain[f"{name}_p99_ms"] = _each([figures.p99_ms for figures in rounds])
        return plain


def _each(values: Sequence[float]) -> list[float]:
    return [round(value, 3) for value in values]
