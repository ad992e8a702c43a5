"""A registry without a stream: writes are acknowledged at once, in order."""

from __future__ import annotations

from typing import Any

from aegis.actors._decision import Decision, Holder, Probe
from aegis.actors._registry import Change, Registry
from aegis.actors._registry_entries import Key, ResourceKey, Write
from aegis.actors._requests import handle

__all__ = ["Bench", "instance", "resources"]


class Bench:
    """Feeds requests to a registry and acknowledges what it writes."""

    def __init__(self, *, limit: int = 1000, start: int = 100) -> None:
        self.registry = Registry(max_resources_per_instance=limit)
        self.sequence = start
        self.stream: list[tuple[int, Key, dict[str, Any]]] = []
        self.events: list[dict[str, Any]] = []
        self.changes: list[Change] = []
        self.unsettled: set[ResourceKey] = set()
        self.alive: dict[Holder, bool] = {}
        self.probes: list[Probe] = []

    def ask(self, operation: str, payload: Any) -> dict[str, Any]:
        """Return the answer to a request whose writes were all acknowledged."""
        decision = self.decide(operation, payload)
        if isinstance(decision, Probe):
            self.probes.append(decision)
            known = {holder: self.alive[holder] for holder in decision.holders}
            again = handle(self.registry, operation, payload, alive=known, unsettled=self.unsettled)
            assert isinstance(again, Decision)
            decision = again
        return self.commit(decision)

    def decide(self, operation: str, payload: Any) -> Decision | Probe:
        """Return what the registry would do."""
        return handle(self.registry, operation, payload, unsettled=self.unsettled)

    def commit(self, decision: Decision) -> dict[str, Any]:
        """Acknowledge every write of a decision and return its answer."""
        reply = decision.complete([self.write(write) for write in decision.writes])
        self.events.extend(event.to_wire() for event in decision.events)
        return reply

    def write(self, write: Write) -> int:
        """Acknowledge one write."""
        self.sequence += 1
        self.stream.append((self.sequence, write.key, write.record))
        change = self.registry.acknowledged(write, self.sequence)
        if change is not None:
            self.changes.append(change)
        return self.sequence

    def follower(self) -> Registry:
        """Return a registry that has only seen the stream, one message a subject."""
        last: dict[Key, tuple[int, dict[str, Any]]] = {}
        for sequence, key, record in self.stream:
            last[key] = (sequence, record)
        registry = Registry()
        for key, (sequence, record) in sorted(last.items(), key=lambda item: item[1][0]):
            registry.replayed(key, record, sequence)
        return registry


def instance(
    instance_id: str = "acct-1", service: str = "account", **fields: Any
) -> dict[str, Any]:
    """Return the payload of ``ipc.service.register``."""
    return {"service_name": service, "instance_id": instance_id, "node_id": "node-1", **fields}


def resources(
    *resource_ids: str, instance_id: str = "acct-1", service: str = "account", **fields: Any
) -> dict[str, Any]:
    """Return the payload of ``ipc.resource.register`` or ``.release``."""
    return {
        "service_name": service,
        "instance_id": instance_id,
        "resource_ids": list(resource_ids),
        "node_id": "node-1",
        **fields,
    }
