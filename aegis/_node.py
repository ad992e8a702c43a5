"""A node: one process's instances and resources, tied to the system they are part of."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
from attrs import define

from aegis._clock import Clock, SystemClock
from aegis._cluster import Cluster
from aegis._config import RunOptions, ServiceOptions, default_instance_id
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
from aegis.actors._journaled import JournaledBehaviour
from aegis.actors._lease import InstanceLoad, LeaseOptions
from aegis.actors._membership import Membership
from aegis.actors._messages import Failure
from aegis.actors._observer import Observer
from aegis.actors._restarts import RestartType
from aegis.actors._runtime import Runtime
from aegis.actors._supervisor import Supervisor, TreeNode
from aegis.actors._workers import Workers
from aegis.contracts import Role
from aegis.errors import AegisError, ConfigurationError, Conflict, NotFound, Unavailable
from aegis.transport._base import StreamConfig, Transport

__all__ = ["Node"]

_log = structlog.get_logger("aegis.node")

REGISTRATION_TIMEOUT: Final = 30.0
"""Seconds that a starting node waits for a leading supervisor."""

COVERED_TIMEOUT: Final = 30.0
"""Seconds that a new owner waits for the leases of earlier owners to end."""

MAX_SHOWN_CHILDREN: Final = 2_000
"""How many children of each parent a node's health tells, so that it fits a message."""

INSTANCE_ACTOR: Final = "@instance"
"""Name of the actor that takes the messages to an instance itself."""

STOP_TIMEOUT: Final = 10.0
"""Seconds that an actor may take to stop before it is killed."""


@define(eq=False)
class _Instance:
    """One instance of this node, from its options to its actors."""

    options: ServiceOptions
    actor_class: type[AegisActor]
    desk: InstanceDesk
    supervisor: Supervisor
    registered: bool = False
    failed: bool = False
    """Its supervisor gave up on it: beats say so, and the leader judges."""


