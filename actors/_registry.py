"""The registry (sans-I/O): who provides what, and what each control request changes.

State comes only from records: those replayed from the stream, and those that this
candidate wrote itself and that were acknowledged. Beside it stands what the roster knows
from beats: how far standbys are, and whom not to choose. A request becomes a `Decision`: the
records to write, and the answer and the events to give once all of them are
acknowledged. Deciding changes nothing, so a decision whose write is refused is simply
dropped. Only the leader decides; every candidate answers queries.

Who owns a resource changes when

- its owner is unhealthy, gone, evicted, drained or replaced, or gives it back: the best
  healthy standby is promoted. Without one, an unhealthy owner keeps it, and otherwise
  it is released, but for an owner that a new process replaces: that one may claim its
  resources again until its time is up (`abandon`), and nobody else may meanwhile;
- a standby comes, or is healthy again, where there is no healthy owner (`relocate`);
- another instance takes it by force, though not while an earlier change is under way.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from attrs import evolve, frozen

from aegis.actors import _registration as registration
from aegis.actors._applied import AppliedTable
from aegis.actors._decision import Decision, Event, Holder, Probe
from aegis.actors._registry_entries import (
    Instance,
    InstanceState,
    Key,
    Resource,
    ResourceKey,
    Standby,
    Write,
    instance_key,
    resource_key,
    standby_key,
    tombstone,
)
from aegis.actors._succession import Succession
from aegis.contracts import Role
from aegis.errors import (
    AegisError,
    Conflict,
    InvalidRequest,
    NotFound,
    NotOwner,
    TooManyResources,
    Unavailable,
    to_wire,
)

__all__ = ["Change", "Decision", "Event", "Holder", "Probe", "Registry"]

DEFAULT_MAX_RESOURCES: Final = 1000
"""How many resources one instance may hold, in any role."""

_SHOWN: Final = 3
"""How many names of a list a message spells out."""


@frozen
class Change:
    """What a record changed about the ownership of a resource."""

    key: ResourceKey
    before: Resource | None
    after: Resource | None
    contested: bool
    sequence: int


class Registry:
    """The instances, resources and standbys of a namespace, and the rules for them."""

    def __init__(self, *, max_resources_per_instance: int = DEFAULT_MAX_RESOURCES) -> None:
        self.max_resources_per_instance = max_resources_per_instance
        self.sequence = 0
        self.instances: dict[str, Instance] = {}
        self.resources: dict[ResourceKey, Resource] = {}
        self.standbys: dict[ResourceKey, dict[str, Standby]] = {}
        self.contested_tombstones: dict[ResourceKey, int] = {}
        self.owned: dict[str, set[ResourceKey]] = {}
        self.stood_by: dict[str, set[ResourceKey]] = {}
        self.by_service: dict[str, set[str]] = {}
        self.by_node: dict[str, set[str]] = {}
        self.displaced: dict[str, set[ResourceKey]] = {}
        """By instance, what a process of it owned that it has replaced by another."""
        self.unattended: set[ResourceKey] = set()
        """What has standbys, and no healthy owner or a standby's record too many."""
        self.applied = AppliedTable()
        self.doubted: set[str] = set()
        """Instances that are healthy by their records, and not by what the roster knows."""
        self._ahead: dict[Key, int] = {}
        self._followed = 0
        self._sorted: list[ResourceKey] | None = None

    # -- state ------------------------------------------------------------------------

    def acknowledged(self, write: Write, sequence: int) -> Change | None:
        """Take over a record that this candidate wrote itself.

        The stream delivers it, too: either was first. What it delivers later may be
        behind older records of the subject.
        """
        if sequence <= self._followed:
            return None
        self._ahead[write.key] = sequence
        return self._apply(write.key, write.record, sequence)

    def replayed(self, key: Key, record: Mapping[str, Any], sequence: int) -> Change | None:
        """Take over a record that the stream delivered, in the stream's order."""
        self._followed = max(self._followed, sequence)
        ahead = self._ahead.get(key)
        if ahead is not None:
            if sequence >= ahead:
                del self._ahead[key]
            if sequence <= ahead:
                self.sequence = max(self.sequence, sequence)
                return None
        return self._apply(key, record, sequence)

    def _apply(self, key: Key, record: Mapping[str, Any], sequence: int) -> Change | None:
        self.sequence = max(self.sequence, sequence)
        values = None if record.get("removed") else dict(record)
        match key:
            case ("instance", instance_id):
                self._set_instance(
                    instance_id,
                    None if values is None else Instance.from_record(key, values, sequence),
                )
            case ("resource", service, resource_id):
                return self._set_resource(
                    (service, resource_id),
                    None if values is None else Resource.from_record(key, values, sequence),
                    contested=bool(record.get("contested")),
                    sequence=sequence,
                )
            case ("standby", service, resource_id, instance_id):
                self._set_standby(
                    (service, resource_id),
                    instance_id,
                    None if values is None else Standby.from_record(key, values, sequence),
                )
            case _:
                # The leader's records are the election's; what a newer release
                # writes besides is its own.
                pass
        return None

    def _set_instance(self, instance_id: str, after: Instance | None) -> None:
        before = self.instances.pop(instance_id, None)
        if before is not None:
            _discard(self.by_service, before.service, instance_id)
            _discard(self.by_node, before.node_id, instance_id)
        if after is not None:
            self.instances[instance_id] = after
            self.by_service.setdefault(after.service, set()).add(instance_id)
            self.by_node.setdefault(after.node_id, set()).add(instance_id)
        for key in self.owned.get(instance_id, ()):
            self._attend(key)

    def _set_resource(
        self, key: ResourceKey, after: Resource | None, *, contested: bool, sequence: int
    ) -> Change:
        before = self.resources.get(key)
        if before is not None:
            _discard(self.owned, before.instance_id, key)
        if after is None:
            self.resources.pop(key, None)
            self._sorted = None if before is not None else self._sorted
        else:
            self.resources[key] = after
            self.owned.setdefault(after.instance_id, set()).add(key)
            self._sorted = None if before is None else self._sorted
        if after is None and contested:
            self.contested_tombstones[key] = sequence
        else:
            self.contested_tombstones.pop(key, None)
        if before is not None:
            _discard(self.displaced, before.instance_id, key)
        self._attend(key)
        return Change(key, before, after, contested, sequence)

    def _set_standby(self, key: ResourceKey, instance_id: str, after: Standby | None) -> None:
        if after is None:
            standbys = self.standbys.get(key)
            if standbys is not None:
                standbys.pop(instance_id, None)
                if not standbys:
                    del self.standbys[key]
            _discard(self.stood_by, instance_id, key)
        else:
            self.standbys.setdefault(key, {})[instance_id] = after
            self.stood_by.setdefault(instance_id, set()).add(key)
        self._attend(key)

    def _attend(self, key: ResourceKey) -> None:
        """Note whether something has to be done about a resource's owner."""
        resource = self.resources.get(key)
        owner = None if resource is None else self.instances.get(resource.instance_id)
        displaced = resource is not None and (owner is None or owner.node_id != resource.node_id)
        if resource is not None:
            if displaced:
                self.displaced.setdefault(resource.instance_id, set()).add(key)
            else:
                _discard(self.displaced, resource.instance_id, key)
        standbys = self.standbys.get(key, {})
        if standbys and (
            owner is None
            or owner.instance_id in standbys
            or (not displaced and owner.state is InstanceState.UNHEALTHY)
        ):
            self.unattended.add(key)
        else:
            self.unattended.discard(key)

    # -- requests ---------------------------------------------------------------------

    def handle(
        self,
        operation: str,
        payload: Any,
        *,
        alive: Mapping[Holder, bool] | None = None,
        unsettled: Collection[ResourceKey] = (),
    ) -> Decision | Probe:
        """Decide a request; ``operation`` is ``service.register`` and so on.

        ``alive`` holds what probes have found out so far. ``unsettled`` are the
        resources for which the lease of an earlier owner may still be running.
        """
        known = alive or {}
        try:
            match operation:
                case "service.register":
                    return self._register_instance(payload, known, unsettled)
                case "service.unregister":
                    return self._unregister_instance(payload, unsettled)
                case "service.disconnect":
                    return self._disconnect_instance(payload, unsettled)
                case "resource.register":
                    return self._register_resources(payload, known, unsettled)
                case "resource.release":
                    return self._release_resources(payload, unsettled)
                case _:
                    raise InvalidRequest(f"no operation {operation!r}", field="operation")
        except AegisError as error:
            return Decision(refusal(error, registration.trace_id_of(payload)))

    def _register_instance(
        self, payload: Any, alive: Mapping[Holder, bool], unsettled: Collection[ResourceKey]
    ) -> Decision | Probe:
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
        current = self.instances.get(wanted.instance_id)
        if current is not None:
            same_process = current.node_id == wanted.node_id and (
                signed.named or current.timestamp == wanted.timestamp
            )
            if same_process and current.service == wanted.service:
                if evolve(wanted, timestamp=0.0) == evolve(current, timestamp=0.0, sequence=0):
                    return decision
            elif same_process:
                raise self._taken(current)
            else:
                holder = Holder(current.instance_id, current.node_id)
                if holder not in alive:
                    return Probe(frozenset({holder}))
                if alive[holder]:
                    raise self._taken(current)
                self._drop_instance(
                    current, decision, unsettled, agreed=False, cause="replaced", by=wanted
                )
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

    def _taken(self, current: Instance) -> Conflict:
        return Conflict(
            f"instance {current.instance_id!r} of service {current.service!r} is alive on "
            f"node {current.node_id!r}: choose another instance id",
            holder=current.node_id,
            instance_id=current.instance_id,
            service_name=current.service,
        )

    def _unregister_instance(self, payload: Any, unsettled: Collection[ResourceKey]) -> Decision:
        signed = registration.unregister_instance(payload)
        request = signed.request
        current = self._instance(request.service_name, request.instance_id)
        if signed.named and signed.node_id != current.node_id:
            raise NotOwner(
                f"instance {current.instance_id!r} belongs to node {current.node_id!r}",
                owner=current.node_id,
            )
        agreed = signed.node_id == current.node_id
        cause = "unregistered" if agreed else "disconnected"
        return self._remove(current, unsettled, cause, signed.trace_id, agreed=agreed)

    def _disconnect_instance(self, payload: Any, unsettled: Collection[ResourceKey]) -> Decision:
        request = registration.disconnect_instance(payload)
        current = self.instances.get(request.instance_id)
        if current is None or request.service_name not in (None, current.service):
            raise NotFound(
                f"no instance {request.instance_id!r}"
                + ("" if request.service_name is None else f" of service {request.service_name!r}"),
                instance_id=request.instance_id,
            )
        return self._remove(current, unsettled, "disconnected", request.trace_id, agreed=False)

    def _remove(
        self,
        current: Instance,
        unsettled: Collection[ResourceKey],
        cause: str,
        trace_id: str,
        *,
        agreed: bool,
    ) -> Decision:
        decision = Decision({})
        promoted, released = self._drop_instance(
            current, decision, unsettled, agreed=agreed, cause=cause
        )
        for event in decision.events:
            event.trace_id = trace_id
        decision.reply = {
            "success": True,
            "service_name": current.service,
            "instance_id": current.instance_id,
            "node_id": current.node_id,
            "promoted": promoted,
            "released": released,
            "trace_id": trace_id,
        }
        return decision

    def _register_resources(
        self, payload: Any, alive: Mapping[Holder, bool], unsettled: Collection[ResourceKey]
    ) -> Decision | Probe:
        signed = registration.register_resources(payload)
        request = signed.request
        instance = self._instance(request.service_name, request.instance_id)
        if signed.named and signed.node_id != instance.node_id:
            raise Conflict(
                f"instance {instance.instance_id!r} belongs to node {instance.node_id!r}",
                holder=instance.node_id,
            )
        self._check_limit(instance, request.resource_ids)
        if request.role is Role.STANDBY:
            granted, conflicts = self._stand_by(instance, request.resource_ids)
        else:
            granted, conflicts = self._claim(
                instance, request.resource_ids, alive, unsettled if request.force else None
            )
            unknown = frozenset(h for h in conflicts.values() if isinstance(h, Holder))
            if unknown:
                return Probe(unknown)
        decision = Decision({"success": not conflicts}, epochs={})
        assert decision.epochs is not None
        registered: list[str] = []
        fresh: list[str] = []
        for resource_id in request.resource_ids:
            if resource_id not in granted:
                continue
            registered.append(resource_id)
            key = (instance.service, resource_id)
            if granted[resource_id] is _HELD:
                if request.role is Role.ACTIVE:
                    decision.epochs[resource_id] = self.resources[key].epoch
                continue
            fresh.append(resource_id)
            if request.role is Role.STANDBY:
                decision.writes.append(
                    Write(
                        standby_key(*key, instance.instance_id),
                        Standby(
                            *key, instance.instance_id, instance.node_id, dict(request.metadata)
                        ).to_record(),
                    )
                )
                continue
            if key in self.stood_by.get(instance.instance_id, ()):
                decision.writes.append(
                    tombstone(standby_key(*key, instance.instance_id), cause="active")
                )
            decision.written[resource_id] = len(decision.writes)
            decision.writes.append(
                Write(
                    resource_key(*key),
                    Resource(
                        instance.service,
                        resource_id,
                        instance.instance_id,
                        instance.node_id,
                        contested=granted[resource_id] is _TAKEN or key in unsettled,
                        metadata=dict(request.metadata),
                    ).to_record(),
                )
            )
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
        owners = {name: str(owner) for name, owner in conflicts.items()}
        if owners:
            decision.reply |= to_wire(
                Conflict(f"held by another: {_spelled(owners)}", holder=next(iter(owners.values())))
            )
            decision.reply["code"] = Conflict.code
        decision.reply |= {
            "registered": registered,
            "conflicts": owners,
            "trace_id": request.trace_id,
        }
        return decision

    def _check_limit(self, instance: Instance, resource_ids: list[str]) -> None:
        held = self.owned.get(instance.instance_id, set()) | self.stood_by.get(
            instance.instance_id, set()
        )
        more = sum((instance.service, name) not in held for name in resource_ids)
        limit = self.max_resources_per_instance
        if len(held) + more > limit and more:
            raise TooManyResources(
                f"instance {instance.instance_id!r} holds {len(held)} resources and asks for "
                f"{more} more; the limit is {limit} (max_resources_per_instance)",
                limit=limit,
                held=len(held),
            )

    def _claim(
        self,
        instance: Instance,
        resource_ids: list[str],
        alive: Mapping[Holder, bool],
        forced: Collection[ResourceKey] | None,
    ) -> tuple[dict[str, object], dict[str, str | Holder]]:
        """Return which ids the instance may own, and who holds the others.

        A `Holder` in place of a name is one of whom it must be found out first
        whether it is alive. ``forced`` is None, or else all may be taken but these.
        """
        granted: dict[str, object] = {}
        conflicts: dict[str, str | Holder] = {}
        for resource_id in resource_ids:
            current = self.resources.get((instance.service, resource_id))
            if current is None:
                granted[resource_id] = _FREE
                continue
            if (current.instance_id, current.node_id) == (instance.instance_id, instance.node_id):
                granted[resource_id] = _HELD
                continue
            owner = self.instances.get(current.instance_id)
            if owner is None or owner.instance_id == instance.instance_id:
                granted[resource_id] = _TAKEN
            elif forced is not None:
                if current.key in forced:
                    raise Unavailable(
                        f"{_address(current.key)} changes its owner at the moment, to "
                        f"{current.instance_id!r}: try again",
                        holder=current.instance_id,
                    )
                granted[resource_id] = _TAKEN
            elif owner.node_id != current.node_id:
                # A new process of its owner is about to claim it again.
                conflicts[resource_id] = current.instance_id
            elif owner.state is InstanceState.UNHEALTHY:
                holder = Holder(owner.instance_id, owner.node_id)
                if holder not in alive:
                    conflicts[resource_id] = holder
                elif alive[holder]:
                    conflicts[resource_id] = current.instance_id
                else:
                    granted[resource_id] = _TAKEN
            else:
                conflicts[resource_id] = current.instance_id
        return granted, conflicts

    def _stand_by(
        self, instance: Instance, resource_ids: list[str]
    ) -> tuple[dict[str, object], dict[str, str | Holder]]:
        """Return which ids the instance may stand by for: all that it does not own.

        What an earlier process of it owned does not count: who asks to stand by for
        that gives it up.
        """
        granted: dict[str, object] = {}
        conflicts: dict[str, str | Holder] = {}
        for resource_id in resource_ids:
            key = (instance.service, resource_id)
            owner = self.resources.get(key)
            if owner is not None and (owner.instance_id, owner.node_id) == (
                instance.instance_id,
                instance.node_id,
            ):
                conflicts[resource_id] = instance.instance_id
                continue
            standby = self.standbys.get(key, {}).get(instance.instance_id)
            same = standby is not None and standby.node_id == instance.node_id
            granted[resource_id] = _HELD if same else _FREE
        return granted, conflicts

    def _release_resources(self, payload: Any, unsettled: Collection[ResourceKey]) -> Decision:
        signed = registration.release_resources(payload)
        request = signed.request
        decision = Decision({"success": True})
        released: list[str] = []
        missing: list[str] = []
        strangers: dict[str, str] = {}
        owned: list[str] = []
        stood_by: list[str] = []
        trace_id = request.trace_id
        for resource_id in request.resource_ids:
            key = (request.service_name, resource_id)
            current = self.resources.get(key)
            mine = current is not None and current.instance_id == request.instance_id
            if current is not None and mine and signed.named and current.node_id != signed.node_id:
                raise NotOwner(
                    f"{_address(key)} belongs to instance {current.instance_id!r} on node "
                    f"{current.node_id!r}",
                    owner=current.instance_id,
                    node_id=current.node_id,
                )
            stands_by = request.instance_id in self.standbys.get(key, {})
            if current is not None and mine:
                owned.append(resource_id)
            elif stands_by:
                stood_by.append(resource_id)
            elif current is not None:
                strangers[resource_id] = current.instance_id
                continue
            else:
                missing.append(resource_id)
                continue
            released.append(resource_id)
        if strangers:
            raise NotOwner(
                f"only the owner may release: {_spelled(strangers)}",
                owner=next(iter(strangers.values())),
                owners=strangers,
            )
        if not released:
            raise NotFound(
                f"service {request.service_name!r} has no resource "
                f"{', '.join(map(repr, missing[:_SHOWN]))}",
                missing=missing,
            )
        # The owner itself gives up its lease, and not whoever asks in its name.
        agreed = all(
            self.resources[request.service_name, name].node_id == signed.node_id for name in owned
        )
        instance = Instance(request.service_name, request.instance_id, signed.node_id)
        promoted, _ = self._give_up_resources(
            instance, owned, decision, unsettled, agreed=agreed, cause="released"
        )
        self._leave(instance, stood_by, decision, cause="released")
        for event in decision.events:
            event.trace_id = trace_id
        decision.reply |= {
            "released": released,
            "promoted": promoted,
            "missing": missing,
            "trace_id": trace_id,
        }
        return decision

    def _instance(self, service: str, instance_id: str) -> Instance:
        current = self.instances.get(instance_id)
        if current is None or current.service != service:
            raise NotFound(
                f"service {service!r} has no instance {instance_id!r}: register it first",
                service_name=service,
                instance_id=instance_id,
            )
        return current

    # -- health -----------------------------------------------------------------------

    def mark(
        self,
        instance_id: str,
        state: InstanceState,
        cause: str,
        unsettled: Collection[ResourceKey] = (),
    ) -> Decision | None:
        """Decide that an instance is healthy or not; None if that is so already.

        Of an unhealthy one, all that has a healthy standby goes there.
        """
        current = self.instances.get(instance_id)
        if current is None or current.state is state:
            return None
        after = evolve(current, state=state, cause=cause)
        decision = Decision({})
        if state is InstanceState.UNHEALTHY:
            succession = Succession(self, decision, unsettled, cause=cause)
            for key in sorted(self.owned.get(instance_id, ())):
                succession.hand_over(key)
            succession.finish()
        decision.writes.append(Write(instance_key(instance_id), after.to_record()))
        decision.events.append(
            Event(str(state), current.service, instance_id, current.node_id, cause, role=after.role)
        )
        return decision

    def give_up(
        self,
        instance_id: str,
        node_id: str,
        cause: str,
        unsettled: Collection[ResourceKey] = (),
    ) -> Decision | None:
        """Decide that an instance is gone; what it held is released.

        None if it is not there any more, or is on another node by now.
        """
        current = self.instances.get(instance_id)
        if current is None or current.node_id != node_id:
            return None
        decision = Decision({})
        self._drop_instance(current, decision, unsettled, agreed=False, cause=cause)
        return decision

    def relocate(self, unsettled: Collection[ResourceKey] = ()) -> Decision | None:
        """Decide that standbys own what has no healthy owner; None if none can.

        The decision is about one service; ask again until there is none.
        """
        service = ""
        decision = Decision({})
        successions: dict[str, Succession] = {}
        for key in sorted(self.unattended):
            if service and key[0] != service:
                break
            resource = self.resources.get(key)
            owner = None if resource is None else self.instances.get(resource.instance_id)
            if owner is None:
                cause = "vacant"
            elif resource is not None and owner.node_id != resource.node_id:
                cause = "replaced"
            elif owner.instance_id in self.standbys[key]:
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
                succession = successions[cause] = Succession(self, decision, unsettled, cause=cause)
            if succession.hand_over(key):
                service = key[0]
        for succession in successions.values():
            succession.finish()
        return decision if decision.writes else None

    def abandon(self, instance_id: str, unsettled: Collection[ResourceKey] = ()) -> Decision | None:
        """Decide that a new process does not claim what the one before it owned.

        None if there is no such thing (any more).
        """
        names = sorted(self.displaced.get(instance_id, ()))
        if not names:
            return None
        service = names[0][0]
        decision = Decision({})
        instance = Instance(service, instance_id, self.resources[names[0]].node_id)
        self._give_up_resources(
            instance,
            [name for other, name in names if other == service],
            decision,
            unsettled,
            agreed=False,
            cause="abandoned",
        )
        return decision

    def _drop_instance(
        self,
        current: Instance,
        decision: Decision,
        unsettled: Collection[ResourceKey],
        *,
        agreed: bool,
        cause: str,
        by: Instance | None = None,
    ) -> tuple[dict[str, str], list[str]]:
        """Add to ``decision`` that an instance leaves with all that it holds.

        ``agreed`` says that the instance itself has given up its lease. A new process
        ``by`` which it is replaced may claim again what no standby takes over. The record of the instance goes last: if the leader falls in
        between, the next one finds the instance still there and finishes. Return what
        was promoted, with whom, and what was released.
        """
        owned = [name for _, name in sorted(self.owned.get(current.instance_id, ()))]
        promoted, released = self._give_up_resources(
            current,
            owned,
            decision,
            unsettled,
            agreed=agreed,
            cause=cause,
            kept=by is not None and by.service == current.service,
        )
        stood_by = [name for _, name in sorted(self.stood_by.get(current.instance_id, ()))]
        self._leave(current, stood_by, decision, cause=cause)
        if by is None:
            decision.writes.append(tombstone(instance_key(current.instance_id), cause=cause))
        decision.events.append(
            Event("gone", current.service, current.instance_id, current.node_id, cause)
        )
        return promoted, released

    def _give_up_resources(
        self,
        owner: Instance,
        resource_ids: list[str],
        decision: Decision,
        unsettled: Collection[ResourceKey],
        *,
        agreed: bool,
        cause: str,
        kept: bool = False,
    ) -> tuple[dict[str, str], list[str]]:
        """Add that ``owner`` owns these no more: the best standby does, or nobody.

        Return what was promoted, with whom, and what was released. What is ``kept`` is
        neither when it has no standby.
        """
        succession = Succession(self, decision, unsettled, cause=cause, agreed=agreed)
        keys = [(owner.service, name) for name in resource_ids]
        left = [key for key in keys if not succession.hand_over(key)]
        released = [] if kept else [key[1] for key in left]
        for name in released:
            key = (owner.service, name)
            decision.writes.append(
                tombstone(resource_key(*key), cause=cause, contested=not agreed or key in unsettled)
            )
        succession.finish()
        if released:
            decision.events.append(
                Event(
                    "released",
                    owner.service,
                    owner.instance_id,
                    owner.node_id,
                    cause,
                    resources=released,
                    role=str(Role.ACTIVE),
                )
            )
        return succession.promoted, released

    def _leave(
        self, instance: Instance, resource_ids: list[str], decision: Decision, *, cause: str
    ) -> None:
        """Add that ``instance`` stands by for these no more."""
        if not resource_ids:
            return
        for name in resource_ids:
            decision.writes.append(
                tombstone(standby_key(instance.service, name, instance.instance_id), cause=cause)
            )
        decision.events.append(
            Event(
                "released",
                instance.service,
                instance.instance_id,
                instance.node_id,
                cause,
                resources=resource_ids,
                role=str(Role.STANDBY),
            )
        )

    def shows(self, event: Event, resource_id: str | None = None) -> bool:
        """Whether what an event tells, of one of its resources or at all, is so now."""
        if resource_id is None:
            instance = self.instances.get(event.instance_id)
            here = instance is not None and instance.node_id == event.node_id
            if event.name == "gone":
                return not here
            return here and (
                event.name == "registered"
                or (instance is not None and instance.state == event.name)
            )
        key = (event.service, resource_id)
        resource, standby = (
            self.resources.get(key),
            self.standbys.get(key, {}).get(event.instance_id),
        )
        held = standby if event.role == Role.STANDBY else resource
        holds = held is not None and (held.instance_id, held.node_id) == (
            event.instance_id,
            event.node_id,
        )
        return holds is (event.name != "released")

    # -- queries ----------------------------------------------------------------------

    def query_services(
        self, request: registration.QueryServices, depth: Callable[[str], int | None]
    ) -> dict[str, Any]:
        """Return the answer to ``ipc.service.query``; ``depth`` tells queue depths.

        Raises:
            NotFound: the service or instance that was asked for is not there.
        """
        if request.instance_id is not None:
            found = self.instances.get(request.instance_id)
            if found is None or request.service_name not in (None, found.service):
                raise NotFound(f"no instance {request.instance_id!r}")
            services = {found.service: [found]}
        elif request.service_name is not None:
            if request.service_name not in self.by_service:
                raise NotFound(f"no service {request.service_name!r}")
            services = {request.service_name: self._members(request.service_name)}
        else:
            services = {name: self._members(name) for name in sorted(self.by_service)}
        return {
            "success": True,
            "services": [
                {
                    "service_name": name,
                    "instances": [self._instance_map(i, depth(i.instance_id)) for i in members],
                }
                for name, members in services.items()
            ],
            "sequence": self.sequence,
        }

    def _members(self, service: str) -> list[Instance]:
        return [self.instances[name] for name in sorted(self.by_service[service])]

    def _instance_map(self, instance: Instance, depth: int | None) -> dict[str, Any]:
        return {
            "instance_id": instance.instance_id,
            "node_id": instance.node_id,
            "role": str(instance.role),
            "state": str(instance.state),
            "cause": instance.cause,
            "timestamp": instance.timestamp,
            "metadata": instance.metadata,
            "resources": len(self.owned.get(instance.instance_id, ())),
            "standby_for": len(self.stood_by.get(instance.instance_id, ())),
            "queue_depth": depth,
        }

    def query_resources(self, request: registration.QueryResources) -> dict[str, Any]:
        """Return the answer to ``ipc.resource.query``.

        Raises:
            NotFound: nobody holds the resource that was asked for.
        """
        if request.resource_ids is None:
            return self._list_resources(request)
        found: list[dict[str, Any]] = []
        missing: list[str] = []
        for resource_id in request.resource_ids:
            keys = (
                [(request.service_name, resource_id)]
                if request.service_name is not None
                else [(service, resource_id) for service in self._services()]
            )
            owners = [self.resources[key] for key in keys if key in self.resources]
            if not owners:
                missing.append(resource_id)
            found.extend(self._resource_map(owner) for owner in owners)
        if not found:
            service = request.service_name
            raise NotFound(
                f"{'no service' if service is None else f'service {service!r}'} has "
                f"{'a' if service is None else 'no'} resource "
                f"{', '.join(map(repr, missing[:_SHOWN]))}",
                missing=missing,
            )
        answer: dict[str, Any] = {"success": True, "resources": found, "sequence": self.sequence}
        if request.single:
            answer |= found[0]
        else:
            answer["missing"] = missing
        return answer

    def _services(self) -> list[str]:
        return sorted(self.by_service)

    def _list_resources(self, request: registration.QueryResources) -> dict[str, Any]:
        if request.instance_id is not None:
            keys = sorted(self.owned.get(request.instance_id, ()))
        else:
            if self._sorted is None:
                self._sorted = sorted(self.resources)
            keys = self._sorted
        start = 0
        if request.after is not None:
            start = bisect_right(keys, request.after)
        elif request.service_name is not None:
            start = bisect_right(keys, (request.service_name, ""))
        page: list[dict[str, Any]] = []
        last: ResourceKey | None = None
        after: ResourceKey | None = None
        for key in keys[start : start + request.limit + 1]:
            if request.service_name is not None and key[0] != request.service_name:
                if key[0] > request.service_name:
                    break
                continue
            if len(page) == request.limit:
                after = last
                break
            page.append(self._resource_map(self.resources[key]))
            last = key
        return {
            "success": True,
            "resources": page,
            "next": None if after is None else list(after),
            "sequence": self.sequence,
        }

    def _resource_map(self, resource: Resource) -> dict[str, Any]:
        owner = self.instances.get(resource.instance_id)
        return {
            "service_name": resource.service,
            "resource_id": resource.resource_id,
            "instance_id": resource.instance_id,
            "owner": resource.instance_id,
            "node_id": resource.node_id,
            "role": str(Role.ACTIVE),
            "epoch": resource.epoch,
            "state": str(owner.state if owner else InstanceState.UNHEALTHY),
            "metadata": resource.metadata,
            "applied": self.applied.get(
                resource.instance_id, resource.node_id, resource.resource_id
            ),
            "standbys": [
                {
                    "instance_id": standby.instance_id,
                    "node_id": standby.node_id,
                    "role": str(Role.STANDBY),
                    "state": str(self._state_of(standby.instance_id)),
                    "applied": self.applied.get(
                        standby.instance_id, standby.node_id, standby.resource_id
                    ),
                    "lag": self.applied.lag(
                        (resource.instance_id, resource.node_id),
                        (standby.instance_id, standby.node_id),
                        resource.key,
                    ),
                    "metadata": standby.metadata,
                }
                for standby in self.standbys.get(resource.key, {}).values()
            ],
        }

    def _state_of(self, instance_id: str) -> InstanceState:
        instance = self.instances.get(instance_id)
        return InstanceState.UNHEALTHY if instance is None else instance.state


_FREE, _HELD, _TAKEN = object(), object(), object()


def refusal(error: AegisError, trace_id: str = "") -> dict[str, Any]:
    """Return the answer that refuses a request."""
    return {"success": False, "code": error.code, **to_wire(error), "trace_id": trace_id}


def _discard[T](index: dict[str, set[T]], name: str, key: T) -> None:
    keys = index.get(name)
    if keys is not None:
        keys.discard(key)
        if not keys:
            del index[name]


def _address(key: ResourceKey) -> str:
    return f"{key[0]}/{key[1]}"


def _spelled(owners: Mapping[str, str]) -> str:
    shown = [f"{name!r} by {owner!r}" for name, owner in list(owners.items())[:_SHOWN]]
    more = len(owners) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
