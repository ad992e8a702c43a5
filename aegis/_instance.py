"""One instance of a node: its registration, its actors, and what it holds."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
from collections.abc import Callable, Iterable
from typing import Final

import structlog
from attrs import frozen

from aegis._clock import Clock
from aegis._config import RunOptions, ServiceOptions
from aegis._handover import GROUP_TIMEOUT, HandOver, with_heirs
from aegis._holdings import Holding, Holdings
from aegis._subjects import Subjects
from aegis._takeover_reports import TakeoverReports
from aegis.actors._actor import AegisActor
from aegis.actors._behaviour import Behaviour
from aegis.actors._cell import ActorCell, Props, Status
from aegis.actors._dispatch import Dispatcher, InstanceDesk
from aegis.actors._group import GroupBehaviour
from aegis.actors._handlers import describe
from aegis.actors._journaled import JournaledBehaviour, Takeover
from aegis.actors._lease import InstanceLoad
from aegis.actors._membership import Membership
from aegis.actors._messages import Failure
from aegis.actors._post_office import PostOffice
from aegis.actors._restarts import RestartType
from aegis.actors._standby import StandbyFeed
from aegis.actors._supervisor import Supervisor
from aegis.actors._topics import Topics
from aegis.contracts import Role
from aegis.errors import AegisError, Conflict, NotFound, NotOwner, Unavailable
from aegis.transport._base import Transport

__all__ = ["REGISTRATION_TIMEOUT", "Instance", "NodeParts"]

_log = structlog.get_logger("aegis.node")

REGISTRATION_TIMEOUT: Final = 30.0
"""Seconds that a starting node waits for a leading supervisor."""

UNREGISTRATION_TIMEOUT: Final = 5.0
"""Seconds that a node which ends waits for one; afterwards its silence tells."""

COVERED_TIMEOUT: Final = 30.0
"""Seconds that a new owner waits for the leases of earlier owners before it says so."""

GIVEN_UP_TIMEOUT: Final = 1.0
"""Seconds for the same where nobody has confirmed that the instance was registered."""

INSTANCE_ACTOR: Final = "@instance"
"""Name of the actor that takes the messages to an instance itself."""

STOP_TIMEOUT: Final = 10.0
"""Seconds that an actor may take to stop before it is killed."""


@frozen(eq=False)
class NodeParts:
    """What the instances of a node share."""

    transport: Transport
    subjects: Subjects
    clock: Clock
    options: RunOptions
    membership: Membership
    dispatcher: Dispatcher
    standbys: StandbyFeed
    topics: Topics
    office: PostOffice
    reports: TakeoverReports
    reads: asyncio.Semaphore
    """Has its turn before each read of a journal."""
    connection: Callable[[], int]
    """Another number after each loss of the server."""


class Instance:
    """One instance of this node, from its options to its actors."""

    def __init__(
        self,
        parts: NodeParts,
        options: ServiceOptions,
        actor_class: type[AegisActor],
        desk: InstanceDesk,
    ) -> None:
        self.desk = desk
        self.supervisor = Supervisor(on_escalate=self._on_escalation)
        self.holdings = Holdings(self, desk)
        self.registered = False
        self.failed = False
        """Its supervisor gave up on it: beats say so, and the leader judges."""
        self._parts = parts
        self._progress = 0
        self._options = options
        self._actor_class = actor_class
        self._rejoining: asyncio.Task[None] | None = None
        self._registering = False
        self._ending = False
        self._stopping: asyncio.Task[None] | None = None

    # -- life ---------------------------------------------------------------------------

    async def start(self, services: Supervisor) -> None:
        """Start its own actor below ``services``, register it, and take its resources.

        Raises:
            Conflict: the id, or a resource, is held by another process.
            Unavailable: no supervisor led in time.
        """
        desk, parts, options = self.desk, self._parts, self._options
        await services.start_supervisor(
            desk.instance_id, self.supervisor, restart=RestartType.TEMPORARY
        )
        desk.cell = await self.start_cell(self._group_behaviour, None)
        await self._register()
        # Not before: the leader probes this address to learn whether another process
        # that has the id is alive, and must not meet the newcomer there.
        await parts.dispatcher.open(desk)
        await parts.topics.open(desk, describe(self._actor_class))
        if options.resources:
            await self.add_resources(
                list(options.resources), role=options.role, force=parts.options.force
            )
        _log.info(
            "instance_started",
            service_name=desk.service,
            instance_id=desk.instance_id,
            resources=len(self.holdings.all),
            role=str(options.role),
        )

    async def stop(self) -> None:
        """Drain: hand over, finish what has begun, commit it, and give everything back.

        Whoever asks while that is under way waits for the same end: a start that failed
        may leave in the middle of the node's own end.
        """
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._drain())
        await self._stopping

    async def _drain(self) -> None:
        desk, parts = self.desk, self._parts
        self._end()
        await self.holdings.stop()
        if self.registered and parts.transport.connected:
            await HandOver(parts.membership, desk, self.stop_cell).run(
                self.holdings.ids(Role.ACTIVE)
            )
        await parts.dispatcher.close(desk)
        await parts.topics.close(desk)
        if self.supervisor.status is not Status.STOPPED:
            await self.supervisor.stop()
        desk.resources.clear()
        if self.registered or self._registering:
            # An answer that has not come may still say that it is registered.
            timeout = UNREGISTRATION_TIMEOUT if self.registered else GIVEN_UP_TIMEOUT
            try:
                await parts.membership.unregister(desk.service, desk.instance_id, timeout=timeout)
            except NotOwner:
                pass  # The name is another node's: there was nothing to give back.
            except AegisError as error:
                _log.warning("unregister_failed", instance_id=desk.instance_id, error=str(error))

    def kill(self) -> None:
        """End everything at once, as a crash would."""
        self._end()
        self.holdings.kill()
        if self.desk.cell is not None:
            self.desk.cell.kill()

    def _end(self) -> None:
        """Begin nothing any more."""
        self._ending = True
        if self._rejoining is not None:
            self._rejoining.cancel()

    async def _register(self) -> None:
        self._registering = True
        await self._parts.membership.register(
            self.desk.service,
            self.desk.instance_id,
            role=self._options.role,
            metadata={"pid": os.getpid(), "host": socket.gethostname()},
            timeout=REGISTRATION_TIMEOUT,
        )
        self.registered = True

    def _group_behaviour(self, actor: AegisActor) -> Behaviour:
        parts = self._parts
        return GroupBehaviour(
            parts.transport,
            parts.subjects,
            parts.clock,
            actor_class=self._actor_class,
            lease_held=lambda: parts.membership.lease.valid(parts.clock.boot_seconds()),
            connection=parts.connection,
            gauge=parts.office.gauge,
        )

    def _on_escalation(self, supervisor: Supervisor, failure: Failure) -> None:
        self.failed = True
        _log.error(
            "instance_failed",
            service_name=self.desk.service,
            instance_id=self.desk.instance_id,
            reason=str(failure),
            action="its actors failed too often; see the lines before, then start it anew",
        )
        self._parts.membership.beat_soon()

    # -- resources ----------------------------------------------------------------------

    async def add_resources(
        self, resource_ids: list[str], *, role: Role = Role.ACTIVE, force: bool = False
    ) -> None:
        """Register resources and start their actors; see `Node.add_resources`."""
        desk, holdings, membership = self.desk, self.holdings, self._parts.membership
        registration = await membership.register_resources(
            desk.service,
            desk.instance_id,
            resource_ids,
            role=role,
            force=force,
            timeout=REGISTRATION_TIMEOUT,
        )
        conflicts = registration.conflicts
        standbys = [] if role is Role.ACTIVE else registration.registered
        if role is Role.STANDBY:
            # An earlier attempt, whose answer was lost, was followed by a promotion.
            for resource_id in [r for r, o in conflicts.items() if o == desk.instance_id]:
                del conflicts[resource_id]
                standbys.append(resource_id)
        await asyncio.gather(
            *(
                holdings.start(resource_id, Role.ACTIVE, epoch)
                for resource_id, epoch in registration.epochs.items()
            ),
            *(holdings.start(resource_id, Role.STANDBY) for resource_id in standbys),
        )
        # Where nobody else was to own one, this instance was named before it listened.
        for resource_id in standbys:
            epoch = membership.lease.covered.get((desk.service, resource_id))
            if epoch is not None:
                holdings.own(resource_id, epoch)
        if conflicts:
            held = ", ".join(f"{name} by {owner}" for name, owner in list(conflicts.items())[:5])
            more = f" and {len(conflicts) - 5} more" if len(conflicts) > 5 else ""
            raise Conflict(
                f"held by others: {held}{more}; stop their owner, start this instance as a standby "
                "(--role standby), or take them (--force)",
                conflicts=conflicts,
            )

    # -- eviction -----------------------------------------------------------------------

    def rejoin(self) -> None:
        """The leader does not know the instance any more: register it anew."""
        if self._ending:
            return
        self.registered = False
        if self._rejoining is not None:
            self._rejoining.cancel()  # It was evicted again meanwhile.
        self._rejoining = asyncio.get_running_loop().create_task(self._rejoin())

    async def _rejoin(self) -> None:
        """Give up what the instance held, register it anew, and stand by for the rest.

        What nobody else owns by now is its own again.
        """
        owned = self.holdings.lose_all()
        standbys = [name for name in self.holdings.all if name not in set(owned)]
        while True:
            try:
                await self._register_anew(owned, standbys)
                return
            except Unavailable as error:
                _log.warning("rejoin_waits", instance_id=self.desk.instance_id, error=str(error))
            except AegisError as error:
                _log.error("rejoin_failed", instance_id=self.desk.instance_id, error=str(error))
                return

    async def _register_anew(self, owned: list[str], standbys: list[str]) -> None:
        desk, holdings, membership = self.desk, self.holdings, self._parts.membership
        await self._register()
        others: list[str] = []
        if owned:
            registration = await membership.register_resources(
                desk.service, desk.instance_id, owned, timeout=REGISTRATION_TIMEOUT
            )
            for resource_id, epoch in registration.epochs.items():
                holdings.own(resource_id, epoch)
            others = list(registration.conflicts)
        if standbys or others:
            await membership.register_resources(
                desk.service,
                desk.instance_id,
                [*standbys, *others],
                role=Role.STANDBY,
                timeout=REGISTRATION_TIMEOUT,
            )
        holdings.resume()

    # -- for its holdings ---------------------------------------------------------------

    def make_behaviour(self, holding: Holding) -> JournaledBehaviour:
        """Return a behaviour for the next life of a resource's actor."""
        parts, resource_id = self._parts, holding.resource_id

        def on_first_answer(takeover: Takeover) -> None:
            parts.reports.first_answer(self.desk, resource_id, takeover)

        return JournaledBehaviour(
            parts.office,
            self,
            actor_class=self._actor_class,
            resource=resource_id,
            epoch=holding.epoch,
            feed=None if holding.role is Role.ACTIVE else parts.standbys,
            reads=parts.reads,
            on_first_answer=on_first_answer,
        )

    async def start_cell(
        self, behaviour: Callable[[AegisActor], Behaviour], resource_id: str | None
    ) -> ActorCell:
        """Start the actor of a resource, or that of the instance itself."""
        ref = await self.supervisor.start_actor(
            INSTANCE_ACTOR if resource_id is None else resource_id,
            Props(
                self._actor_class,
                behaviour=behaviour,
                instance_id=self.desk.instance_id,
                mailbox_capacity=self._parts.options.mailbox_capacity,
            ),
            resource_id=resource_id,
            stop_timeout=STOP_TIMEOUT,
        )
        return ref.cell

    async def stop_cell(self, resource_id: str) -> None:
        """Stop the actor of a resource if there is one."""
        with contextlib.suppress(NotFound):
            await self.supervisor.stop_child(resource_id)

    async def register_standby(self, resource_id: str) -> None:
        """Register the instance as a standby for a resource."""
        await self._parts.membership.register_resources(
            self.desk.service,
            self.desk.instance_id,
            [resource_id],
            role=Role.STANDBY,
            timeout=REGISTRATION_TIMEOUT,
        )

    async def release(self, resource_id: str) -> None:
        """Give a resource back."""
        with contextlib.suppress(AegisError):
            await self._parts.membership.release_resources(
                self.desk.service, self.desk.instance_id, [resource_id]
            )

    async def has_heir(self, resource_id: str, to: str | None) -> bool:
        """Whether a healthy standby on another node could own a resource."""
        return bool(await with_heirs(self._parts.membership, self.desk, [resource_id], to))

    async def release_to(self, resource_id: str, to: str | None) -> None:
        """Give a resource up for a standby."""
        with contextlib.suppress(NotFound, NotOwner):
            await self._parts.membership.release_resources(
                self.desk.service,
                self.desk.instance_id,
                [resource_id],
                heir=to or "",
                timeout=GROUP_TIMEOUT,
            )

    def on_owned(self, resource_id: str, epoch: int) -> None:
        """Let the beats say so, and ask for the lease."""
        self._parts.membership.beat_soon()

    def on_taken_over(self, resource_id: str, takeover: Takeover) -> None:
        """Tell how long each step took."""
        self._parts.reports.taken_over(self.desk, resource_id, takeover)

    # -- ownership, as its resources see it ---------------------------------------------

    def lease_covers(self, service: str, resource: str, epoch: int) -> bool:
        """Whether queries may be answered at this moment."""
        return self._parts.membership.covers(service, resource, epoch)

    async def wait_covered(self, service: str, resource: str, epoch: int) -> None:
        """Return once no earlier owner can answer any more."""
        while True:
            try:
                await self._parts.membership.wait_covered(
                    service, resource, epoch, timeout=COVERED_TIMEOUT
                )
                return
            except TimeoutError:
                _log.warning(
                    "not_covered_yet", service_name=service, resource_id=resource, epoch=epoch
                )

    def on_fenced(self, service: str, resource: str, epoch: int, newer_epoch: int) -> None:
        """A newer owner has taken the resource over: its actor here stands by."""
        self.holdings.lose(resource, newer_epoch)

    def hand_over(self, service: str, resource: str, epoch: int, to: str | None) -> None:
        """The owner wants a standby to own the resource."""
        self.holdings.hand_over(resource, epoch, to)

    # -- what beats tell ----------------------------------------------------------------

    def load(self, awake: Iterable[ActorCell]) -> InstanceLoad:
        """Return how much waits, and what has been done, by those that were not idle."""
        depth, applied = 0, dict[str, int]()
        for cell in awake:
            depth += len(cell.mailbox)
            self._progress += cell.take_progress()
            if cell.resource_id is not None:
                sequence = self.applied(cell.resource_id)
                if sequence is not None:
                    applied[cell.resource_id] = sequence
        return InstanceLoad(depth, self._progress, math.inf if self.failed else 0.0, applied)

    def applied(self, resource_id: str) -> int | None:
        """Return how far a journal is applied; None if nobody here has it."""
        holding = self.holdings.all.get(resource_id)
        behaviour = None if holding is None else holding.behaviour
        return None if behaviour is None else behaviour.applied
