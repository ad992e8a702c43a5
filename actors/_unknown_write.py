"""Unknown writes (sans-I/O): what a decision has changed whose write had no answer.

It is seen in the registry, once that is read up to the end of the write.
"""

from __future__ import annotations

from aegis.actors._decision import Decision, Event
from aegis.actors._registry import Registry
from aegis.contracts import Role

__all__ = ["effects"]


def effects(registry: Registry, decision: Decision) -> list[Event]:
    """Return the events of ``decision``, as far as it took effect."""
    happened: list[Event] = []
    for event in decision.events:
        event.sequence = registry.sequence
        if not event.resources:
            if _shows(registry, event):
                happened.append(event)
            continue
        event.resources = [name for name in event.resources if _shows(registry, event, name)]
        if event.role == Role.ACTIVE and event.name != "released":
            event.epochs = {
                name: registry.resources[event.service, name].epoch for name in event.resources
            }
        if event.resources:
            happened.append(event)
    return happened


def _shows(registry: Registry, event: Event, resource_id: str | None = None) -> bool:
    """Whether what an event tells, of one of its resources or at all, is so now."""
    if resource_id is None:
        instance = registry.instances.get(event.instance_id)
        here = instance is not None and instance.node_id == event.node_id
        if event.name == "gone":
            return not here
        return here and (
            event.name == "registered" or (instance is not None and instance.state == event.name)
        )
    key = (event.service, resource_id)
    resource, standby = (
        registry.resources.get(key),
        registry.standbys.get(key, {}).get(event.instance_id),
    )
    held = standby if event.role == Role.STANDBY else resource
    holds = held is not None and (held.instance_id, held.node_id) == (
        event.instance_id,
        event.node_id,
    )
    return holds is (event.name != "released")
