"""What a network may do to appends, acknowledgements and answers, on virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from decimal import Decimal
from typing import Any

import pytest

from aegis import OutcomeUnknown
from aegis.contracts import Kind
from aegis.testing import Hop, MemoryTransport
from aegis.transport import Transport
from tests.support.poll import wait_until
from tests.support.services import Ledger, Quoter, Vault
from tests.support.system import Backend, System
from tests.support.virtual import pass_time

type Fate = Callable[[Hop], Sequence[float]]


def in_memory(scenario: Callable[[System], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Make a test of a scenario for memory alone."""

    def test() -> None:
        Backend(None).run(scenario)

    test.__name__ = scenario.__name__
    test.__qualname__ = scenario.__qualname__
    test.__module__ = scenario.__module__
    return test


def set_fate(system: System, fate: Fate | None) -> None:
    """Let ``fate`` decide when messages of the system arrive."""
    assert system.broker is not None
    system.broker.fate = fate


def memory(transport: Transport) -> MemoryTransport:
    """Return the transport as what it is here."""
    assert isinstance(transport, MemoryTransport)
    return transport


def is_journal(hop: Hop, kind: str) -> bool:
    return hop.kind == kind and ".journal." in hop.subject


@in_memory
async def test_no_answer_leaves_before_what_it_saw_is_durable(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), (Ledger, ["L-1"]), instance_id=None)
    (node,) = system.nodes
    owners = {desk.service: desk.instance_id for desk in node.dispatcher.desks.values()}
    for service, resource in (("vault", "V-1"), ("ledger", "L-1")):
        owner = owners[service]
        set_fate(system, lambda hop: [3.0 if is_journal(hop, "acknowledgement") else 0.0])
        deposit = system.request(service, "deposit", {"amount": "5"}, resource=resource)
        rejected = system.request(service, "deposit", {"amount": "-5"}, resource=resource)
        look = system.request(service, "total", resource=resource, kind=Kind.QUERY, session="0")
        asked: list[Awaitable[Any]] = [
            asyncio.ensure_future(system.ask(owner, request))
            # A command, a repeat of it, a query, a refusal, and another query.
            for request in (deposit, deposit, look, rejected, look)
        ]
        await pass_time(2.5)
        assert not any(isinstance(a, asyncio.Future) and a.done() for a in asked)
        set_fate(system, None)
        answers = await asyncio.gather(*asked)
        assert [(a.status, a.value if a.status == 200 else "") for a in answers] == [
            (200, "5"),
            (200, "5"),
            (200, "5"),
            (422, ""),
            (200, "5"),
        ]


@in_memory
async def test_an_append_whose_acknowledgement_is_lost_counts_once(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), (Ledger, ["L-1"]))
    vault, ledger = system.cluster.actor(Vault, "V-1"), system.cluster.actor(Ledger, "L-1")
    for lost in ("acknowledgement", "append"):
        losses = Counter[str]()

        def fate(hop: Hop, lost: str = lost, losses: Counter[str] = losses) -> Sequence[float]:
            if is_journal(hop, lost) and losses[hop.subject] < 2:
                losses[hop.subject] += 1
                return []
            return [0.0]

        set_fate(system, fate)
        before = await vault.total()
        assert await vault.deposit(Decimal(1)) == await ledger.deposit(Decimal(1)) == before + 1
        assert set(losses.values()) == {2}
    set_fate(system, None)
    assert await vault.total() == await ledger.total() == 2
    for service, resource in (("vault", "V-1"), ("ledger", "L-1")):
        assert len(await system.entries(service, resource)) == 2


@in_memory
async def test_an_append_that_arrives_twice_counts_once(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), (Ledger, ["L-1"]))
    vault, ledger = system.cluster.actor(Vault, "V-1"), system.cluster.actor(Ledger, "L-1")
    set_fate(system, lambda hop: [0.0, 0.0, 0.5] if is_journal(hop, "append") else [0.0])
    for number in range(1, 6):
        assert await vault.deposit(Decimal(1)) == await ledger.deposit(Decimal(1)) == number
        await pass_time(0.3)
    set_fate(system, None)
    for service, resource in (("vault", "V-1"), ("ledger", "L-1")):
        assert len(await system.entries(service, resource)) == 5


