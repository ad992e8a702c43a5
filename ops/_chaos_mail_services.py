"""Durable sends and reminders under `aegis chaos`: trays take letters, bells ring.

Each letter and each reminder has a number of its caller, and is counted: one that comes
twice, or at the wrong time, is a broken promise.
"""

from __future__ import annotations

import time
from typing import Final

from attrs import define, field

from aegis.actors._actor import AegisActor
from aegis.actors._handlers import command, query
from aegis.ops._chaos_saga_services import note_strange
from aegis.ops._chaos_services import Numbers

__all__ = ["FORGOTTEN_BELL", "PENDING", "RUNG", "UNKNOWN_BELL", "Bell", "BellState", "Tray"]

EARLY_MS: Final = 2
"""A reminder's time has no fractions of milliseconds."""

# What has become of a reminder.
PENDING: Final = "pending"
RUNG: Final = "rung"
FORGOTTEN_BELL: Final = "forgotten"
UNKNOWN_BELL: Final = "unknown"


@define
class TrayState:
    """The letters that were taken, by their callers."""

    places: int = 0
    pages: dict[str, Numbers] = field(factory=dict[str, Numbers])
    strange: list[str] = field(factory=list[str])


class Tray(AegisActor):
    """Takes letters."""

    service = "chaos-tray"
    state: TrayState

    @command
    async def take(self, caller: str, number: int) -> int:
        """Take a letter; return its place among all."""
        page = self.state.pages.setdefault(caller, Numbers())
        if number <= page.highest:
            is_new = page.note(number)
            what = "out of order" if is_new else "twice"
            note_strange(self.state.strange, f"letter {number} of {caller} came {what}")
        else:
            page.note(number)
        self.state.places += 1
        return self.state.places

    @query
    async def held(self) -> TrayState:
        """Return all that it holds."""
        return self.state


@define
class BellPage:
    """What a bell knows of one caller."""

    was_set: Numbers = field(factory=Numbers)
    rung: int = 0
    forgotten: int = 0
    ends: dict[int, str] = field(factory=dict[int, str])
    """How those ended that the caller may ask for."""


@define
class BellState:
    """The reminders of a bell, by their callers; ``due_ms`` has those that are to come."""

    pages: dict[str, BellPage] = field(factory=dict[str, BellPage])
    due_ms: dict[str, int] = field(factory=dict[str, int])
    worst_late: float = 0.0
    strange: list[str] = field(factory=list[str])


class Bell(AegisActor):
    """Rings when it was told to."""

    service = "chaos-bell"
    state: BellState

    @command
    async def set(self, caller: str, number: int, low: int, after: float) -> None:
        """Ring in ``after`` seconds. All numbers below ``low`` are of no interest any more."""
        page = self.state.pages.setdefault(caller, BellPage())
        if not page.was_set.note(number):
            note_strange(self.state.strange, f"bell {number} of {caller} was set twice")
        for old in [old for old in page.ends if old < low]:
            del page.ends[old]
        self.state.due_ms[_name(caller, number)] = int((now() + after) * 1000)
        self.remind(_name(caller, number), "ring", after=after, caller=caller, number=number)

    @command
    async def take_back(self, caller: str, number: int) -> bool:
        """Do not ring; return whether that is in time."""
        if self.state.due_ms.pop(_name(caller, number), None) is None:
            return False
        self.forget(_name(caller, number))
        page = self.state.pages[caller]
        page.forgotten += 1
        page.ends[number] = FORGOTTEN_BELL
        return True

    @command
    async def ring(self, caller: str, number: int) -> None:
        """Take note of a reminder."""
        due_ms = self.state.due_ms.pop(_name(caller, number), None)
        if due_ms is None:
            text = f"bell {number} of {caller} rang though nothing was set"
            note_strange(self.state.strange, text)
            return
        if now() * 1000 < due_ms - EARLY_MS:
            note_strange(self.state.strange, f"bell {number} of {caller} rang too early")
        page = self.state.pages[caller]
        page.rung += 1
        page.ends[number] = RUNG
        self.state.worst_late = max(self.state.worst_late, self.late_seconds)

    @query
    async def look(self, caller: str, number: int) -> str:
        """Return what has become of a reminder."""
        if _name(caller, number) in self.state.due_ms:
            return PENDING
        page = self.state.pages.get(caller, BellPage())
        return page.ends.get(number, UNKNOWN_BELL)

    @query
    async def held(self) -> BellState:
        """Return all that it holds."""
        return self.state


def now() -> float:
    """Return the wall clock's time; reminders follow it, too."""
    return time.time()


def _name(caller: str, number: int) -> str:
    return f"{caller}/{number}"
