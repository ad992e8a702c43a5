"""A resource's reminders (sans-I/O): commands that it gives itself at a time.

They change only by journal entries. The record that commits the effect of a reminder
also says that it is over, or when it comes next: so it takes effect exactly once.
"""

from __future__ import annotations

import heapq
from typing import Any, Final

from attrs import evolve

from aegis.actors._record import Reminder, ReminderOver, reminder_from_wire
from aegis.actors._schedule import next_by_cron

__all__ = ["MAX_REMINDERS", "MISSED_MS", "Reminders", "following"]

MAX_REMINDERS: Final = 20_000
"""How many reminders one resource may have."""

MISSED_MS: Final = 1_000
"""A reminder that comes later than this was missed."""


class Reminders:
    """The reminders of one resource, by name."""

    __slots__ = ("_aside", "_by_name", "_heap", "size_bytes")

    def __init__(self) -> None:
        self._by_name: dict[str, Reminder] = {}
        self._aside: set[tuple[int, str]] = set()
        self._heap: list[tuple[int, str]] = []
        self.size_bytes = 0
        """At least as many bytes as `to_wire` takes when encoded, less its head."""

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def is_empty(self) -> bool:
        """Whether there is none."""
        return not self._by_name

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def change(self, change: Reminder | ReminderOver) -> None:
        """Set or end a reminder."""
        old = self._by_name.pop(change.name, None)
        if old is not None:
            self.size_bytes -= old.size_bytes
            self._aside.discard((old.due_ms, old.name))
        if isinstance(change, Reminder):
            self._by_name[change.name] = change
            self.size_bytes += change.size_bytes
            heapq.heappush(self._heap, (change.due_ms, change.name))
            if len(self._heap) > 2 * len(self._by_name) + 16:
                self._heap = [(one.due_ms, one.name) for one in self._by_name.values()]
                heapq.heapify(self._heap)

    def get(self, name: str, due_ms: int) -> Reminder | None:
        """Return the reminder if it still stands for that time."""
        found = self._by_name.get(name)
        return found if found is not None and found.due_ms == due_ms else None

    def put_aside(self, reminder: Reminder) -> None:
        """Leave it out of `next` until it changes: it is on its way already.

        The journal knows nothing of that: for the next owner it is due.
        """
        self._aside.add((reminder.due_ms, reminder.name))

    def next(self) -> Reminder | None:
        """Return the reminder that is due first."""
        while self._heap:
            due = self._heap[0]
            found = self.get(due[1], due[0])
            if found is not None and due not in self._aside:
                return found
            heapq.heappop(self._heap)
        return None

    def to_wire(self) -> list[Any]:
        """Return the reminders as plain values."""
        return [reminder.to_wire() for reminder in self._by_name.values()]

    def load(self, wire: list[Any]) -> None:
        """Replace the contents by those of `to_wire`."""
        self._by_name, self._heap, self._aside, self.size_bytes = {}, [], set(), 0
        for one in wire:
            self.change(reminder_from_wire(one))


def following(reminder: Reminder, now_ms: int) -> Reminder | ReminderOver:
    """Return what stands in the place of a reminder that comes at ``now_ms``.

    One that repeats comes next at the first of its times that is still ahead: times that
    were missed are not made up for one by one.
    """
    if reminder.cron is not None:
        return evolve(reminder, due_ms=next_by_cron(*reminder.cron, max(now_ms, reminder.due_ms)))
    if not reminder.every_ms:
        return ReminderOver(reminder.name)
    passed = max(0, now_ms - reminder.due_ms) // reminder.every_ms
    return evolve(reminder, due_ms=reminder.due_ms + (passed + 1) * reminder.every_ms)