@in_memory
async def test_calls_ride_through_loss_delay_and_repetition(system: System) -> None:
    chance = random.Random(1)

    def fate(hop: Hop) -> Sequence[float]:
        if hop.kind == "message" and not hop.subject.startswith(
            ("_INBOX", f"{system.namespace}.instance")
        ):
            return [0.0]  # the control plane has tests of its own
        luck = chance.random()
        if luck < 0.15:
            return []
        if luck < 0.3:
            return [chance.uniform(0, 2.0), chance.uniform(0, 2.0)]
        return [chance.uniform(0, 0.05)]

    await system.start_node((Vault, ["V-1"]), (Ledger, ["L-1"]), Quoter)
    await system.start_node(Quoter)
    vault = system.cluster.actor(Vault, "V-1", timeout=300)
    ledger = system.cluster.actor(Ledger, "L-1", timeout=300)
    quoter = system.cluster.actor(Quoter, timeout=300)
    set_fate(system, fate)
    answers = await asyncio.gather(
        *(vault.deposit(Decimal(1)) for _ in range(60)),
        *(ledger.deposit(Decimal(1)) for _ in range(60)),
    )
    placed = await asyncio.gather(*(quoter.place(Decimal(n)) for n in range(40)))
    set_fate(system, None)
    assert sorted(answers) == [Decimal(n) for n in range(1, 61) for _ in range(2)]
    assert await vault.total() == await ledger.total() == 60
    claims = await system.claims("quoter")
    assert len(claims) == len(set(placed)) == 40


@in_memory
async def test_a_call_whose_answer_is_lost_for_good_is_unknown_and_took_effect_once(
    system: System,
) -> None:
    await system.start_node((Vault, ["V-1"]))
    vault = system.cluster.actor(Vault, "V-1")
    await vault.total()
    set_fate(system, lambda hop: [] if hop.subject.startswith("_INBOX") else [0.0])
    with pytest.raises(OutcomeUnknown) as raised:
        await system.cluster.call(
            "vault", "deposit", {"amount": "5"}, resource_id="V-1", timeout=20.0
        )
    set_fate(system, None)
    (entry,) = await system.entries("vault", "V-1")
    assert raised.value.facts["message_id"] == f"{entry.session}-{entry.n}"
    assert await vault.total() == 5


@in_memory
async def test_a_server_that_goes_away_and_comes_back_loses_no_call(system: System) -> None:
    node = await system.start_node((Vault, ["V-1"]), (Ledger, ["L-1"]))
    vault = system.cluster.actor(Vault, "V-1", timeout=120)
    ledger = system.cluster.actor(Ledger, "L-1", timeout=120)
    assert await vault.deposit(Decimal(1)) == await ledger.deposit(Decimal(1)) == 1
    caller, owner = memory(system.cluster.transport), memory(node.transport)
    calls: list[asyncio.Future[Decimal]] = []
    for transport in (caller, owner, caller, owner):
        calls += [
            asyncio.ensure_future(call)
            for _ in range(10)
            for call in (vault.deposit(Decimal(1)), ledger.deposit(Decimal(1)))
        ]
        await pass_time(0.001)
        transport.disconnect()
        calls += [
            asyncio.ensure_future(call)
            for _ in range(10)
            for call in (vault.deposit(Decimal(1)), ledger.deposit(Decimal(1)))
        ]
        await pass_time(4.0)
        transport.reconnect()
        await pass_time(1.0)
    answers = await asyncio.gather(*calls)
    assert sorted(answers) == [Decimal(n) for n in range(2, 82) for _ in range(2)]
    assert await vault.total() == await ledger.total() == 81


@in_memory
async def test_a_paused_owner_that_wakes_up_does_no_harm(system: System) -> None:
    old = await system.start_node((Vault, ["V-1"]), instance_id="old", heartbeat_timeout=2.0)
    vault = system.cluster.actor(Vault, "V-1", timeout=60)
    assert await vault.deposit(Decimal(1)) == 1
    new = await system.start_node()
    assert await new.add_service(Vault, instance_id="new") == "new"
    inside = old.cluster.actor(Vault, "V-1", timeout=500)
    assert await inside.total() == 1
    # What the old owner sends stands still, and arrives much later.
    delay = 30.0
    name = memory(old.transport).name
    set_fate(system, lambda hop: [delay if name in (hop.source, hop.destination) else 0.0])
    in_old = asyncio.ensure_future(
        system.ask(
            "old",
            system.request("vault", "deposit", {"amount": "100"}, resource="V-1"),
            timeout=500,
        )
    )
    stuck = asyncio.ensure_future(inside.deposit(Decimal(100)))
    await pass_time(0.1)
    await new.add_resources("new", ["V-1"], force=True)
    assert await vault.deposit(Decimal(1)) == 2
    await pass_time(100.0)
    delay = 0.0
    assert (await in_old).status == 421
    assert await stuck == 102  # by the new owner, once
    await wait_until(
        lambda: not old.dispatcher.desks["old"].resources, what="the old owner has stopped"
    )
    assert await vault.total() == 102
    entries = await system.entries("vault", "V-1")
    assert len(entries) == len({(entry.session, entry.n) for entry in entries}) == 3
    epochs = [record.epoch for _, record in await system.records("vault", "V-1")]
    assert epochs == sorted(epochs)
