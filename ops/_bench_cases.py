"""What `aegis bench` measures, against which limit, and what each figure should reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from attrs import frozen

from aegis.ops._bench_stats import Figures, median_of

__all__ = [
    "CASES",
    "CHAIN_MESSAGES",
    "Case",
    "Figure",
    "Goal",
    "Mode",
    "Sync",
    "chosen",
    "ratio_of",
]


class Mode(StrEnum):
    """How much load there is."""

    ONE = "1"
    """One request at a time."""
    MANY = "64"
    """So many open at any time."""
    RATE = "1000/s"
    """So many started each second, whatever comes back (open loop)."""
    DUE_2500 = "2500/s"
    DUE_5000 = "5000/s"
    DUE_10000 = "10000/s"
    """So many due each second, at times that were set before."""

    @property
    def rate(self) -> int:
        """How many are started, or due, each second; 0 where that depends on the answers."""
        return int(self.removesuffix("/s")) if self.endswith("/s") else 0


class Sync(StrEnum):
    """Whether the server forces each write to the disk."""

    OFF = "off"
    ON = "on"


class Figure(StrEnum):
    """Which of a measurement's figures is compared."""

    PER_SECOND = "per_second"
    P50 = "p50_ms"
    P99 = "p99_ms"

    @property
    def short(self) -> str:
        """Its name in a table."""
        return {"per_second": "/s", "p50_ms": " p50", "p99_ms": " p99"}[self.value]


REQUESTS: Final = "plain-request"
APPENDS: Final = "plain-append"


@frozen
class Goal:
    """What a case should reach: ``ratio`` to the limit, or ``milliseconds`` at most.

    A throughput has to be at least ``ratio`` times the limit's, a latency at most.
    """

    ratio: float | None = None
    milliseconds: float | None = None


@frozen
class Case:
    """One thing to measure.

    ``limits`` names, for each `Sync`, the case that it is compared with; a limit itself
    has none. ``figures`` says by which figure, ``goals`` what it should reach. Of a case
    whose operations are ``messages`` messages each, a throughput counts these.
    """

    key: str
    title: str
    mode: Mode
    limits: Mapping[Sync, str]
    goals: Mapping[Sync, Goal]
    messages: int = 1

    @property
    def name(self) -> str:
        """How the case is named on the command line and in JSON."""
        return f"{self.key}/{self.mode}"

    @property
    def is_limit(self) -> bool:
        """Whether others are compared with it."""
        return self.key in (REQUESTS, APPENDS)

    @property
    def figure(self) -> Figure:
        """Throughput with many at a time, the median of one, the tail at a fixed rate."""
        return {
            Mode.MANY: Figure.PER_SECOND,
            Mode.RATE: Figure.P99,
        }.get(self.mode, Figure.P50)

    def limit(self, sync: Sync) -> str | None:
        """Return the name of the case that it is compared with."""
        key = self.limits.get(sync)
        return None if key is None else f"{key}/{self.mode}"


_OF_REQUESTS: Final = {Sync.OFF: REQUESTS, Sync.ON: REQUESTS}
_OF_APPENDS: Final = {Sync.OFF: APPENDS, Sync.ON: APPENDS}
# A command waits for the network, and with fsync for the disk: then that is the limit.
_OF_EITHER: Final = {Sync.OFF: REQUESTS, Sync.ON: APPENDS}

CHAIN_MESSAGES: Final = 2
"""What the first of three actors sends the second, and the second the third."""

_LATENCY: Final = {Sync.OFF: Goal(ratio=2.5)}

