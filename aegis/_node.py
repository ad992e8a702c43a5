"""A node: one process's instances and resources, tied to the system they are part of."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import structlog

from aegis._clock import Clock, SystemClock
from aegis._cluster import Cluster
from aegis._config import RunOptions, ServiceOptions, default_instance_id
from aegis._holdings import Holding, Holdings
from aegis._loading import load_actor_class
from aegis._subjects import Subjects
from aegis.actors._actor import AegisActor
from aegis.actors._behaviour import Behaviour
from aegis.actors._cell import ActorCell, Props, Status
from aegis.actors._client import Client
from aegis.actors._control import ControlOptions, SupervisorCandidate
from aegis.actors._directory import Directory
from aegis.actors._dispatch import Dispatcher, InstanceDesk
from aegis.actors._election import ElectionOptions
from aegis.actors._group import GroupBehaviour
from aegis.actors._handlers import describe
from aegis.actors._journaled import JournaledBehaviour, Takeover
from aegis.actors._lease import InstanceLoad, LeaseOptions
from aegis.actors._membership import Membership, control_request
from aegis.actors._messages import Failure
from aegis.actors._obituary import Obituary
from aegis.actors._observer import Observer
from aegis.actors._registration import map_of
from aegis.actors._restarts import RestartType
from aegis.actors._runtime import Runtime
from aegis.actors._standby import StandbyFeed
from aegis.actors._supervisor import Supervisor, TreeNode
from aegis.actors._workers import Workers
from aegis.contracts import Role
from aegis.errors import (
    AegisError,
    ConfigurationError,
    Conflict,
    ConnectionClosed,
    NotFound,
    ProtocolError,
    Unavailable,
)
from aegis.transport._base import Message, StreamConfig, Subscription, Transport
from aegis.transport._codec import decode_value, encode_value

__all__ = ["Node", "new_node_id"]

_log = structlog.get_logger("aegis.node")

REGISTRATION_TIMEOUT: Final = 30.0
"""Seconds that a starting node waits for a leading supervisor."""

COVERED_TIMEOUT: Final = 30.0
"""Seconds that a new owner waits for the leases of earlier owners before it says so."""

MAX_ASKED: Final = 500
"""Resources whose owner is asked for in one request."""

MAX_SHOWN_CHILDREN: Final = 2_000
"""How many children of each parent a node's health tells, so that it fits a message."""

INSTANCE_ACTOR: Final = "@instance"
"""Name of the actor that takes the messages to an instance itself."""

STOP_TIMEOUT: Final = 10.0
"""Seconds that an actor may take to stop before it is killed."""


