"""Placement (sans-I/O): what the leader changes by itself, with no request for it.

Who owns a resource changes when

- its owner is unhealthy, gone, evicted, drained or replaced, or gives it back: the best
  healthy standby is promoted. Without one, an unhealthy owner keeps it, and otherwise
  it is released, but for an owner that a new process replaces: that one may claim its
  resources again until its time is up (`abandon`), and nobody else may meanwhile;
- a standby comes, or is healthy again, where there is no healthy owner (`relocate`);
- another instance takes it by force, though not while an earlier change is under way.
"""

from __future__ import annotations

from collections.abc import Collection

from attrs import evolve

from aegis.actors._decision import Decision, Event
from aegis.actors._departure import Departure
from aegis.actors._health import Judgement, Verdict
from aegis.actors._registry import Registry
from aegis.actors._registry_entries import (
    Instance,
    InstanceState,
    ResourceKey,
    Write,
    instance_key,
    standby_key,
    tombstone,
)
from aegis.actors._succession import Succession

__all__ = ["abandon", "carry_out", "give_up", "mark", "relocate"]


def carry_out(
    registry: Registry, verdict: Verdict, unsettled: Collection[ResourceKey]
) -> Decision | None:
    """Decide what a verdict changes; None if that is so already."""
    instance_id, cause = verdict.instance_id, verdict.judgement.value
    match verdict.judgement:
        case Judgement.RECOVERED:
            return mark(registry, instance_id, InstanceState.HEALTHY, cause)
        case Judgement.GONE:
            return give_up(registry, instance_id, verdict.node_id, "silence", unsettled)
        case Judgement.ABANDONED:
            return abandon(registry, instance_id, unsettled)
        case Judgement.SILENT | Judgement.STALLED | Judgement.DIED:
            return mark(registry, instance_id, InstanceState.UNHEALTHY, cause, unsettled)


def mark(
    registry: Registry,
    instance_id: str,
    state: InstanceState,
    cause: str,
    unsettled: Collection[ResourceKey] = (),
) -> Decision | None:
    """Decide that an instance is healthy or not; None if that is so already.

    Of an unhealthy one, all that has a healthy standby goes there.
    """
    current = registry.instances.get(instance_id)
    if current is None or current.state is state:
        return None
    after = evolve(current, state=state, cause=cause)
    decision = Decision({})
    if state is InstanceState.UNHEALTHY:
        succession = Succession(registry, decision, unsettled, cause=cause)
        for key in sorted(registry.owned.get(instance_id, ())):
            succession.hand_over(key)
        succession.finish()
    decision.writes.append(Write(instance_key(instance_id), after.to_record()))
    decision.events.append(
        Event(
            str(state), current.service, instance_id, current.node_id, cause, role=str(after.role)
        )
    )
    return decision


def give_up(
    registry: Registry,
    instance_id: str,
    node_id: str,
    cause: str,
    unsettled: Collection[ResourceKey] = (),
) -> Decision | None:
    """Decide that an instance is gone; what it held is released.

    None if it is not there any more, or is on another node by now.
    """
    current = registry.instances.get(instance_id)
    if current is None or current.node_id != node_id:
        return None
    decision = Decision({})
    Departure(registry, decision, unsettled, cause=cause).drop(current)
    return decision


def relocate(registry: Registry, unsettled: Collection[ResourceKey] = ()) -> Decision | None:
    """Decide that standbys own what has no healthy owner; None if none can.

    The decision is about one service; ask again until there is none.
    """
    service = ""
    decision = Decision({})
    successions: dict[str, Succession] = {}
    for key in sorted(registry.unattended):
        if service and key[0] != service:
            break
        resource = registry.resources.get(key)
        owner = None if resource is None else registry.instances.get(resource.instance_id)
        if owner is None:
            cause = "vacant"
        elif resource is not None and owner.node_id != resource.node_id:
            cause = "replaced"
        elif owner.instance_id in registry.standbys[key]:
            # Left over from its promotion, when the leader fell half-way.
            decision.writes.append(
                tombstone(standby_key(*key, owner.instance_id), cause="promoted")
            )
            service = key[0]
            continue
        else:
            cause = owner.cause
        succession = successions.get(cause)
        if succession is None:
            succession = successions[cause] = Succession(registry, decision, unsettled, cause=cause)
        if succession.hand_over(key):
            service = key[0]
    for succession in successions.values():
        succession.finish()
    return decision if decision.writes else None


def abandon(
    registry: Registry, instance_id: str, unsettled: Collection[ResourceKey] = ()
) -> Decision | None:
    """Decide that a new process does not claim what the one before it owned.

    None if there is no such thing (any more).
    """
    names = sorted(registry.displaced.get(instance_id, ()))
    if not names:
        return None
    service = names[0][0]
    decision = Decision({})
    instance = Instance(service, instance_id, registry.resources[names[0]].node_id)
    Departure(registry, decision, unsettled, cause="abandoned").give_up(
        instance, [name for other, name in names if other == service]
    )
    return decision
