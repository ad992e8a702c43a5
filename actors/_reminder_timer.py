"""When reminders come: the timer of one owner, and the way through its actor's mailbox."""

from __future__ import annotations

import asyncio
from typing import Final

from attrs import define

from aegis._clock import Clock
from aegis.actors._mailbox import Envelope, Mailbox
from aegis.actors._owner import Owner
from aegis.actors._record import Reminder, ReminderOver
from aegis.actors._registry_entries import ResourceKey
from aegis.actors._reminders import MISSED_MS, following
from aegis.contracts import Kind, Request
from aegis.errors import ActorDead

__all__ = ["ReminderTimer", "Ring"]

LONGEST_WAIT_SECONDS: Final = 60.0
"""The wall clock is looked at again so often: it may have been set."""


@define(slots=True, eq=False)
class Ring:
    """A reminder that is due, on its way through the actor's mailbox."""

    timer: ReminderTimer
    name: str
    due_ms: int
    request: Request
    late_seconds: float = 0.0
    """How much later than meant it comes; known when it is handled."""
    is_missed: bool = False
    """Whether it is too late for one that must not come late."""
    has_come: bool = False
    """Whether it has been handled before, and was put aside."""

    def answer(self, status: int, value: bytes) -> None:
        """Do nothing: nobody waits for it."""


class ReminderTimer:
    """Rings for the reminders of one owner, one at a time."""

    __slots__ = ("_clock", "_handle", "_key", "_loop", "_mailbox", "_owner", "_ringing")

    def __init__(self, key: ResourceKey, clock: Clock, owner: Owner, mailbox: Mailbox) -> None:
        self._key = key
        self._clock = clock
        self._owner = owner
        self._mailbox = mailbox
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._ringing: Ring | None = None

    def arm(self) -> None:
        """Ring for the reminder that is due first, at its time."""
        self._cancel()
        if self._ringing is not None or not self._owner.serving:
            return
        first = self._owner.reminders.next()
        if first is None:
            return
        wait = (first.due_ms - self._clock.wall_ms()) / 1000
        if wait <= 0:
            self._ring(first)
        else:
            self._handle = self._loop.call_later(min(wait, LONGEST_WAIT_SECONDS), self.arm)

    def begin(self, ring: Ring) -> tuple[Reminder, Reminder | ReminderOver] | None:
        """Return the reminder to run now, and what then stands in its place.

        None means that it was set anew or forgotten while it waited in the mailbox.
        """
        if self._ringing is ring:
            self._ringing = None
        reminder = self._owner.reminders.get(ring.name, ring.due_ms)
        if reminder is None:
            self.arm()
            return None
        now_ms = self._clock.wall_ms()
        # One that was put aside comes again, and the first time it was not too late.
        came_in_time = ring.has_come and not ring.is_missed
        ring.has_come = True
        ring.late_seconds = max(0, now_ms - reminder.due_ms) / 1000
        ring.is_missed = (
            reminder.skip_missed and now_ms - reminder.due_ms > MISSED_MS and not came_in_time
        )
        return reminder, following(reminder, now_ms)

    def put_aside(self, reminder: Reminder) -> None:
        """Its handler put it aside: it stands, and comes by the stash; ring for the others."""
        self._owner.reminders.put_aside(reminder)
        self.arm()

    def stop(self) -> None:
        """Ring no more."""
        self._cancel()
        self._ringing = None

    def _ring(self, reminder: Reminder) -> None:
        service, resource = self._key
        request = Request(
            Kind.COMMAND,
            f"{service}/{resource}/{reminder.name}",
            reminder.due_ms,
            0,
            service,
            resource,
            reminder.method,
            {},
            0,
            trace=reminder.trace,
        )
        ring = Ring(self, reminder.name, reminder.due_ms, request)
        try:
            self._mailbox.put_beyond_capacity(Envelope(request, ring))
        except ActorDead:
            return  # The next owner rings.
        self._ringing = ring

    def _cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
