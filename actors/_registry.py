"""The registry (sans-I/O): who provides what, and what each control request changes.

State comes only from records: those replayed from the stream, and those that this
candidate wrote itself and that were acknowledged. A request becomes a `Decision`: the
records to write, and the answer and the events to give once all of them are
acknowledged. Deciding changes nothing, so a decision whose write is refused is simply
dropped. Only the leader decides; every candidate answers queries.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from attrs import define, evolve, field, frozen

from aegis.actors import _registration as registration
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
from aegis.contracts import Role
from aegis.errors import (
    AegisError,
    Conflict,
    InvalidRequest,
    NotFound,
    NotOwner,
    TooManyResources,
    to_wire,
)

__all__ = ["Change", "Decision", "Event", "Holder", "Probe", "Registry"]

DEFAULT_MAX_RESOURCES: Final = 1000
"""How many resources one instance may hold, in any role."""

_SHOWN: Final = 3
"""How many names of a list a message spells out."""


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

    def to_wire(self) -> dict[str, Any]:
        """Return the event as the map that is published."""
        return {
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
            event.sequence = sequences[-1] if sequences else 0
            event.epochs = {
                name: sequences[self.written[name]]
                for name in event.resources
                if name in self.written
            }
        if self.epochs is not None:
            self.reply["epochs"] = self.epochs
        if sequences:
            self.reply["sequence"] = sequences[-1]
        return self.reply


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
                    current, decision, unsettled, agreed=False, cause="replaced", replaced=True
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
        decision = Decision(
            {
                "success": True,
                "service_name": current.service,
                "instance_id": current.instance_id,
                "trace_id": signed.trace_id,
            }
        )
        self._drop_instance(
            current,
            decision,
            unsettled,
            agreed=agreed,
            cause="unregistered" if agreed else "disconnected",
        )
        for event in decision.events:
            event.trace_id = signed.trace_id
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
            granted, conflicts = self._claim(instance, request.resource_ids, alive, request.force)
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
        force: bool,
    ) -> tuple[dict[str, object], dict[str, str | Holder]]:
        """Return which ids the instance may own, and who holds the others.

        A `Holder` in place of a name is one of whom it must be found out first
        whether it is alive.
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
            orphaned = owner is None or owner.node_id != current.node_id
            if force or orphaned:
                granted[resource_id] = _TAKEN
            elif owner is not None and owner.state is InstanceState.UNHEALTHY:
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
        """Return which ids the instance may stand by for: all that it does not own."""
        granted: dict[str, object] = {}
        conflicts: dict[str, str | Holder] = {}
        for resource_id in resource_ids:
            key = (instance.service, resource_id)
            if key in self.owned.get(instance.instance_id, ()):
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
                decision.writes.append(
                    tombstone(
                        resource_key(*key),
                        cause="released",
                        contested=signed.node_id != current.node_id or key in unsettled,
                    )
                )
                owned.append(resource_id)
            elif stands_by:
                decision.writes.append(
                    tombstone(standby_key(*key, request.instance_id), cause="released")
                )
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
        if owned:
            decision.events.append(
                Event(
                    "released",
                    request.service_name,
                    request.instance_id,
                    signed.node_id,
                    cause="released",
                    resources=owned,
                    trace_id=request.trace_id,
                )
            )
        decision.reply |= {
            "released": released,
            "missing": missing,
            "trace_id": request.trace_id,
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

    def mark(self, instance_id: str, state: InstanceState, cause: str) -> Decision | None:
        """Decide that an instance is healthy or not; None if that is so already."""
        current = self.instances.get(instance_id)
        if current is None or current.state is state:
            return None
        after = evolve(current, state=state, cause=cause)
        decision = Decision({}, [Write(instance_key(instance_id), after.to_record())])
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

    def _drop_instance(
        self,
        current: Instance,
        decision: Decision,
        unsettled: Collection[ResourceKey],
        *,
        agreed: bool,
        cause: str,
        replaced: bool = False,
    ) -> None:
        """Add to ``decision`` that an instance leaves with all that it holds.

        ``agreed`` says that the instance itself has given up its lease. The record of
        the instance goes last: if the leader falls in between, the next one finds the
        instance still there and finishes.
        """
        released: list[str] = []
        for key in sorted(self.owned.get(current.instance_id, ())):
            # A healthy standby, if there is one, is promoted here: one write that
            # names it takes the place of the tombstone.
            decision.writes.append(
                tombstone(resource_key(*key), cause=cause, contested=not agreed or key in unsettled)
            )
            released.append(key[1])
        for key in sorted(self.stood_by.get(current.instance_id, ())):
            decision.writes.append(tombstone(standby_key(*key, current.instance_id), cause=cause))
        if not replaced:
            decision.writes.append(tombstone(instance_key(current.instance_id), cause=cause))
        event = Event("released", current.service, current.instance_id, current.node_id, cause)
        if released:
            event.resources = released
            decision.events.append(event)
        decision.events.append(
            Event("gone", current.service, current.instance_id, current.node_id, cause)
        )

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
            "standbys": [
                {
                    "instance_id": standby.instance_id,
                    "node_id": standby.node_id,
                    "state": str(self._state_of(standby.instance_id)),
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
