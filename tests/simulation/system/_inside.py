"""A look into the nodes: who owns what, who follows, and what each of them believes."""

from __future__ import annotations

from typing import Any

from aegis.actors._journaled import JournaledBehaviour
from aegis.contracts import Role
from aegis.transport._codec import decode_value
from tests.simulation.system._checker import Checker, Journal
from tests.simulation.system._machines import NodeMachine
from tests.simulation.system._services import State

__all__ = ["Inside"]


class Inside:
    """Compares what nodes believe with what the journals say."""

    def __init__(self, checker: Checker, machines: list[NodeMachine]) -> None:
        self._checker = checker
        self._machines = machines

    def owners(self, service: str, resource: str) -> list[str]:
        """Return the running nodes whose actor serves a resource under a lease."""
        return [
            machine.name
            for machine in self._machines
            if machine.running and machine.node is not None
            for role, behaviour in self._behaviours(machine, service, resource)
            if role is Role.ACTIVE
            and behaviour.owner.serving
            and machine.node.membership.covers(service, resource, behaviour.owner.epoch)
        ]

    def followers(self, service: str, resource: str) -> list[tuple[str, int]]:
        """Return the running nodes that stand by for a resource, and how far they are."""
        return [
            (machine.name, behaviour.applied)
            for machine in self._machines
            if machine.running and machine.node is not None
            for _, behaviour in self._behaviours(machine, service, resource)
            if behaviour.is_standby
        ]

    def check(self) -> None:
        """Compare every standby's and every idle owner's state with the journal's.

        And of no resource may two nodes answer queries: neither of them has to be asked
        just now for that to be wrong. One that is frozen may go on at any moment.
        """
        for (service, resource), journal in self._checker.journals.items():
            answering: dict[str, int] = {}
            for machine in self._machines:
                if machine.host is None or machine.node is None:
                    continue
                covers = machine.node.membership.covers
                for _, behaviour in self._behaviours(machine, service, resource):
                    owner = behaviour.owner
                    if owner.serving and covers(service, resource, owner.epoch):
                        answering[machine.host.name] = owner.epoch
                    if machine.running:
                        self._compare(machine, behaviour, journal)
            if len(answering) > 1:
                self._checker.world.fail("%s: all of %s may answer", journal.name, answering)
            for epoch in answering.values():
                self._checker.on_serving(service, resource, epoch)

    def _compare(
        self, machine: NodeMachine, behaviour: JournaledBehaviour, journal: Journal
    ) -> None:
        state = _state_of(behaviour, event_sourced=journal.event_sourced)
        expected = journal.by_sequence.get(behaviour.applied)
        if state is not None and state != expected:
            self._checker.world.fail(
                "%s: %s, at sequence %d, has %s; the journal says %s",
                journal.name,
                machine.name,
                behaviour.applied,
                state,
                expected,
            )

    def _behaviours(
        self, machine: NodeMachine, service: str, resource: str
    ) -> list[tuple[Role, JournaledBehaviour]]:
        assert machine.node is not None
        found: list[tuple[Role, JournaledBehaviour]] = []
        for instance in machine.node._instances.values():
            holding = instance.holdings.all.get(resource)
            if instance.desk.service != service or holding is None:
                continue
            if holding.behaviour is not None:
                found.append((holding.role, holding.behaviour))
        return found


def _state_of(behaviour: JournaledBehaviour, *, event_sourced: bool) -> State | None:
    """Return the state that a behaviour has; None while that is not to be compared."""
    owner = behaviour.owner
    following = behaviour.is_standby and not owner.stopped
    if not following and not (owner.serving and owner.quiescent):
        return None
    if event_sourced:
        if behaviour.is_running:
            return None
        state = getattr(behaviour._actor, "state", None)
        return state if isinstance(state, State) else None
    if owner.state is None:
        return State()
    wire: Any = decode_value(owner.state)
    return State(**wire)
