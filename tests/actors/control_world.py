"""Supervisors, nodes and callers on one server, in memory or real, for one test.

In memory time is virtual; over NATS it is real, so all intervals are short.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from aegis._clock import Clock, SystemClock
from aegis._subjects import Subjects
from aegis.actors._control import ControlOptions, SupervisorCandidate
from aegis.actors._directory import Directory
from aegis.actors._election import ElectionOptions
from aegis.actors._lease import LeaseOptions
from aegis.actors._membership import Membership, Registration
from aegis.errors import AegisError
from aegis.transport._base import Message, StreamConfig, Subscription, Transport
from aegis.transport._codec import decode_value, encode_value
from aegis.transport._memory import MemoryBroker, MemoryTransport
from aegis.transport._nats import connect_nats
from aegis.transport._nats_options import NatsOptions
from aegis.transport._virtual_loop import VirtualClock
from aegis.transport._virtual_loop import run as run_virtual
from tests.support.cluster import Cluster
from tests.support.nats import NatsServer
from tests.support.poll import wait_until

__all__ = ["ELECTION", "LEASE", "Listener", "Play", "Scenario", "World", "play", "play_on_cluster"]

ELECTION = ElectionOptions(leader_timeout=0.6, renew_interval=0.15, retry_interval=0.05)
LEASE = LeaseOptions(
    heartbeat_interval=0.1,
    heartbeat_timeout=0.8,
    lease_duration=0.8,
    lease_margin=0.05,
    stall_timeout=5.0,
    gone_timeout=3.0,
)

type Scenario = Callable[[World], Awaitable[None]]
type Play = Callable[[Scenario], None]


class Listener:
    """Remembers what a membership tells."""

    def __init__(self) -> None:
        self.covered: dict[tuple[str, str], int] = {}
        self.evicted: list[tuple[str, int]] = []

    def on_covered(self, service: str, resource_id: str, epoch: int) -> None:
        self.covered[service, resource_id] = epoch

    def on_uncovered(self, service: str, resource_id: str, epoch: int) -> None:
        self.covered.pop((service, resource_id), None)

    def on_evicted(self, instance_id: str, error: AegisError) -> None:
        self.evicted.append((instance_id, error.code))


class World:
    """Opens connections, starts what a test asks for, and stops it all at the end."""

    def __init__(
        self, connect: Callable[[str], Awaitable[Transport]], clock: Clock, *, replicas: int = 1
    ) -> None:
        self.clock = clock
        self.replicas = replicas
        self.subjects = Subjects(f"t{secrets.token_hex(6)}")
        self.url = ""
        self.events: list[dict[str, Any]] = []
        self._connect = connect
        self._transports: dict[str, Transport] = {}
        self._stops: list[Callable[[], Awaitable[None]]] = []

    async def transport(self, name: str) -> Transport:
        """Return the connection of one process."""
        if name not in self._transports:
            self._transports[name] = await self._connect(name)
        return self._transports[name]

    async def open(self) -> None:
        """Create the stream and listen to events."""
        transport = await self.transport("test")
        subjects = self.subjects
        config = StreamConfig(
            subjects.stream, subjects.durable, replicas=self.replicas, max_bytes=64 * 1024 * 1024
        )
        await transport.ensure_stream(config)
        await transport.subscribe(
            subjects.event(">"), lambda message: self.events.append(decode_value(message.payload))
        )

    async def close(self) -> None:
        """Stop everything, the last first."""
        for stop in reversed(self._stops):
            await stop()
        for transport in self._transports.values():
            await transport.close()

    async def candidate(self, name: str = "sup-1", **options: Any) -> SupervisorCandidate:
        """Start a supervisor candidate as a process of its own."""
        options = {"election": ELECTION, "lease": LEASE, "tick_interval": 0.05, **options}
        candidate = SupervisorCandidate(
            await self.transport(name), self.subjects, self.clock, name, ControlOptions(**options)
        )
        self._stops.append(candidate.stop)
        await candidate.start()
        return candidate

    async def leader(self, name: str = "sup-1", **options: Any) -> SupervisorCandidate:
        """Start a candidate and wait until it leads."""
        candidate = await self.candidate(name, **options)
        async with asyncio.timeout(20):
            await candidate.wait_leading()
        return candidate

    async def member(self, name: str, **options: Any) -> Membership:
        """Start a node's membership as a process of its own."""
        member = Membership(
            await self.transport(name), self.subjects, self.clock, name, options=LEASE, **options
        )
        self._stops.append(member.stop)
        await member.start()
        return member

    async def instance(self, name: str, instance_id: str, **options: Any) -> Membership:
        """Start a node's membership, and register an instance of ``account`` there."""
        member = await self.member(name, **options)
        await member.register("account", instance_id)
        return member

    async def own(self, member: Membership, instance_id: str, *resource_ids: str) -> Registration:
        """Register resources of ``account``, and wait until the lease covers them."""
        held = await member.register_resources("account", instance_id, list(resource_ids))
        for resource_id in resource_ids:
            await member.wait_covered("account", resource_id, held.epochs[resource_id], timeout=5)
        return held

    async def directory(self, name: str = "caller") -> Directory:
        """Start a directory."""
        directory = Directory(await self.transport(name), self.subjects, self.clock)
        self._stops.append(directory.stop)
        await directory.start()
        return directory

    async def ask(self, operation: str, payload: Any, *, timeout: float = 5.0) -> dict[str, Any]:
        """Send one control request, as somebody who is no node."""
        transport = await self.transport("test")
        encoded = payload if isinstance(payload, bytes) else encode_value(payload)
        subject = f"{self.subjects.control_prefix}.{operation}"
        reply = await transport.request(subject, encoded, timeout=timeout)
        answer: dict[str, Any] = decode_value(reply.payload)
        return answer

    async def answer_at(self, subject: str, payload: bytes = b"\xc0") -> Subscription:
        """Answer every request to ``subject``, as a process that is alive does."""
        transport = await self.transport("test")

        def on_request(message: Message) -> None:
            transport.publish(message.reply_to, payload)

        return await transport.subscribe(subject, on_request)

    async def wait_event(self, name: str, **facts: Any) -> dict[str, Any]:
        """Return the first event of that name with these facts, once it was published."""

        def found() -> list[dict[str, Any]]:
            return [
                event
                for event in self.events
                if event["event"] == name and facts.items() <= event.items()
            ]

        await wait_until(lambda: bool(found()), what=f"event {name} {facts}")
        return found()[0]

    def memory(self, name: str) -> MemoryTransport:
        """Return a connection whose network the test can cut; only in memory."""
        transport = self._transports[name]
        assert isinstance(transport, MemoryTransport)
        return transport


