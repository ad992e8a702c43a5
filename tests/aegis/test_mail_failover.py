"""Mail over standbys, thousands of resources, full streams: what holds a mailbox together."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from aegis import Overloaded, Role, Unavailable
from aegis.contracts import Kind, Mail, Request
from aegis.testing import MemoryTransport
from aegis.transport import Append, Appended, Hop
from aegis.transport._codec import encode_mail
from tests.aegis.test_lost_messages import in_memory
from tests.support.mail_services import Book, Diary, Purse
from tests.support.poll import wait_until
from tests.support.system import Backend, System, on_both
from tests.support.virtual import pass_time


@on_both
async def test_a_standby_goes_on_with_the_mail_where_the_owner_was(system: System) -> None:
    for service, actor in (("book", Book), ("diary", Diary)):
        owner = await system.start_node((actor, ["B-1"]), instance_id=f"{service}-1")
        await system.start_node((actor, ["B-1"]), instance_id=f"{service}-2", role=Role.STANDBY)
        lines = [str(number) for number in range(60)]
        receipts = await asyncio.gather(
            *(system.cluster.send(f"{service}/B-1", "note", {"line": one}) for one in lines)
        )
        assert await system.cluster.result(receipts[9]) == 10
        await system.kill_node(owner)
        assert await system.cluster.result(receipts[-1]) == len(lines)
        assert await system.cluster.result(receipts[0]) == 1
        assert await system.cluster.call(service, "lines", resource_id="B-1") == lines


@on_both
async def test_a_standby_forwards_what_the_owner_did_not(system: System) -> None:
    owner = await system.start_node((Purse, ["P-1"]), instance_id="p-1")
    await system.start_node((Purse, ["P-1"]), instance_id="p-2", role=Role.STANDBY)
    await system.start_node((Purse, ["P-2"]), instance_id="p-3")
    first = system.cluster.actor(Purse, "P-1")
    await first.put_in(Decimal(50))
    for _ in range(20):
        await first.pay("P-2", Decimal(1))
    await system.kill_node(owner)

    async def is_answered() -> bool:
        return len((await first.whole()).answers) == 20

    await wait_until(is_answered, what="all are answered", timeout=30)
    state = await first.whole()
    assert (state.cash, state.on_its_way) == (Decimal(30), {})
    assert (await system.cluster.actor(Purse, "P-2").whole()).cash == Decimal(20)


@on_both
async def test_more_mail_than_an_owner_holds_in_memory_is_read_by_and_by(system: System) -> None:
    await system.start_node()
    subject = system.subjects.mailbox("book", "B-1")
    count = 700
    for n in range(1, count + 1):
        request = Request(Kind.COMMAND, "5-a", n, n, "book", "B-1", "note", {"line": str(n)}, 0)
        outcome = system.transport.append(Append(subject, encode_mail(Mail(request))), timeout=10)
        assert isinstance(await outcome, Appended)
    await system.start_node((Book, ["B-1", "B-2"]))
    receipt = await system.cluster.send("book/B-1", "note", {"line": "last"})
    assert await system.cluster.result(receipt) == count + 1
    lines = await system.cluster.call("book", "lines", resource_id="B-1")
    assert lines == [*map(str, range(1, count + 1)), "last"]


@on_both
async def test_many_idle_resources_share_one_read_and_all_are_woken(system: System) -> None:
    names = [f"B-{number}" for number in range(100)]
    node = await system.start_node((Book, names))
    receipts = await asyncio.gather(
        *(system.cluster.send(f"book/{name}", "note", {"line": name}) for name in names)
    )
    assert await asyncio.gather(*map(system.cluster.result, receipts)) == [1] * len(names)
    assert len(node.office.feed._reads) == 1


@on_both
async def test_mail_that_was_dealt_with_is_deleted(system: System) -> None:
    await system.start_node((Book, ["B-1"]))
    for number in range(9):
        await system.cluster.send("book/B-1", "note", {"line": str(number)})
    receipt = await system.cluster.send("book/B-1", "note", {"line": "last"})
    assert await system.cluster.result(receipt) == 10
    subject = system.subjects.mailbox("book", "B-1")

    async def is_purged() -> bool:
        return len([s async for s in system.transport.read(subject)]) == 1

    await wait_until(is_purged, what="only the last message is left", timeout=30)


@in_memory
async def test_mail_that_cannot_be_deleted_is_tried_again_and_keeps_no_other(
    system: System,
) -> None:
    node = await system.start_node((Book, ["B-1", "B-2"]))
    subjects = [system.subjects.mailbox("book", name) for name in ("B-1", "B-2")]
    tried: list[str] = []
    purge = node.transport.purge

    async def refuse_first(subject: str, *, below: int) -> int:
        tried.append(subject)
        if len(tried) == 1:
            raise Unavailable("no answer")
        return await purge(subject, below=below)

    node.transport.purge = refuse_first  # type: ignore[method-assign]
    for name in ("B-1", "B-2"):
        await system.cluster.send(f"book/{name}", "note", {"line": "one"})
        receipt = await system.cluster.send(f"book/{name}", "note", {"line": "two"})
        await system.cluster.result(receipt)
    await pass_time(10)
    for subject in subjects:
        assert len([s async for s in system.transport.read(subject)]) == 1
    assert tried == [*subjects, subjects[0]]


@on_both
async def test_sends_stop_at_their_share_of_the_stream_and_calls_go_on(system: System) -> None:
    await system.start_node((Book, ["B-1"]), max_bytes=1024 * 1024)
    sent = 0

    async def send_on() -> None:
        nonlocal sent
        for _ in range(100):
            await system.cluster.send("nobody/N-1", "keep", {"text": "x" * 40_000})
            sent += 1

    with pytest.raises(Overloaded, match="sends stop at 838860") as refused:
        await send_on()
    assert refused.value.facts["limit_bytes"] == 838_860
    assert 15 <= sent <= 21
    assert await system.cluster.call("book", "note", {"line": "a"}, resource_id="B-1") == 1


def test_what_an_owner_committed_and_could_not_send_its_standby_sends() -> None:
    async def scenario(system: System) -> None:
        owner = await system.start_node((Purse, ["P-1"]), instance_id="p-1")
        await system.start_node((Purse, ["P-1"]), instance_id="p-2", role=Role.STANDBY)
        await system.start_node((Purse, ["P-2"]), instance_id="p-3")
        assert isinstance(owner.transport, MemoryTransport)
        name = owner.transport.name
        lost: list[str] = []

        def fate(hop: Hop) -> list[float]:
            if hop.kind == "append" and hop.source == name and ".mailbox." in hop.subject:
                lost.append(hop.subject)
                return []
            return [0.0001]

        assert system.broker is not None
        system.broker.fate = fate
        first = system.cluster.actor(Purse, "P-1")
        await first.put_in(Decimal(50))
        for _ in range(5):
            await first.pay("P-2", Decimal(1))
        await wait_until(lambda: bool(lost), what="the owner tries to forward")
        await system.kill_node(owner)

        async def is_answered() -> bool:
            return len((await first.whole()).answers) == 5

        await wait_until(is_answered, what="all are answered", timeout=30)
        assert (await system.cluster.actor(Purse, "P-2").whole()).cash == Decimal(5)

    Backend(None).run(scenario)
