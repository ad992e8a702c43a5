"""No value that a handler, or a stranger, comes up with stops an actor for good."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import patch

import pytest
from attrs import define

from aegis import AegisActor, command, query
from aegis.contracts import Request
from aegis.errors import HandlerFailed, InvalidRequest, Rejected
from aegis.transport import Append, Appended, Message
from aegis.transport._codec import encode_request
from tests.aegis.test_dead_letters import office_of
from tests.aegis.test_lost_messages import in_memory, is_journal, set_fate
from tests.support.system import System, on_both
from tests.support.virtual import pass_time

HUGE = 9_000_000
"""Bytes that no record takes, and no message."""


@define
class Count:
    """How often it was counted."""

    n: int = 0


class Counter(AegisActor):
    """Counts, refuses at length, and sets reminders of any name."""

    service = "counter"
    state: Count

    @command
    async def count(self) -> int:
        self.state.n += 1
        return self.state.n

    @command
    async def refuse(self, size: int) -> None:
        raise Rejected("no" * (size // 2))

    @command
    async def refuse_with_facts(self, size: int) -> None:
        raise Rejected("no", why="y" * size)

    @command
    async def remind_by(self, half: int) -> None:
        self.remind("bell" + chr(half), "count", after=1.0)

    @command
    async def forget_by(self, half: int) -> None:
        self.forget("bell" + chr(half))

    @query
    async def recite(self, size: int) -> str:
        return "x" * size


class Reciter(AegisActor):
    """Answers at length, as an instance of a service group."""

    service = "reciter"

    @query
    async def recite(self, size: int) -> str:
        return "x" * size


async def count(system: System) -> int:
    counted: int = await system.cluster.call("counter", "count", resource_id="C-1")
    return counted


@pytest.mark.parametrize("method", ["refuse", "refuse_with_facts"])
def test_an_error_larger_than_any_record_is_cut_and_the_actor_goes_on(method: str) -> None:
    @in_memory
    async def scenario(system: System) -> None:
        await system.start_node((Counter, ["C-1"]))
        with pytest.raises(Rejected, match=r"no.*cut: the whole error takes 90000.. bytes") as told:
            await system.cluster.call("counter", method, {"size": HUGE}, resource_id="C-1")
        assert len(str(told.value)) < 2_000
        assert await count(system) == 1

    scenario()


@in_memory
async def test_mail_whose_refusal_is_larger_than_any_record_does_not_hold_up_the_next(
    system: System,
) -> None:
    await system.start_node((Counter, ["C-1"]))
    with patch("aegis.actors._plain_command.check_id", return_value=None):  # Not all check it.
        await system.cluster.send("counter", "m" * 5_000_000, resource_id="C-1")
    strange = {"x" * 7_000_000: 1}
    stranger = await system.cluster.send("counter", "count", strange, resource_id="C-1")
    good = await system.cluster.send("counter", "count", resource_id="C-1")
    assert await system.cluster.result(good) == 1
    with pytest.raises(InvalidRequest, match="cut"):
        await system.cluster.result(stranger)


@in_memory
async def test_mail_too_large_for_a_dead_letter_does_not_hold_up_the_next(system: System) -> None:
    await system.start_node((Counter, ["C-1"]))
    junk = Append(
        system.subjects.mailbox("counter", "C-1"), b"\xc1" * system.transport.max_payload_bytes
    )
    assert isinstance(await system.transport.append(junk, timeout=5), Appended)
    good = await system.cluster.send("counter", "count", resource_id="C-1")
    assert await system.cluster.result(good) == 1
    ((_, letter),) = await office_of(system)._read("")
    assert (letter.payload, "too large to be kept" in letter.reason) == (b"", True)


@pytest.mark.parametrize("method", ["remind_by", "forget_by"])
def test_a_reminder_whose_name_is_no_unicode_is_refused_and_the_actor_goes_on(method: str) -> None:
    @in_memory
    async def scenario(system: System) -> None:
        await system.start_node((Counter, ["C-1"]))
        with pytest.raises(HandlerFailed, match="is no valid Unicode"):
            await system.cluster.call("counter", method, {"half": 0xD800}, resource_id="C-1")
        assert await count(system) == 1

    scenario()


@on_both
async def test_a_query_whose_answer_is_larger_than_a_message_is_answered_500(
    system: System,
) -> None:
    await system.start_node((Counter, ["C-1"]), Reciter)
    for service, resource in (("counter", "C-1"), ("reciter", None)):
        with pytest.raises(HandlerFailed, match="more than a message may have"):
            await system.cluster.call(service, "recite", {"size": HUGE}, resource_id=resource)


@in_memory
async def test_an_answer_that_can_go_nowhere_does_not_hold_up_those_behind_it(
    system: System,
) -> None:
    node = await system.start_node((Counter, ["C-1"]), instance_id="c")
    desk = node.dispatcher.desks["c"]
    set_fate(system, lambda hop: [1.0 if is_journal(hop, "acknowledgement") else 0.0])
    lost: Request = system.request("counter", "count", resource="C-1")
    # As it comes from the socket: the server lets any bytes through that are no space.
    node.dispatcher._on_message(desk, Message("", encode_request(lost), "no\u00a0subject"))
    await pass_time(0.5)
    behind: asyncio.Task[Any] = asyncio.ensure_future(count(system))
    assert await behind == 2
