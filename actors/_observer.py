"""Hooks through which metrics, tracing and tests see the kernel at work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aegis.actors._cell import ActorCell
    from aegis.actors._decision import Event
    from aegis.actors._messages import Failure
    from aegis.actors._supervisor import Supervisor
    from aegis.actors._tracer import Tracer

__all__ = ["Observer"]


class Observer:
    """Base of observers: each hook does nothing.

    Hooks run on the event loop, on the path of every message: they must be quick
    and must not raise.
    """

    tracer: Tracer | None = None
    """By which the work that is observed begins its spans."""

    def on_message_handled(self, cell: ActorCell, kind: str, status: int, seconds: float) -> None:
        """Tell that a handler ended.

        ``kind`` is ``command``, ``query``, ``message`` or, of a topic, ``publication``;
        ``status`` is that of the answer; ``seconds`` is how long the handler took,
        without the wait before it.
        """

    def on_publication_dropped(self, cell: ActorCell, topic: str) -> None:
        """Tell that an actor did not hear a message of a topic (its pattern): too many waited."""

    def on_refused(self, cell: ActorCell, kind: str, status: int) -> None:
        """Tell that a request was answered, with an error, before any handler ran."""

    def on_duplicate(self, cell: ActorCell) -> None:
        """Tell that a command had come before: it got the answer of the first time."""

    def on_committed(self, seconds: float) -> None:
        """Tell that an append was acknowledged, ``seconds`` after it was first made."""

    def on_fenced(self, cell: ActorCell) -> None:
        """Tell that an owner has met a newer one, and acts no more."""

    def on_gap(self, service: str) -> None:
        """Tell that a durable subscription of a resource has missed messages of its stream."""

    def on_dead_letter(self, service: str) -> None:
        """Tell that a message was given up, and is kept among the dead letters."""

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

    # -- the system ---------------------------------------------------------------------

    def on_event(self, facts: Mapping[str, Any]) -> None:
        """Tell of an event of the whole system, as it came: its keys may be missing."""

    def on_registry_event(self, event: Event) -> None:
        """Tell of an event that this node, as the leader, has just put on record."""

    def on_control_request(
        self, operation: str, service: str, reply: Mapping[str, Any], seconds: float
    ) -> None:
        """Tell how this node, as the leader, answered a request to change the registry.

        ``service`` is empty if there is none of that name. ``seconds`` includes the wait
        for the requests before it.
        """

    def on_lookup(self, service: str, found: bool, seconds: float) -> None:
        """Tell that somebody asked this node who owns a resource; of no service: ''."""

    def on_beat(self, node_id: str, number: int, now: float, leading: bool) -> None:
        """Tell that a node's beat came; each node counts its own from 1.

        ``leading`` says whether this node is the one that judges by it.
        """

    # -- what was observed --------------------------------------------------------------

    def facts(self, *, watched: bool = False) -> Mapping[str, Any]:
        """Return what a node should tell of it when it is asked how it is; plain values.

        ``watched`` says that somebody will ask again soon: what is not observed all the
        time is from now on.
        """
        return {}
