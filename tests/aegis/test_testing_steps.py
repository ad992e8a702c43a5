"""Failover at a chosen step: the owner dies exactly there, and the test goes on."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from attrs import define, field

from aegis import AegisActor, ConfigurationError, OutcomeUnknown, Rejected, command, query
from aegis.testing import MemoryCluster, NodeKilled, Step, in_virtual_time
from tests.support.mail_services import Purse
from tests.support.virtual import pass_time

OF_COMMANDS = (
    Step.BEFORE_HANDLER,
    Step.BEFORE_APPEND,
    Step.AFTER_APPEND,
    Step.BEFORE_ANSWER,
)


@define
class TillState:
    """What is in it, and which commands it was put in by."""

    cash: int = 0
    ids: list[str] = field(factory=list[str])


class Till(AegisActor):
    """Counts money; notes outside of itself how often it has run."""

    service = "till"
    state: TillState

    @command
    async def put_in(self, amount: int) -> int:
        ran.append(f"put_in {amount}")
        try:
            if amount < 0:
                raise Rejected("no debts")
            self.state.cash += amount
            self.state.ids.append(self.message_id)
            return self.state.cash
        finally:
            left.append(f"put_in {amount}")

    @command
    def put_in_thread(self, amount: int) -> int:
        ran.append(f"put_in_thread {amount}")
        self.state.cash += amount
        return self.state.cash

    @command
    async def double_later(self, seconds: float) -> None:
        self.remind("double", "double", after=seconds)

    @command
    async def double(self) -> None:
        ran.append("double")
        self.state.cash *= 2

    @command
    async def linger(self, seconds: float) -> None:
        try:
            await pass_time(seconds)
        finally:
            left.append("linger")

    @query
    async def cash(self) -> int:
        return self.state.cash


ran: list[str] = []
left: list[str] = []


@pytest.fixture(autouse=True)
def _clear() -> None:
    ran.clear()
    left.clear()


async def tills(memory: MemoryCluster, standbys: int = 1) -> Till:
    """Start an owner and standbys of a till; return a proxy of it."""
    await memory.start_node((Till, ["T"]), instance_id="t-0")
    for number in range(standbys):
        await memory.start_node((Till, ["T"]), instance_id=f"t-{number + 1}", role="standby")
    return memory.cluster.actor(Till, "T")


@pytest.mark.parametrize("step", OF_COMMANDS)
@in_virtual_time
async def test_a_command_takes_effect_once_whichever_step_its_owner_dies_at(step: Step) -> None:
    async with MemoryCluster() as memory:
        till = await tills(memory)
        assert await till.put_in(1) == 1
        before = memory.owner_of(Till, "T")
        with memory.crash_at(step, Till, "T", "put_in") as crash:
            assert await till.put_in(2) == 3
        assert crash.happened
        assert crash.node_id == before.node_id
        assert before not in memory.nodes
        assert memory.owner_of(Till, "T") is not before
        assert await till.cash() == 3
        again = {Step.BEFORE_HANDLER: 1, Step.BEFORE_APPEND: 2}.get(step, 1)
        assert ran == ["put_in 1"] + ["put_in 2"] * again


@pytest.mark.parametrize("step", [Step.BEFORE_HANDLER, Step.BEFORE_APPEND])
@in_virtual_time
async def test_a_command_of_a_thread_takes_effect_once_too(step: Step) -> None:
    async with MemoryCluster() as memory:
        till = await tills(memory)
        with memory.crash_at(step, Till, "T"):
            assert await till.put_in_thread(2) == 2
        assert await till.cash() == 2


@pytest.mark.parametrize("step", [Step.BEFORE_HANDLER, Step.BEFORE_APPEND, Step.AFTER_APPEND])
@in_virtual_time
async def test_a_reminder_at_which_its_owner_dies_comes_once(step: Step) -> None:
    async with MemoryCluster() as memory:
        till = await tills(memory)
        await till.put_in(5)
        await till.double_later(60.0)
        with memory.crash_at(step, Till, "T", "double"):
            await memory.advance(70.0)
        assert await till.cash() == 10


@pytest.mark.parametrize("step", [Step.BEFORE_HANDLER, Step.BEFORE_APPEND, Step.AFTER_APPEND])
@in_virtual_time
async def test_a_durable_message_at_which_its_owner_dies_takes_effect_once(step: Step) -> None:
    async with MemoryCluster() as memory:
        till = await tills(memory)
        with memory.crash_at(step, "till", "T"):
            receipt = await memory.cluster.send(Till, "put_in", {"amount": 4}, resource_id="T")
            assert await memory.cluster.result(receipt) == 4
        assert await till.cash() == 4


@pytest.mark.parametrize("step", [Step.BEFORE_FENCE, Step.AFTER_FENCE])
@in_virtual_time
async def test_a_promotion_in_whose_middle_the_new_owner_dies_is_followed_by_another(
    step: Step,
) -> None:
    async with MemoryCluster() as memory:
        till = await tills(memory, standbys=2)
        await till.put_in(1)
        first = await memory.kill_owner(Till, "T")
        with memory.crash_at(step, Till, "T") as crash:
            assert await till.put_in(2) == 3
        assert crash.node_id not in ("", first.node_id)
        assert memory.owner_of(Till, "T").node_id not in (crash.node_id, first.node_id)


@pytest.mark.parametrize("step", [Step.BEFORE_FORWARD, Step.AFTER_FORWARD])
@in_virtual_time
async def test_a_message_that_its_sender_dies_with_arrives_once(step: Step) -> None:
    async with MemoryCluster() as memory:
        await memory.start_node((Purse, ["P-1"]), instance_id="p-1")
        await memory.start_node((Purse, ["P-1"]), instance_id="p-2", role="standby")
        await memory.start_node((Purse, ["P-2"]), instance_id="p-3")
        first, second = (memory.cluster.actor(Purse, name) for name in ("P-1", "P-2"))
        await first.put_in(Decimal(50))
        with memory.crash_at(step, Purse, "P-1", "take"):
            await first.pay("P-2", Decimal(7))
            await memory.advance(5.0)
        assert (await second.whole()).cash == Decimal(7)
        state = await first.whole()
        assert (state.cash, state.on_its_way, len(state.answers)) == (Decimal(43), {}, 1)


@in_virtual_time
async def test_the_crash_can_wait_for_a_later_command_or_one_of_a_name() -> None:
    async with MemoryCluster() as memory:
        till = await tills(memory)
        crash = memory.crash_at(Step.AFTER_APPEND, Till, "T", nth=3)
        for amount in (1, 2):
            await till.put_in(amount)
            assert not crash.happened
        await till.put_in(3)
        assert crash.node_id == "node-1"
        named = memory.crash_at(Step.BEFORE_HANDLER, Till, "T", "double")
        await memory.start_node((Till, ["T"]), instance_id="again", role="standby")
        await till.put_in(1)
        assert not named.happened
        await till.double()
        assert named.node_id == "node-2"
        assert await till.cash() == 14


@in_virtual_time
async def test_a_crash_with_no_standby_left_is_recovered_from_by_a_new_node() -> None:
    async with MemoryCluster() as memory:
        till = await tills(memory, standbys=0)
        with memory.crash_at(Step.AFTER_APPEND, Till, "T"), pytest.raises(OutcomeUnknown):
            await till.put_in(5)
        await memory.start_node((Till, ["T"]), instance_id="t-0")
        assert await till.cash() == 5


@in_virtual_time
async def test_a_step_that_is_not_reached_fails_the_block_and_says_what_came() -> None:
    async with MemoryCluster() as memory:
        till = await tills(memory)

        async def double() -> None:
            with memory.crash_at(Step.BEFORE_APPEND, Till, "T", "put_in"):
                await till.double()

        async def put_in_twice() -> None:
            with memory.crash_at(Step.BEFORE_APPEND, Till, "T", nth=3):
                await till.put_in(1)
                await till.put_in(1)

        async def send() -> None:
            with memory.crash_at(Step.BEFORE_ANSWER, Till, "T"):
                await memory.cluster.send(Till, "put_in", {"amount": 4}, resource_id="T")
                await memory.advance(1.0)

        with pytest.raises(AssertionError, match=r"'before the append' of put_in.*nothing"):
            await double()
        with pytest.raises(AssertionError, match=r"for the 3th time; what .*: put_in, put_in"):
            await put_in_twice()
        with pytest.raises(AssertionError, match="put_in ran, but no caller elsewhere waited"):
            await send()
        assert len(memory.nodes) == 2
        await till.put_in(1)  # what waits no more strikes no more
        assert len(memory.nodes) == 2


@in_virtual_time
async def test_what_fails_in_the_block_is_told_and_not_the_step() -> None:
    async with MemoryCluster() as memory:
        await tills(memory)
        with pytest.raises(ZeroDivisionError), memory.crash_at(Step.BEFORE_APPEND, Till, "T"):
            _ = 1 / 0


@in_virtual_time
async def test_a_killed_node_does_not_even_clean_up() -> None:
    async with MemoryCluster(timeout=30.0) as memory:
        till = await tills(memory)
        lingering = asyncio.ensure_future(till.linger(5.0))
        await memory.advance(1.0)
        await memory.kill_owner(Till, "T")
        await memory.advance(2.0)
        assert left == []  # of the first owner; the second has begun anew
        await lingering
        assert left == ["linger"]


@in_virtual_time
async def test_a_node_that_dies_while_it_starts_says_so() -> None:
    async with MemoryCluster() as memory:
        await memory.start_node()
        memory.crash_at(Step.AFTER_FENCE, Till, "T")
        with pytest.raises(NodeKilled, match="node-2"):
            await memory.start_node((Till, ["T"]))
        await memory.start_node((Till, ["T"]), role="standby")
        assert await memory.cluster.actor(Till, "T").put_in(1) == 1


@in_virtual_time
async def test_wrong_steps_and_commands_are_refused() -> None:
    async with MemoryCluster() as memory:
        with pytest.raises(ConfigurationError, match="no command 'cash'; it has double"):
            memory.crash_at(Step.BEFORE_APPEND, Till, "T", "cash")
        with pytest.raises(ValueError, match="somewhere"):
            memory.crash_at("somewhere", Till, "T")
        with pytest.raises(ValueError, match="from 1"):
            memory.crash_at(Step.BEFORE_APPEND, Till, "T", nth=0)
        with pytest.raises(LookupError, match="nobody owns till/T"):
            memory.owner_of(Till, "T")
        node = await memory.start_node()
        await memory.stop_node(node)
        with pytest.raises(ValueError, match="does not run"):
            memory.freeze_node(node)
