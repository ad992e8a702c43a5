"""Probes: what actors send, publish and answer, recorded and expected."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from aegis import (
    AegisActor,
    Answer,
    ConfigurationError,
    HandlerFailed,
    InvalidRequest,
    OutcomeUnknown,
    Rejected,
    command,
    query,
)
from aegis.testing import MemoryCluster, Step, in_virtual_time


class Risk(AegisActor):
    """Somebody else's service."""

    service = "risk"

    @query
    async def limit(self, account: str) -> Decimal:
        raise NotImplementedError

    @command
    async def reserve(self, amount: Decimal) -> Decimal:
        raise NotImplementedError


class Desk(AegisActor):
    """Asks risk, sends to it, and tells everybody."""

    service = "desk"

    @query
    async def ask(self) -> Decimal:
        return Decimal(await self.actor(Risk, "R-1").limit(account="A"))

    @command
    async def trade(self, amount: Decimal) -> str:
        if amount > 100:
            raise Rejected("too much")
        self.send(Risk, "R-1", "reserve", amount=amount, reply_to="reserved")
        self.publish("desk.trades", amount)
        return "sent"

    @command
    async def reserved(self, answer: Answer) -> None:
        self.publish("desk.reserved", answer.ok)

    @command
    async def trade_later(self) -> None:
        self.remind("later", "trade", after=100.0, amount=Decimal(9))


async def desk(memory: MemoryCluster) -> Desk:
    await memory.start_node((Desk, ["D"]), instance_id="d-1")
    await memory.start_node((Desk, ["D"]), instance_id="d-2", role="standby")
    return memory.cluster.actor(Desk, "D")


@in_virtual_time
async def test_a_fake_service_records_what_it_gets_and_answers_as_told() -> None:
    async with MemoryCluster() as memory:
        risk = await memory.fake(Risk, "R-1")

        def limit(account: str) -> Decimal:
            return Decimal(len(account) * 5)

        risk.answers("limit", limit)
        proxy = await desk(memory)
        assert await proxy.ask() == Decimal(5)
        await proxy.trade(Decimal(7))
        reserved = await risk.expect("reserve", amount=Decimal(7))
        assert (reserved.address, reserved.message_id) == ("risk/R-1", "desk/D-1")
        assert [message.name for message in risk.messages] == ["limit", "reserve"]
        risk.clear()
        assert risk.messages == []


@in_virtual_time
async def test_a_fake_service_refuses_fails_and_hangs() -> None:
    async with MemoryCluster(timeout=2.0) as memory:
        risk = await memory.fake(Risk, "R-1")
        proxy = memory.cluster.actor(Risk, "R-1")
        risk.rejects("reserve", "no cash", free="0")
        with pytest.raises(Rejected, match="no cash") as refused:
            await proxy.reserve(Decimal(1))
        assert refused.value.facts["free"] == "0"
        risk.fails("reserve")
        with pytest.raises(HandlerFailed, match="fake risk fails in reserve"):
            await proxy.reserve(Decimal(1))
        risk.answers("reserve", "not a number")
        with pytest.raises(HandlerFailed, match="returned str"):
            await proxy.reserve(Decimal(1))
        with pytest.raises(InvalidRequest, match="amount"):
            await memory.cluster.call("risk", "reserve", {"amount": []}, resource_id="R-1")
        risk.hangs("reserve")
        with pytest.raises(OutcomeUnknown):
            await proxy.reserve(Decimal(1))
        with pytest.raises(ConfigurationError, match="no method 'reverse'; it has limit, reserve"):
            risk.answers("reverse", 1)


@in_virtual_time
async def test_a_fake_of_a_mere_name_takes_any_command() -> None:
    async with MemoryCluster() as memory:
        clearing = await memory.fake("clearing", "C-1", queries=["open"])

        async def settle(trade: str) -> list[str]:
            return [trade]

        clearing.answers("settle", settle)
        clearing.answers("open", 3)
        call = memory.cluster.call
        assert await call("clearing", "settle", {"trade": "T"}, resource_id="C-1") == ["T"]
        assert await call("clearing", "open", resource_id="C-1") == 3
        assert await call("clearing", "whatever", {"x": 1}, resource_id="C-1") is None
        await clearing.expect("whatever", x=1)


