"""Waiting that takes no time: for tests on a `VirtualTimeLoop` alone."""

from __future__ import annotations

import asyncio

from aegis.transport import VirtualTimeLoop

__all__ = ["pass_time"]


async def pass_time(seconds: float) -> None:
    """Let ``seconds`` of virtual time pass; fail on a loop where that would be a sleep."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    passed: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(seconds, passed.set_result, None)
    try:
        await passed
    finally:
        timer.cancel()  # Whoever waited may have been cancelled.
