"""Succession (sans-I/O): which standby owns a resource next, and how that is written.

The heir is the healthy standby that has applied most. One write of the resource's
record makes it the owner, and the sequence of that write is its epoch. Its own record
as a standby goes after all of these, so that when many resources change hands at once,
none waits for the tidying up of another; if the leader falls in between, the next one
finishes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final

from aegis.actors._decision import Decision, Event
from aegis.actors._registry import Registry
from aegis.actors._registry_entries import (
    Instance,
    InstanceState,
    Resource,
    ResourceKey,
    Standby,
    Write,
    resource_key,
    standby_key,
    tombstone,
)
from aegis.contracts import Role

__all__ = ["Succession"]

MAX_IN_EVENT: Final = 400
"""Promotions in one event: even with the longest names it fits a message."""


class Succession:
    """The changes of owner of one decision, all of one service.

    ``agreed`` says that the owner before has given up its lease itself. ``heir`` comes
    before all others, if it can own the resource.
    """

    def __init__(
        self,
        registry: Registry,
        decision: Decision,
        unsettled: Collection[ResourceKey],
        *,
        cause: str,
        agreed: bool = False,
        heir: str = "",
    ) -> None:
        self.promoted: dict[str, str] = {}
        self._registry = registry
        self._decision = decision
        self._unsettled = unsettled
        self._cause = cause
        self._agreed = agreed
        self._named = heir
        self._given: Counter[str] = Counter()
        self._events: dict[tuple[str, str], Event] = {}
        self._tidying: list[Write] = []

    def hand_over(self, key: ResourceKey) -> bool:
        """Add that the best standby owns the resource; False if there is none."""
        before = self._registry.resources.get(key)
        heir = self._heir(key, before)
        if heir is None:
            return False
        decision = self._decision
        self._given[heir.instance_id] += 1
        self.promoted[key[1]] = heir.instance_id
        decision.written[key[1]] = len(decision.writes)
        decision.writes.append(
            Write(
                resource_key(*key),
                Resource(
                    *key,
                    heir.instance_id,
                    heir.node_id,
                    contested=not self._agreed or key in self._unsettled,
                    metadata=heir.metadata if before is None else before.metadata,
                ).to_record(),
            )
        )
        self._tidying.append(tombstone(standby_key(*key, heir.instance_id), cause="promoted"))
        self._tell(key, heir, before)
        return True

    def finish(self) -> None:
        """Add what comes after the last change of owner."""
        self._decision.writes += self._tidying

    def _tell(self, key: ResourceKey, heir: Standby, before: Resource | None) -> None:
        pair = ("" if before is None else before.instance_id, heir.instance_id)
        event = self._events.get(pair)
        if event is None or len(event.resources) >= MAX_IN_EVENT:
            event = Event(
                "promoted",
                heir.service,
                heir.instance_id,
                heir.node_id,
                self._cause,
                role=str(Role.ACTIVE),
            )
            self._events[pair] = event
            self._decision.events.append(event)
        event.resources.append(key[1])
        event.after = len(self._decision.writes)
        if before is not None:
            event.old_instance_id, event.old_node_id = before.instance_id, before.node_id
            event.old_epochs[key[1]] = before.epoch

    def _heir(self, key: ResourceKey, before: Resource | None) -> Standby | None:
        fit = [
            standby
            for standby in self._registry.standbys.get(key, {}).values()
            if self._is_fit(standby, before)
        ]
        return max(fit, key=lambda standby: self._rank(standby, before), default=None)

    def _is_fit(self, standby: Standby, before: Resource | None) -> bool:
        instance = self._registry.instances.get(standby.instance_id)
        return (
            instance is not None
            and instance.node_id == standby.node_id
            and self._is_well(instance)
            # Its own standby's record is left over from a promotion.
            and (before is None or not _is_owner(instance, before))
        )

    def _is_well(self, instance: Instance) -> bool:
        return (
            instance.state is InstanceState.HEALTHY
            and instance.instance_id not in self._registry.doubted
        )

    def _rank(self, standby: Standby, before: Resource | None) -> tuple[bool, int, bool, int, int]:
        """Who was named; who has applied most; then who is elsewhere, has least to do, is there longest."""
        registry = self._registry
        applied = registry.applied.get(standby.instance_id, standby.node_id, standby.resource_id)
        held = len(registry.owned.get(standby.instance_id, ())) + self._given[standby.instance_id]
        elsewhere = before is None or before.node_id != standby.node_id
        named = standby.instance_id == self._named
        return (named, -1 if applied is None else applied, elsewhere, -held, -standby.sequence)


def _is_owner(instance: Instance, resource: Resource) -> bool:
    return (instance.instance_id, instance.node_id) == (resource.instance_id, resource.node_id)
