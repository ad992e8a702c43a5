"""Departures (sans-I/O): what becomes of all that an instance held when it leaves.

What it owned, the best standby owns next, or nobody does; what it stood by for, it
stands by for no more.
"""

from __future__ import annotations

from collections.abc import Collection

from aegis.actors._decision import Decision, Event
from aegis.actors._registry import Registry
from aegis.actors._registry_entries import (
    Instance,
    ResourceKey,
    instance_key,
    resource_key,
    standby_key,
    tombstone,
)
from aegis.actors._succession import Succession
from aegis.contracts import Role

__all__ = ["Departure"]


class Departure:
    """Adds to one decision what leaves, and why.

    ``agreed`` says that the instance itself has given up its lease. ``unsettled`` are
    the resources for which the lease of an earlier owner may still be running. ``heir``
    is the standby that is to take over, if it can.
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
        """With whom each resource is now that a standby has taken over."""
        self.released: list[str] = []
        """What nobody owns any more."""
        self._registry = registry
        self._decision = decision
        self._unsettled = unsettled
        self._cause = cause
        self._agreed = agreed
        self._heir = heir

    def drop(self, instance: Instance, *, by: Instance | None = None) -> None:
        """Add that an instance leaves with all that it holds.

        A new process ``by`` which it is replaced may claim again what no standby takes
        over. The record of the instance goes last: if the leader falls in between, the
        next one finds the instance still there and finishes.
        """
        registry = self._registry
        owned = [name for _, name in sorted(registry.owned.get(instance.instance_id, ()))]
        self.give_up(instance, owned, kept=by is not None and by.service == instance.service)
        stood_by = [name for _, name in sorted(registry.stood_by.get(instance.instance_id, ()))]
        self.leave(instance, stood_by)
        if by is None:
            self._decision.writes.append(
                tombstone(instance_key(instance.instance_id), cause=self._cause)
            )
        self._tell("gone", instance)

    def give_up(self, owner: Instance, resource_ids: list[str], *, kept: bool = False) -> None:
        """Add that ``owner`` owns these no more: the best standby does, or nobody.

        What is ``kept`` stays as it is when it has no standby.
        """
        succession = Succession(
            self._registry,
            self._decision,
            self._unsettled,
            cause=self._cause,
            agreed=self._agreed,
            heir=self._heir,
        )
        keys = [(owner.service, name) for name in resource_ids]
        left = [key for key in keys if not succession.hand_over(key)]
        released = [] if kept else left
        for key in released:
            contested = not self._agreed or key in self._unsettled
            self._decision.writes.append(
                tombstone(resource_key(*key), cause=self._cause, contested=contested)
            )
        succession.finish()
        self.promoted |= succession.promoted
        self.released += [name for _, name in released]
        if released:
            self._tell("released", owner, [name for _, name in released], Role.ACTIVE)

    def leave(self, instance: Instance, resource_ids: list[str]) -> None:
        """Add that ``instance`` stands by for these no more."""
        if not resource_ids:
            return
        for name in resource_ids:
            key = standby_key(instance.service, name, instance.instance_id)
            self._decision.writes.append(tombstone(key, cause=self._cause))
        self._tell("released", instance, resource_ids, Role.STANDBY)

    def _tell(
        self,
        name: str,
        instance: Instance,
        resource_ids: Collection[str] = (),
        role: Role | None = None,
    ) -> None:
        self._decision.events.append(
            Event(
                name,
                instance.service,
                instance.instance_id,
                instance.node_id,
                self._cause,
                resources=list(resource_ids),
                role="" if role is None else str(role),
            )
        )
