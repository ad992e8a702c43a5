"""What may happen to the processes of `aegis chaos`, how often, and when it did."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

from attrs import define, field

__all__ = [
    "BETWEEN_FAULTS",
    "CUT_SECONDS",
    "DOWN_SECONDS",
    "FROZEN_SECONDS",
    "TOGETHER_SECONDS",
    "Fault",
    "FaultLog",
]

LEASE: Final = 2.0
"""Seconds; what `aegis run` has if nothing else is said."""

BETWEEN_FAULTS: Final = (0.2, 2.5)
DOWN_SECONDS: Final = (0.0, 3.0)
FROZEN_SECONDS: Final = (LEASE + 0.5, LEASE + 4.0)
CUT_SECONDS: Final = (0.3, LEASE + 4.0)
TOGETHER_SECONDS: Final = (0.0, 2.0)
"""Between the death of a server and that of nodes, which meanwhile cannot append: what they
answered by then was promised too early."""


class Fault(StrEnum):
    """What may happen."""

    KILL_NODE = "kill node"
    FREEZE_NODE = "freeze node"
    END_NODE = "end node"
    CUT_NODE = "cut node off"
    KILL_CALLER = "kill caller"
    CUT_CALLER = "cut caller off"
    KILL_SERVER = "kill server"
    KILL_LEADER = "kill leading server"
    KILL_TOGETHER = "kill server and nodes"
    CUT_SERVER = "cut server off"


_WEIGHTS: Final = {
    Fault.KILL_NODE: 4.0,
    Fault.FREEZE_NODE: 2.0,
    Fault.END_NODE: 3.0,
    Fault.KILL_CALLER: 2.0,
    Fault.KILL_SERVER: 1.0,
    Fault.KILL_TOGETHER: 0.5,
}
_CLUSTER_WEIGHTS: Final = {Fault.KILL_SERVER: 0.7, Fault.KILL_LEADER: 0.5}
"""An election takes seconds in which nothing can happen, so these are rarer."""
_HOST_WEIGHTS: Final = {Fault.CUT_NODE: 4.0, Fault.CUT_CALLER: 1.0}
_CLUSTER_HOST_WEIGHTS: Final = {Fault.CUT_SERVER: 0.5}


@define
class FaultLog:
    """Draws the faults of one run, and keeps what was done when."""

    seed: int
    servers: int
    cuts: bool
    tell: Callable[[str], None]
    counts: Counter[str] = field(factory=Counter[str])
    lines: list[tuple[float, str, str]] = field(factory=list[tuple[float, str, str]])
    """Seconds since the beginning, what was done, to whom."""
    rng: random.Random = field(init=False)
    began: float = field(factory=time.monotonic)
    _weights: dict[Fault, float] = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Choose what can happen here."""
        self.rng = random.Random(self.seed)
        self._weights = dict(_WEIGHTS)
        if self.servers > 1:
            self._weights |= _CLUSTER_WEIGHTS
        if self.cuts:
            self._weights |= _HOST_WEIGHTS
            if self.servers > 1:
                self._weights |= _CLUSTER_HOST_WEIGHTS

    @property
    def possible(self) -> list[Fault]:
        """What may happen in this run."""
        return list(self._weights)

    def draw(self) -> Fault:
        """Return the next fault to try."""
        (fault,) = self.rng.choices(list(self._weights), list(self._weights.values()))
        return fault

    def done(self, fault: Fault, who: str) -> None:
        """Take note that a fault was done to somebody."""
        self.counts[fault] += 1
        self.note(fault, who)

    def note(self, what: str, who: str) -> None:
        """Write a line of the log."""
        at = round(time.monotonic() - self.began, 3)
        self.lines.append((at, what, who))
        self.tell(f"{at:10.3f}  {what}: {who}")

    def to_plain(self) -> list[list[Any]]:
        """Return the log as plain values."""
        return [list(line) for line in self.lines]
