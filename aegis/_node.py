"""A node: one process's instances and resources, tied to the system they are part of."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from attrs import asdict

from aegis._clock import Clock, SystemClock
from aegis._cluster import Cluster
from aegis._config import RunOptions, ServiceOptions, default_instance_id
from aegis._instance import REGISTRATION_TIMEOUT, Instance, NodeParts
from aegis._loading import load_actor_class
from aegis._owner_watch import OwnerWatch
from aegis._process_identity import has_ended, new_node_id
from aegis._shown_tree import MAX_SHOWN_CHILDREN, shown_tree
from aegis._subjects import Subjects
from aegis._takeover_reports import TakeoverReports
from aegis._trace import outgoing_traceparent, use_trace
from aegis.actors._actor import AegisActor
from aegis.actors._cell import ActorCell
from aegis.actors._client import Client
from aegis.actors._control import ControlOptions, SupervisorCandidate
from aegis.actors._directory import Directory
from aegis.actors._dispatch import Dispatcher, InstanceDesk
from aegis.actors._election import ElectionOptions
from aegis.actors._handlers import describe
from aegis.actors._journal import MAX_CONCURRENT_READS
from aegis.actors._kept_topics import KeptTopics, TopicRetention
from aegis.actors._lease import InstanceLoad, LeaseOptions
from aegis.actors._membership import Membership
from aegis.actors._obituary import Obituary
from aegis.actors._observer import Observer
from aegis.actors._post_office import PostOffice
from aegis.actors._runtime import Runtime
from aegis.actors._standby import StandbyFeed
from aegis.actors._supervisor import Supervisor
from aegis.actors._topics import Topics
from aegis.actors._workers import Workers
from aegis.contracts import Role
from aegis.errors import ConfigurationError
from aegis.transport._base import StreamConfig, Transport
from aegis.transport._patience import insist

__all__ = ["Node"]

_log = structlog.get_logger("aegis.node")


class Node:
    """The instances that one process runs, with their connection to the system.

    ``system`` is a connection to the servers' system account, if there is one: by it the
    node's supervisor candidate hears at once of nodes that died. ``has_ended`` says of a
    node whether its process is certainly gone: by it a node that starts knows of those
    that died before anybody listened.
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
        has_ended: Callable[[str], bool] = has_ended,
    ) -> None:
        self.options = options
        self.node_id = node_id or new_node_id()
        self.transport = transport
        self._has_ended = has_ended
        self.clock: Clock = clock or SystemClock()
        self.subjects = Subjects(options.connect.namespace)
        self.runtime = Runtime(workers=Workers(options.workers), observer=observer)
        self.dispatcher = Dispatcher(transport, self.subjects)
        self.standbys = StandbyFeed(transport, self.subjects)
        kept = KeptTopics(transport, self.subjects)
        retention = TopicRetention(
            options.topic_max_bytes, round(options.topic_max_age), options.replicas
        )
        self.topics = Topics(transport, self.subjects, kept, retention)
        self.office = PostOffice.open(
            transport, self.subjects, self.clock, self.runtime.observer, kept
        )
        self._instances: dict[str, Instance] = {}
        self._owners = OwnerWatch(
            transport, self.subjects, self._instances, self._look_up, self.runtime.observer
        )
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
                self.runtime.observer,
            )
        self.obituary: Obituary | None = None
        if self.supervisor is not None and system is not None:
            self.obituary = Obituary(system, self.supervisor.suspect_node)
        tracer = self.runtime.tracer
        self.membership = Membership(
            transport,
            self.subjects,
            self.clock,
            self.node_id,
            options=lease,
            load=self._load,
            applied=self._applied,
            health=self._health,
            details=self._details,
            listener=self._owners,
            tracer=tracer,
        )
        self.directory = Directory(transport, self.subjects, self.clock)
        self.client = Client(
            transport,
            self.subjects,
            self.clock,
            self.directory,
            local=self.dispatcher,
            tracer=tracer,
        )
        self.cluster = Cluster(
            transport,
            self.client,
            self.subjects,
            timeout=options.connect.timeout,
            clock=self.clock,
            tracer=tracer,
            kept_topics=kept,
        )
        self.runtime.cluster = self.cluster
        self.root = Supervisor(runtime=self.runtime)
        self._services = Supervisor()
        self._connection = 0
        self._started = False
        self._draining = False
        self._stopping: asyncio.Task[None] | None = None
        self._parts = NodeParts(
            transport,
            self.subjects,
            self.clock,
            options,
            self.membership,
            self.dispatcher,
            self.standbys,
            self.topics,
            self.office,
            TakeoverReports(transport, self.subjects, self.node_id),
            asyncio.Semaphore(MAX_CONCURRENT_READS),
            connection=lambda: self._connection,
        )

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
        stream = StreamConfig(
            self.subjects.stream,
            self.subjects.durable,
            replicas=self.options.replicas,
            max_bytes=self.options.max_bytes,
        )
        await insist(
            self.transport,
            lambda: self.transport.ensure_stream(stream),
            f"the stream {stream.name}",
        )
        await self.cluster.kept_topics.load()
        if self.supervisor is not None:
            await self.supervisor.start()
            self._report_the_dead(self.supervisor)
        if self.obituary is not None:
            await self.obituary.start()
        await self.directory.start()
        await self.client.start()
        await self._owners.start()
        await self.membership.start()
        await self.root.start()
        await self.root.start_supervisor("services", self._services)
        for instance in instances:
            await self._start_instance(instance)
        self._started = True

    def _report_the_dead(self, supervisor: SupervisorCandidate) -> None:
        """Have those nodes examined whose processes ended while nobody was there to see."""
        known = {instance.node_id for instance in supervisor.registry.instances.values()}
        for node_id in sorted(known | {supervisor.election.leader}):
            if self._has_ended(node_id):
                supervisor.suspect_node(node_id)

    async def stop(self) -> None:
        """Drain: finish what waits, commit it, give everything back, and leave.

        Whoever asks while that is under way, or afterwards, waits for the same end.
        """
        if self._stopping is None:
            self._draining = True
            self._stopping = asyncio.get_running_loop().create_task(self._drain())
        await self._stopping

    async def _drain(self) -> None:
        self._owners.end()
        await asyncio.gather(*map(self._stop_instance, list(self._instances.values())))
        await self.root.stop()
        self._parts.reports.tell()
        await self._leave()

    async def abandon(self) -> None:
        """End everything at once without saving anything, as a crash would.

        For tests; the transport must be disconnected already, or what is under way
        may still get out.
        """
        self._draining = True
        for instance in self._instances.values():
            instance.kill()
        await self._leave()

    async def _leave(self) -> None:
        """Take part in the system no more."""
        self.standbys.stop()
        self.office.stop()
        await self._owners.stop()
        await self.membership.stop()
        self.cluster.kept_topics.close()
        await self.cluster.sender.close()
        await self.client.close()
        await self.directory.stop()
        if self.obituary is not None:
            await self.obituary.stop()
        if self.supervisor is not None:
            await self.supervisor.stop()
        self.runtime.workers.close()

    # -- instances ----------------------------------------------------------------------

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
        await self._instances[instance_id].add_resources(resource_ids, role=role, force=force)

    def _prepare(self, actor_class: type[AegisActor], service: ServiceOptions) -> Instance:
        spec = describe(actor_class)
        instance_id = service.instance_id or default_instance_id(spec.service)
        if instance_id in self._instances:
            raise ConfigurationError(
                f"instance-id: {instance_id!r} is given twice; each instance needs its own"
            )
        desk = InstanceDesk(spec.service, instance_id)
        instance = self._instances[instance_id] = Instance(self._parts, service, actor_class, desk)
        return instance

    async def _start_instance(self, instance: Instance) -> None:
        service = instance.desk.service
        if service not in self._services:
            await self._services.start_supervisor(service, Supervisor())
        services = self._services.child(service)
        assert isinstance(services, Supervisor)
        # One trace from here through the leader: the instance and what it holds.
        with use_trace(outgoing_traceparent()):
            await instance.start(services)

    async def _stop_instance(self, instance: Instance) -> None:
        with use_trace(outgoing_traceparent()):
            await instance.stop()
        self._instances.pop(instance.desk.instance_id, None)

    # -- the connection's listener ----------------------------------------------------

    def on_disconnected(self) -> None:
        """The server is gone; the transport looks for one."""
        self._connection += 1
        _log.warning("server_lost")

    def on_reconnected(self) -> None:
        """A server is there again."""
        self._connection += 1
        _log.info("server_found")
        self._owners.look_again()

    def on_closed(self, reason: str) -> None:
        """The launcher ends the process."""

    # -- how it is --------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``starting``, ``running`` or ``draining``."""
        if self._draining:
            return "draining"
        return "running" if self._started else "starting"

    def is_online(self, instance_id: str) -> bool:
        """Whether an instance of this node is registered, works and holds a lease."""
        instance = self._instances.get(instance_id)
        return (
            instance is not None
            and instance.registered
            and not instance.failed
            and self.membership.lease.valid(self.clock.boot_seconds())
        )

    # -- what the system knows ------------------------------------------------------------

    async def _look_up(self, service: str, resource_ids: Sequence[str]) -> list[dict[str, Any]]:
        return await self.membership.look_up(service, resource_ids, timeout=REGISTRATION_TIMEOUT)

    # -- what the system is told ------------------------------------------------------

    def _load(self) -> Mapping[str, InstanceLoad]:
        awake: dict[str, list[ActorCell]] = {}
        for cell in self.runtime.take_awake():
            awake.setdefault(cell.props.instance_id, []).append(cell)
        return {
            name: instance.load(awake.get(name, ())) for name, instance in self._instances.items()
        }

    def _applied(self, instance_id: str, resource_id: str) -> int | None:
        instance = self._instances.get(instance_id)
        return None if instance is None else instance.applied(resource_id)

    def _health(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        return {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "wall_ms": self.clock.wall_ms(),
            "leading": self.supervisor is not None and self.supervisor.leading,
            "candidate": self.supervisor is not None,
            "state": self.state,
            "observed": dict(self.runtime.observer.facts(watched=bool(asked.get("watched")))),
        }

    def _details(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        children = asked.get("children")
        most = children if isinstance(children, int) else MAX_SHOWN_CHILDREN
        tree = shown_tree(
            self.root.statistics(),
            most=min(max(most, 1), MAX_SHOWN_CHILDREN),
            max_bytes=self.transport.max_payload_bytes // 2,
        )
        return {"topics": [asdict(counts) for counts in self.topics.statistics()], "tree": tree}
