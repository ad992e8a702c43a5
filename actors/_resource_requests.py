"""Requests about resources (sans-I/O): an instance owns them, stands by, gives them back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from aegis.actors import _registration as registration
from aegis.actors._conflicts import Claims, Grant, check_limit, claim, stand_by
from aegis.actors._decision import Decision, Event, Holder, Probe
from aegis.actors._departure import Departure
from aegis.actors._instance_requests import registered
from aegis.actors._registry import Registry
from aegis.actors._registry_entries import (
    Instance,
    Resource,
    ResourceKey,
    Standby,
    Write,
    resource_key,
    standby_key,
    tombstone,
)
from aegis.contracts import RegisterResources, Role
from aegis.errors import Conflict, NotFound, NotOwner, to_wire

__all__ = ["register_resources", "release_resources"]

_SHOWN: Final = 3
"""How many names of a list a message spells out."""


def register_resources(
    registry: Registry,
    payload: Any,
    alive: Mapping[Holder, bool],
    unsettled: Collection[ResourceKey],
) -> Decision | Probe:
    """Decide ``resource.register``, for owners and standbys; holders may be probed first."""
    signed = registration.register_resources(payload)
    request = signed.request
    instance = registered(registry, request.service_name, request.instance_id)
    if signed.named and signed.node_id != instance.node_id:
        raise Conflict(
            f"instance {instance.instance_id!r} belongs to node {instance.node_id!r}",
            holder=instance.node_id,
        )
    check_limit(registry, instance, request.resource_ids)
    if request.role is Role.STANDBY:
        claims = stand_by(registry, instance, request.resource_ids)
        decision = _stand_by(instance, request, claims)
    else:
        forced = unsettled if request.force else None
        claims = claim(registry, instance, request.resource_ids, alive, forced)
        if claims.unknown:
            return Probe(frozenset(claims.unknown.values()))
        decision = _own(registry, instance, request, claims, unsettled)
    fresh = [name for name, ground in claims.granted.items() if ground is not Grant.HELD]
    if fresh:
        decision.events.append(
            Event(
                "registered",
                instance.service,
                instance.instance_id,
                instance.node_id,
                cause="forced" if request.force else "",
                resources=fresh,
                role=str(request.role),
                trace_id=request.trace_id,
            )
        )
    if claims.conflicts:
        decision.reply |= to_wire(_conflict(instance, claims.conflicts))
        decision.reply["code"] = Conflict.code
    decision.reply |= {
        "success": not claims.conflicts,
        "registered": list(claims.granted),
        "conflicts": claims.conflicts,
        "trace_id": request.trace_id,
    }
    return decision


def _stand_by(instance: Instance, request: RegisterResources, claims: Claims) -> Decision:
    decision = Decision({}, epochs={})
    for resource_id, ground in claims.granted.items():
        if ground is Grant.HELD:
            continue
        standby = Standby(
            instance.service,
            resource_id,
            instance.instance_id,
            instance.node_id,
            dict(request.metadata),
        )
        key = standby_key(instance.service, resource_id, instance.instance_id)
        decision.writes.append(Write(key, standby.to_record()))
    return decision


def _own(
    registry: Registry,
    instance: Instance,
    request: RegisterResources,
    claims: Claims,
    unsettled: Collection[ResourceKey],
) -> Decision:
    epochs: dict[str, int] = {}
    decision = Decision({}, epochs=epochs)
    for resource_id, ground in claims.granted.items():
        key = (instance.service, resource_id)
        if ground is Grant.HELD:
            epochs[resource_id] = registry.resources[key].epoch
            continue
        if key in registry.stood_by.get(instance.instance_id, ()):
            decision.writes.append(
                tombstone(standby_key(*key, instance.instance_id), cause="active")
            )
        owned = Resource(
            *key,
            instance.instance_id,
            instance.node_id,
            contested=ground is Grant.TAKEN or key in unsettled,
            metadata=dict(request.metadata),
        )
        decision.written[resource_id] = len(decision.writes)
        decision.writes.append(Write(resource_key(*key), owned.to_record()))
    return decision


def _conflict(instance: Instance, owners: Mapping[str, str]) -> Conflict:
    """Return what stands against a claim, and what to do about it."""
    holder = next(iter(owners.values()))
    if holder == instance.instance_id:
        return Conflict(
            f"owned by {holder!r} itself: {', '.join(map(repr, list(owners)[:_SHOWN]))}; release "
            "what it owns before it stands by for that",
            holder=holder,
        )
    return Conflict(
        f"held by another: {_spelled(owners)}; register as a standby (role standby), or take it "
        "over (force)",
        holder=holder,
    )


def release_resources(
    registry: Registry, payload: Any, unsettled: Collection[ResourceKey]
) -> Decision:
    """Decide ``resource.release``: of what an instance owns or stands by for."""
    signed = registration.release_resources(payload)
    request = signed.request
    service, instance_id = request.service_name, request.instance_id
    owned: list[str] = []
    stood_by: list[str] = []
    missing: list[str] = []
    strangers: dict[str, str] = {}
    for resource_id in request.resource_ids:
        key = (service, resource_id)
        current = registry.resources.get(key)
        if current is not None and current.instance_id == instance_id:
            if signed.named and current.node_id != signed.node_id:
                raise NotOwner(
                    f"{service}/{resource_id} belongs to instance {instance_id!r} on node "
                    f"{current.node_id!r}",
                    owner=instance_id,
                    node_id=current.node_id,
                )
            owned.append(resource_id)
        elif instance_id in registry.standbys.get(key, {}):
            stood_by.append(resource_id)
        elif current is not None:
            strangers[resource_id] = current.instance_id
        else:
            missing.append(resource_id)
    if strangers:
        raise NotOwner(
            f"only the owner may release: {_spelled(strangers)}",
            owner=next(iter(strangers.values())),
            owners=strangers,
        )
    released = [name for name in request.resource_ids if name not in missing]
    if not released:
        raise NotFound(
            f"service {service!r} has no resource {', '.join(map(repr, missing[:_SHOWN]))}",
            missing=missing,
        )
    decision = Decision({})
    departure = Departure(
        registry,
        decision,
        unsettled,
        cause="released",
        # The owner itself gives up its lease, and not whoever asks in its name.
        agreed=all(registry.resources[service, n].node_id == signed.node_id for n in owned),
        heir=request.heir,
    )
    instance = Instance(service, instance_id, signed.node_id)
    departure.give_up(instance, owned)
    departure.leave(instance, stood_by)
    for event in decision.events:
        event.trace_id = request.trace_id
    decision.reply = {
        "success": True,
        "released": released,
        "promoted": departure.promoted,
        "missing": missing,
        "trace_id": request.trace_id,
    }
    return decision


def _spelled(owners: Mapping[str, str]) -> str:
    shown = [f"{name!r} by {owner!r}" for name, owner in list(owners.items())[:_SHOWN]]
    more = len(owners) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