async def _run(scenario: Scenario, world: World) -> None:
    try:
        await world.open()
        await scenario(world)
    finally:
        await world.close()


def play(scenario: Scenario, server: NatsServer | None = None) -> None:
    """Run ``scenario`` over a real server, or in memory and virtual time without one."""

    async def over_nats(url: str) -> None:
        async def connect(name: str) -> Transport:
            return await connect_nats(NatsOptions(url))

        world = World(connect, SystemClock())
        world.url = url
        await _run(scenario, world)

    async def in_memory() -> None:
        broker = MemoryBroker(latency=0.0005)

        async def connect(name: str) -> Transport:
            return MemoryTransport(broker, name=name)

        await _run(scenario, World(connect, VirtualClock(asyncio.get_running_loop())))

    if server is None:
        run_virtual(in_memory())
    else:
        asyncio.run(over_nats(server.url))


async def play_on_cluster(scenario: Scenario, cluster: Cluster) -> None:
    """Run ``scenario`` over several real servers, with a copy of the stream on each.

    Each process of the world is connected to another one of them at first.
    """
    turn = itertools.count()

    async def connect(name: str) -> Transport:
        first = next(turn) % cluster.size
        user = cluster.credentials
        servers = tuple(cluster.urls[first:] + cluster.urls[:first])
        return await connect_nats(NatsOptions(servers, user=user.user, password=user.password))

    await _run(scenario, World(connect, SystemClock(), replicas=cluster.size))
