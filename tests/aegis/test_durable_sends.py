"""Durable sends: kept until an owner comes, in order, with their effect exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from decimal import Decimal
from typing import Any, assert_type

import pytest

from aegis import (
    ActorRef,
    AegisActor,
    Call,
    HandlerFailed,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    Receipt,
    Rejected,
    Unavailable,
    command,
)
from aegis._trace import use_trace
from aegis.contracts import Kind, Mail, Request
from aegis.testing import MemoryTransport
from aegis.transport import Append, Appended, Hop
from aegis.transport._codec import decode_mail, encode_mail
from tests.support.mail_services import Book, Courier, Diary, Purse
from tests.support.poll import wait_until
from tests.support.system import Backend, System, on_both
from tests.support.virtual import pass_time


async def lines_of(system: System, service: str = "book", resource: str = "B-1") -> list[str]:
    lines: list[str] = await system.cluster.call(service, "lines", resource_id=resource)
    return lines


@on_both
async def test_a_message_waits_for_an_owner_and_its_result_is_told(system: System) -> None:
    await system.start_node()
    receipt = await system.cluster.send(Book, "note", {"line": "a"}, resource_id="B-1")
    waiting = asyncio.ensure_future(system.cluster.result(receipt))
    await system.start_node((Book, ["B-1"]))
    assert await waiting == 1
    assert await system.cluster.result(receipt) == 1
    assert await lines_of(system) == ["a"]


@on_both
async def test_messages_of_one_sender_take_effect_in_order(system: System) -> None:
    await system.start_node((Book, ["B-1"]), (Diary, ["B-1"]))
    lines = [f"{number}" for number in range(200)]
    for service in ("book", "diary"):
        receipts = await asyncio.gather(
            *(system.cluster.send(f"{service}/B-1", "note", {"line": line}) for line in lines)
        )
        assert await system.cluster.result(receipts[-1]) == len(lines)
        assert await lines_of(system, service) == lines
        assert [receipt.sequence for receipt in receipts] == sorted(
            receipt.sequence for receipt in receipts
        )


@on_both
async def test_a_refusal_and_a_failure_are_results_too(system: System) -> None:
    await system.start_node((Book, ["B-1"]), (Diary, ["B-1"]))
    for service in ("book", "diary"):
        refused = await system.cluster.send(service, "note", {"line": "no"}, resource_id="B-1")
        with pytest.raises(Rejected, match="not that"):
            await system.cluster.result(refused)
    failed = await system.cluster.send("book/B-1", "fail")
    with pytest.raises(HandlerFailed, match="cannot go on"):
        await system.cluster.result(failed)
    unknown = await system.cluster.send("book/B-1", "nothing")
    with pytest.raises(NotFound, match="nothing"):
        await system.cluster.result(unknown)
    wrong = await system.cluster.send("book/B-1", "note", {"line": 5})
    with pytest.raises(InvalidRequest, match="line"):
        await system.cluster.result(wrong)
    query = await system.cluster.send("book/B-1", "lines")
    with pytest.raises(InvalidRequest, match="query"):
        await system.cluster.result(query)
    assert await lines_of(system) == []
    assert await lines_of(system, "diary") == []


@on_both
async def test_mail_is_read_on_after_the_owner_was_killed(system: System) -> None:
    node = await system.start_node((Book, ["B-1"]), instance_id="b")
    first = await system.cluster.send("book/B-1", "note", {"line": "a"})
    assert await system.cluster.result(first) == 1
    await system.kill_node(node)
    second = await system.cluster.send("book/B-1", "note", {"line": "b"})
    await system.start_node((Book, ["B-1"]), instance_id="b")
    assert await system.cluster.result(second) == 2
    assert await system.cluster.result(first) == 1
    assert await lines_of(system) == ["a", "b"]


@on_both
async def test_a_repeat_in_the_mailbox_has_no_second_effect(system: System) -> None:
    await system.start_node((Book, ["B-1"]))
    receipt = await system.cluster.send("book/B-1", "note", {"line": "a"})
    assert await system.cluster.result(receipt) == 1
    session, _, n = receipt.message_id.rpartition("-")
    again = Request(
        Kind.COMMAND, session, int(n), int(n), "book", "B-1", "note", {"line": "again"}, 0
    )
    subject = system.subjects.mailbox("book", "B-1")
    outcome = await system.transport.append(Append(subject, encode_mail(Mail(again))), timeout=10)
    assert isinstance(outcome, Appended)
    behind = await system.cluster.send("book/B-1", "note", {"line": "b"})
    assert await system.cluster.result(behind) == 2
    assert await lines_of(system) == ["a", "b"]


@on_both
async def test_a_message_is_read_by_its_id_in_the_handler(system: System) -> None:
    await system.start_node((Book, ["B-1"]))
    receipt = await system.cluster.send("book/B-1", "tell_id")
    assert await system.cluster.result(receipt) == receipt.message_id


@on_both
async def test_an_actor_pays_another_and_hears_of_it(system: System) -> None:
    await system.start_node((Purse, ["P-1", "P-2"]))
    first = system.cluster.actor(Purse, "P-1")
    second = system.cluster.actor(Purse, "P-2")
    await first.put_in(Decimal(500))
    message_id = await first.pay("P-2", Decimal(30))

    async def is_answered() -> bool:
        return len((await first.whole()).answers) == 1

    await wait_until(is_answered, what="the answer has come")
    state = await first.whole()
    assert (state.cash, state.on_its_way) == (Decimal(470), {})
    assert (state.answers[0].message_id, state.answers[0].value) == (message_id, "30")
    assert (await second.whole()).cash == Decimal(30)


@on_both
async def test_what_the_receiver_refuses_comes_back(system: System) -> None:
    await system.start_node((Purse, ["P-1", "P-2"]))
    first = system.cluster.actor(Purse, "P-1")
    await first.put_in(Decimal(500))
    await first.pay("P-2", Decimal(300))

    async def is_answered() -> bool:
        return len((await first.whole()).answers) == 1

    await wait_until(is_answered, what="the answer has come")
    state = await first.whole()
    assert state.cash == Decimal(500)
    answer = state.answers[0]
    assert (answer.status, answer.error, answer.facts) == (422, "too much at once", {"most": 100})


@on_both
async def test_a_command_that_fails_sends_nothing(system: System) -> None:
    await system.start_node((Purse, ["P-1", "P-2"]))
    first = system.cluster.actor(Purse, "P-1")
    await first.put_in(Decimal(500))
    with pytest.raises(HandlerFailed):
        await first.pay("P-2", Decimal(30), fail=True)
    await first.pay("P-2", Decimal(1))

    async def is_answered() -> bool:
        return bool((await first.whole()).answers)

    await wait_until(is_answered, what="the answer has come")
    assert (await system.cluster.actor(Purse, "P-2").whole()).cash == Decimal(1)
    mail = [s async for s in system.transport.read(system.subjects.mailbox("purse", "P-2"))]
    assert len(mail) == 1


@on_both
async def test_a_message_to_nobody_is_told_to_wait(system: System) -> None:
    await system.start_node()
    receipt = await system.cluster.send("nobody/ever", "do")
    with pytest.raises(OutcomeUnknown, match="waits in its mailbox"):
        await system.cluster.result(receipt, timeout=0.3)


@on_both
async def test_what_a_service_group_sends_is_committed_with_its_claim(system: System) -> None:
    await system.start_node((Book, ["B-1"]), Courier)
    sent = await system.cluster.call("courier", "carry", {"lines": ["a", "b", "c"]})
    assert len(set(sent)) == 3
    with pytest.raises(Rejected, match="not today"):
        await system.cluster.call("courier", "carry", {"lines": ["never"], "fail": True})
    with pytest.raises(HandlerFailed, match="no mailbox"):
        await system.cluster.call("courier", "ask_back")
    await system.cluster.call("courier", "carry", {"lines": ["d"]})

    async def is_all_there() -> bool:
        return await lines_of(system) == ["a", "b", "c", "d"]

    await wait_until(is_all_there, what="all have arrived")


@on_both
async def test_a_repeat_to_a_service_group_sends_nothing_again(system: System) -> None:
    await system.start_node(Courier, instance_id="c-1")
    await system.start_node(Courier, instance_id="c-2")
    request = system.request("courier", "carry", {"lines": ["a"]})
    first = await system.ask("c-1", request)
    assert await system.ask("c-2", request) == first  # as if it were the first attempt
    request.attempt = 2
    assert await system.ask("c-2", request) == first
    mail = [s async for s in system.transport.read(system.subjects.mailbox("book", "B-1"))]
    assert len(mail) == 1


def test_a_send_outlasts_the_loss_of_its_server_and_is_in_order() -> None:
    async def scenario(system: System) -> None:
        await system.start_node((Book, ["B-1"]))
        transport = system.cluster.transport
        assert isinstance(transport, MemoryTransport)
        lines = [str(number) for number in range(40)]
        sending = [
            asyncio.ensure_future(system.cluster.send("book/B-1", "note", {"line": line}))
            for line in lines
        ]
        for _ in range(5):
            transport.disconnect()
            await pass_time(0.2)
            transport.reconnect()
            await pass_time(0.0005)
        receipts = await asyncio.gather(*sending)
        assert await system.cluster.result(receipts[-1]) == len(lines)
        assert await lines_of(system) == lines

    Backend(None).run(scenario)


def test_a_send_without_a_server_ends_in_time_and_says_that_nothing_was_sent() -> None:
    async def scenario(system: System) -> None:
        await system.start_node((Book, ["B-1"]))
        transport = system.cluster.transport
        assert isinstance(transport, MemoryTransport)
        transport.disconnect()
        with pytest.raises(Unavailable):
            await system.cluster.send("book/B-1", "note", {"line": "a"}, timeout=3.0)
        transport.reconnect()
        receipt = await system.cluster.send("book/B-1", "note", {"line": "b"})
        assert await system.cluster.result(receipt) == 1

    Backend(None).run(scenario)


def test_a_send_whose_acknowledgement_is_lost_is_repeated_and_counts_once() -> None:
    lost: list[str] = []

    def fate(hop: Hop) -> list[float]:
        if hop.kind == "acknowledgement" and ".mailbox." in hop.subject and len(lost) < 2:
            lost.append(hop.subject)
            return []
        return [0.0001]

    async def scenario(system: System) -> None:
        await system.start_node((Book, ["B-1"]))
        assert system.broker is not None
        system.broker.fate = fate
        receipt = await system.cluster.send("book/B-1", "note", {"line": "a"})
        assert await system.cluster.result(receipt) == 1
        behind = await system.cluster.send("book/B-1", "note", {"line": "b"})
        assert await system.cluster.result(behind) == 2
        subject = system.subjects.mailbox("book", "B-1")
        assert lost == [subject] * 2
        assert await lines_of(system) == ["a", "b"]

    Backend(None).run(scenario)


def test_what_a_command_sends_is_forwarded_until_it_is_acknowledged() -> None:
    lost: list[str] = []

    def fate(hop: Hop) -> list[float]:
        kinds = ("append", "acknowledgement")
        if hop.kind in kinds and ".mailbox." in hop.subject and len(lost) < 4:
            lost.append(hop.kind)
            return [] if len(lost) in (1, 3) else [0.0001]
        return [0.0001]

    async def scenario(system: System) -> None:
        await system.start_node((Purse, ["P-1", "P-2"]))
        first = system.cluster.actor(Purse, "P-1")
        await first.put_in(Decimal(50))
        assert system.broker is not None
        system.broker.fate = fate
        for _ in range(3):
            await first.pay("P-2", Decimal(1))

        async def is_answered() -> bool:
            return len((await first.whole()).answers) == 3

        await wait_until(is_answered, what="all are answered", timeout=60)
        assert len(lost) == 4
        assert (await system.cluster.actor(Purse, "P-2").whole()).cash == Decimal(3)

    Backend(None).run(scenario)


@on_both
async def test_a_reply_has_the_trace_of_the_message_it_answers(system: System) -> None:
    await system.start_node((Purse, ["P-1", "P-2"]))
    heard = await system.overhear("mailbox.>")
    first = system.cluster.actor(Purse, "P-1")
    await first.put_in(Decimal(5))
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    with use_trace(trace):
        await first.pay("P-2", Decimal(1))
    await wait_until(lambda: len(heard) >= 2, what="message and reply are sent")
    traces = {decode_mail(message.payload).request.trace for message in heard}
    assert traces == {trace}  # Nobody has recorded a span of its own.


@on_both
async def test_proxies_and_refs_send_as_they_call(system: System) -> None:
    node = await system.start_node((Book, ["B-1"]))
    cluster = system.cluster
    local: ActorRef[Book] = (
        node.dispatcher.desks[next(iter(node.dispatcher.desks))].resources["B-1"].ref
    )
    typed = await cluster.actor(Book, "B-1").note.send("typed")
    assert_type(typed, Receipt)
    receipts = [
        typed,
        await cluster.actor("book/B-1").note.send(line="untyped"),
        await cluster.ref(Book, "B-1").send(Call("note", {"line": "ref"})),
        await cluster.ref("book", "B-1").send(Call("note", {"line": "untyped ref"})),
        await cluster.ref(Book, "B-1").proxy().note.send("proxy of a ref"),
        await local.send(Call("note", {"line": "local ref"})),
        await local.proxy().note.send(line="proxy of a local ref"),
    ]
    assert [await cluster.result(one) for one in receipts] == list(range(1, 8))
    assert (await lines_of(system))[0] == "typed"
    assert len({one.message_id for one in receipts}) == 7


@on_both
async def test_what_cannot_be_sent_is_refused_alike_by_proxies_and_refs(system: System) -> None:
    await system.start_node((Book, ["B-1"]))
    cluster, book = system.cluster, system.cluster.actor(Book, "B-1")
    ref = cluster.ref(Book, "B-1")
    untyped: Any = cluster.actor("book/B-1")
    untyped_proxy: Any = book  # to a type checker the next two are wrong
    wrong: list[Awaitable[Receipt]] = [
        book.lines.send(),
        ref.proxy().lines.send(),
        ref.send(Call("lines")),
        untyped_proxy.note.send(),
        untyped_proxy.note.send(line=object()),
        ref.send(Call("note", {"line": object()})),
        untyped.note.send("by position"),
        cluster.ref("book/B-1").send(Call("note", {}, ("by position",))),
        cluster.actor(Book).note.send("to no resource"),
        cluster.ref(Book).send(Call("note", {"line": "to no resource"})),
        ref.send("no call"),
        Book.start().send(Call("note", {"line": "to no node"})),
    ]
    for one in wrong:
        with pytest.raises(InvalidRequest):
            await one
    with pytest.raises(NotFound):
        await ref.send(Call("nothing"))
    assert await system.entries("book", "B-1") == []


@on_both
async def test_a_value_that_cannot_be_sent_is_named_and_nothing_is_sent(system: System) -> None:
    await system.start_node((Book, ["B-1"]), (Purse, ["P-1"]))
    cluster = system.cluster
    untyped: Any = cluster.actor("book/B-1")
    wrong: dict[Any, Any] = {5: "x"}
    for value in (object(), 2**80, "\ud800", {"deep": object()}, lambda: None):
        params = {"line": value}
        attempts: list[Awaitable[Any]] = [
            cluster.send("book/B-1", "note", params),
            cluster.send(Book, "note", params, resource_id="B-1"),
            cluster.call("book", "note", params, resource_id="B-1"),
            untyped.note(line=value),
            untyped.note.send(line=value),
            cluster.ref("book/B-1").send(Call("note", params)),
        ]
        for attempt in attempts:
            with pytest.raises(InvalidRequest, match=r"^line: ") as refused:
                await attempt
            assert refused.value.facts["field"] == "line"
    with pytest.raises(InvalidRequest, match="the name of a parameter must be text"):
        await cluster.send("book/B-1", "note", wrong)
    assert await cluster.call("book", "note", {"line": "a"}, resource_id="B-1") == 1
    assert [s async for s in system.transport.read(f"{system.namespace}.mailbox.>")] == []


@on_both
async def test_a_command_that_sends_what_cannot_be_sent_fails_and_sends_nothing(
    system: System,
) -> None:
    class Sender(AegisActor):
        service = "sender"

        @command
        async def note(self, how: str) -> None:
            self.send("book", "B-1", "note", line="before")
            if how == "send":
                self.send("book", "B-1", "note", line=object())
            elif how == "remind":
                self.remind("r", "note", after=0.1, how=object())
            elif how == "nameless":
                self.send("book", "B-1", "")
            elif how == "reply":
                self.send("book", "B-1", "note", line="x", reply_to="note")
            else:
                self.send("book", "", "note")

    await system.start_node((Sender, ["S-1"]), (Book, ["B-1"]))
    for how, named in (
        ("send", "line: "),
        ("remind", "how: "),
        ("nameless", "method: must not be empty"),
        ("reply", "reply_to: sender.note cannot be called with an answer"),
        ("address", "resource_id: "),
    ):
        with pytest.raises(HandlerFailed, match=named):
            await system.cluster.call("sender", "note", {"how": how}, resource_id="S-1")
    assert await lines_of(system) == []
