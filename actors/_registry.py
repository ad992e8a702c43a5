"""The registry (sans-I/O): who provides what, as the records say.

State comes only from records: those replayed from the stream, and those that this
candidate wrote itself and that were acknowledged. Beside it stands what the roster knows
from beats: how far standbys are, and whom not to choose. Nothing here decides anything:
what a request changes is for `aegis.actors._requests`, and what the leader changes by
itself for `aegis.actors._placement`. Both return decisions, and change nothing before
the records are acknowledged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

from aegis.actors._applied import AppliedTable
from aegis.actors._registry_entries import (
    Instance,
    InstanceState,
    Key,
    Resource,
    ResourceKey,
    Standby,
    Write,
)

__all__ = ["DEFAULT_MAX_RESOURCES", "Change", "Registry"]

DEFAULT_MAX_RESOURCES: Final = 1000
"""How many resources one instance may hold, in any role."""


@frozen
class Change:
    """What a record changed about the ownership of a resource."""

    key: ResourceKey
    before: Resource | None
    after: Resource | None
    contested: bool
    sequence: int


class Registry:
    """The instances, resources and standbys of a namespace."""

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

    # -- reading ------------------------------------------------------------------------

    def sorted_resources(self) -> list[ResourceKey]:
        """Return the keys of all resources that have an owner, in order."""
        if self._sorted is None:
            self._sorted = sorted(self.resources)
        return self._sorted

    def known_service(self, service: object) -> str:
        """Return the name of a service if there is one of that name, else ''."""
        return service if isinstance(service, str) and service in self.by_service else ""

    def state_of(self, instance_id: str) -> InstanceState:
        """Return whether an instance may be chosen; one that is not there may not."""
        instance = self.instances.get(instance_id)
        return InstanceState.UNHEALTHY if instance is None else instance.state


def _discard[T](index: dict[str, set[T]], name: str, key: T) -> None:
    keys = index.get(name)
    if keys is not None:
        keys.discard(key)
        if not keys:
            del index[name]
