"""Where spans begin: the seam through which a tracing library follows the work.

Spans are no hooks of `Observer`, as they have to be there before the work is done: what
leaves meanwhile carries their traceparent. Where nothing traces there is no tracer, and
all that this costs is to look whether there is one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol

from attrs import frozen

__all__ = ["Operation", "Span", "SpanSink", "Tracer"]


class Operation(StrEnum):
    """What a span stands for."""

    CALL = "call"
    """A caller asks, and waits for the answer, over all attempts."""
    SEND = "send"
    """A message goes into a mailbox."""
    HANDLE = "handle"
    """An actor deals with a request that somebody waits for."""
    PROCESS = "process"
    """An actor deals with a message of its mailbox, a reminder or a topic."""
    COMMIT = "commit"
    """From the end of a command's handler until its effect is stored."""
    REGISTER = "register"
    """A node changes the registry: as it asks for that, and as the leader does it."""
    FAILOVER = "failover"
    """The leader names a new owner."""
    PROMOTE = "promote"
    """The new owner of a resource begins to serve."""


class Span(Protocol):
    """One piece of work, from its beginning on. Nothing of it may raise."""

    @property
    def traceparent(self) -> str:
        """What messages carry that are part of it."""
        ...

    def enter(self) -> None:
        """Make it the work that is under way, for the rest of this task."""
        ...

    def end(self, status: int | None = None, **facts: Any) -> None:
        """End it. ``status`` is that of the answer; None if there is none to tell."""
        ...


class Tracer(Protocol):
    """Begins spans. Nothing of it may raise."""

    def begin(
        self, operation: Operation, *, parent: str | None = None, ago: float = 0.0, **facts: Any
    ) -> Span:
        """Begin a span, or say now that one began ``ago`` seconds before.

        ``parent`` is the traceparent that a message brought; None stands for the work that
        is under way. ``facts`` may be None or empty, and then tell nothing.
        """
        ...


@frozen(eq=False)
class SpanSink:
    """Ends a span where an answer would leave: once all before it is stored."""

    span: Span

    def answer(self, status: int, value: bytes) -> None:
        """End it."""
        self.span.end(status)