class _Instance:
    """One instance of this node, from its options to its actors."""

    def __init__(
        self,
        node: Node,
        options: ServiceOptions,
        actor_class: type[AegisActor],
        desk: InstanceDesk,
        supervisor: Supervisor,
    ) -> None:
        self.node = node
        self.options = options
        self.actor_class = actor_class
        self.desk = desk
        self.supervisor = supervisor
        self.holdings = Holdings(self, desk)
        self.registered = False
        self.failed = False
        """Its supervisor gave up on it: beats say so, and the leader judges."""

    # -- for its holdings ---------------------------------------------------------------

    def make_behaviour(self, holding: Holding) -> JournaledBehaviour:
        """Return a behaviour for the next life of a resource's actor."""
        node, service = self.node, self.desk.service
        resource_id, is_active = holding.resource_id, holding.role is Role.ACTIVE

        def on_first_answer(takeover: Takeover) -> None:
            self._report("first_answer", resource_id, takeover)

        return JournaledBehaviour(
            node.transport,
            node.subjects.journal(service, resource_id),
            node,
            actor_class=self.actor_class,
            resource=resource_id,
            epoch=holding.epoch,
            feed=None if is_active else node.standbys,
            on_first_answer=on_first_answer,
        )

    async def start_cell(
        self, behaviour: Callable[[AegisActor], Behaviour], resource_id: str | None
    ) -> ActorCell:
        """Start the actor of a resource, or that of the instance itself."""
        ref = await self.supervisor.start_actor(
            INSTANCE_ACTOR if resource_id is None else resource_id,
            Props(
                self.actor_class,
                behaviour=behaviour,
                instance_id=self.desk.instance_id,
                mailbox_capacity=self.node.options.mailbox_capacity,
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
        await self.node.membership.register_resources(
            self.desk.service,
            self.desk.instance_id,
            [resource_id],
            role=Role.STANDBY,
            timeout=REGISTRATION_TIMEOUT,
        )

    async def release(self, resource_id: str) -> None:
        """Give a resource back."""
        with contextlib.suppress(AegisError):
            await self.node.membership.release_resources(
                self.desk.service, self.desk.instance_id, [resource_id]
            )

    def on_owned(self, resource_id: str, epoch: int) -> None:
        """Let the beats say so, and ask for the lease."""
        self.node.membership.beat_soon()

    def on_taken_over(self, resource_id: str, takeover: Takeover) -> None:
        """Tell how long each step took."""
        self._report("promoted", resource_id, takeover)

    def _report(self, step: str, resource_id: str, takeover: Takeover) -> None:
        seconds = {
            "fenced": takeover.fenced,
            "replayed": takeover.replayed,
            "covered": takeover.covered,
        }
        if step == "first_answer":
            seconds[step] = takeover.first_answer
        facts: dict[str, Any] = {
            "service_name": self.desk.service,
            "instance_id": self.desk.instance_id,
            "resource_id": resource_id,
            "epoch": takeover.epoch,
            "records": takeover.records,
            **{f"{name}_ms": round(value * 1000, 3) for name, value in seconds.items()},
        }
        _log.info(step, **facts)
        # No event of the registry: its own `promoted` came before, and this says how
        # the new owner got on.
        name = "serving" if step == "promoted" else step
        self.node.publish_event(name, facts)


class Node:
    """The instances that one process runs, with their connection to the system.

    ``system`` is a connection to the servers' system account, if there is one: by it the
    node's supervisor candidate hears at once of nodes that died.
    """

    def __init__(
        self,
        options: RunOptions,
        transport: Transport,
        *,
        clock: Clock | None = None,
        observer: Observer | None = None,
        node_id: str | None = None,
        system: Transport | None = None,
    ) -> None:
        self.options = options
        self.node_id = node_id or new_node_id()
        self.transport = transport
        self.clock: Clock = clock or SystemClock()
        self.subjects = Subjects(options.connect.namespace)
        self.runtime = Runtime(workers=Workers(options.workers), observer=observer)
        self.dispatcher = Dispatcher(transport, self.subjects)
        self.standbys = StandbyFeed(transport, self.subjects)
        lease = LeaseOptions(
            heartbeat_interval=options.heartbeat_interval,
            heartbeat_timeout=options.heartbeat_timeout,
            lease_duration=options.lease,
            stall_timeout=options.stall_timeout,
        )
        self.supervisor: SupervisorCandidate | None = None
        if not options.no_supervisor:
            self.supervisor = SupervisorCandidate(
                transport,
                self.subjects,
                self.clock,
                self.node_id,
                ControlOptions(
                    election=ElectionOptions(leader_timeout=options.leader_timeout),
                    lease=lease,
                    max_resources_per_instance=options.max_resources_per_instance,
                ),
            )
        self.obituary: Obituary | None = None
        if self.supervisor is not None and system is not None:
            self.obituary = Obituary(system, self.supervisor.suspect_node)
        self.membership = Membership(
            transport,
            self.subjects,
            self.clock,
            self.node_id,
            options=lease,
            load=self._load,
            applied=self._applied,
            health=self._health,
            listener=self,
        )
        self.directory = Directory(transport, self.subjects, self.clock)
        self.client = Client(
            transport, self.subjects, self.clock, self.directory, local=self.dispatcher
        )
        self.cluster = Cluster(
            transport, self.client, self.subjects, timeout=options.connect.timeout
        )
        self.runtime.cluster = self.cluster
        self.root = Supervisor(runtime=self.runtime)
        self._services = Supervisor()
        self._instances: dict[str, _Instance] = {}
        self._connection = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._events: Subscription | None = None
        self._uncovered: dict[str, set[str]] = {}
        self._draining = False

    # -- life -------------------------------------------------------------------------

    async def start(self) -> None:
        """Join the system and start every service of the options.

        Raises:
            ConfigurationError: a class, the stream or an id cannot be used.
            Conflict: an instance id or a resource is held by another process.
            Unavailable: no supervisor led in time.
        """
        instances = [
            self._prepare(load_actor_class(service.target), service)
            for service in self.options.services
        ]
        self.transport.listen(self)
        await self.transport.ensure_stream(
            StreamConfig(
                self.subjects.stream,
                self.subjects.durable,
                replicas=self.options.replicas,
                max_bytes=self.options.max_bytes,
            )
        )
        if self.supervisor is not None:
            await self.supervisor.start()
        if self.obituary is not None:
            await self.obituary.start()
        await self.directory.start()
        await self.client.start()
        self._events = await self.transport.subscribe(self.subjects.event(">"), self._on_event)
        await self.membership.start()
        await self.root.start()
        await self.root.start_supervisor("services", self._services)
        for instance in instances:
            await self._start_instance(instance)

    async def stop(self) -> None:
        """Drain: finish what waits, commit it, give everything back, and leave."""
        self._draining = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*map(self._stop_instance, list(self._instances.values())))
        await self.root.stop()
        self.standbys.stop()
        if self._events is not None:
            with contextlib.suppress(Unavailable, ConnectionClosed):
                await self._events.unsubscribe()
        await self.membership.stop()
        await self.client.close()
        await self.directory.stop()
        if self.obituary is not None:
            await self.obituary.stop()
        if self.supervisor is not None:
            await self.supervisor.stop()
        self.runtime.workers.close()

    async def add_service(
        self,
        actor_class: type[AegisActor],
        *,
        instance_id: str | None = None,
        resources: Sequence[str] = (),
        role: Role = Role.ACTIVE,
    ) -> str:
        """Start one more instance on a node that runs; return its id.

        Raises:
            As `start` does; then the instance is gone again.
        """
        options = ServiceOptions(
            actor_class.__qualname__,
            instance_id=instance_id,
            resources=tuple(resources),
            role=role,
        )
        instance = self._prepare(actor_class, options)
        try:
            await self._start_instance(instance)
        except BaseException:
            await self._stop_instance(instance)
            raise
        return instance.desk.instance_id

    async def abandon(self) -> None:
        """End everything at once without saving anything, as a crash would.

        For tests; the transport must be disconnected already, or what is under way
        may still get out.
        """
        self._draining = True
        for instance in self._instances.values():
            instance.holdings.kill()
            if instance.desk.cell is not None:
                instance.desk.cell.kill()
        self.standbys.stop()
        for task in list(self._tasks):
            task.cancel()
        await self.membership.stop()
        await self.client.close()
        await self.directory.stop()
        if self.obituary is not None:
            await self.obituary.stop()
        if self.supervisor is not None:
            await self.supervisor.stop()
        self.runtime.workers.close()

    def _prepare(self, actor_class: type[AegisActor], service: ServiceOptions) -> _Instance:
        spec = describe(actor_class)
        instance_id = service.instance_id or default_instance_id(spec.service)
        if instance_id in self._instances:
            raise ConfigurationError(
                f"instance-id: {instance_id!r} is given twice; each instance needs its own"
            )
        instance = _Instance(
            self,
            service,
            actor_class,
            InstanceDesk(spec.service, instance_id),
            Supervisor(on_escalate=self._on_escalation),
        )
        self._instances[instance_id] = instance
        return instance

    async def _start_instance(self, instance: _Instance) -> None:
        desk = instance.desk
        service, instance_id = desk.service, desk.instance_id
        if service not in self._services:
            await self._services.start_supervisor(service, Supervisor())
        services = self._services.child(service)
        assert isinstance(services, Supervisor)
        await services.start_supervisor(
            instance_id, instance.supervisor, restart=RestartType.TEMPORARY
        )
        desk.cell = await instance.start_cell(self._group_behaviour(instance), None)
        await self.membership.register(
            service,
            instance_id,
            role=instance.options.role,
            metadata=_whereabouts(),
            timeout=REGISTRATION_TIMEOUT,
        )
        instance.registered = True
        # Not before: the leader probes this address to learn whether another process
        # that has the id is alive, and must not meet the newcomer there.
        await self.dispatcher.open(desk)
        if instance.options.resources:
            await self.add_resources(
                instance_id, list(instance.options.resources), role=instance.options.role
            )
        _log.info(
            "instance_started",
            service_name=service,
            instance_id=instance_id,
            resources=len(instance.holdings.all),
            role=str(instance.options.role),
        )

    async def add_resources(
        self,
        instance_id: str,
        resource_ids: list[str],
        *,
        role: Role = Role.ACTIVE,
        force: bool = False,
    ) -> None:
        """Register resources for an instance of this node and start their actors.

        With ``force`` those that others hold are taken from them.

        Raises:
            Conflict: others hold some of them; those that are free are held now.
            TooManyResources: the instance would hold more than it may.
        """
        instance = self._instances[instance_id]
        desk = instance.desk
        registration = await self.membership.register_resources(
            desk.service,
            instance_id,
            resource_ids,
            role=role,
            force=force,
            timeout=REGISTRATION_TIMEOUT,
        )
        standbys = [] if role is Role.ACTIVE else registration.registered
        if role is Role.STANDBY:
            # An earlier attempt, whose answer was lost, was followed by a promotion.
            for resource_id in [r for r, o in registration.conflicts.items() if o == instance_id]:
                del registration.conflicts[resource_id]
                standbys.append(resource_id)
        holdings = instance.holdings
        await asyncio.gather(
            *(
                holdings.start(resource_id, Role.ACTIVE, epoch)
                for resource_id, epoch in registration.epochs.items()
            ),
            *(holdings.start(resource_id, Role.STANDBY) for resource_id in standbys),
        )
        # Where nobody else was to own one, this instance was named before it listened.
        for resource_id in standbys:
            epoch = self.membership.lease.covered.get((desk.service, resource_id))
            if epoch is not None:
                self.on_covered(desk.service, resource_id, epoch)
        if registration.conflicts:
            held = ", ".join(
                f"{resource_id} by {owner}"
                for resource_id, owner in list(registration.conflicts.items())[:5]
            )
            raise Conflict(
                f"{len(registration.conflicts)} resources are held by others: {held}; "
                "stop their owner, or start this instance as a standby (--role standby)",
                conflicts=registration.conflicts,
            )

    def _group_behaviour(self, instance: _Instance) -> Any:
        def behaviour(actor: AegisActor) -> Behaviour:
            return GroupBehaviour(
                self.transport,
                self.subjects,
                self.clock,
                actor_class=instance.actor_class,
                lease_held=self._lease_held,
                connection=lambda: self._connection,
            )

        return behaviour

    def _on_escalation(self, supervisor: Supervisor, failure: Failure) -> None:
        instance = next(i for i in self._instances.values() if i.supervisor is supervisor)
        instance.failed = True
        _log.error(
            "instance_failed",
            service_name=instance.desk.service,
            instance_id=instance.desk.instance_id,
            reason=str(failure),
            action="its actors failed too often; see the lines before, then start it anew",
        )
        self.membership.beat_soon()

    async def _stop_instance(self, instance: _Instance) -> None:
        desk = instance.desk
        await self.dispatcher.close(desk)
        await instance.holdings.stop()
        if instance.supervisor.status is not Status.STOPPED:
            await instance.supervisor.stop()
        desk.resources.clear()
        if instance.registered:
            try:
                await self.membership.unregister(desk.service, desk.instance_id, timeout=5.0)
            except AegisError as error:
                _log.warning("unregister_failed", instance_id=desk.instance_id, error=str(error))
        self._instances.pop(desk.instance_id, None)

    # -- ownership, as its resources see it -------------------------------------------

    def lease_covers(self, service: str, resource: str, epoch: int) -> bool:
        """Whether queries may be answered at this moment."""
        return self.membership.covers(service, resource, epoch)

    async def wait_covered(self, service: str, resource: str, epoch: int) -> None:
        """Return once no earlier owner can answer any more."""
        while True:
            try:
                await self.membership.wait_covered(
                    service, resource, epoch, timeout=COVERED_TIMEOUT
                )
                return
            except TimeoutError:
                _log.warning(
                    "not_covered_yet", service_name=service, resource_id=resource, epoch=epoch
                )

    def on_fenced(self, service: str, resource: str, epoch: int, newer_epoch: int) -> None:
        """A newer owner has taken the resource over: its actor here stands by."""
        for instance in self._of_service(service):
            instance.holdings.lose(resource, newer_epoch)

    def _of_service(self, service: str) -> list[_Instance]:
        return [i for i in self._instances.values() if i.desk.service == service]

    def _lease_held(self) -> bool:
        return self.membership.lease.valid(self.clock.boot_seconds())

    # -- the membership's listener ----------------------------------------------------

    def on_covered(self, service: str, resource_id: str, epoch: int) -> None:
        """The lease covers the resource: this node is to own it, if it does not yet."""
        holders = [i for i in self._of_service(service) if resource_id in i.holdings]
        if len(holders) == 1:
            holders[0].holdings.own(resource_id, epoch)
        elif holders:
            self._spawn(self._look_at_owners(service, [resource_id]))

    def on_uncovered(self, service: str, resource_id: str, epoch: int) -> None:
        """The lease covers the resource no more: find out whether another has it."""
        if self._draining or not self.transport.connected:
            return
        asked = self._uncovered.setdefault(service, set())
        if not asked:
            asyncio.get_running_loop().call_soon(self._look_at_uncovered, service)
        asked.add(resource_id)

    def _look_at_uncovered(self, service: str) -> None:
        asked = self._uncovered.pop(service, set())
        if asked and not self._draining:
            self._spawn(self._look_at_owners(service, sorted(asked)))

    async def _look_at_owners(self, service: str, resource_ids: Sequence[str]) -> None:
        """Ask the supervisors who owns these, and take it over."""
        for start in range(0, len(resource_ids), MAX_ASKED):
            try:
                answer = await control_request(
                    self.transport,
                    self.subjects,
                    self.clock,
                    "resource.query",
                    {
                        "service_name": service,
                        "resource_ids": list(resource_ids[start : start + MAX_ASKED]),
                    },
                    timeout=REGISTRATION_TIMEOUT,
                )
            except AegisError as error:
                _log.warning("owners_unknown", service_name=service, error=str(error))
                return
            # What nobody owns was released: then the next beat's answer says why.
            for resource in answer.get("resources", ()):
                self._note_owner(
                    service, resource["resource_id"], resource["instance_id"], resource["epoch"]
                )

    def _note_owner(self, service: str, resource_id: str, owner: str, epoch: int) -> None:
        for instance in self._of_service(service):
            if instance.desk.instance_id == owner:
                instance.holdings.own(resource_id, epoch)
            else:
                instance.holdings.lose(resource_id, epoch)

    def _on_event(self, message: Message) -> None:
        try:
            facts = map_of(decode_value(message.payload)) or {}
            epochs: Mapping[str, int] = facts.get("epochs") or {}
            if not epochs or self._draining:
                return
            service, owner = str(facts["service_name"]), str(facts["instance_id"])
            for resource_id, epoch in epochs.items():
                self._note_owner(service, resource_id, owner, int(epoch))
        except (ProtocolError, AttributeError, KeyError, TypeError, ValueError) as error:
            _log.warning("event_unreadable", subject=message.subject, error=str(error))

    def publish_event(self, name: str, facts: Mapping[str, Any]) -> None:
        """Tell whoever listens to ``<namespace>.event.<name>``."""
        payload = encode_value({"event": name, "node_id": self.node_id, **facts})
        with contextlib.suppress(Unavailable, ConnectionClosed):
            self.transport.publish(self.subjects.event(name), payload)

    def on_evicted(self, instance_id: str, error: AegisError) -> None:
        """The leader does not know the instance any more: register it anew."""
        _log.warning("evicted", instance_id=instance_id, error=str(error))
        instance = self._instances.get(instance_id)
        if instance is not None and not self._draining:
            instance.registered = False
            self._spawn(self._rejoin(instance))

    async def _rejoin(self, instance: _Instance) -> None:
        """Give up what the instance held, register it anew, and stand by for the rest.

        What nobody else owns by now is its own again.
        """
        owned = instance.holdings.lose_all()
        standbys = [name for name in instance.holdings.all if name not in set(owned)]
        while not self._draining:
            try:
                await self._register_anew(instance, owned, standbys)
                return
            except Unavailable as error:
                _log.warning(
                    "rejoin_waits", instance_id=instance.desk.instance_id, error=str(error)
                )
            except AegisError as error:
                _log.error("rejoin_failed", instance_id=instance.desk.instance_id, error=str(error))
                return

    async def _register_anew(
        self, instance: _Instance, owned: list[str], standbys: list[str]
    ) -> None:
        desk, holdings = instance.desk, instance.holdings
        await self.membership.register(
            desk.service,
            desk.instance_id,
            role=instance.options.role,
            metadata=_whereabouts(),
            timeout=REGISTRATION_TIMEOUT,
        )
        instance.registered = True
        others: list[str] = []
        if owned:
            registration = await self.membership.register_resources(
                desk.service, desk.instance_id, owned, timeout=REGISTRATION_TIMEOUT
            )
            for resource_id, epoch in registration.epochs.items():
                holdings.own(resource_id, epoch)
            others = list(registration.conflicts)
        if standbys or others:
            await self.membership.register_resources(
                desk.service,
                desk.instance_id,
                [*standbys, *others],
                role=Role.STANDBY,
                timeout=REGISTRATION_TIMEOUT,
            )
        holdings.resume()

    # -- the connection's listener ----------------------------------------------------

    def on_disconnected(self) -> None:
        """The server is gone; the transport looks for one."""
        self._connection += 1
        _log.warning("server_lost")

    def on_reconnected(self) -> None:
        """A server is there again."""
        self._connection += 1
        _log.info("server_found")
        for instance in self._instances.values():
            owned = instance.holdings.ids(Role.ACTIVE)
            if owned and not self._draining:
                self._spawn(self._look_at_owners(instance.desk.service, owned))

    def on_closed(self, reason: str) -> None:
        """The launcher ends the process."""

    # -- what the system is told ------------------------------------------------------

    def _load(self) -> Mapping[str, InstanceLoad]:
        loads: dict[str, InstanceLoad] = {}
        for instance_id, instance in self._instances.items():
            desk = instance.desk
            depth = progress = 0
            for cell in desk.resources.values():
                depth += len(cell.mailbox)
                progress += cell.processed
            if desk.cell is not None:
                depth += len(desk.cell.mailbox)
                progress += desk.cell.processed
            stalled = math.inf if instance.failed else 0.0
            loads[instance_id] = InstanceLoad(depth, progress, stalled)
        return loads

    def _applied(self) -> Mapping[str, Mapping[str, int]]:
        return {
            instance_id: {
                holding.resource_id: holding.behaviour.applied
                for holding in instance.holdings.all.values()
                if holding.behaviour is not None
            }
            for instance_id, instance in self._instances.items()
        }

    def _health(self) -> Mapping[str, Any]:
        return {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "wall_ms": self.clock.wall_ms(),
            "leading": self.supervisor is not None and self.supervisor.leading,
            "state": "draining" if self._draining else "running",
            "tree": _tree(self.root.statistics(), MAX_SHOWN_CHILDREN),
        }

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _whereabouts() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _tree(node: TreeNode, most: int) -> dict[str, Any]:
    """Return the tree as plain maps, of each parent at most so many children."""
    return {
        "address": node.address,
        "kind": node.kind,
        "state": node.state,
        "restarts": node.restarts,
        "depth": node.mailbox_depth,
        "processed": node.processed,
        "children": [_tree(child, most) for child in node.children[:most]],
        "left_out": max(0, len(node.children) - most),
    }


def new_node_id() -> str:
    """Return a name for a process: a process that starts anew has another."""
    host = socket.gethostname().partition(".")[0] or "host"
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
