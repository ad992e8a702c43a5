"""Calls by every way there is, with the same results and errors, in memory and over NATS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

import aegis
from aegis import CommandInCommand, HandlerFailed, InvalidRequest, NotFound, Rejected, TooLarge
from aegis.contracts import Kind
from tests.support.nats import NatsServer
from tests.support.services import Branch, Entry, Ledger, Quoter, Side, Vault
from tests.support.system import Backend, System, on_both

ENTRY = Entry(
    Decimal("10.50"), datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), Side.SELL, ["a", "é"]
)


@on_both
async def test_typed_and_untyped_proxies_and_calls_by_name_agree(system: System) -> None:
    await system.start_node((Vault, ["V-1"]))
    typed = system.cluster.actor(Vault, "V-1")
    untyped = system.cluster.actor("vault", "V-1")
    by_address = system.cluster.actor("vault/V-1")
    assert await typed.deposit(Decimal("1.5")) == Decimal("1.5")
    assert await typed.deposit(amount=Decimal("1.5"), times=3) == Decimal("6.0")
    assert await untyped.deposit(amount=Decimal("1.5")) == "7.5"
    assert await by_address.deposit(amount="1.5", times=2) == "10.5"
    assert await system.cluster.call(
        "vault", "deposit", {"amount": Decimal("0.5")}, resource_id="V-1"
    ) == ("11.0")
    assert await typed.total() == Decimal("11.0")
    assert await untyped.total() == "11.0"


@on_both
async def test_plain_handlers_run_in_a_thread_and_answer_alike(system: System) -> None:
    await system.start_node((Vault, ["V-1"]))
    vault = system.cluster.actor(Vault, "V-1")
    assert await vault.deposit_in_thread(Decimal(3)) == Decimal(3)
    assert await vault.total_in_thread() == Decimal(3)


@on_both
async def test_values_of_every_type_come_back_as_they_were(system: System) -> None:
    await system.start_node((Vault, ["V-1"]))
    vault = system.cluster.actor(Vault, "V-1")
    assert await vault.enter(ENTRY) == ENTRY
    assert await vault.enter(ENTRY, 2) == ENTRY
    assert await vault.entries() == [ENTRY] * 3


@on_both
async def test_names_with_any_characters_are_legal(system: System) -> None:
    name = "Ünï/c.o*d>e@ $"[:-2] + "_" * 180
    await system.start_node((Vault, [name]), instance_id="i.*>@/é")
    assert await system.cluster.actor(Vault, name).deposit(Decimal(1)) == Decimal(1)
    assert await system.cluster.actor(f"vault/{name}").total() == "1"


async def _errors(
    call: Callable[[str], Coroutine[Any, Any, Any]],
) -> list[tuple[str, int, str, dict[str, Any]]]:
    outcomes: list[tuple[str, int, str, dict[str, Any]]] = []
    for method in ("change_and_reject", "change_and_fail", "fail_to_read"):
        with pytest.raises(aegis.AegisError) as raised:
            await call(method)
        error = raised.value
        facts = {k: v for k, v in error.facts.items() if k != "message_id"}
        outcomes.append((type(error).__name__, error.code, str(error), facts))
    return outcomes


@on_both
async def test_errors_are_the_same_for_callers_here_and_elsewhere(system: System) -> None:
    node = await system.start_node((Vault, ["V-1"]), (Branch, ["B-1"]))
    other = await system.start_node((Branch, ["B-2"]))
    outside = await _errors(lambda method: system.cluster.call("vault", method, resource_id="V-1"))
    assert [(name, code) for name, code, _, _ in outside] == [
        ("Rejected", 422),
        ("HandlerFailed", 500),
        ("HandlerFailed", 500),
    ]
    assert outside[0][2:] == ("changed its mind", {"reason_code": 7})
    in_node = node.cluster.actor(Vault, "V-1")
    assert await _errors(lambda method: getattr(in_node, method)()) == outside
    in_other = other.cluster.actor("vault", "V-1")
    assert await _errors(lambda method: getattr(in_other, method)()) == outside
    for branch in ("B-1", "B-2"):  # an actor of the same process, and one of another
        seen = await system.cluster.actor(Branch, branch).outcome_of("V-1", "fail_to_read")
        assert seen[:2] == [outside[2][0], outside[2][2]]


@on_both
async def test_a_rejected_command_leaves_the_state_as_it_was(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), (Ledger, ["L-1"]))
    vault, ledger = system.cluster.actor(Vault, "V-1"), system.cluster.actor(Ledger, "L-1")
    await vault.deposit(Decimal(5))
    await vault.enter(ENTRY)
    await ledger.deposit(Decimal(5))
    with pytest.raises(Rejected, match="changed its mind"):
        await vault.change_and_reject()
    with pytest.raises(Rejected, match="changed its mind"):
        await ledger.emit_and_reject()
    assert (await vault.total(), await vault.entries()) == (Decimal(5), [ENTRY])
    assert (await ledger.total(), await ledger.count()) == (Decimal(5), 1)


@on_both
async def test_a_failed_command_leaves_the_state_as_it_was(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), (Ledger, ["L-1"]))
    vault, ledger = system.cluster.actor(Vault, "V-1"), system.cluster.actor(Ledger, "L-1")
    for number in range(1, 4):
        await vault.deposit(Decimal(5))
        await ledger.deposit(Decimal(5))
        with pytest.raises(HandlerFailed, match="cannot go on"):
            await vault.change_and_fail()
        with pytest.raises(HandlerFailed, match="cannot go on"):
            await ledger.emit_and_fail()
        assert await vault.total() == 5 * number
        assert (await ledger.total(), await ledger.count()) == (Decimal(5 * number), number)
    assert [entry.status for entry in await system.entries("ledger", "L-1")] == [200, 500] * 3
    assert [entry.status for entry in await system.entries("vault", "V-1")] == [200, 500] * 3


@on_both
async def test_failures_among_many_commands_undo_nothing_but_themselves(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), (Ledger, ["L-1"]))
    vault, ledger = system.cluster.actor(Vault, "V-1"), system.cluster.actor(Ledger, "L-1")
    calls = [
        call
        for _ in range(20)
        for call in (
            vault.deposit(Decimal(1)),
            vault.change_and_fail(),
            vault.change_and_reject(),
            ledger.deposit(Decimal(1)),
            ledger.emit_and_fail(),
            ledger.emit_and_reject(),
        )
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    good = [result for result in results if isinstance(result, Decimal)]
    assert sorted(good) == [Decimal(i) for i in range(1, 21) for _ in range(2)]
    assert await vault.total() == 20
    assert (await ledger.total(), await ledger.count()) == (Decimal(20), 20)


@on_both
async def test_a_mismatch_of_types_is_a_400_that_names_the_field(system: System) -> None:
    await system.start_node((Vault, ["V-1"]))
    call = system.cluster.call
    for params, field in (
        ({"amount": "much"}, "amount"),
        ({"amount": "1", "times": "often"}, "times"),
        ({}, "amount"),
        ({"amount": "1", "colour": 1}, "colour"),
    ):
        with pytest.raises(InvalidRequest, match=field) as raised:
            await call("vault", "deposit", params, resource_id="V-1")
        assert raised.value.facts["field"] == field
    wrong = {"amount": "1", "booked": "yesterday", "side": "buy"}
    with pytest.raises(InvalidRequest) as raised:
        await call("vault", "enter", {"entry": wrong}, resource_id="V-1")
    assert raised.value.facts["field"] == "entry.booked"
    assert await system.entries("vault", "V-1") == []


@on_both
async def test_what_is_not_there_is_a_404(system: System) -> None:
    await system.start_node((Vault, ["V-1"]))
    call = system.cluster.call
    with pytest.raises(NotFound, match="nobody"):
        await call("nobody", "total")
    with pytest.raises(NotFound, match="V-2"):
        await call("vault", "total", resource_id="V-2")
    with pytest.raises(NotFound, match="withdraw"):
        await call("vault", "withdraw", resource_id="V-1")
    with pytest.raises(AttributeError, match="withdraw"):
        _ = system.cluster.actor(Vault, "V-1").withdraw  # type: ignore[attr-defined]  # pyright: ignore
    with pytest.raises(InvalidRequest, match="is a command"):
        await system.cluster._client.call(
            "vault", "deposit", {"amount": "1"}, resource="V-1", kind=Kind.QUERY, timeout=10
        )


@on_both
async def test_what_is_too_large_is_refused_before_it_is_sent(system: System) -> None:
    await system.start_node((Vault, ["V-1"]))
    limit = system.transport.max_payload_bytes
    vault = system.cluster.actor(Vault, "V-1")
    heard = await system.overhear("instance.>")
    with pytest.raises(TooLarge) as raised:
        await system.cluster.call(
            "vault", "deposit", {"amount": "1" * (limit + 1)}, resource_id="V-1"
        )
    assert raised.value.facts["limit_bytes"] == limit
    assert heard == []
    with pytest.raises(HandlerFailed, match="more than a record may have"):
        await vault.tell_much(limit)
    with pytest.raises(HandlerFailed, match="more than a record may have"):
        await vault.fill(limit)
    assert await vault.deposit(Decimal(1)) == 1


@on_both
async def test_a_result_too_large_to_be_kept_is_still_told_once(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), instance_id="v")
    request = system.request("vault", "tell_much", {"size": 100_000}, resource="V-1")
    reply = await system.ask("v", request)
    assert (reply.status, len(reply.value)) == (200, 100_000)
    again = await system.ask("v", request)
    assert (again.status, again.value["done"]) == (410, True)


@on_both
async def test_a_command_may_not_await_a_command_but_a_query(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), (Branch, ["B-1"]))
    branch = system.cluster.actor(Branch, "B-1")
    assert await branch.look_and_decide("V-1") == "poor"
    assert await branch.deposit_inside("V-1") == CommandInCommand.__name__
    assert await branch.total_of("V-1") == 0
    assert await branch.deposit_by_query("V-1", Decimal(500)) == 500
    assert await branch.look_and_decide("V-1") == "rich"


@on_both
async def test_calls_between_actors_of_one_process_do_not_cross_nats(system: System) -> None:
    node = await system.start_node((Vault, ["V-1"]), (Branch, ["B-1"]), (Quoter))
    branch = system.cluster.actor(Branch, "B-1")
    heard = await system.overhear("instance.>")
    for _ in range(5):
        await branch.total_of("V-1")
    assert len(heard) == 5  # what the caller outside sent, and no more
    del heard[:]
    here = node.cluster.actor(Vault, "V-1")
    assert [await here.deposit(Decimal(1)) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert await node.cluster.actor(Quoter).name()
    await system.transport.flush()
    assert heard == []


@on_both
async def test_an_owner_is_looked_up_once(system: System) -> None:
    await system.start_node((Vault, ["V-1", "V-2"]))
    heard = await system.overhear("ipc.>")
    first, second = system.cluster.actor(Vault, "V-1"), system.cluster.actor(Vault, "V-2")
    await asyncio.gather(*(first.deposit(Decimal(1)) for _ in range(50)))
    for _ in range(5):
        await first.total()
        await second.total()
    await system.transport.flush()
    assert len(heard) == 2  # one a resource


def test_a_blocking_client_gets_the_same_results_and_errors(nats_server: NatsServer) -> None:
    async def scenario(system: System) -> None:
        await system.start_node((Vault, ["V-1"]), Quoter)

        def in_a_thread() -> None:
            with aegis.connect_blocking(nats_server.url, namespace=system.namespace) as cluster:
                vault = cluster.actor(Vault, "V-1")
                assert vault.deposit(Decimal("2.5")) == Decimal("2.5")
                assert vault.deposit_in_thread(amount=Decimal(1)) == Decimal("3.5")
                assert cluster.actor("vault/V-1").total() == "3.5"
                assert cluster.call("vault", "total", resource_id="V-1") == "3.5"
                assert vault.enter(ENTRY) == ENTRY
                with pytest.raises(Rejected, match="positive") as raised:
                    vault.deposit(Decimal(0))
                assert raised.value.facts == {"limit": 0}
                with pytest.raises(HandlerFailed, match="cannot go on"):
                    vault.change_and_fail()
                with pytest.raises(NotFound):
                    cluster.call("vault", "total", resource_id="V-2")
                assert cluster.actor(Quoter).place(Decimal(1)).endswith(" 1")

        await asyncio.to_thread(in_a_thread)

    Backend(nats_server.url).run(scenario)
