"""A whole system in memory: nodes, a caller, and the broker between them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Iterable
from types import TracebackType
from typing import Any, Final, Self

from attrs import define

from aegis._clock import Clock, SystemClock
from aegis._cluster import Cluster, Opened, open_over
from aegis._config import ConnectOptions, RunOptions
from aegis._node import Node
from aegis._subjects import DEFAULT_NAMESPACE, Subjects
from aegis.actors._actor import AegisActor
from aegis.actors._handlers import describe
from aegis.actors._journaled import JournaledBehaviour
from aegis.actors._publication import decode_publication
from aegis.actors._topic import pattern_problem
from aegis.contracts import Role
from aegis.errors import ConfigurationError
from aegis.testing._advance import advance
from aegis.testing._broker import WatchedBroker
from aegis.testing._fake import FakeService, fake_class
from aegis.testing._probe import Probe, Recorded
from aegis.testing._recorder import ActorRecorder
from aegis.testing._steps import Crash, Step
from aegis.testing._tap import Run, Tap, tapped
from aegis.transport._base import Message
from aegis.transport._memory import Hop, MemoryTransport
from aegis.transport._virtual_hosts import WALL_START_MS, Host, HostLoop
from aegis.transport._virtual_loop import START_SECONDS, VirtualClock, VirtualTimeLoop

__all__ = ["MemoryCluster", "NodeKilled"]

POLL_SECONDS: Final = 0.01


class NodeKilled(RuntimeError):
    """A node was killed while it was started."""


@define(eq=False)
class _Life:
    """A node, and the host on which it runs where time is virtual."""

    node: Node
    host: Host | None
    killed: asyncio.Future[None]


class MemoryCluster:
    """A system in memory, to be entered with ``async with``.

    ``cluster`` is a caller's connection, ``nodes`` are those that run. Under `run` or
    `in_virtual_time` time is virtual, and a killed node is like a killed process: not even
    a ``finally`` of it runs.
    """

    cluster: Cluster

    def __init__(self, *, namespace: str = DEFAULT_NAMESPACE, timeout: float = 5.0) -> None:
        self.broker = WatchedBroker()
        self.clock: Clock = SystemClock()
        self.nodes: list[Node] = []
        self.subjects = Subjects(namespace)
        self.taps: list[Tap] = []
        """Are told of each command and query that runs on a node started from then on."""
        self._connect = ConnectOptions(namespace=namespace, timeout=timeout)
        self._opened: Opened | None = None
        self._lives: list[_Life] = []
        self._dead: list[_Life] = []
        self._crashes: list[Crash] = []
        self._loop: HostLoop | None = None
        self._started = 0
        self._classes: dict[type[AegisActor], type[AegisActor]] = {}
        self.broker.gates.append(self._gate)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if isinstance(loop, HostLoop):
            self._loop = loop
        if isinstance(loop, VirtualTimeLoop):
            passed = round((loop.time() - START_SECONDS) * 1000)
            self.clock = VirtualClock(loop, wall_start_ms=WALL_START_MS + passed)
        # As the server's own account: it tells of connections that have ended.
        self._server = MemoryTransport(self.broker, name="server")
        self._opened = await open_over(MemoryTransport(self.broker), self._connect, self.clock)
        self.cluster = self._opened.cluster
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._crashes.clear()
        for node in reversed(list(self.nodes)):
            self.resume_node(node)
            await self.stop_node(node)
        if self._opened is not None:
            await self._opened.close()
        await self._bury()

    async def _bury(self) -> None:
        """End what is left of the nodes that were killed, now that nothing counts any more."""
        for life in self._dead:
            # First of all, so that none of its handlers goes on when its host is released.
            for instance in life.node._instances.values():
                for holding in instance.holdings.all.values():
                    if holding.behaviour is not None:
                        holding.behaviour.void()
                instance.kill()
        if self._loop is not None:
            self._loop.release_all()
        for life in self._dead:
            if life.host is not None:
                await life.host.start(life.node.abandon())
        self._dead.clear()

    # -- nodes --------------------------------------------------------------------------

    async def start_node(
        self,
        *services: tuple[type[AegisActor], Iterable[str]] | type[AegisActor],
        instance_id: str | None = None,
        role: Role | str = Role.ACTIVE,
        **options: Any,
    ) -> Node:
        """Start a node with one instance of each class, for the resources named.

        ``role`` is what it is for them: ``active``, or ``standby`` to follow and take over.
        ``options`` are those of `RunOptions` (``heartbeat_timeout``, ``replicas``, ...).

        Raises:
            NodeKilled: it came to a step of `crash_at` before it ran.
        """
        self._started += 1
        name = f"node-{self._started}"
        run_options = RunOptions(connect=self._connect, **options)
        if self._loop is None:
            node = Node(
                run_options, MemoryTransport(self.broker, name=name), clock=self.clock, node_id=name
            )
            life = _Life(node, None, asyncio.get_running_loop().create_future())
            await self._start(life, services, instance_id, Role(role))
            return node
        host = self._loop.host(name)
        node = host.context.copy().run(self._make_node, run_options, host)
        life = _Life(node, host, self._loop.create_future())
        starting = host.start(self._start(life, services, instance_id, Role(role)))
        await asyncio.wait((starting, life.killed), return_when=asyncio.FIRST_COMPLETED)
        if life.killed.done():
            raise NodeKilled(f"{name} was killed while it started")
        starting.result()
        return node

    def _make_node(self, options: RunOptions, host: Host) -> Node:
        transport = MemoryTransport(self.broker, name=host.name)
        system = MemoryTransport(self.broker, name=f"{host.name}-system")
        return Node(
            options,
            transport,
            clock=host.clock,
            node_id=host.name,
            system=system,
            has_ended=lambda _: False,
        )

    async def _start(
        self,
        life: _Life,
        services: Iterable[tuple[type[AegisActor], Iterable[str]] | type[AegisActor]],
        instance_id: str | None,
        role: Role,
    ) -> None:
        node = life.node
        self._lives.append(life)
        try:
            await node.start()
            self.nodes.append(node)
            for service in services:
                actor_class, resources = service if isinstance(service, tuple) else (service, ())
                await node.add_service(
                    self._tapped(actor_class),
                    instance_id=instance_id or self._instance_id(actor_class, node),
                    resources=list(resources),
                    role=role,
                )
        except BaseException:
            if node not in self.nodes:
                self.nodes.append(node)  # So that it is stopped in the end.
            raise

    def _instance_id(self, actor_class: type[AegisActor], node: Node) -> str | None:
        # In virtual time the same test does the same each time, names included.
        return None if self._loop is None else f"{_service_name(actor_class)}-on-{node.node_id}"

    def _tapped(self, actor_class: type[AegisActor]) -> type[AegisActor]:
        made = self._classes.get(actor_class)
        if made is None:
            made = self._classes[actor_class] = tapped(actor_class, self)
        return made

    def _life_of(self, node: Node) -> _Life:
        for life in self._lives:
            if life.node is node:
                return life
        raise ValueError(f"{node.node_id} does not run here (any more)")

    async def stop_node(self, node: Node) -> None:
        """Drain a node and take it out of the system."""
        life = self._life_of(node)
        self._lives.remove(life)
        self.nodes.remove(node)
        if life.host is None:
            await self._leave(node)
        else:
            await life.host.start(self._leave(node))

    async def _leave(self, node: Node) -> None:
        await node.stop()
        await node.transport.close()

    async def kill_node(self, node: Node) -> None:
        """Cut a node off at this instant, as SIGKILL does: nothing it holds is saved."""
        life = self._life_of(node)
        self._kill(life)
        if life.host is None:
            await node.abandon()

    def _kill(self, life: _Life) -> None:
        node, host = life.node, life.host
        self._lives.remove(life)
        if node in self.nodes:
            self.nodes.remove(node)
        transport = node.transport
        assert isinstance(transport, MemoryTransport)
        if host is None:
            transport.disconnect()
            return
        host.kill()
        transport.detach()
        life.killed.set_result(None)
        self._dead.append(life)
        assert self._loop is not None
        # Whose work it is that this happens in does not matter: the server tells it.
        self._loop.call_later(0.001, self._tell_end, node, context=self.broker.context.copy())

    def _tell_end(self, node: Node) -> None:
        event = {"client": {"name": f"aegis-node-{node.node_id}"}, "reason": "Client Closed"}
        self._server.publish("$SYS.ACCOUNT.AEGIS.DISCONNECT", json.dumps(event).encode())

    def freeze_node(self, node: Node) -> None:
        """Stop a node without its knowing, as SIGSTOP does, until `resume_node`."""
        self._host_of(node).freeze()

    def resume_node(self, node: Node) -> None:
        """Let a frozen node go on where it stopped, with all that came meanwhile."""
        life = self._life_of(node)
        if life.host is not None:
            life.host.resume()

    def _host_of(self, node: Node) -> Host:
        host = self._life_of(node).host
        if host is None:
            self._need_virtual_time("freeze_node")
            raise AssertionError
        return host

    # -- who owns what ------------------------------------------------------------------

    def owner_of(self, service: type[AegisActor] | str, resource_id: str) -> Node:
        """Return the node on which the owner of a resource is.

        Raises:
            LookupError: there is none at this moment.
        """
        name = _service_name(service)
        found: list[tuple[int, Node]] = []
        for node in self.nodes:
            behaviour = self.behaviour(node, name, resource_id)
            if behaviour is not None and behaviour.owns and not behaviour.owner.stopped:
                found.append((behaviour.owner.epoch, node))
        if not found:
            nodes = ", ".join(node.node_id for node in self.nodes) or "none"
            raise LookupError(f"nobody owns {name}/{resource_id}; the nodes are: {nodes}")
        return max(found, key=lambda one: one[0])[1]

    async def kill_owner(self, service: type[AegisActor] | str, resource_id: str) -> Node:
        """Kill the node on which the owner of a resource is, and return it."""
        node = self.owner_of(service, resource_id)
        await self.kill_node(node)
        return node

    @staticmethod
    def behaviour(node: Node, service: str, resource_id: str) -> JournaledBehaviour | None:
        """Return what a node has of a resource, as its owner or a standby."""
        for instance in node._instances.values():
            holding = instance.holdings.all.get(resource_id)
            if instance.desk.service == service and holding is not None:
                return holding.behaviour
        return None

    # -- failover at a chosen step --------------------------------------------------------

    def crash_at(
        self,
        step: Step | str,
        service: type[AegisActor] | str,
        resource_id: str,
        method: str | None = None,
        *,
        nth: int = 1,
    ) -> Crash:
        """Kill the owner of a resource at a step of its work: the ``nth`` one from now on.

        ``method`` restricts it to one command, or for the steps of a forward to one that
        is sent. As a context manager it fails if the step was not reached::

            with memory.crash_at(Step.AFTER_APPEND, Account, "ACC-1", "deposit"):
                await account.deposit(amount=Decimal(1))  # the standby answers

        Raises:
            ConfigurationError: there is no such command.
            RuntimeError: time is not virtual.
        """
        self._need_virtual_time("crash_at")
        step = Step(step)
        if nth < 1:
            raise ValueError("nth counts from 1")
        if method is not None and not isinstance(service, str):
            forward = step in (Step.BEFORE_FORWARD, Step.AFTER_FORWARD)
            spec = describe(service)
            known = [name for name, h in spec.handlers.items() if h.kind == "command"]
            if not forward and method not in known:
                raise ConfigurationError(
                    f"{service.__qualname__} has no command {method!r}; it has {', '.join(known)}"
                )
        crash = Crash(
            step,
            _service_name(service),
            resource_id,
            method,
            nth=nth,
            subjects=self.subjects,
            kill=self._kill_named,
            disarm=self._disarm,
            stored=self._last_stored,
        )
        self._crashes.append(crash)
        return crash

    def _disarm(self, crash: Crash) -> None:
        if crash in self._crashes:
            self._crashes.remove(crash)

    def _kill_named(self, name: str) -> bool:
        for life in self._lives:
            if life.node.node_id == name:
                self._kill(life)
                return True
        return False

    def _last_stored(self, subject: str) -> bytes | None:
        sequence = self.broker.last_sequence(subject)
        if not sequence:
            return None
        return self.broker.stream_for(subject).messages[sequence].payload

    def _gate(self, hop: Hop) -> Any:
        for crash in tuple(self._crashes):
            delays = crash.gate(hop)
            if delays is not None:
                return delays
        return None

    def begins(self, run: Run) -> bool:
        """A handler is about to run; see `Tap`."""
        taps: list[Tap | Crash] = [*self._crashes, *self.taps]
        return all(tap.begins(run) for tap in taps)

    def ends(self, run: Run, error: BaseException | None) -> None:
        """A handler has ended; see `Tap`."""
        for tap in self.taps:
            tap.ends(run, error)

    # -- probes ---------------------------------------------------------------------------

    async def fake(
        self,
        service: type[AegisActor] | str,
        *resource_ids: str,
        queries: Collection[str] = (),
    ) -> FakeService:
        """Start a node with a service that records what it gets, and answers as told.

        ``service`` is a class, or the name of a service of which nothing else is known;
        ``queries`` are then those of its methods that are no commands.
        """
        fake = FakeService(service)
        made = fake_class(fake, service, queries)
        await self.start_node((made, list(resource_ids)), instance_id=f"fake-{fake.service}")
        return fake

    def record(self, service: type[AegisActor] | str, resource_id: str) -> ActorRecorder:
        """Record the answers of a resource from now on, and the messages that it sends."""
        recorder = ActorRecorder(_service_name(service), resource_id, self.subjects)
        self.taps.append(recorder)

        def on_stored(_source: str, subject: str, _sequence: int, payload: bytes) -> None:
            recorder.on_stored(subject, payload, self.now)

        self.broker.watchers.append(on_stored)
        return recorder

    async def record_topic(self, topic: str) -> Probe:
        """Record what is published to a topic, or to all that a pattern means, from now on.

        Raises:
            ConfigurationError: the topic has no legal form.
        """
        if (problem := pattern_problem(topic)) is not None:
            raise ConfigurationError(f"the topic {topic!r} {problem}")
        probe = Probe(f"the topic {topic}")

        def on_message(message: Message) -> None:
            name = self.subjects.topic_of(message.subject)
            value = decode_publication(message.payload).value
            probe.record(Recorded(name, name, {"value": value}, at=self.now))

        await self._server.subscribe(self.subjects.topic(topic), on_message)
        return probe

    # -- time -----------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds of the test's clock."""
        return asyncio.get_running_loop().time()

    async def advance(self, seconds: float) -> None:
        """Let so much virtual time pass; return when all that was due is done.

        Reminders, deadlines, leases and beats come in the order of their times. Of spans
        of more than a minute the parts in which nothing of this is due are skipped: the
        nodes stand still there, and what a handler itself sleeps for less than a minute
        comes later by that.

        Raises:
            RuntimeError: time is not virtual.
        """
        loop = self._need_virtual_time("advance")
        if not seconds >= 0:
            raise ValueError(f"advance: seconds must not be negative, as {seconds!r} is")
        await advance(loop, seconds, self.clock, self._owners)

    def _owners(self) -> list[tuple[JournaledBehaviour, Host]]:
        return [
            (holding.behaviour, life.host)
            for life in self._lives
            if life.host is not None
            for instance in life.node._instances.values()
            for holding in instance.holdings.all.values()
            if holding.behaviour is not None and holding.behaviour.owns
        ]

    async def eventually(
        self,
        condition: Callable[[], bool | Awaitable[bool]],
        *,
        within: float = 30.0,
        what: str = "",
    ) -> None:
        """Return as soon as ``condition`` holds; it may be async, and ask actors.

        Raises:
            AssertionError: it did not within so many seconds.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            if loop.time() >= deadline:
                raise AssertionError(f"not within {within:g} s: {what or 'the condition holds'}")
            await asyncio.sleep(POLL_SECONDS)

    def _need_virtual_time(self, what: str) -> HostLoop:
        if self._loop is None:
            raise RuntimeError(
                f"{what} needs virtual time: run the test with aegis.testing.run(...), or "
                "put @in_virtual_time above it, and enter the MemoryCluster first"
            )
        return self._loop


def _service_name(service: type[AegisActor] | str) -> str:
    return service if isinstance(service, str) else describe(service).service
