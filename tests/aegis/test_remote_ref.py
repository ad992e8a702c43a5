"""Refs by address: what they give is what refs of this process give."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, assert_type

import pytest
from pykka.messages import ProxyCall

import aegis
from aegis import (
    ActorRef,
    AegisActor,
    AegisError,
    Call,
    CommandInCommand,
    ConnectionClosed,
    InvalidRequest,
    MailboxFull,
    NotFound,
    OutcomeUnknown,
    RemoteRef,
    command,
    query,
)
from aegis._node import Node
from aegis._trace import current_trace_id, outgoing_traceparent, trace_id_of, use_trace
from aegis.actors._ref import ActorRefLike
from tests.support.nats import NatsServer
from tests.support.poll import wait_until
from tests.support.services import Gate, Quoter, Vault
from tests.support.system import Backend, System, on_both

ONE = Decimal(1)


class Doorman(AegisActor):
    """Waits at a gate, names a handler differently, and knows its trace."""

    service = "doorman"
    gate = Gate()
    passed = 0

    @command
    async def enter(self) -> int:
        await self.gate.pass_through()
        self.passed += 1
        return self.passed

    @command(name="step_in")
    async def enter_at_once(self, people: int) -> int:
        self.passed += people
        return self.passed

    @query
    async def trace(self) -> str:
        return current_trace_id()

    @command
    async def ask_a_command(self) -> list[str]:
        assert self.actor_cell.runtime.cluster is not None
        ref = self.actor_cell.runtime.cluster.ref(Vault, "V-1")
        outcomes: list[str] = []
        for answer in (ref.ask(Call("deposit", {"amount": ONE})), ref.proxy().deposit(ONE)):
            try:
                await answer
            except AegisError as error:
                outcomes.append(type(error).__name__)
        try:
            ref.tell(Call("deposit", {"amount": ONE}))
        except AegisError as error:
            outcomes.append(type(error).__name__)
        outcomes.append(str(await ref.ask(Call("total"))))
        return outcomes


def local_ref(node: Node, resource: str) -> ActorRef[Any]:
    """Return the ref that the process of the actor has."""
    for instance in node._instances.values():
        if resource in instance.desk.resources:
            return instance.desk.resources[resource].ref
    raise AssertionError(resource)


async def outcome(answer: Awaitable[Any]) -> Any:
    """Return a result, or all that a caller can see of an error."""
    try:
        return await answer
    except AegisError as error:
        facts = {k: v for k, v in error.facts.items() if k != "message_id"}
        return type(error).__name__, error.code, str(error), facts


MESSAGES = (
    Call("deposit", {"amount": ONE}),
    Call("deposit", {"amount": ONE, "times": 2}),
    Call("deposit", {"times": 3}, (ONE,)),
    Call("deposit_in_thread", {"amount": ONE}),
    ProxyCall(("deposit",), (ONE,), {}),
    Call("total"),
    Call("entries"),
    Call("deposit", {"amount": Decimal(0)}),
    Call("deposit", {"amount": "much"}),
    Call("deposit", {"amount": ONE, "colour": 1}),
    Call("deposit", {}, (1, 2, 3)),
    Call("deposit", {"amount": 1}, (1,)),
    Call("deposit"),
    Call("withdraw"),
    Call("change_and_reject"),
    Call("change_and_fail"),
    Call("fail_to_read"),
)


@on_both
async def test_asking_from_elsewhere_gives_the_same_results_and_errors(system: System) -> None:
    node = await system.start_node((Vault, ["V-1", "V-2"]))
    here, there = local_ref(node, "V-1"), system.cluster.ref(Vault, "V-2")
    for message in MESSAGES:
        assert await outcome(there.ask(message)) == await outcome(here.ask(message)), message
    assert await there.ask(Call("total")) == Decimal(8)


@on_both
async def test_proxies_of_refs_give_the_same_results_and_errors(system: System) -> None:
    node = await system.start_node((Vault, ["V-1", "V-2"]), (Doorman, ["D-1", "D-2"]))
    here, there = local_ref(node, "V-1").proxy(), system.cluster.ref(Vault, "V-2").proxy()
    assert_type(there, Vault)
    uses: list[Callable[[Vault], Any]] = [
        lambda vault: vault.deposit(ONE, times=2),
        lambda vault: vault.deposit(amount=Decimal(-1)),
        lambda vault: vault.total_in_thread(),
        lambda vault: vault.change_and_fail(),
    ]
    for use in uses:
        assert await outcome(use(there)) == await outcome(use(here))
    proxies: list[Any] = [here, there]
    for proxy in proxies:
        with pytest.raises(AttributeError, match="withdraw"):
            _ = proxy.withdraw
        with pytest.raises(NotFound, match="withdraw"):
            _ = proxy.withdraw


@on_both
async def test_a_handler_of_another_name_is_found_by_its_method(system: System) -> None:
    node = await system.start_node((Doorman, ["D-1"]))
    proxies = (
        local_ref(node, "D-1").proxy(),
        system.cluster.ref(Doorman, "D-1").proxy(),
        system.cluster.actor(Doorman, "D-1"),
    )
    assert [await proxy.enter_at_once(2) for proxy in proxies] == [2, 4, 6]
    assert await system.cluster.ref("doorman/D-1").proxy().step_in(people=1) == 7
    # As commands, all of them: none went past the journal.
    assert len(await system.entries("doorman", "D-1")) == 4


@on_both
async def test_refs_by_name_take_named_plain_values(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), Quoter, instance_id=None)
    ref = system.cluster.ref("vault/V-1")
    assert await ref.ask(Call("deposit", {"amount": ONE})) == "1"
    assert await system.cluster.ref("vault", "V-1").proxy().total() == "1"
    with pytest.raises(InvalidRequest, match="named"):
        await ref.ask(Call("deposit", {}, (ONE,)))
    assert (await system.cluster.ref(Quoter).ask(Call("place", {"amount": ONE}))).endswith(" 1")


@on_both
async def test_what_is_no_call_stays_in_its_process(system: System) -> None:
    await system.start_node((Vault, ["V-1"]))
    ref = system.cluster.ref(Vault, "V-1")
    with pytest.raises(InvalidRequest, match="this process only"):
        await ref.ask("hello")
    with pytest.raises(InvalidRequest, match="this process only"):
        ref.tell("hello")


@on_both
async def test_what_is_told_takes_effect_once_although_its_owner_dies(system: System) -> None:
    node = await system.start_node((Vault, ["V-1"]), instance_id="v")
    ref = system.cluster.ref(Vault, "V-1")
    await ref.wait_started()
    await system.kill_node(node)
    for _ in range(20):
        ref.tell(Call("deposit", {"amount": ONE}))
    ref.proxy().deposit.defer(ONE)
    await system.start_node((Vault, ["V-1"]), instance_id="v")

    async def all_are_there() -> bool:
        total: Decimal = await ref.ask(Call("total"))
        return total >= 21

    await wait_until(all_are_there, what="all that was told took effect")
    assert await ref.ask(Call("total")) == 21
    assert len(await system.entries("vault", "V-1")) == 21


@on_both
async def test_telling_says_at_once_what_is_wrong_here(system: System) -> None:
    await system.start_node((Vault, ["V-1"]))
    ref = system.cluster.ref(Vault, "V-1")
    with pytest.raises(NotFound, match="withdraw"):
        ref.tell(Call("withdraw"))


def test_what_is_told_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aegis._remote_ref.MAX_OPEN_TELLS", 3)

    async def scenario(system: System) -> None:
        node = await system.start_node((Doorman, ["D-1"]))
        Doorman.gate = Gate()
        ref = system.cluster.ref(Doorman, "D-1")
        for _ in range(3):
            ref.tell(Call("enter"))
        with pytest.raises(MailboxFull, match="3 messages"):
            ref.tell(Call("enter"))
        Doorman.gate.opened.set()
        await wait_until(lambda: Doorman.gate.passed == 3, what="all who were told went in")
        assert await ref.ask(Call("step_in", {"people": 1})) == 4
        ref.tell(Call("enter"))
        assert node in system.nodes

    Backend(None).run(scenario)


@on_both
async def test_a_command_may_not_ask_or_tell_a_command(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), (Doorman, ["D-1"]))
    outcomes = await system.cluster.ref(Doorman, "D-1").ask(Call("ask_a_command"))
    assert outcomes == [CommandInCommand.__name__] * 3 + ["0"]


@on_both
async def test_a_timeout_ends_an_ask(system: System) -> None:
    await system.start_node((Doorman, ["D-1"]))
    Doorman.gate = Gate()
    with pytest.raises(OutcomeUnknown):
        await system.cluster.ref(Doorman, "D-1").ask(Call("enter"), timeout=0.3)
    with pytest.raises(OutcomeUnknown):
        await system.cluster.ref(Doorman, "D-1", timeout=0.3).ask(Call("enter"))
    Doorman.gate.opened.set()


@on_both
async def test_a_ref_knows_who_is_alive_as_far_as_it_has_heard(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), instance_id="v")
    await system.start_node(Quoter, instance_id="q")
    cluster = system.cluster
    refs: list[RemoteRef[Any]] = [
        cluster.ref(Vault, "V-1"),
        cluster.ref(Quoter),
        cluster.ref("quoter@q"),
    ]
    assert [ref.address for ref in refs] == ["vault/V-1", "quoter", "quoter@q"]
    for ref in refs:
        assert isinstance(ref.address, str)
        await ref.wait_started()
        assert ref.is_alive()
    for unknown in (cluster.ref(Vault, "V-2"), cluster.ref("quoter@p"), cluster.ref("nobody")):
        assert not unknown.is_alive()
        with pytest.raises(NotFound):
            await unknown.wait_started()
        assert not unknown.is_alive()
    await system.stop_node(system.nodes[0])
    with pytest.raises(NotFound):
        await refs[0].ask(Call("total"))
    assert not refs[0].is_alive()


@on_both
async def test_every_ref_offers_the_same(system: System) -> None:
    node = await system.start_node((Vault, ["V-1"]))
    refs: list[ActorRefLike] = [local_ref(node, "V-1"), system.cluster.ref(Vault, "V-1")]
    for ref in refs:
        assert await ref.ask(Call("total")) == 0
        assert ref.is_alive()
        assert await ref.proxy().total() == 0


@on_both
async def test_the_trace_of_whoever_asks_goes_along(system: System) -> None:
    await system.start_node((Doorman, ["D-1"]))
    trace = outgoing_traceparent()
    with use_trace(trace):
        asked = system.cluster.ref(Doorman, "D-1").ask(Call("trace"))
    assert await asked == trace_id_of(trace)


def test_open_asks_end_with_the_connection() -> None:
    async def scenario(system: System) -> None:
        await system.start_node((Doorman, ["D-1"]))
        Doorman.gate = Gate()
        caller = await system.caller()
        # More than fit into the window of one destination.
        asked = [caller.ref(Doorman, "D-1").ask(Call("enter")) for _ in range(300)]
        await Doorman.gate.entered.wait()
        await system._callers[-1][0].close()
        for future in asked:
            with pytest.raises(ConnectionClosed):
                await future
        with pytest.raises(ConnectionClosed):
            await caller.ref(Doorman, "D-1").ask(Call("enter"))
        Doorman.gate.opened.set()

    Backend(None).run(scenario)


def test_a_blocking_client_has_refs_for_all_its_threads(nats_server: NatsServer) -> None:
    async def scenario(system: System) -> None:
        await system.start_node((Vault, ["V-1"]))

        def in_a_thread() -> None:
            with aegis.connect_blocking(nats_server.url, namespace=system.namespace) as cluster:
                ref = cluster.ref(Vault, "V-1")
                assert ref.ask(Call("deposit", {"amount": ONE}), block=True) == 1
                futures = [ref.ask(Call("deposit", {"amount": ONE})) for _ in range(5)]
                assert [future.get(timeout=20) for future in futures] == [2, 3, 4, 5, 6]
                with pytest.raises(InvalidRequest):
                    ref.ask(Call("deposit"), block=True)
            with pytest.raises(ConnectionClosed):
                ref.ask(Call("total"), block=True)
            with pytest.raises(ConnectionClosed):
                ref.tell(Call("total"))

        await asyncio.to_thread(in_a_thread)
        with pytest.raises(RuntimeError, match="would block"):
            system.cluster.ref(Vault, "V-1").ask(Call("total"), block=True)

    Backend(nats_server.url).run(scenario)
