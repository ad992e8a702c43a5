"""Conflicts (sans-I/O): which resources an instance may have, and who has the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum

from attrs import define, field

from aegis.actors._decision import Holder
from aegis.actors._registry import Registry
from aegis.actors._registry_entries import Instance, InstanceState, Resource, ResourceKey
from aegis.errors import TooManyResources, Unavailable

__all__ = ["Claims", "Grant", "check_limit", "claim", "stand_by"]


class Grant(Enum):
    """On what ground an instance may have a resource."""

    FREE = "free"
    HELD = "held"
    """It has it already, in the role that it asks for."""
    TAKEN = "taken"
    """From another process, whose lease may still be running."""


@define
class Claims:
    """What came of the resources that an instance asked for."""

    granted: dict[str, Grant] = field(factory=dict[str, Grant])
    conflicts: dict[str, str] = field(factory=dict[str, str])
    """Which instance has what was asked for."""
    unknown: dict[str, Holder] = field(factory=dict[str, Holder])
    """Of whom it must be found out first whether they are alive."""


def check_limit(registry: Registry, instance: Instance, resource_ids: list[str]) -> None:
    """Check that an instance may hold these besides what it holds.

    Raises:
        TooManyResources: it may not.
    """
    held = registry.owned.get(instance.instance_id, set()) | registry.stood_by.get(
        instance.instance_id, set()
    )
    more = sum((instance.service, name) not in held for name in resource_ids)
    limit = registry.max_resources_per_instance
    if len(held) + more > limit and more:
        raise TooManyResources(
            f"instance {instance.instance_id!r} holds {len(held)} resources and asks for "
            f"{more} more; the limit is {limit} (max_resources_per_instance)",
            limit=limit,
            held=len(held),
        )


def claim(
    registry: Registry,
    instance: Instance,
    resource_ids: list[str],
    alive: Mapping[Holder, bool],
    forced: Collection[ResourceKey] | None,
) -> Claims:
    """Return what an instance may own. ``forced`` is None, or all may be taken but these.

    Raises:
        Unavailable: one of these is changing its owner at the moment.
    """
    claims = Claims()
    for resource_id in resource_ids:
        current = registry.resources.get((instance.service, resource_id))
        if current is None:
            claims.granted[resource_id] = Grant.FREE
            continue
        match _ground(registry, current, instance, alive, forced):
            case Grant() as ground:
                claims.granted[resource_id] = ground
            case Holder() as holder:
                claims.unknown[resource_id] = holder
            case None:
                claims.conflicts[resource_id] = current.instance_id
    return claims


def _ground(
    registry: Registry,
    current: Resource,
    instance: Instance,
    alive: Mapping[Holder, bool],
    forced: Collection[ResourceKey] | None,
) -> Grant | Holder | None:
    """Return why ``instance`` may own what is ``current`` now; None if it may not.

    A `Holder` is one of whom it must be found out first whether it is alive.
    """
    if (current.instance_id, current.node_id) == (instance.instance_id, instance.node_id):
        return Grant.HELD
    owner = registry.instances.get(current.instance_id)
    if owner is None or owner.instance_id == instance.instance_id:
        return Grant.TAKEN
    if forced is not None:
        if current.key in forced:
            raise Unavailable(
                f"{current.service}/{current.resource_id} changes its owner at the moment, to "
                f"{current.instance_id!r}: try again",
                holder=current.instance_id,
            )
        return Grant.TAKEN
    # A new process of its owner is about to claim it again.
    if owner.node_id != current.node_id or owner.state is InstanceState.HEALTHY:
        return None
    holder = Holder(owner.instance_id, owner.node_id)
    if holder not in alive:
        return holder
    return None if alive[holder] else Grant.TAKEN


def stand_by(registry: Registry, instance: Instance, resource_ids: list[str]) -> Claims:
    """Return what an instance may stand by for: all that it does not own.

    What an earlier process of it owned does not count: who asks to stand by for that
    gives it up.
    """
    claims = Claims()
    for resource_id in resource_ids:
        key = (instance.service, resource_id)
        owner = registry.resources.get(key)
        if owner is not None and (owner.instance_id, owner.node_id) == (
            instance.instance_id,
            instance.node_id,
        ):
            claims.conflicts[resource_id] = instance.instance_id
            continue
        standby = registry.standbys.get(key, {}).get(instance.instance_id)
        same = standby is not None and standby.node_id == instance.node_id
        claims.granted[resource_id] = Grant.HELD if same else Grant.FREE
    return claims