CASES: Final = (
    Case(REQUESTS, "plain request/reply", Mode.ONE, {}, {}),
    Case(APPENDS, "plain append", Mode.ONE, {}, {}),
    Case("query", "query", Mode.ONE, _OF_REQUESTS, _LATENCY),
    Case("command", "command, 64 resources", Mode.ONE, _OF_EITHER, _LATENCY),
    Case("hot-command", "command, one resource", Mode.ONE, _OF_EITHER, _LATENCY),
    Case("group-command", "command to a group", Mode.ONE, _OF_APPENDS, {}),
    Case("local-query", "query in one process", Mode.ONE, _OF_REQUESTS, {}),
    Case("send", "send, 64 resources", Mode.ONE, _OF_APPENDS, {}),
    Case(
        "chain",
        "chain of three",
        Mode.ONE,
        _OF_APPENDS,
        {Sync.OFF: Goal(milliseconds=3.0)},
        messages=CHAIN_MESSAGES,
    ),
    Case(REQUESTS, "plain request/reply", Mode.MANY, {}, {}),
    Case(APPENDS, "plain append", Mode.MANY, {}, {}),
    Case("query", "query", Mode.MANY, _OF_REQUESTS, {Sync.OFF: Goal(0.5), Sync.ON: Goal(0.5)}),
    Case(
        "command",
        "command, 64 resources",
        Mode.MANY,
        _OF_EITHER,
        {Sync.OFF: Goal(0.35), Sync.ON: Goal(0.8)},
    ),
    Case(
        "hot-command",
        "command, one resource",
        Mode.MANY,
        _OF_EITHER,
        {Sync.OFF: Goal(0.6), Sync.ON: Goal(3.0)},
    ),
    Case("group-command", "command to a group", Mode.MANY, _OF_APPENDS, {}),
    Case("local-query", "query in one process", Mode.MANY, _OF_REQUESTS, {}),
    Case("send", "send, 64 resources", Mode.MANY, _OF_APPENDS, {Sync.OFF: Goal(0.3)}),
    Case("hot-send", "send, one resource", Mode.MANY, _OF_APPENDS, {Sync.OFF: Goal(0.3)}),
    Case("chain", "chain of three", Mode.MANY, _OF_APPENDS, {}, messages=CHAIN_MESSAGES),
    Case(APPENDS, "plain append", Mode.RATE, {}, {}),
    Case(
        "command",
        "command, 64 resources",
        Mode.RATE,
        _OF_APPENDS,
        {Sync.OFF: Goal(milliseconds=5.0), Sync.ON: Goal(1.5)},
    ),
    Case("send", "send, 64 resources", Mode.RATE, _OF_APPENDS, {}),
    *(
        Case("reminder", "reminder, how late", mode, {}, {Sync.OFF: Goal(milliseconds=10.0)})
        for mode in (Mode.DUE_2500, Mode.DUE_5000, Mode.DUE_10000)
    ),
)


def chosen(only: Sequence[str]) -> list[Case]:
    """Return the cases whose names contain one of ``only``, each with its limits.

    All of them for an empty ``only``.
    """
    wanted = [
        case
        for case in CASES
        if not only or case.name in only or case.key in only or str(case.mode) in only
    ]
    limits = {case.limit(sync) for case in wanted for sync in Sync}
    return [case for case in CASES if case in wanted or case.name in limits]


def ratio_of(figure: Figure, rounds: Sequence[Figures], limit: Sequence[Figures]) -> float | None:
    """Return the median over the rounds of a figure's ratio to the limit's.

    Round by round, since what slows one slows the other: the two were measured one after
    the other.
    """
    ratios: list[float] = []
    for ours, theirs in zip(rounds, limit, strict=True):
        divisor = float(getattr(theirs, figure))
        if divisor > 0:
            ratios.append(float(getattr(ours, figure)) / divisor)
    return median_of(ratios)


def meets(goal: Goal, figure: Figure, figures: Figures, ratio: float | None) -> bool:
    """Whether the figures reach the goal."""
    if goal.milliseconds is not None:
        return float(getattr(figures, figure)) <= goal.milliseconds
    if goal.ratio is None or ratio is None:
        return False
    return ratio >= goal.ratio if figure is Figure.PER_SECOND else ratio <= goal.ratio
