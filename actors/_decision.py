"""Decisions (sans-I/O): what a control request changes, and what to say afterwards."""

from __future__ import annotations

from typing import Any

from attrs import define, field, frozen

from aegis.actors._registry_entries import Write
from aegis.errors import AegisError, to_wire

__all__ = ["Decision", "Event", "Holder", "Probe", "refusal"]


@frozen
class Holder:
    """A process that holds a name: its instance, and the node it runs on."""

    instance_id: str
    node_id: str


@frozen
class Probe:
    """Before anything is decided, find out which of these are alive, and ask again."""

    holders: frozenset[Holder]


@define
class Event:
    """Something that happened, for ``aegis.event.<name>``.

    ``resources`` are the ids it is about; ``epochs`` is filled when they are known.
    Of a promotion, ``instance_id`` is the new owner, and the fields that begin with
    ``old_`` tell of the one before, if there was one; ``detected`` is for how many
    seconds it had given no sign of life, and ``decided`` how many it took from there
    until the new owner was on record.
    """

    name: str
    service: str
    instance_id: str
    node_id: str
    cause: str = ""
    resources: list[str] = field(factory=list[str])
    role: str = ""
    trace_id: str = ""
    epochs: dict[str, int] = field(factory=dict[str, int])
    sequence: int = 0
    old_instance_id: str = ""
    old_node_id: str = ""
    old_epochs: dict[str, int] = field(factory=dict[str, int])
    detected: float = 0.0
    decided: float = 0.0
    traceparent: str = ""
    """Of a failover: what the new owner's part in it descends from."""
    after: int | None = None
    """How many writes must be durable before it may be told; None for all."""

    def to_wire(self) -> dict[str, Any]:
        """Return the event as the map that is published."""
        wire: dict[str, Any] = {
            "event": self.name,
            "service_name": self.service,
            "instance_id": self.instance_id,
            "node_id": self.node_id,
            "cause": self.cause,
            "role": self.role,
            "resource_ids": self.resources,
            "epochs": self.epochs,
            "sequence": self.sequence,
            "trace_id": self.trace_id,
        }
        if self.name == "promoted":
            wire |= {
                "old_instance_id": self.old_instance_id,
                "old_node_id": self.old_node_id,
                "old_epochs": self.old_epochs,
                "durations": {"detected": self.detected, "decided": self.decided},
            }
            if self.traceparent:
                wire["traceparent"] = self.traceparent
        return wire


@define
class Decision:
    """What a request changes, and what to say when that is durable.

    ``epochs`` are those known already; ``written`` says which write names the owner
    of a resource, so that its sequence becomes the epoch.
    """

    reply: dict[str, Any]
    writes: list[Write] = field(factory=list[Write])
    events: list[Event] = field(factory=list[Event])
    epochs: dict[str, int] | None = None
    written: dict[str, int] = field(factory=dict[str, int])

    def complete(self, sequences: list[int]) -> dict[str, Any]:
        """Return the answer, given the sequence of each acknowledged write.

        The events are completed too.
        """
        for resource_id, index in self.written.items():
            if self.epochs is not None:
                self.epochs[resource_id] = sequences[index]
        for event in self.events:
            self._complete(event, sequences)
        if self.epochs is not None:
            self.reply["epochs"] = self.epochs
        if sequences:
            self.reply["sequence"] = sequences[-1]
        return self.reply

    def ready(self, sequences: list[int]) -> list[Event]:
        """Return the events that may be told now, with more writes still to come.

        ``sequences`` are those of the writes that are acknowledged so far.
        """
        events = [e for e in self.events if e.after is not None and e.after <= len(sequences)]
        for event in events:
            self._complete(event, sequences)
        return events

    def _complete(self, event: Event, sequences: list[int]) -> None:
        told = sequences if event.after is None else sequences[: event.after]
        event.sequence = told[-1] if told else 0
        event.epochs = {
            name: sequences[self.written[name]] for name in event.resources if name in self.written
        }


def refusal(error: AegisError, trace_id: str = "") -> dict[str, Any]:
    """Return the answer that refuses a request."""
    return {"success": False, "code": error.code, **to_wire(error), "trace_id": trace_id}
