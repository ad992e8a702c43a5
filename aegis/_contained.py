"""Running a node's loop so that no task of an actor can end it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

__all__ = ["run_contained"]

_log = structlog.get_logger("aegis.launch")


def run_contained[T](
    main: Coroutine[Any, Any, T],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> T:
    """Run ``main`` to its end, as `asyncio.run` does, whatever other tasks raise.

    asyncio lets a `SystemExit` or `KeyboardInterrupt` of *any* task stop the whole
    loop. A task that a handler started must not have that power, so the loop goes on
    until ``main`` itself has ended; Ctrl-C is a signal that ``main`` handles.
    """
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        loop = runner.get_loop()
        task = loop.create_task(main)
        while True:
            try:
                return loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt) as error:
                if task.done():
                    raise
                _log.error(
                    "exit_refused",
                    error=repr(error),
                    action="a task that an actor started wanted to end the process; the node goes on",
                )
