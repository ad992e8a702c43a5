"""A command takes effect exactly once: repeats, restarts, takeovers, lost answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal

import pytest

from aegis import (
    AegisActor,
    HandlerFailed,
    NotFound,
    OutcomeUnknown,
    Rejected,
    Unavailable,
    command,
    query,
)
from aegis._clock import Clock
from aegis.actors._sessions import MAX_SESSIONS, WINDOW
from aegis.contracts import Kind, Request
from aegis.transport import Append
from aegis.transport._codec import decode_requests, encode_value
from tests.support.poll import wait_until
from tests.support.services import Gate, Ledger, Vault, VaultState
from tests.support.system import System, on_both


def gated(gate: Gate) -> type[AegisActor]:
    """Return a service whose slow command waits at ``gate``."""

    class Gated(AegisActor):
        service = "gated"
        state: VaultState
        ran: list[str]

        @command
        async def deposit(self, amount: Decimal) -> Decimal:
            self.state.total += amount
            return self.state.total

        @command
        async def deposit_slowly(self, amount: Decimal) -> str:
            await gate.pass_through()
            self.state.total += amount
            return self.message_id

        @query
        async def total(self) -> Decimal:
            return self.state.total

    return Gated


def heard_requests(payloads: Sequence[bytes]) -> list[Request]:
    """Return the requests in messages that were overheard."""
    return [request for payload in payloads if payload for request in decode_requests(payload)]


# -- repeats ------------------------------------------------------------------------------


@on_both
async def test_a_retry_is_the_same_message_and_does_not_run_again(system: System) -> None:
    gate = Gate()
    await system.start_node((gated(gate), ["G-1"]))
    heard = await system.overhear("instance.>")
    call = asyncio.ensure_future(
        system.cluster.call("gated", "deposit_slowly", {"amount": 5}, resource_id="G-1")
    )
    await wait_until(
        lambda: len(heard_requests([m.payload for m in heard])) >= 2, what="the caller tries again"
    )
    gate.opened.set()
    message_id = await call
    attempts = heard_requests([message.payload for message in heard])
    assert {request.message_id for request in attempts} == {message_id}
    assert [request.attempt for request in attempts] == list(range(1, len(attempts) + 1))
    assert await system.cluster.call("gated", "total", resource_id="G-1") == "5"
    assert gate.passed == 1


@on_both
async def test_a_repeat_is_answered_from_the_table_whatever_the_answer(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), instance_id="v")
    session = system.request("vault", "deposit").session
    for n, method, params, status in (
        (1, "deposit", {"amount": "5"}, 200),
        (2, "deposit", {"amount": "-5"}, 422),
        (3, "change_and_fail", {}, 500),
    ):
        request = system.request("vault", method, params, resource="V-1", session=session, n=n)
        first = await system.ask("v", request)
        # Neither its deadline nor what it asks for counts any more.
        request.attempt, request.remaining_ms, request.method = 2, 0, "nothing"
        assert await system.ask("v", request) == first
        assert first.status == status
    assert len(await system.entries("vault", "V-1")) == 3


@on_both
async def test_a_repeat_is_answered_from_the_table_after_the_owner_was_killed(
    system: System,
) -> None:
    node = await system.start_node((Vault, ["V-1"]), (Ledger, ["L-1"]), instance_id=None)
    requests = [
        system.request("vault", "deposit", {"amount": "5"}, resource="V-1"),
        system.request("vault", "change_and_reject", resource="V-1"),
        system.request("vault", "change_and_fail", resource="V-1"),
        system.request("ledger", "deposit", {"amount": "5"}, resource="L-1"),
        system.request("ledger", "emit_and_reject", resource="L-1"),
        system.request("ledger", "emit_and_fail", resource="L-1"),
    ]
    owners = {desk.service: desk.instance_id for desk in node.dispatcher.desks.values()}
    before = [await system.ask(owners[request.service], request) for request in requests]
    await system.kill_node(node)
    await system.start_node((Vault, ["V-1"]), instance_id=owners["vault"])
    await system.start_node((Ledger, ["L-1"]), instance_id=owners["ledger"])
    for request in requests:
        request.attempt += 1
    after = [await system.ask(owners[request.service], request) for request in requests]
    assert after == before
    assert [reply.status for reply in after] == [200, 422, 500] * 2
    for service, resource in (("vault", "V-1"), ("ledger", "L-1")):
        assert len(await system.entries(service, resource)) == 3
        assert await system.cluster.call(service, "total", resource_id=resource) == "5"


@on_both
async def test_a_message_that_its_caller_closed_does_not_run_late(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), instance_id="v")
    late = system.request("vault", "deposit", {"amount": "1"}, resource="V-1", n=1, low=1)
    later = system.request(
        "vault", "deposit", {"amount": "1"}, resource="V-1", session=late.session, n=2, low=2
    )
    assert (await system.ask("v", later)).status == 200
    assert (await system.ask("v", late)).status == 410
    assert await system.cluster.call("vault", "total", resource_id="V-1") == "1"


# -- sessions -----------------------------------------------------------------------------


@on_both
async def test_the_longest_idle_session_makes_room_and_its_repeats_are_refused(
    system: System,
) -> None:
    node = await system.start_node((Vault, ["V-1"]), instance_id="v")
    start = system.clock.wall_ms()

    def deposit(number: int) -> Request:
        session = f"{start + number}-{number:08x}"
        return system.request("vault", "deposit", {"amount": "1"}, resource="V-1", session=session)

    for first in range(0, MAX_SESSIONS, 100):
        replies = await asyncio.gather(
            *(system.ask("v", deposit(n)) for n in range(first, first + 100))
        )
        assert {reply.status for reply in replies} == {200}
    assert (await system.ask("v", deposit(0))).status == 200  # known still
    assert (await system.ask("v", deposit(MAX_SESSIONS))).status == 200
    for owners in (1, 2):
        refused = await system.ask("v", deposit(0))
        assert (refused.status, refused.value["floor"]) == (410, start)
        assert (await system.ask("v", deposit(MAX_SESSIONS // 2))).status == 200
        if owners == 1:  # the next owner has the same table
            await system.kill_node(node)
            await system.start_node((Vault, ["V-1"]), instance_id="v")
    assert len(await system.entries("vault", "V-1")) <= MAX_SESSIONS + 1
    assert await system.cluster.call("vault", "total", resource_id="V-1") == str(MAX_SESSIONS + 1)

    # A caller whose clock is behind takes a session above the floor.
    class Behind(Clock):
        def boot_seconds(self) -> float:
            return system.clock.boot_seconds()

        def wall_ms(self) -> int:
            return start - 60_000

    slow = await system.caller(Behind())
    assert await slow.actor(Vault, "V-1").deposit(Decimal(1)) == MAX_SESSIONS + 2
    assert await slow.actor(Vault, "V-1").deposit(Decimal(1)) == MAX_SESSIONS + 3


@on_both
async def test_more_calls_than_a_session_may_hold_open_are_refused(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), instance_id="v")
    session = system.request("vault", "deposit").session

    def deposit(n: int, low: int) -> Request:
        return system.request(
            "vault", "deposit", {"amount": "1"}, resource="V-1", session=session, n=n, low=low
        )

    assert (await system.ask("v", deposit(WINDOW, 1))).status == 200
    assert (await system.ask("v", deposit(WINDOW + 1, 1))).status == 429
    assert (await system.ask("v", deposit(WINDOW + 1, 2))).status == 200


@on_both
async def test_a_caller_keeps_to_the_window_and_every_call_succeeds(system: System) -> None:
    gate = Gate()
    await system.start_node((gated(gate), ["G-1"]))
    heard = await system.overhear("instance.>")
    slow = asyncio.ensure_future(
        system.cluster.call("gated", "deposit_slowly", {"amount": 1}, resource_id="G-1")
    )
    await gate.entered.wait()
    calls = [
        asyncio.ensure_future(
            system.cluster.call("gated", "deposit", {"amount": 1}, resource_id="G-1")
        )
        for _ in range(2 * WINDOW)
    ]
    open_calls = WINDOW - 1
    await wait_until(
        lambda: len({r.n for r in heard_requests([m.payload for m in heard])}) > open_calls,
        what="the window is full",
    )
    assert max(r.n for r in heard_requests([m.payload for m in heard])) == WINDOW
    gate.opened.set()
    await asyncio.gather(slow, *calls)
    assert await system.cluster.call("gated", "total", resource_id="G-1") == str(2 * WINDOW + 1)


# -- limits, deadlines, finality ----------------------------------------------------------


@on_both
async def test_a_full_mailbox_refuses_and_a_caller_tries_until_there_is_room(
    system: System,
) -> None:
    gate = Gate()
    await system.start_node((gated(gate), ["G-1"]), instance_id="g", mailbox_capacity=2)
    slow = system.request("gated", "deposit_slowly", {"amount": "1"}, resource="G-1")
    waiting = [asyncio.ensure_future(system.ask("g", slow))]
    await gate.entered.wait()
    for _ in range(2):
        deposit = system.request("gated", "deposit", {"amount": "1"}, resource="G-1")
        waiting.append(asyncio.ensure_future(system.ask("g", deposit)))
    (node,) = system.nodes
    cell = node.dispatcher.desks["g"].resources["G-1"]
    await wait_until(lambda: len(cell.mailbox) == 2, what="two messages wait")
    refused = await system.ask(
        "g", system.request("gated", "deposit", {"amount": "1"}, resource="G-1")
    )
    facts = refused.value
    assert (refused.status, facts["error"], facts["capacity"]) == (429, "MailboxFull", 2)
    heard = await system.overhear("instance.>")
    call = asyncio.ensure_future(
        system.cluster.call("gated", "deposit", {"amount": 1}, resource_id="G-1")
    )
    await wait_until(lambda: len(heard) >= 3, what="the caller has been refused twice")
    assert not call.done()
    gate.opened.set()
    assert {reply.status for reply in await asyncio.gather(*waiting)} == {200}
    assert await call == "4"


@on_both
async def test_what_waited_beyond_its_deadline_does_not_run(system: System) -> None:
    gate = Gate()
    await system.start_node((gated(gate), ["G-1"]), instance_id="g")
    slow = system.request("gated", "deposit_slowly", {"amount": "1"}, resource="G-1")
    first = asyncio.ensure_future(system.ask("g", slow))
    await gate.entered.wait()
    brief = system.request("gated", "deposit", {"amount": "1"}, resource="G-1", remaining_ms=1)
    second = asyncio.ensure_future(system.ask("g", brief))
    with pytest.raises(OutcomeUnknown) as raised:  # nobody told it anything
        await system.cluster.call(
            "gated", "deposit", {"amount": 1}, resource_id="G-1", timeout=0.05
        )
    assert raised.value.code == 504
    assert raised.value.facts["message_id"]
    (node,) = system.nodes
    cell = node.dispatcher.desks["g"].resources["G-1"]
    await wait_until(lambda: len(cell.mailbox) == 2, what="both messages wait")
    over = system.clock.boot_seconds() + 0.1  # twice the time that either was given
    await wait_until(lambda: system.clock.boot_seconds() > over, what="the deadlines pass")
    gate.opened.set()
    assert (await first).status == 200
    assert (await second).status == 408
    assert await system.cluster.call("gated", "total", resource_id="G-1") == "1"


@on_both
async def test_a_refusal_is_final_only_if_nobody_was_sent_anything(system: System) -> None:
    with pytest.raises(Unavailable) as raised:  # there is no supervisor, and never was
        await system.cluster.call("gated", "deposit", {}, resource_id="G-1", timeout=0.3)
    assert raised.value.code == 503
    gate = Gate()
    node = await system.start_node((gated(gate), ["G-1"]))
    call = asyncio.ensure_future(
        system.cluster.call(
            "gated", "deposit_slowly", {"amount": 1}, resource_id="G-1", timeout=3.0
        )
    )
    await gate.entered.wait()
    await system.kill_node(node)
    # The owner is gone, and 404 or 503 is all that is heard: but it may have run.
    with pytest.raises(OutcomeUnknown):
        await call


@on_both
async def test_a_call_waits_for_an_owner_that_starts_again(system: System) -> None:
    node = await system.start_node((Vault, ["V-1"]), instance_id="v")
    vault = system.cluster.actor(Vault, "V-1")
    assert await vault.deposit(Decimal(1)) == 1
    await system.kill_node(node)
    call = asyncio.ensure_future(vault.deposit(Decimal(1)))
    node = await system.start_node(Vault, instance_id="v")
    # The instance is back and its resource is not: nobody owns it at this moment.
    heard = await system.overhear("ipc.resource.query")
    await wait_until(lambda: len(heard) >= 2, what="the caller looks for the owner")
    assert not call.done()
    await node.add_resources("v", ["V-1"])
    assert await call == 2
    await node.membership.release_resources("vault", "v", ["V-1"])
    with pytest.raises(NotFound):  # given back on purpose
        await vault.total()


@on_both
async def test_a_node_that_stops_finishes_the_message_in_hand_and_leaves_the_others(
    system: System,
) -> None:
    gate = Gate()
    node = await system.start_node((gated(gate), ["G-1"]))
    in_hand, waiting = (
        asyncio.ensure_future(
            system.cluster.call("gated", method, {"amount": 1}, resource_id="G-1")
        )
        for method in ("deposit_slowly", "deposit")
    )
    await gate.entered.wait()
    desk = next(iter(node.dispatcher.desks.values()))
    await wait_until(lambda: len(desk.resources["G-1"].mailbox) == 1, what="the other waits")
    stopping = asyncio.ensure_future(system.stop_node(node))
    await wait_until(lambda: not node.dispatcher.desks, what="it takes no more")
    gate.opened.set()
    message_id = await in_hand
    (entry,) = await system.entries("gated", "G-1")
    assert f"{entry.session}-{entry.n}" == message_id
    await stopping
    # Another instance may have the resource at once, and does what was left.
    await system.start_node((gated(gate), ["G-1"]))
    assert await waiting == "2"
    assert gate.passed == 1


@on_both
async def test_an_instance_that_was_forgotten_comes_back_with_its_resources(
    system: System,
) -> None:
    node = await system.start_node((Vault, ["V-1"]), instance_id="v")
    await node.add_resources("v", ["V-2"])
    vaults = [system.cluster.actor(Vault, name) for name in ("V-1", "V-2")]
    assert [await vault.deposit(Decimal(1)) for vault in vaults] == [1, 1]
    epoch = node.membership.epochs["vault", "V-2"]
    payload = {"service_name": "vault", "instance_id": "v", "node_id": node.node_id}
    await system.transport.request(
        system.subjects.service_control("unregister"), encode_value(payload), timeout=10
    )
    await wait_until(
        lambda: node.membership.epochs.get(("vault", "V-2"), 0) > epoch, what="it is back"
    )
    assert [await vault.deposit(Decimal(1)) for vault in vaults] == [2, 2]


@on_both
async def test_a_cancelled_call_leaves_nothing_open(system: System) -> None:
    gate = Gate()
    await system.start_node((gated(gate), ["G-1"]))
    for _ in range(WINDOW + 10):
        call = asyncio.ensure_future(
            system.cluster.call("gated", "deposit_slowly", {"amount": 1}, resource_id="G-1")
        )
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    gate.opened.set()
    before = Decimal(await system.cluster.call("gated", "total", resource_id="G-1"))
    after = await system.cluster.call("gated", "deposit", {"amount": 1}, resource_id="G-1")
    assert Decimal(after) == before + 1
    assert before == gate.passed  # each ran once or not at all


# -- the journal --------------------------------------------------------------------------


@on_both
async def test_commands_that_come_together_commit_in_one_record(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), (Ledger, ["L-1"]))
    vault, ledger = system.cluster.actor(Vault, "V-1"), system.cluster.actor(Ledger, "L-1")
    await asyncio.gather(vault.deposit(Decimal(1)), ledger.deposit(Decimal(1)))
    results = await asyncio.gather(
        *(vault.deposit(Decimal(1)) for _ in range(100)),
        *(ledger.deposit(Decimal(1)) for _ in range(100)),
    )
    assert sorted(results) == [Decimal(n) for n in range(2, 102) for _ in range(2)]
    for service, resource in (("vault", "V-1"), ("ledger", "L-1")):
        records = await system.records(service, resource)
        assert sum(len(record.entries or ()) for _, record in records) == 101
        assert len(records) < 60
        assert max(len(record.entries or ()) for _, record in records) > 10


@on_both
async def test_a_snapshot_replaces_the_journal_and_the_next_owner_starts_from_it(
    system: System,
) -> None:
    node = await system.start_node((Vault, ["V-1"]), instance_id="v")
    await node.add_service(Ledger, instance_id="l", resources=["L-1"])
    vault, ledger = system.cluster.actor(Vault, "V-1"), system.cluster.actor(Ledger, "L-1")
    early = {
        "v": system.request("vault", "deposit", {"amount": "1"}, resource="V-1"),
        "l": system.request("ledger", "deposit", {"amount": "1"}, resource="L-1"),
    }
    answers = {name: await system.ask(name, request) for name, request in early.items()}
    for _ in range(550):
        await asyncio.gather(vault.deposit(Decimal(1)), ledger.deposit(Decimal(1)))
    for service, resource in (("vault", "V-1"), ("ledger", "L-1")):
        records = await system.records(service, resource)
        assert records[0][1].is_snapshot
        assert len(records) < 100
    await system.kill_node(node)
    node = await system.start_node((Vault, ["V-1"]), instance_id="v")
    await node.add_service(Ledger, instance_id="l", resources=["L-1"])
    assert await vault.total() == await ledger.total() == 551
    assert await ledger.count() == 551
    for name, request in early.items():
        assert await system.ask(name, request) == answers[name]
    assert await vault.deposit(Decimal(1)) == await ledger.deposit(Decimal(1)) == 552
    with pytest.raises(HandlerFailed):
        await ledger.emit_and_fail()  # read anew from the snapshot on
    with pytest.raises(Rejected):
        await vault.change_and_reject()
    assert await vault.total() == await ledger.total() == 552


@on_both
async def test_every_owner_has_a_higher_epoch_than_the_one_before(system: System) -> None:
    for number in range(4):
        node = await system.start_node((Vault, ["V-1"]), instance_id="v")
        vault = node.cluster.actor(Vault, "V-1")
        assert await vault.deposit(Decimal(1)) == number + 1
        await (system.kill_node if number % 2 else system.stop_node)(node)
    records = await system.records("vault", "V-1")
    epochs = [record.epoch for _, record in records]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) == 4
    assert sum(len(record.entries or ()) for _, record in records) == 4


@on_both
async def test_an_owner_that_was_replaced_writes_nothing_and_answers_421(system: System) -> None:
    old = await system.start_node((Vault, ["V-1"]), (Ledger, ["L-1"]), instance_id=None)
    owners = {desk.service: desk.instance_id for desk in old.dispatcher.desks.values()}
    vault, ledger = system.cluster.actor(Vault, "V-1"), system.cluster.actor(Ledger, "L-1")
    await asyncio.gather(vault.deposit(Decimal(1)), ledger.deposit(Decimal(1)))
    new = await system.start_node()
    for actor_class, resource in ((Vault, "V-1"), (Ledger, "L-1")):
        instance = await new.add_service(actor_class)
        await new.add_resources(instance, [resource], force=True)
    before = {key: await system.records(*key) for key in (("vault", "V-1"), ("ledger", "L-1"))}
    for service, resource in before:
        request = system.request(service, "deposit", {"amount": "1"}, resource=resource)
        look = system.request(service, "total", resource=resource, kind=Kind.QUERY, session="0")
        assert (await system.ask(owners[service], look)).status in (421, 503)
        assert (await system.ask(owners[service], request)).status == 421
        held = old.dispatcher.desks[owners[service]].resources
        await wait_until(lambda held=held: not held, what="the old owner has stopped")  # type: ignore[misc]
        assert (await system.ask(owners[service], look)).status == 421
        assert await system.records(service, resource) == before[service, resource]
    # Callers that still have the old owner in mind find the new one.
    assert await vault.deposit(Decimal(1)) == await ledger.deposit(Decimal(1)) == 2
    assert await vault.total() == await ledger.total() == 2


# -- failures that end an actor's life ----------------------------------------------------


class Brittle(AegisActor):
    """Fails in ways from which only a new life recovers."""

    service = "brittle"
    state: VaultState
    lives = 0

    def on_start(self) -> None:
        type(self).lives += 1

    @command
    async def deposit(self, amount: Decimal) -> Decimal:
        self.state.total += amount
        return self.state.total

    @command
    async def change_and_exit(self) -> None:
        self.state.total += 1000
        raise SystemExit(3)

    @query
    async def total(self) -> Decimal:
        return self.state.total


@on_both
async def test_an_actor_that_dies_is_back_with_its_state_and_its_waiting_messages(
    system: System,
) -> None:
    await system.start_node((Brittle, ["B-1", "B-2"]))
    brittle = system.cluster.actor(Brittle, "B-1")
    assert await brittle.deposit(Decimal(1)) == 1
    lives = Brittle.lives
    results = await asyncio.gather(
        *(brittle.deposit(Decimal(1)) for _ in range(10)),
        brittle.change_and_exit(),
        *(brittle.deposit(Decimal(1)) for _ in range(10)),
        return_exceptions=True,
    )
    assert [r for r in results if isinstance(r, Decimal)] == [Decimal(n) for n in range(2, 22)]
    assert isinstance(results[10], HandlerFailed)
    assert Brittle.lives == lives + 1
    assert await brittle.total() == 21
    assert await system.cluster.actor(Brittle, "B-2").total() == 0


@on_both
async def test_a_journal_that_cannot_be_read_stops_its_resource_alone(system: System) -> None:
    node = await system.start_node((Vault, ["V-1", "V-2", "V-3"]), instance_id="v")
    for name in ("V-1", "V-2", "V-3"):
        assert await system.cluster.actor(Vault, name).deposit(Decimal(1)) == 1
    for name in ("V-1", "V-2"):
        subject = system.subjects.journal("vault", name)
        await system.transport.append(Append(subject, b"no record of ours"), timeout=20)
    # V-1 finds out at its next append, V-2 when the node starts again.
    with pytest.raises((OutcomeUnknown, NotFound)):
        await system.cluster.call(
            "vault", "deposit", {"amount": "1"}, resource_id="V-1", timeout=2.0
        )
    assert await system.cluster.actor(Vault, "V-3").deposit(Decimal(1)) == 2
    await system.stop_node(node)
    await system.start_node((Vault, ["V-1", "V-2", "V-3"]), instance_id="v")
    assert await system.cluster.actor(Vault, "V-3").deposit(Decimal(1)) == 3
    for name in ("V-1", "V-2"):
        with pytest.raises(NotFound):
            await system.cluster.call(
                "vault", "deposit", {"amount": "1"}, resource_id=name, timeout=2.0
            )
