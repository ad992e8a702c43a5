"""A whole system in the test's own process: in memory on virtual time, or over real NATS.

A test that holds for both is written once, as a scenario::

    @on_both
    async def test_deposits_add_up(system: System) -> None:
        await system.start_node((Vault, ["V-1"]))
        ...

`on_both` makes it a test with the parameter ``backend``, a fixture of tests/aegis.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

from attrs import frozen

from aegis._clock import Clock, SystemClock
from aegis._cluster import Cluster, Opened, open_over
from aegis._config import ConnectOptions, RunOptions
from aegis._node import Node
from aegis._subjects import Subjects
from aegis.actors._actor import AegisActor
from aegis.actors._observer import Observer
from aegis.actors._record import CommandEntry, Record
from aegis.actors._tracer import Tracer
from aegis.contracts import Kind, Request, Role
from aegis.testing import MemoryBroker, MemoryTransport, VirtualClock, VirtualTimeLoop, run
from aegis.transport import Message, NatsOptions, NatsTransport, Transport, connect_nats
from aegis.transport._codec import decode_reply_values, decode_value, encode_request
from aegis.transport._jetstream import ApiError

__all__ = ["Answer", "Backend", "Scenario", "System", "on_both"]

CALL_TIMEOUT = 30.0
"""Seconds that a call may take: the machine may be busy with much else."""


@frozen
class Answer:
    """One reply of the bare protocol; ``value`` is the result or the map of the error."""

    n: int
    status: int
    value: Any


class System:
    """One namespace of one broker or server, with the nodes and callers of a test."""

    def __init__(self, open_transport: Callable[[], Awaitable[Transport]]) -> None:
        loop = asyncio.get_running_loop()
        self.namespace = f"t{secrets.token_hex(6)}"
        self.subjects = Subjects(self.namespace)
        self.is_virtual = isinstance(loop, VirtualTimeLoop)
        self.clock: Clock = (
            VirtualClock(loop) if isinstance(loop, VirtualTimeLoop) else SystemClock()
        )
        self.nodes: list[Node] = []
        self.cluster: Cluster
        """A caller that is no node."""
        self.transport: Transport
        """A connection of the test itself."""
        self.broker: MemoryBroker | None = None
        self._open = open_transport
        self._connect = ConnectOptions(namespace=self.namespace, timeout=CALL_TIMEOUT)
        self._callers: list[tuple[Opened, Transport]] = []

    async def open(self) -> None:
        """Open what every test needs."""
        self.transport = await self._open()
        if isinstance(self.transport, MemoryTransport):
            self.broker = self.transport.broker
        self.cluster = await self.caller()

    async def close(self) -> None:
        """End all, the last node first."""
        for node in reversed(list(self.nodes)):
            await self.stop_node(node)
        for opened, transport in self._callers:
            await opened.close()
            await transport.close()
        if isinstance(self.transport, NatsTransport):
            kept = await self.transport.streams(self.subjects.topic(">"))
            with suppress(ApiError):  # no node was ever started
                for name in (self.subjects.stream, *(one.name for one in kept)):
                    await self.transport.api(f"STREAM.DELETE.{name}")
        await self.transport.close()

    async def caller(self, clock: Clock | None = None, tracer: Tracer | None = None) -> Cluster:
        """Return one more caller, with a connection of its own."""
        transport = await self._open()
        opened = await open_over(transport, self._connect, clock or self.clock, tracer)
        self._callers.append((opened, transport))
        return opened.cluster

    async def start_node(
        self,
        *services: tuple[type[AegisActor], Iterable[str]] | type[AegisActor],
        instance_id: str | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
        role: Role | str = Role.ACTIVE,
        **options: Any,
    ) -> Node:
        """Start a node with an instance of each class, for the resources named."""
        node = Node(
            RunOptions(connect=self._connect, **options),
            await self._open(),
            clock=clock or self.clock,
            observer=observer,
        )
        self.nodes.append(node)
        await node.start()
        for service in services:
            actor_class, resources = service if isinstance(service, tuple) else (service, ())
            await node.add_service(
                actor_class, instance_id=instance_id, resources=list(resources), role=Role(role)
            )
        return node

    async def stop_node(self, node: Node) -> None:
        """Drain a node."""
        self.nodes.remove(node)
        await node.stop()
        await node.transport.close()

    async def kill_node(self, node: Node) -> None:
        """Cut a node off at this instant, as SIGKILL does: nothing it holds is saved."""
        self.nodes.remove(node)
        transport = node.transport
        if isinstance(transport, MemoryTransport):
            transport.disconnect()
        else:
            assert isinstance(transport, NatsTransport)
            transport.client.socket.shut()
        await node.abandon()
        await transport.close()

    # -- what stands in the stream, and what is on its way --------------------------------

    async def records(self, service: str, resource: str) -> list[tuple[int, Record]]:
        """Return the journal of a resource: sequences and records."""
        subject = self.subjects.journal(service, resource)
        return [
            (stored.sequence, Record.from_wire(decode_value(stored.payload)))
            async for stored in self.transport.read(subject)
        ]

    async def entries(self, service: str, resource: str) -> list[CommandEntry]:
        """Return the commands in the journal of a resource."""
        return [
            entry
            for _, record in await self.records(service, resource)
            for entry in record.entries or ()
            if isinstance(entry, CommandEntry)
        ]

    async def claims(self, service: str) -> list[Any]:
        """Return the claims of a service group, as plain values."""
        subject = f"{self.namespace}.claim.{service}.>"
        return [decode_value(stored.payload) async for stored in self.transport.read(subject)]

    async def overhear(self, subject: str) -> list[Message]:
        """Return a list that grows with every message to ``subject`` of this system."""
        heard: list[Message] = []
        await self.transport.subscribe(f"{self.namespace}.{subject}", heard.append)
        return heard

    # -- messages of the bare protocol ----------------------------------------------------

    async def ask(self, instance_id: str, request: Request, *, timeout: float = 20.0) -> Answer:
        """Send one envelope to an instance and return the one reply."""
        return await self.ask_bytes(instance_id, encode_request(request), timeout=timeout)

    async def ask_bytes(self, instance_id: str, payload: bytes, *, timeout: float = 20.0) -> Answer:
        """Send any bytes to an instance and return the one reply."""
        message = await self.transport.request(
            self.subjects.instance(instance_id), payload, timeout=timeout
        )
        ((n, status, value, correlation),) = decode_reply_values(message.payload)
        assert correlation is None
        return Answer(n, status, value)

    def request(
        self,
        service: str,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        resource: str | None = None,
        kind: Kind = Kind.COMMAND,
        session: str = "",
        n: int = 1,
        low: int = 1,
        remaining_ms: int = 20_000,
        attempt: int = 1,
        trace: str = "",
    ) -> Request:
        """Return an envelope, of a new session unless one is given."""
        now = self.clock.wall_ms()
        return Request(
            kind,
            session or f"{now}-{secrets.token_hex(8)}",
            n,
            low,
            service,
            resource,
            method,
            params or {},
            remaining_ms,
            now,
            attempt,
            trace,
        )


type Scenario = Callable[[System], Coroutine[Any, Any, None]]


class Backend:
    """Runs a scenario; ``url`` is a NATS server, None stands for memory."""

    def __init__(self, url: str | None) -> None:
        self.url = url

    def run(self, scenario: Scenario) -> None:
        """Run ``scenario`` with a system of its own, on a loop of its own."""
        if self.url is None:
            run(self._run(scenario))
        else:
            asyncio.run(self._run(scenario))

    async def _run(self, scenario: Scenario) -> None:
        async with self._system() as system:
            await scenario(system)

    @asynccontextmanager
    async def _system(self) -> AsyncGenerator[System]:
        broker = MemoryBroker()
        url = self.url

        async def open_transport() -> Transport:
            if url is None:
                return MemoryTransport(broker)
            return await connect_nats(NatsOptions((url,)))

        system = System(open_transport)
        await system.open()
        try:
            yield system
        finally:
            await system.close()


def on_both(scenario: Scenario) -> Callable[[Backend], None]:
    """Make a test of a scenario, to be run in memory and over NATS."""

    def test(backend: Backend) -> None:
        backend.run(scenario)

    test.__name__ = scenario.__name__
    test.__qualname__ = scenario.__qualname__
    test.__module__ = scenario.__module__
    test.__doc__ = scenario.__doc__
    return test
