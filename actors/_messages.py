"""The messages that the kernel itself understands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from attrs import field, frozen

from aegis.errors import HandlerFailed

__all__ = ["NO_DEADLINE_MS", "Call", "Failure", "Stop", "Terminated", "Turn", "as_exception"]

NO_DEADLINE_MS: Final = 2**31 - 1
"""What a local request without a timeout has left: about 24 days."""


@frozen
class Call:
    """Call of a command or query by name: what a proxy makes.

    ``args`` are matched with the handler's parameters where the handler is known.
    """

    method: str
    params: dict[str, Any] = field(factory=dict[str, Any])
    args: tuple[Any, ...] = ()


@frozen
class Stop:
    """Ask an actor to stop; ``for_restart`` keeps its waiting messages."""

    for_restart: bool = False


@frozen
class Turn:
    """Ask an actor to run something of the runtime's own between two messages.

    Hooks that it calls never overlap with handlers. What it raises goes to whoever
    asked, and is no failure of the actor.
    """

    run: Callable[[], Awaitable[None]]


@frozen
class Terminated:
    """A watched actor has stopped for good; ``reason`` says why, for people.

    ``failed`` tells whether it stopped because of a failure.
    """

    address: str
    reason: str = "stopped"
    failed: bool = False


@frozen
class Failure:
    """Why an actor fell, and what its class wants to be done about it."""

    error: BaseException
    directive: str

    def __str__(self) -> str:
        text = str(self.error)
        name = type(self.error).__name__
        return f"{name}: {text}" if text else name


def as_exception(error: BaseException, where: str) -> Exception:
    """Return ``error`` as something that may be raised in a caller.

    A `SystemExit` or a cancellation of the actor must not become the caller's.
    """
    if isinstance(error, Exception):
        return error
    wrapped = HandlerFailed(f"{where} raised {type(error).__name__}", error=type(error).__name__)
    wrapped.__cause__ = error
    return wrapped