class Node:
    """The instances that one process runs, with their connection to the system.

    ``supervises`` tells whether the node carries a supervisor candidate.
    """

    def __init__(
        self,
        options: RunOptions,
        transport: Transport,
        *,
        clock: Clock | None = None,
        observer: Observer | None = None,
        node_id: str | None = None,
    ) -> None:
        self.options = options
        self.node_id = node_id or _new_node_id()
        self.transport = transport
        self.clock: Clock = clock or SystemClock()
        self.subjects = Subjects(options.connect.namespace)
        self.runtime = Runtime(workers=Workers(options.workers), observer=observer)
        self.dispatcher = Dispatcher(transport, self.subjects)
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
        self.membership = Membership(
            transport,
            self.subjects,
            self.clock,
            self.node_id,
            options=lease,
            load=self._load,
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
        await self.directory.start()
        await self.client.start()
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
        for instance in list(self._instances.values()):
            await self._stop_instance(instance)
        await self.root.stop()
        await self.membership.stop()
        await self.client.close()
        await self.directory.stop()
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
            for cell in [*instance.desk.resources.values(), instance.desk.cell]:
                if cell is not None:
                    cell.kill()
        for task in list(self._tasks):
            task.cancel()
        await self.membership.stop()
        await self.client.close()
        await self.directory.stop()
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
        desk.cell = await self._start_cell(instance, self._group_behaviour(instance), None)
        await self.membership.register(
            service,
            instance_id,
            role=instance.options.role,
            metadata=_facts(),
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
            resources=len(desk.resources),
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
        await asyncio.gather(
            *(
                self._start_resource(instance, resource_id, epoch)
                for resource_id, epoch in registration.epochs.items()
                if resource_id not in desk.resources
            )
        )
        if registration.conflicts:
            held = ", ".join(
                f"{resource_id} by {owner}"
                for resource_id, owner in list(registration.conflicts.items())[:5]
            )
            raise Conflict(
                f"{len(registration.conflicts)} resources are held by others: {held}; "
                "stop their owner, or give other resources",
                conflicts=registration.conflicts,
            )

    async def _start_resource(self, instance: _Instance, resource_id: str, epoch: int) -> None:
        desk = instance.desk

        def behaviour(actor: AegisActor) -> Behaviour:
            actor.epoch = epoch
            return JournaledBehaviour(
                self.transport,
                self.subjects.journal(desk.service, resource_id),
                self,
                actor_class=instance.actor_class,
                resource=resource_id,
                epoch=epoch,
            )

        try:
            desk.resources[resource_id] = await self._start_cell(instance, behaviour, resource_id)
        except Exception as error:
            # One resource that cannot be had must not keep the others from working.
            _log.error(
                "resource_failed",
                service_name=desk.service,
                instance_id=desk.instance_id,
                resource_id=resource_id,
                error=str(error) or type(error).__name__,
            )
            with contextlib.suppress(AegisError):
                await self.membership.release_resources(
                    desk.service, desk.instance_id, [resource_id]
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

    async def _start_cell(
        self, instance: _Instance, behaviour: Any, resource_id: str | None
    ) -> ActorCell:
        ref = await instance.supervisor.start_actor(
            INSTANCE_ACTOR if resource_id is None else resource_id,
            Props(
                instance.actor_class,
                behaviour=behaviour,
                instance_id=instance.desk.instance_id,
                mailbox_capacity=self.options.mailbox_capacity,
            ),
            resource_id=resource_id,
            stop_timeout=STOP_TIMEOUT,
        )
        return ref.cell

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
        if instance.supervisor.status is not Status.STOPPED:
            await instance.supervisor.stop()
        desk.resources.clear()
        if instance.registered:
            try:
                await self.membership.unregister(desk.service, desk.instance_id, timeout=5.0)
            except AegisError as error:
                _log.warning("unregister_failed", instance_id=desk.instance_id, error=str(error))
        del self._instances[desk.instance_id]

    # -- ownership, as its resources see it -------------------------------------------

    def lease_covers(self, service: str, resource: str, epoch: int) -> bool:
        """Whether queries may be answered at this moment."""
        return self.membership.covers(service, resource, epoch)

    async def wait_covered(self, service: str, resource: str, epoch: int) -> None:
        """Return once no earlier owner can answer any more."""
        await self.membership.wait_covered(service, resource, epoch, timeout=COVERED_TIMEOUT)

    def on_fenced(self, service: str, resource: str, epoch: int, newer_epoch: int) -> None:
        """A newer owner has taken the resource over: its actor here ends."""
        for instance in self._instances.values():
            if instance.desk.service == service and resource in instance.desk.resources:
                del instance.desk.resources[resource]
                self._spawn(self._stop_resource(instance, resource))

    async def _stop_resource(self, instance: _Instance, resource_id: str) -> None:
        instance.desk.resources.pop(resource_id, None)
        with contextlib.suppress(NotFound):
            await instance.supervisor.stop_child(resource_id)

    def _lease_held(self) -> bool:
        return self.membership.lease.valid(self.clock.boot_seconds())

    # -- the membership's listener ----------------------------------------------------

    def on_covered(self, service: str, resource_id: str, epoch: int) -> None:
        """The lease covers the resource: its owner may answer."""

    def on_uncovered(self, service: str, resource_id: str, epoch: int) -> None:
        """The lease covers the resource no more; its owner answers no queries."""

    def on_evicted(self, instance_id: str, error: AegisError) -> None:
        """The leader does not know the instance any more: register it anew."""
        _log.warning("evicted", instance_id=instance_id, error=str(error))
        instance = self._instances.get(instance_id)
        if instance is not None and not self._draining:
            instance.registered = False
            self._spawn(self._rejoin(instance))

    async def _rejoin(self, instance: _Instance) -> None:
        """Give up what the instance held, and start it as if the node were new."""
        desk = instance.desk
        names = list(dict.fromkeys([*instance.options.resources, *desk.resources]))
        await asyncio.gather(
            *(self._stop_resource(instance, name) for name in list(desk.resources))
        )
        while True:
            try:
                await self.membership.register(
                    desk.service,
                    desk.instance_id,
                    role=instance.options.role,
                    metadata=_facts(),
                    timeout=REGISTRATION_TIMEOUT,
                )
                instance.registered = True
                if names:
                    await self.add_resources(desk.instance_id, names, role=instance.options.role)
            except Unavailable as error:
                _log.warning("not_registered_yet", instance_id=desk.instance_id, error=str(error))
            except AegisError as error:
                _log.error("rejoin_failed", instance_id=desk.instance_id, error=str(error))
                return
            else:
                _log.info("rejoined", instance_id=desk.instance_id, resources=len(desk.resources))
                return

    # -- the connection's listener ----------------------------------------------------

    def on_disconnected(self) -> None:
        """The server is gone; the transport looks for one."""
        self._connection += 1
        _log.warning("server_lost")

    def on_reconnected(self) -> None:
        """A server is there again."""
        self._connection += 1
        _log.info("server_found")

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


def _facts() -> dict[str, Any]:
    """Return what the registry keeps of an instance of this process."""
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


def _new_node_id() -> str:
    host = socket.gethostname().partition(".")[0] or "host"
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
