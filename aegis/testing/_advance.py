"""Letting virtual time pass: all that is due comes in its order, and quiet time is skipped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from aegis._clock import Clock
from aegis.actors._journaled import JournaledBehaviour
from aegis.transport._virtual_hosts import Host, HostLoop

__all__ = ["advance"]

EXACT_SECONDS: Final = 60.0
"""Up to so much time passes with every beat in it; of more, what lies between is skipped."""

QUIET_SECONDS: Final = 20.0
"""So long a system needs until nothing is under way: until the silent are replaced and the
resources of those that are gone are released."""

AFTERMATH_SECONDS: Final = 1.0
"""What a reminder, or another thing that was due, brings about has so long before more
time is skipped."""


type Owners = Callable[[], list[tuple[JournaledBehaviour, Host]]]
"""Tells who owns a resource now, and where."""


async def advance(loop: HostLoop, seconds: float, clock: Clock, owners: Owners) -> None:
    """Let ``seconds`` pass, and return when all that was due is done."""
    if not seconds >= 0:
        raise ValueError(f"advance: seconds must not be negative, as {seconds!r} is")
    target = loop.now + seconds
    exact = QUIET_SECONDS
    while (left := target - loop.now) > 0:
        if left <= EXACT_SECONDS:
            await _pass(loop, left)
            break
        await _pass(loop, exact)
        loop.skip(_next_due(loop, target, clock, owners))
        for behaviour, host in owners():
            host.context.copy().run(behaviour.look_at_clock)
        exact = AFTERMATH_SECONDS
    await loop.wait_idle()


async def _pass(loop: HostLoop, seconds: float) -> None:
    passed: asyncio.Future[None] = loop.create_future()
    loop.call_later(seconds, passed.set_result, None)
    await passed
    await loop.wait_idle()


def _next_due(loop: HostLoop, target: float, clock: Clock, owners: Owners) -> float:
    """Return when the next reminder is due, if that is before ``target``."""
    now_ms, due = clock.wall_ms(), target
    for behaviour, _ in owners():
        due_ms = behaviour.next_reminder_ms
        if due_ms is not None:
            due = min(due, loop.now + max(0, due_ms - now_ms) / 1000)
    return due