@in_virtual_time
async def test_topics_are_recorded_by_pattern() -> None:
    async with MemoryCluster() as memory:
        topics = await memory.record_topic("desk.*")
        await memory.fake(Risk, "R-1")
        proxy = await desk(memory)
        await proxy.trade(Decimal(7))
        await topics.expect("desk.trades", value="7")
        await topics.expect("desk.reserved", value=False)  # the fake's None is no Decimal
        await topics.expect_nothing()
        with pytest.raises(ConfigurationError, match="topic"):
            await memory.record_topic("")


@in_virtual_time
async def test_answers_and_messages_of_an_actor_are_recorded_once_whatever_is_run_again() -> None:
    async with MemoryCluster() as memory:
        proxy = await desk(memory)
        recorder = memory.record(Desk, "D")
        with memory.crash_at(Step.BEFORE_APPEND, Desk, "D"):
            await proxy.trade(Decimal(7))
        with pytest.raises(Rejected):
            await proxy.trade(Decimal(101))
        await proxy.trade_later()
        await memory.advance(101.0)
        assert [(one.name, one.status, one.value) for one in recorder.answered.messages] == [
            ("trade", 200, "sent"),
            ("trade", 422, None),
            ("trade_later", 200, None),
            ("trade", 200, "sent"),
        ]
        assert [one.params["amount"] for one in recorder.sent.messages] == ["7", "9"]
        await recorder.sent.expect("reserve", amount="9")
        assert (await recorder.answered.expect("trade", amount=Decimal(101))).error == "too much"


@in_virtual_time
async def test_an_expectation_waits_in_virtual_time_and_each_message_meets_one() -> None:
    async with MemoryCluster() as memory:
        risk = await memory.fake(Risk, "R-1")
        proxy = await desk(memory)
        await proxy.trade_later()
        began = memory.now
        await risk.expect("reserve", within=200.0)
        assert memory.now - began == pytest.approx(100.0, abs=0.1)
        await risk.expect_nothing("reserve")
        later = asyncio.ensure_future(risk.expect("reserve", amount=Decimal(3)))
        await proxy.trade(Decimal(2))
        await proxy.trade(Decimal(3))
        assert (await later).params == {"amount": Decimal(3)}
        with pytest.raises(AssertionError, match=r"reserve\(amount=Decimal\('2'\)\) to risk/R-1"):
            await risk.expect_nothing("reserve", within=0.0)


@in_virtual_time
async def test_a_failed_expectation_says_what_came_instead() -> None:
    async with MemoryCluster() as memory:
        risk = await memory.fake(Risk, "R-1")
        with pytest.raises(AssertionError, match="the fake risk: not within 2 s: a message"):
            await risk.expect(within=2.0)
        risk.answers("limit", Decimal(1))
        proxy = memory.cluster.actor(Risk, "R-1")
        await proxy.limit(account="A")
        for amount in range(3):
            risk.answers("reserve", Decimal(1))
            await proxy.reserve(Decimal(amount))
        await risk.expect("reserve", amount=Decimal(0))
        with pytest.raises(AssertionError) as failed:
            await risk.expect("reserve", amount=Decimal(0), other=1)
        assert str(failed.value).splitlines() == [
            "the fake risk: not within 5 s: reserve(amount=Decimal('0'), other=1)",
            "what came:",
            "  limit(account='A') to risk/R-1: is no reserve",
            "  reserve(amount=Decimal('0')) to risk/R-1: has no other",
            "  reserve(amount=Decimal('1')) to risk/R-1: amount is Decimal('1'), not Decimal('0')",
            "  reserve(amount=Decimal('2')) to risk/R-1: amount is Decimal('2'), not Decimal('0')",
        ]
        with pytest.raises(AssertionError, match="expected before"):
            await risk.expect("reserve", amount=Decimal(0))
