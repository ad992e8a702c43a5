"""The event loop of all processes of `aegis bench`: uvloop where the platform has it."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["run"]


def run[T](main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` on a new event loop of the kind that `aegis run` uses."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(
            "uvloop"
        ).new_event_loop
    except ImportError:
        return asyncio.new_event_loop
    return factory
