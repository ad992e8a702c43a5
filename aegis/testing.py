"""Testing one's own actors: a whole system in memory, in virtual time.

::

    from aegis.testing import MemoryCluster, run

    def test_deposit_raises_the_balance() -> None:
        async def scenario() -> None:
            async with MemoryCluster() as memory:
                await memory.start_node((Account, ["ACC-1"]))
                account = memory.cluster.actor(Account, "ACC-1")
                await account.deposit(amount=Decimal(1))
                assert await account.balance() == Decimal(1)

        run(scenario())

`run` gives the scenario an event loop whose time jumps: timeouts and restarts of
minutes pass in milliseconds. The nodes are the same code as in production, over
`MemoryTransport`, which passes the tests that NATS passes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from aegis._clock import Clock, SystemClock
from aegis._cluster import Cluster, Opened, open_over
from aegis._config import ConnectOptions, RunOptions
from aegis._node import Node
from aegis._subjects import DEFAULT_NAMESPACE
from aegis.actors._actor import AegisActor
from aegis.contracts import Role
from aegis.transport._memory import Hop, MemoryBroker, MemoryTransport
from aegis.transport._virtual_loop import Deadlock, VirtualClock, VirtualTimeLoop, run

__all__ = [
    "Deadlock",
    "Hop",
    "MemoryBroker",
    "MemoryCluster",
    "MemoryTransport",
    "VirtualClock",
    "VirtualTimeLoop",
    "run",
]


class MemoryCluster:
    """A system in memory: nodes, a caller, and the broker between them.

    ``cluster`` is a caller's connection. Under `run` time is virtual.
    """

    cluster: Cluster

    def __init__(self, *, namespace: str = DEFAULT_NAMESPACE, timeout: float = 5.0) -> None:
        self.broker = MemoryBroker()
        self.clock: Clock = SystemClock()
        self.nodes: list[Node] = []
        self._connect = ConnectOptions(namespace=namespace, timeout=timeout)
        self._opened: Opened | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if isinstance(loop, VirtualTimeLoop):
            self.clock = VirtualClock(loop)
        self._opened = await open_over(MemoryTransport(self.broker), self._connect, self.clock)
        self.cluster = self._opened.cluster
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for node in reversed(list(self.nodes)):
            await self.stop_node(node)
        if self._opened is not None:
            await self._opened.close()

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
        """
        transport = MemoryTransport(self.broker)
        node = Node(RunOptions(connect=self._connect, **options), transport, clock=self.clock)
        await node.start()
        self.nodes.append(node)
        for service in services:
            actor_class, resources = service if isinstance(service, tuple) else (service, ())
            await node.add_service(
                actor_class, instance_id=instance_id, resources=list(resources), role=Role(role)
            )
        return node

    async def stop_node(self, node: Node) -> None:
        """Drain a node and take it out of the system."""
        self.nodes.remove(node)
        await node.stop()
        await node.transport.close()

    async def kill_node(self, node: Node) -> None:
        """Cut a node off at this instant, as SIGKILL does: nothing it holds is saved."""
        self.nodes.remove(node)
        assert isinstance(node.transport, MemoryTransport)
        node.transport.disconnect()
        await node.abandon()
