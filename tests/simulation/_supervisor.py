"""Who owns what: a single supervisor that never fails and has a perfect clock.

It stands for registry, leader and leases, which have cores of their own. It writes an
epoch for each change of owner, tells the nodes (over a network that may lose it), grants
leases, and lets a new owner answer only after every earlier lease has run out or the
death of its holder is proven.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from attrs import define, field

from aegis.actors._owner import Phase
from tests.simulation._node import Node
from tests.simulation._simulation import Simulation

__all__ = ["Supervisor"]

BEAT_SECONDS: Final = 0.2
LEASE_SECONDS: Final = 0.5


@define
class _Assignment:
    node: Node
    incarnation: int
    epoch: int
    answer_from: float
    before: Node | None
    granted: list[tuple[Node, int, float]] = field(factory=list[tuple[Node, int, float]])
    """Every lease ever granted: node, its incarnation, and until when."""
    dead_since: float | None = None


class Supervisor:
    """Assigns every resource to a node, and again whenever that node is lost."""

    def __init__(self, simulation: Simulation, nodes: list[Node]) -> None:
        self.simulation = simulation
        self.world = simulation.world
        self.nodes = nodes
        self.beating = True
        self._assignments: dict[str, _Assignment] = {}

    def start(self) -> None:
        for resource in self.simulation.resources:
            self.promote(resource)
        self._beat()

    def owner_of(self, resource: str, *, stale: bool = False) -> Node | None:
        """Return who owns ``resource``; or, if ``stale``, who did before."""
        assignment = self._assignments.get(resource)
        if assignment is None:
            return None
        return assignment.before if stale else assignment.node

    def is_serving(self, resource: str) -> bool:
        """Whether the assigned owner of ``resource`` is there and serves."""
        assignment = self._assignments[resource]
        driver = assignment.node.drivers.get(resource)
        return (
            assignment.node.alive
            and driver is not None
            and driver.epoch == assignment.epoch
            and driver.owner.phase is Phase.SERVING
        )

    def epoch_of(self, resource: str) -> int:
        """Return the epoch of the assigned owner."""
        return self._assignments[resource].epoch

    def promote(self, resource: str) -> None:
        """Assign ``resource`` to a node that lives, perhaps to the same one."""
        world, old = self.world, self._assignments.get(resource)
        living = [node for node in self.nodes if node.alive]
        if not living:
            return
        node = world.rng.choice(living)
        answer = self.simulation.store.append_now(f"registry.{resource}", b"", expect=None)
        granted = old.granted if old is not None else []
        # The lease of a process that is dead for certain binds nobody.
        answer_from = max(
            [
                until
                for holder, incarnation, until in granted
                if holder.alive and holder.incarnation == incarnation
            ],
            default=0.0,
        )
        before = old.node if old is not None else None
        self._assignments[resource] = new = _Assignment(
            node, node.incarnation, answer.sequence, answer_from, before, granted
        )
        world.count("promotion")
        world.note("supervisor: %s owns %s with epoch %d", node.name, resource, new.epoch)
        self._grant(resource, new)
        if old is not None and old.node is not node and world.rng.random() < 0.5:
            demote = old.node.bound(partial(old.node.on_demotion, resource, new.epoch))
            world.transmit(world.faults.control, demote)

    def _grant(self, resource: str, assignment: _Assignment) -> None:
        node = assignment.node
        if not node.alive or node.incarnation != assignment.incarnation:
            return
        until = self.world.now + LEASE_SECONDS
        assignment.granted = [g for g in assignment.granted if g[2] > self.world.now]
        assignment.granted.append((node, node.incarnation, until))
        grant = partial(node.on_grant, resource, assignment.epoch, assignment.answer_from, until)
        self.world.transmit(self.world.faults.control, node.bound(grant))

    def _beat(self) -> None:
        if not self.beating:
            return
        world = self.world
        for resource in self.simulation.resources:
            assignment = self._assignments.get(resource)
            if assignment is None:
                self.promote(resource)
                continue
            node = assignment.node
            if node.alive and node.incarnation == assignment.incarnation:
                driver = node.drivers.get(resource)
                if (
                    driver is not None
                    and driver.epoch == assignment.epoch
                    and driver.owner.phase is Phase.STOPPED
                ):
                    self.promote(resource)
                else:
                    self._grant(resource, assignment)
            elif assignment.dead_since is None:
                assignment.dead_since = world.now
            elif not world.faulty or world.rng.random() < 0.5:
                self.promote(resource)
        world.after(BEAT_SECONDS, self._beat)
