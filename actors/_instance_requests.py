"""Requests about instances (sans-I/O): they come, they leave, they are evicted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from attrs import evolve

from aegis.actors import _registration as registration
from aegis.actors._decision import Decision, Event, Holder, Probe
from aegis.actors._departure import Departure
from aegis.actors._registry import Registry
from aegis.actors._registry_entries import Instance, ResourceKey, Write, instance_key
from aegis.errors import Conflict, NotFound, NotOwner

__all__ = ["disconnect_instance", "register_instance", "registered", "unregister_instance"]


def registered(registry: Registry, service: str, instance_id: str) -> Instance:
    """Return an instance.

    Raises:
        NotFound: it is not there, or of another service.
    """
    current = registry.instances.get(instance_id)
    if current is None or current.service != service:
        raise NotFound(
            f"service {service!r} has no instance {instance_id!r}: register it first",
            service_name=service,
            instance_id=instance_id,
        )
    return current


def register_instance(
    registry: Registry,
    payload: Any,
    alive: Mapping[Holder, bool],
    unsettled: Collection[ResourceKey],
) -> Decision | Probe:
    """Decide ``service.register``; a holder of the same id is probed first."""
    signed = registration.register_instance(payload)
    request = signed.request
    wanted = Instance(
        service=request.service_name,
        instance_id=request.instance_id,
        node_id=signed.node_id,
        role=request.role,
        metadata=dict(request.metadata),
        timestamp=request.timestamp,
    )
    decision = Decision(
        {
            "success": True,
            "service_name": wanted.service,
            "instance_id": wanted.instance_id,
            "node_id": wanted.node_id,
            "trace_id": signed.trace_id,
        }
    )
    current = registry.instances.get(wanted.instance_id)
    if current is not None:
        same_process = current.node_id == wanted.node_id and (
            signed.named or current.timestamp == wanted.timestamp
        )
        if same_process and current.service == wanted.service:
            if evolve(wanted, timestamp=0.0) == evolve(current, timestamp=0.0, sequence=0):
                return decision
        elif same_process:
            raise _taken(current)
        else:
            holder = Holder(current.instance_id, current.node_id)
            if holder not in alive:
                return Probe(frozenset({holder}))
            if alive[holder]:
                raise _taken(current)
            departure = Departure(registry, decision, unsettled, cause="replaced")
            departure.drop(current, by=wanted)
    decision.writes.append(Write(instance_key(wanted.instance_id), wanted.to_record()))
    decision.events.append(
        Event(
            "registered",
            wanted.service,
            wanted.instance_id,
            wanted.node_id,
            role=str(wanted.role),
            trace_id=signed.trace_id,
        )
    )
    return decision


def unregister_instance(
    registry: Registry, payload: Any, unsettled: Collection[ResourceKey]
) -> Decision:
    """Decide ``service.unregister``: the instance's own, or in its name."""
    signed = registration.unregister_instance(payload)
    request = signed.request
    current = registered(registry, request.service_name, request.instance_id)
    if signed.named and signed.node_id != current.node_id:
        raise NotOwner(
            f"instance {current.instance_id!r} belongs to node {current.node_id!r}",
            owner=current.node_id,
        )
    agreed = signed.node_id == current.node_id
    cause = "unregistered" if agreed else "disconnected"
    return _remove(registry, current, unsettled, cause, signed.trace_id, agreed=agreed)


def disconnect_instance(
    registry: Registry, payload: Any, unsettled: Collection[ResourceKey]
) -> Decision:
    """Decide ``service.disconnect``: an eviction, whoever asks."""
    request = registration.disconnect_instance(payload)
    current = registry.instances.get(request.instance_id)
    if current is None or request.service_name not in (None, current.service):
        raise NotFound(
            f"no instance {request.instance_id!r}"
            + ("" if request.service_name is None else f" of service {request.service_name!r}"),
            instance_id=request.instance_id,
        )
    return _remove(registry, current, unsettled, "disconnected", request.trace_id, agreed=False)


def _remove(
    registry: Registry,
    current: Instance,
    unsettled: Collection[ResourceKey],
    cause: str,
    trace_id: str,
    *,
    agreed: bool,
) -> Decision:
    decision = Decision({})
    departure = Departure(registry, decision, unsettled, cause=cause, agreed=agreed)
    departure.drop(current)
    for event in decision.events:
        event.trace_id = trace_id
    decision.reply = {
        "success": True,
        "service_name": current.service,
        "instance_id": current.instance_id,
        "node_id": current.node_id,
        "promoted": departure.promoted,
        "released": departure.released,
        "trace_id": trace_id,
    }
    return decision


def _taken(current: Instance) -> Conflict:
    return Conflict(
        f"instance {current.instance_id!r} of service {current.service!r} is alive on "
        f"node {current.node_id!r}: choose another instance id",
        holder=current.node_id,
        instance_id=current.instance_id,
        service_name=current.service,
    )
