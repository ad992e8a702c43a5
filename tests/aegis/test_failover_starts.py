"""A start that is interrupted at any of its steps: by the loss of the server, or for good.

Each test does the same start again and again, in memory, and lets the interruption come
a little later each time, by one turn of the event loop or by some milliseconds, until
the start was over before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from aegis._config import ConnectOptions, RunOptions, ServiceOptions
from aegis._inspect import Inspector
from aegis._node import Node
from aegis.contracts import Role
from aegis.errors import NotFound, Unavailable
from aegis.testing import MemoryTransport
from aegis.transport._patience import SERVER_WAIT
from tests.support.poll import wait_until
from tests.support.services import Ledger
from tests.support.system import Backend, System
from tests.support.virtual import pass_time

RESOURCES = [f"L-{number}" for number in range(4)]
MOST_STEPS = 2_000
TURNS = 100
"""After so many turns of the loop time passes once: a start waits for some things."""

type Interruption = Callable[[System, Node, "asyncio.Task[None]"], Awaitable[None]]


def interrupt_everywhere(role: Role, alone: bool, interruption: Interruption) -> int:
    """Start a node again and again; return how many steps a start takes."""
    over: list[bool] = []
    for steps in range(MOST_STEPS):

        async def scenario(system: System, steps: int = steps) -> None:
            if not alone:
                resources = RESOURCES if role is Role.STANDBY else []
                await system.start_node((Ledger, resources), instance_id="a")
            node = new_node(system, role)
            starting = asyncio.get_running_loop().create_task(node.start())
            for step in range(1, steps + 1):
                await (asyncio.sleep(0) if step % TURNS else pass_time(0.05))
            over.append(starting.done())
            await interruption(system, node, starting)

        Backend(None).run(scenario)
        if over[-1]:
            return steps
    raise AssertionError(f"a start takes more than {MOST_STEPS} steps")


def new_node(system: System, role: Role = Role.ACTIVE) -> Node:
    assert system.broker is not None
    service = ServiceOptions(
        "tests.support.services:Ledger",
        instance_id="b",
        resources=tuple(RESOURCES),
        role=role,
    )
    options = RunOptions(connect=ConnectOptions(namespace=system.namespace), services=(service,))
    return Node(options, MemoryTransport(system.broker), clock=system.clock)


async def is_served(system: System, resource: str) -> bool:
    try:
        await system.cluster.call("ledger", "deposit", {"amount": "1"}, resource_id=resource)
    except NotFound:
        return False  # Given up while the node was away; it registers anew.
    return True


STARTS = pytest.mark.parametrize(
    ("role", "alone"), [(Role.ACTIVE, True), (Role.ACTIVE, False), (Role.STANDBY, False)]
)


@STARTS
def test_a_start_goes_on_where_the_server_left_it(role: Role, alone: bool) -> None:
    async def lose_the_server(system: System, node: Node, starting: asyncio.Task[None]) -> None:
        assert isinstance(node.transport, MemoryTransport)
        node.transport.disconnect()
        await pass_time(3.0)
        node.transport.reconnect()
        await asyncio.wait_for(starting, 30)
        for resource in RESOURCES:
            await wait_until(partial(is_served, system, resource), what=f"{resource} is served")
        await node.stop()
        await node.transport.close()

    assert interrupt_everywhere(role, alone, lose_the_server) > 20


@STARTS
def test_a_start_that_is_given_up_ends_soon_and_leaves_nothing(role: Role, alone: bool) -> None:
    async def give_up(system: System, node: Node, starting: asyncio.Task[None]) -> None:
        starting.cancel()
        await asyncio.wait((starting,))
        begun = asyncio.get_running_loop().time()
        await node.stop()
        assert asyncio.get_running_loop().time() - begun < 1.5
        await node.transport.close()
        if alone:
            await system.start_node()
        inspector = Inspector(system.transport, system.subjects)
        try:
            services = await inspector.services("ledger")
        except NotFound:
            services = []
        names = {i["instance_id"] for service in services for i in service["instances"]}
        assert names <= {"a"}

    assert interrupt_everywhere(role, alone, give_up) > 20


def test_a_start_without_any_server_is_given_up_and_says_why() -> None:
    async def scenario(system: System) -> None:
        node = new_node(system)
        assert isinstance(node.transport, MemoryTransport)
        node.transport.disconnect()
        begun = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable, match=r"no server answered within .* start the server"):
            await node.start()
        assert asyncio.get_running_loop().time() - begun >= SERVER_WAIT
        await node.stop()
        await node.transport.close()

    Backend(None).run(scenario)
