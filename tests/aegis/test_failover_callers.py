"""Callers in a failover: an event of ownership ends every wait, in memory and virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from decimal import Decimal
from typing import Any

import pytest

from aegis import Cluster
from aegis.testing import Hop, MemoryTransport
from aegis.transport import Transport
from aegis.transport._codec import decode_value
from tests.support.services import Vault
from tests.support.system import Backend, System
from tests.support.virtual import pass_time

pytestmark = pytest.mark.timeout(60)

NAMES = ["V-1", "V-2", "V-3", "V-4"]

HEARD_LATE = 0.1
"""Seconds by which the new owner hears of its promotion after everybody else."""

SOON = 0.4
"""Seconds of virtual time: longer than all that a caller does once it knows the owner,
shorter than a single wait for a silent one, or between attempts that were in vain."""


def in_memory(scenario: Callable[[System], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Make a test of a scenario for memory alone."""

    def test() -> None:
        Backend(None).run(scenario)

    test.__name__ = scenario.__name__
    test.__qualname__ = scenario.__qualname__
    test.__module__ = scenario.__module__
    return test


def name_of(transport: Transport) -> str:
    assert isinstance(transport, MemoryTransport)
    return transport.name


async def ended_at(call: Awaitable[Any]) -> float:
    """Wait for a call, and return when that was."""
    await call
    return asyncio.get_running_loop().time()


def calls(clusters: Sequence[Cluster]) -> list[asyncio.Task[float]]:
    """Begin a command and a query to each resource, from each of the callers."""
    return [
        asyncio.ensure_future(ended_at(call))
        for cluster in clusters
        for name in NAMES
        for vault in [cluster.actor(Vault, name, timeout=30)]
        for call in (vault.deposit(Decimal(1)), vault.total())
    ]


@pytest.mark.parametrize("is_frozen", [True, False], ids=["frozen", "killed"])
def test_all_open_calls_go_on_at_once_when_an_owner_is_replaced_without_proof_of_death(
    is_frozen: bool,
) -> None:
    async def scenario(system: System) -> None:
        leader = await system.start_node()
        first = await system.start_node((Vault, NAMES), instance_id="a")
        second = await system.start_node((Vault, NAMES), instance_id="b", role="standby")
        clusters = [system.cluster, leader.cluster, second.cluster]
        await asyncio.gather(*calls(clusters))
        await pass_time(2.0)
        loop = asyncio.get_running_loop()
        promoted: list[float] = []

        def on_promoted(facts: Any) -> None:
            promoted.append(loop.time())

        await system.transport.subscribe(
            system.subjects.event("promoted"),
            lambda message: on_promoted(decode_value(message.payload)),
        )
        cut, late = name_of(first.transport), name_of(second.transport)
        beats = f"{second.transport.inbox_prefix}.beat"

        def fate(hop: Hop) -> Sequence[float]:
            if is_frozen and cut in (hop.source, hop.destination):
                return []
            is_told = hop.subject.startswith((beats, system.subjects.event("")))
            return [HEARD_LATE if hop.destination == late and is_told else 0.001]

        assert system.broker is not None
        system.broker.fate = fate
        if not is_frozen:
            await system.kill_node(first)
        ends = await asyncio.gather(*calls(clusters))
        assert promoted
        assert max(ends) - promoted[0] < SOON
        system.broker.fate = None
        total = await system.cluster.actor(Vault, NAMES[0]).total()
        assert total == 2 * len(clusters)

    Backend(None).run(scenario)


@in_memory
async def test_what_an_instance_of_the_own_process_refuses_is_tried_again_soon(
    system: System,
) -> None:
    node = await system.start_node((Vault, ["V-1"]), instance_id="a")
    await node.cluster.actor(Vault, "V-1").total()
    loop = asyncio.get_running_loop()
    resources = node.dispatcher.desks["a"].resources
    cell = resources.pop("V-1")
    call = asyncio.ensure_future(ended_at(node.cluster.actor(Vault, "V-1").deposit(Decimal(1))))
    begun = loop.time()
    await pass_time(HEARD_LATE)
    resources["V-1"] = cell
    assert await call - begun < SOON


@in_memory
async def test_a_lookup_passes_over_candidates_that_are_frozen(system: System) -> None:
    node = await system.start_node((Vault, NAMES))  # leads
    frozen = {name_of((await system.start_node()).transport) for _ in range(2)}
    await pass_time(1.0)
    assert node.supervisor is not None
    assert node.supervisor.leading
    loop = asyncio.get_running_loop()
    assert system.broker is not None

    def fate(hop: Hop) -> Sequence[float]:
        return [] if frozen & {hop.source, hop.destination} else [0.0]

    system.broker.fate = fate
    for name in NAMES:
        begun = loop.time()
        assert await system.cluster.actor(Vault, name).total() == 0
        # One attempt may be the share of a frozen one; the next goes to the leader.
        assert loop.time() - begun < 0.1
    system.broker.fate = None


@in_memory
async def test_a_caller_that_hears_no_event_looks_again_when_the_old_owner_answers_421(
    system: System,
) -> None:
    await system.start_node((Vault, ["V-1"]), instance_id="a")
    second = await system.start_node((Vault, ["V-2"]), instance_id="b")
    vault = system.cluster.actor(Vault, "V-1", timeout=5)
    assert await vault.deposit(Decimal(1)) == 1
    assert system.broker is not None
    deaf = name_of(system.cluster.transport)

    def fate(hop: Hop) -> Sequence[float]:
        is_event = hop.subject.startswith(system.subjects.event(""))
        return [] if is_event and hop.destination == deaf else [0.0]

    system.broker.fate = fate
    await second.add_resources("b", ["V-1"], force=True)
    cached = system.cluster.directory.routes["vault", "V-1"]
    assert cached.instance_id == "a"
    assert await vault.deposit(Decimal(1)) == 2
    assert system.cluster.directory.routes["vault", "V-1"].instance_id == "b"
