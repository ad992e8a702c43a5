"""Deadlines and cancellation go along the chain of calls."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from aegis import AegisActor, Call, DeadlineExpired, OutcomeUnknown, Receipt, command, query
from aegis._node import Node
from aegis.actors._answers import WITHDRAW
from aegis.contracts import Kind
from aegis.transport._codec import encode_request
from tests.support.poll import wait_until
from tests.support.services import Vault
from tests.support.system import Backend, System, on_both


class Chain(AegisActor):
    """Asks itself along, and tells how it went."""

    service = "chain"
    entered: ClassVar[list[str]] = []
    ended: ClassVar[list[str]] = []
    gates: ClassVar[dict[str, asyncio.Event]] = {}

    async def _wait(self) -> None:
        name = self.resource_id or self.instance_id
        self.entered.append(name)
        how = "ended"
        try:
            await self.gates.setdefault(name, asyncio.Event()).wait()
        except asyncio.CancelledError:
            how = "cancelled"
            raise
        finally:
            self.ended.append(f"{name} {how}")

    @query
    async def wait(self) -> str:
        await self._wait()
        return "waited"

    @query
    async def wait_for(self, others: list[str]) -> str:
        if not others:
            await self._wait()
            return "waited"
        self.entered.append(self.resource_id or "")
        how = "ended"
        try:
            answer: str = await self.actor(Chain, others[0]).wait_for(others[1:])
        except BaseException as error:
            how = type(error).__name__
            raise
        else:
            return answer
        finally:
            self.ended.append(f"{self.resource_id} {how}")

    @command
    async def wait_in_command(self) -> str:
        await self._wait()
        return "waited"

    @query
    async def left(self) -> float:
        return self.time_left

    @query
    def left_in_a_thread(self) -> float:
        return self.time_left

    @query
    async def left_along(self, others: list[str], timeout: float | None = None) -> list[float]:
        mine = self.time_left
        if not others:
            return [mine]
        cluster = self.actor_cell.runtime.cluster
        rest = await cluster.actor(Chain, others[0], timeout=timeout).left_along(others[1:])
        return [mine, *rest]

    @query
    async def ask_too_late(self, other: str) -> str:
        envelope_end = self.time_left
        assert envelope_end > 0
        self.entered.append("asked")
        try:
            await self.gates.setdefault("asked", asyncio.Event()).wait()
        finally:
            try:
                await self.actor(Chain, other).left()
            except DeadlineExpired as error:
                self.ended.append(str(error))
        return "asked"

    @query
    async def go_on_too_late(self, how: str) -> None:
        self.entered.append(how)
        cluster = self.actor_cell.runtime.cluster
        receipt = Receipt("1-a-1", "chain", "B", 1)
        unknown = OutcomeUnknown(
            "lost", message_id="1-a-1", service="chain", resource_id="B", first_sent_ms=1
        )
        try:
            await self.gates.setdefault(how, asyncio.Event()).wait()
        finally:
            try:
                match how:
                    case "send":
                        await cluster.send("chain/B", "wait_in_command")
                    case "result":
                        await cluster.result(receipt)
                    case _:
                        await cluster.resolve(unknown)
            except DeadlineExpired as error:
                self.ended.append(str(error))

    @query
    async def numbers(self) -> AsyncIterator[int]:
        yield 1
        await self._wait()
        yield 2


@pytest.fixture(autouse=True)
def forget() -> None:
    Chain.entered, Chain.ended, Chain.gates = [], [], {}


def owner_of(node: Node, resource: str) -> Any:
    (desk,) = node.dispatcher.desks.values()
    return desk.resources[resource]


@on_both
async def test_a_handler_sees_how_much_time_is_left(system: System) -> None:
    await system.start_node((Chain, ["A"]), instance_id="one")
    chain = system.cluster.actor(Chain, "A", timeout=20)
    assert 0 < await chain.left() <= 20
    assert 0 < await chain.left_in_a_thread() <= 20
    assert 0 < await system.cluster.call("chain", "left", resource_id="A", timeout=7) <= 7
    assert 0 < await system.cluster.call("chain", "left", timeout=7) <= 7


async def test_a_call_without_a_deadline_has_all_the_time() -> None:
    ref = Chain.start()
    assert await ref.ask(Call("left")) == math.inf
    assert 0 < await ref.ask(Call("left"), timeout=9) <= 9
    await ref.stop()


@on_both
async def test_nested_queries_get_no_more_than_what_is_left(system: System) -> None:
    await system.start_node((Chain, ["A", "B"]), instance_id="one")
    await system.start_node((Chain, ["C", "D"]), instance_id="two")
    chain = system.cluster.actor(Chain, "A", timeout=9)
    here_and_there = await chain.left_along(["B", "C", "D"])
    assert here_and_there == sorted(here_and_there, reverse=True)
    assert 0 < here_and_there[-1] <= here_and_there[0] <= 9
    more = await chain.left_along(["C"], timeout=100)
    assert more[1] <= more[0] <= 9
    less = await chain.left_along(["C"], timeout=3)
    assert less[1] <= 3 < less[0]


@on_both
async def test_a_query_is_cancelled_when_its_deadline_passes(system: System) -> None:
    node = await system.start_node((Chain, ["A"]), instance_id="one")
    with pytest.raises(DeadlineExpired):
        await system.cluster.actor(Chain, "A", timeout=0.5).wait()
    await wait_until(lambda: Chain.ended == ["A cancelled"], what="the handler was cancelled")
    # No failure of the actor, which is there for the next.
    assert owner_of(node, "A").restarts == 0
    assert await system.cluster.actor(Chain, "A").left() > 0


@on_both
async def test_a_query_whose_caller_was_cancelled_is_cancelled(system: System) -> None:
    await system.start_node((Chain, ["A"]), instance_id="one")
    for call in (
        system.cluster.actor(Chain, "A").wait(),
        system.cluster.call("chain", "wait", resource_id="A"),
    ):
        Chain.entered, Chain.ended = [], []
        waiting = asyncio.ensure_future(call)
        await wait_until(lambda: Chain.entered == ["A"], what="the handler runs")
        waiting.cancel()
        await wait_until(lambda: Chain.ended == ["A cancelled"], what="it was cancelled")
    assert await system.cluster.actor(Chain, "A").left() > 0


@on_both
async def test_a_cancellation_goes_along_the_whole_chain(system: System) -> None:
    await system.start_node((Chain, ["A", "B"]), instance_id="one")
    await system.start_node((Chain, ["C"]), instance_id="two")
    call = asyncio.ensure_future(system.cluster.actor(Chain, "A").wait_for(["B", "C"]))
    await wait_until(lambda: Chain.entered == ["A", "B", "C"], what="all three run")
    call.cancel()
    await wait_until(lambda: len(Chain.ended) == 3, what="all three were cancelled")
    assert sorted(Chain.ended) == ["A CancelledError", "B CancelledError", "C cancelled"]


@on_both
async def test_a_query_that_still_waits_does_not_run_when_its_caller_gave_up(
    system: System,
) -> None:
    node = await system.start_node((Chain, ["A"]), instance_id="one")
    chain = system.cluster.actor(Chain, "A")
    first = asyncio.ensure_future(chain.wait_in_command())
    await wait_until(lambda: Chain.entered == ["A"], what="the command runs")
    second = asyncio.ensure_future(chain.wait())
    await wait_until(lambda: len(owner_of(node, "A").mailbox) == 1, what="the query waits")
    (envelope,) = owner_of(node, "A").mailbox.waiting()
    second.cancel()
    await wait_until(lambda: envelope.deadline == -math.inf, what="it was withdrawn")
    Chain.gates["A"].set()
    assert await first == "waited"
    assert await chain.left() > 0
    assert Chain.entered == ["A"]


@on_both
async def test_a_command_goes_on_when_its_caller_gave_up(system: System) -> None:
    await system.start_node((Chain, ["A"]), instance_id="one")
    chain = system.cluster.actor(Chain, "A")
    call = asyncio.ensure_future(chain.wait_in_command())
    await wait_until(lambda: Chain.entered == ["A"], what="the command runs")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    later = asyncio.ensure_future(chain.left())
    for _ in range(20):
        await asyncio.sleep(0)
    assert Chain.ended == []
    Chain.gates["A"].set()
    assert await later > 0
    assert Chain.ended == ["A ended"]
    assert len(await system.entries("chain", "A")) == 1


@on_both
async def test_a_notice_withdraws_the_queries_of_its_own_sender_alone(system: System) -> None:
    await system.start_node((Chain, ["A"]), instance_id="one")
    call = asyncio.ensure_future(system.cluster.actor(Chain, "A").wait())
    await wait_until(lambda: Chain.entered == ["A"], what="the query runs")
    for params in ({"of": list(range(100))}, {"of": 7}, {}):
        notice = system.request("chain", WITHDRAW, params, resource="A", kind=Kind.QUERY)
        system.transport.publish(
            system.subjects.instance("one"),
            encode_request(notice),
            reply_to=f"{system.transport.inbox_prefix}.call.m0",
        )
        system.transport.publish(system.subjects.instance("one"), encode_request(notice))
    await system.transport.flush()
    await system.transport.request(system.subjects.instance("one"), b"", timeout=10)
    assert Chain.ended == []
    Chain.gates["A"].set()
    assert await call == "waited"


@on_both
async def test_a_handler_whose_time_is_up_can_ask_nobody(system: System) -> None:
    await system.start_node((Chain, ["A", "B"]), instance_id="one")
    with pytest.raises(DeadlineExpired):
        await system.cluster.actor(Chain, "A", timeout=0.5).ask_too_late("B")
    await wait_until(lambda: bool(Chain.ended), what="it was told")
    assert "deadline of the call that it is made for" in Chain.ended[0]


@pytest.mark.parametrize("how", ["send", "result", "resolve"])
def test_a_handler_whose_time_is_up_can_neither_send_nor_ask_what_became_of_it(how: str) -> None:
    async def scenario(system: System) -> None:
        await system.start_node((Chain, ["A", "B"]), instance_id="one")
        with pytest.raises(DeadlineExpired):
            await system.cluster.actor(Chain, "A", timeout=0.5).go_on_too_late(how)
        await wait_until(lambda: bool(Chain.ended), what="it was told")
        assert "deadline of the call that it is made for" in Chain.ended[0]
        assert await system.entries("chain", "B") == []

    Backend(None).run(scenario)


@on_both
async def test_what_is_told_has_a_deadline_of_its_own(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), instance_id="one")
    ref = system.cluster.ref(Vault, "V-1")
    ref.tell(Call("deposit", {"amount": 1}))

    async def is_there() -> bool:
        return await system.cluster.actor(Vault, "V-1").total() == 1

    await wait_until(is_there, what="it took effect")


@on_both
async def test_an_iteration_that_was_left_cancels_the_step_under_way(system: System) -> None:
    await system.start_node((Chain, ["A"]), instance_id="one")
    chain = system.cluster.actor(Chain, "A")
    stream = chain.numbers()
    assert await anext(stream) == 1
    await wait_until(lambda: Chain.entered == ["A"], what="the generator waits")
    await stream.aclose()
    await wait_until(lambda: Chain.ended == ["A cancelled"], what="it was cancelled")
    assert await chain.left() > 0
