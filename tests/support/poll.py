"""The one place where tests wait for something that no event announces."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

__all__ = ["wait_until"]

INTERVAL = 0.01


async def wait_until(
    condition: Callable[[], bool | Awaitable[bool]], *, what: str, timeout: float = 15.0
) -> None:
    """Return once ``condition`` holds; fail after ``timeout`` seconds, naming ``what``."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        if loop.time() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        await asyncio.sleep(INTERVAL)
