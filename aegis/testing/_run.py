"""Virtual time for a test: an event loop whose time jumps, from sync and async tests."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from aegis.transport._virtual_hosts import HostLoop

__all__ = ["in_virtual_time", "run"]


def run[T](main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run ``main`` to its end in virtual time, as ``asyncio.run`` does in real time.

    Raises:
        Deadlock: ``main`` waits for what can never happen.
    """
    with asyncio.Runner(debug=debug, loop_factory=HostLoop) as runner:
        return runner.run(main)


def in_virtual_time[**P, T](
    test: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, T]:
    """Make a test that is ``async def`` a plain one, which runs in virtual time.

    Pytest needs no plugin for it, and fixtures come as they do to any test::

        @in_virtual_time
        async def test_interest_is_paid_at_the_end_of_the_month() -> None:
            async with MemoryCluster() as memory:
                ...
    """
    if not inspect.iscoroutinefunction(test):
        name = getattr(test, "__qualname__", repr(test))
        raise TypeError(f"{name}: @in_virtual_time stands above an async def")

    @functools.wraps(test)
    def plain(*args: P.args, **kwargs: P.kwargs) -> T:
        return run(test(*args, **kwargs))

    return plain
