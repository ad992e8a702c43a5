"""Hooks through which metrics, tracing and tests see the kernel at work."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aegis.actors._cell import ActorCell
    from aegis.actors._messages import Failure
    from aegis.actors._supervisor import Supervisor

__all__ = ["Observer"]


class Observer:
    """Base of observers: each hook does nothing.

    Hooks run on the event loop, on the path of every message: they must be quick
    and must not raise.
    """

    def on_message_handled(self, cell: ActorCell, kind: str, status: int, seconds: float) -> None:
        """Tell that a handler ended.

        ``kind`` is ``command``, ``query`` or ``message``; ``status`` is that of the
        answer; ``seconds`` is how long the handler took, without the wait before it.
        """

    def on_mailbox_full(self, cell: ActorCell) -> None:
        """Tell that a message was refused. May run in any thread."""

    def on_started(self, cell: ActorCell) -> None:
        """Tell that an actor takes messages now, for the first time or again."""

    def on_stopped(self, cell: ActorCell, reason: str) -> None:
        """Tell that an actor has stopped for good."""

    def on_failure(self, cell: ActorCell, failure: Failure) -> None:
        """Tell that an actor failed; ``failure.directive`` is what follows."""

    def on_restart(self, cell: ActorCell) -> None:
        """Tell that an actor is about to be started anew."""

    def on_escalation(self, supervisor: Supervisor, failure: Failure) -> None:
        """Tell that a supervisor gave up on its children."""
