"""Failovers as a whole (sans-I/O): what the leader tells of one, and the new owner.

The leader's event ``promoted`` says why, and how long it took to detect and to decide;
the new owner's ``first_answer`` says how long its own steps took. The epoch of the
resource is what both have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

from aegis.actors._registry_entries import ResourceKey

__all__ = ["Failover", "FailoverLog"]

MAX_REMEMBERED: Final = 10_000
"""Promotions of which the first answer is still to come. More than one failed-over
instance may hold; of a resource that nobody asks for it never comes."""

_STEPS: Final = ("fenced", "replayed", "covered", "first_answer")


@frozen
class Failover:
    """Resources of one owner that another took over, and answers for since."""

    service: str
    instance_id: str
    node_id: str
    old_instance_id: str
    old_node_id: str
    cause: str
    epochs: Mapping[str, int]
    durations: Mapping[str, float]
    """Seconds. ``detected`` and ``decided`` come one after the other; the steps of the
    new owner all count from when it began. ``total`` is from the last sign of life of
    the old owner to the first answer of the new one."""

    def to_wire(self) -> dict[str, Any]:
        """Return the event that is published."""
        return {
            "event": "failed_over",
            "service_name": self.service,
            "instance_id": self.instance_id,
            "node_id": self.node_id,
            "old_instance_id": self.old_instance_id,
            "old_node_id": self.old_node_id,
            "cause": self.cause,
            "resource_ids": list(self.epochs),
            "epochs": dict(self.epochs),
            "durations": dict(self.durations),
        }


class FailoverLog:
    """Remembers promotions until their first answers come."""

    def __init__(self) -> None:
        self._promoted: dict[ResourceKey, tuple[int, Mapping[str, Any]]] = {}

    def __len__(self) -> int:
        return len(self._promoted)

    def promoted(self, event: Mapping[str, Any]) -> None:
        """Take over the leader's event."""
        service = event["service_name"]
        for resource_id, epoch in event["epochs"].items():
            self._promoted.pop((service, resource_id), None)
            self._promoted[service, resource_id] = (int(epoch), event)
        while len(self._promoted) > MAX_REMEMBERED:
            del self._promoted[next(iter(self._promoted))]

    def answered(self, event: Mapping[str, Any]) -> list[Failover]:
        """Take over the new owner's event; return the failovers that are complete now."""
        service = event["service_name"]
        together: dict[int, tuple[Mapping[str, Any], dict[str, int]]] = {}
        for resource_id, epoch in event["epochs"].items():
            known, promoted = self._promoted.get((service, resource_id), (0, {}))
            if known != epoch:
                continue
            del self._promoted[service, resource_id]
            together.setdefault(id(promoted), (promoted, {}))[1][resource_id] = epoch
        return [_joined(promoted, event, epochs) for promoted, epochs in together.values()]


def _joined(
    promoted: Mapping[str, Any], answered: Mapping[str, Any], epochs: Mapping[str, int]
) -> Failover:
    durations = {name: float(promoted["durations"][name]) for name in ("detected", "decided")}
    before = sum(durations.values())
    for step in _STEPS:
        durations[step] = float(answered[f"{step}_ms"]) / 1000
    durations["total"] = before + durations["first_answer"]
    return Failover(
        service=promoted["service_name"],
        instance_id=promoted["instance_id"],
        node_id=promoted["node_id"],
        old_instance_id=promoted["old_instance_id"],
        old_node_id=promoted["old_node_id"],
        cause=promoted["cause"],
        epochs=epochs,
        durations=durations,
    )
