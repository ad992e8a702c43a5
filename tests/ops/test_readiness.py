"""When a node says that it cannot serve, and why."""

from __future__ import annotations

import asyncio

import pytest

from aegis import AegisActor, command
from aegis._config import ConnectOptions, RunOptions
from aegis._node import Node
from aegis.ops._readiness import DRAINING, NO_LEADER, NO_SERVER, STARTING, unready_reasons
from aegis.testing import MemoryTransport
from aegis.transport import Append
from tests.support.nats import NatsServer
from tests.support.poll import wait_until
from tests.support.services import Gate, Vault
from tests.support.system import Backend, System


class Held(AegisActor):
    """Keeps its node from ending until its gate is open."""

    service = "held"
    gate = Gate()

    @command
    async def hold(self) -> None:
        await self.gate.pass_through()


def test_a_node_is_ready_once_it_has_started_and_a_leader_has_answered() -> None:
    async def scenario(system: System) -> None:
        options = RunOptions(connect=ConnectOptions(namespace=system.namespace))
        assert system.broker is not None
        transport = MemoryTransport(system.broker)
        node = Node(options, transport, clock=system.clock)
        assert await unready_reasons(node) == [STARTING, NO_LEADER]
        await node.start()

        async def ready() -> bool:
            return await unready_reasons(node) == []

        await wait_until(ready, what="the node is ready")
        await node.stop()
        assert DRAINING in await unready_reasons(node)
        await transport.close()

    Backend(None).run(scenario)


def test_a_node_without_leader_or_server_is_not_ready_until_they_are_back() -> None:
    async def scenario(system: System) -> None:
        leader = await system.start_node()
        node = await system.start_node((Vault, ["V-1"]), no_supervisor=True)

        async def reasons_are(*reasons: str) -> None:
            async def so() -> bool:
                return await unready_reasons(node) == list(reasons)

            await wait_until(so, what=f"the reasons are {reasons}")

        await reasons_are()
        await system.kill_node(leader)
        await reasons_are(NO_LEADER)
        await system.start_node()
        await reasons_are()
        assert isinstance(node.transport, MemoryTransport)
        node.transport.disconnect()
        assert await unready_reasons(node) == [NO_SERVER]
        node.transport.reconnect()
        await reasons_are()

    Backend(None).run(scenario)


def test_a_node_that_drains_says_so_while_it_finishes_its_work() -> None:
    async def scenario(system: System) -> None:
        gate = Held.gate = Gate()
        node = await system.start_node(Held)
        held = asyncio.ensure_future(system.cluster.actor(Held).hold())
        await gate.entered.wait()
        stopping = asyncio.ensure_future(system.stop_node(node))
        await asyncio.sleep(0)
        assert DRAINING in await unready_reasons(node)
        gate.opened.set()
        await asyncio.gather(held, stopping)

    Backend(None).run(scenario)


@pytest.mark.timeout(120)
def test_a_node_whose_stream_is_full_is_not_ready_and_says_how_full(
    nats_server: NatsServer,
) -> None:
    async def scenario(system: System) -> None:
        node = await system.start_node((Vault, ["V-1"]), max_bytes=1024 * 1024)

        async def ready() -> bool:
            return await unready_reasons(node) == []

        await wait_until(ready, what="the node is ready")
        for number in range(9):
            subject = system.subjects.mailbox("vault", f"V-{number}")
            await system.transport.append(Append(subject, bytes(100 * 1024)), timeout=10)
        (reason,) = await unready_reasons(node)
        assert "the stream is full" in reason
        assert "of 1048576 bytes" in reason

    Backend(nats_server.url).run(scenario)
