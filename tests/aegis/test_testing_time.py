"""Virtual time of `aegis.testing`: what is due comes in its order, and long waits are short."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from attrs import define, field

from aegis import AegisActor, OutcomeUnknown, command, query
from aegis.testing import Deadlock, MemoryCluster, in_virtual_time, run
from tests.support.virtual import pass_time

DAY = 24 * 3600.0


@define
class Pages:
    """What came when, in seconds since the first command."""

    began_ms: int = 0
    came: list[tuple[str, float]] = field(factory=list[tuple[str, float]])


class Diary(AegisActor):
    """Notes when its reminders come, by the wall clock that it is told."""

    service = "diary"
    state: Pages

    @command
    async def remind_me(self, name: str, after: float, every: float | None = None) -> None:
        self.remind(name, "came", after=after, every=every, name=name)

    @command
    async def came(self, name: str) -> None:
        self.state.came.append((name, self.late_seconds))

    @command
    async def at(self, when: datetime) -> None:
        self.remind("at", "came", at=when, name="at")

    @command
    async def linger(self, seconds: float) -> str:
        await pass_time(seconds)
        return "done"

    @command
    def block(self) -> str:
        return "unblocked"

    @query
    async def pages(self) -> Pages:
        return self.state


async def came(memory: MemoryCluster) -> list[str]:
    return [name for name, _ in (await memory.cluster.actor(Diary, "D").pages()).came]


@in_virtual_time
async def test_reminders_come_when_time_is_advanced_to_them_and_not_before() -> None:
    async with MemoryCluster() as memory:
        await memory.start_node((Diary, ["D"]))
        diary = memory.cluster.actor(Diary, "D")
        await diary.remind_me("b", 20.0)
        await diary.remind_me("a", 10.0)
        await memory.advance(9.9)
        assert await came(memory) == []
        await memory.advance(0.1)
        assert await came(memory) == ["a"]
        await memory.advance(10.0)
        assert await came(memory) == ["a", "b"]


@in_virtual_time
async def test_a_month_of_daily_reminders_comes_in_its_order_each_in_time() -> None:
    async with MemoryCluster() as memory:
        await memory.start_node((Diary, ["D"]))
        await memory.start_node((Diary, ["D"]), role="standby")
        diary = memory.cluster.actor(Diary, "D")
        await diary.remind_me("daily", DAY, every=DAY)
        await diary.remind_me("weekly", 7 * DAY + 60, every=7 * DAY)
        began, wall = memory.now, memory.clock.wall_ms()
        await memory.advance(30 * DAY + 1)
        assert memory.now - began == pytest.approx(30 * DAY + 1)
        assert memory.clock.wall_ms() - wall == pytest.approx((30 * DAY + 1) * 1000, abs=2)
        pages = await diary.pages()
        expected: list[str] = []
        for day in range(1, 31):
            expected.append("daily")
            expected += ["weekly"] if day % 7 == 0 else []
        assert [name for name, _ in pages.came] == expected
        assert max(late for _, late in pages.came) < 0.01


@in_virtual_time
async def test_a_reminder_at_a_time_of_day_is_reached_by_the_cluster_s_own_clock() -> None:
    async with MemoryCluster() as memory:
        await memory.start_node((Diary, ["D"]))
        noon = datetime.fromtimestamp(memory.clock.wall_ms() / 1000, UTC) + timedelta(days=400)
        await memory.cluster.actor(Diary, "D").at(noon)
        await memory.advance(400 * DAY - 5)
        assert await came(memory) == []
        await memory.advance(5)
        assert await came(memory) == ["at"]


@in_virtual_time
async def test_deadlines_pass_while_time_is_advanced() -> None:
    async with MemoryCluster(timeout=30.0) as memory:
        await memory.start_node((Diary, ["D"]))
        diary = memory.cluster.actor(Diary, "D")
        short = asyncio.ensure_future(memory.cluster.actor(Diary, "D", timeout=2.0).linger(10.0))
        long = asyncio.ensure_future(diary.linger(3.0))
        await memory.advance(1.9)
        assert not short.done()
        await memory.advance(0.2)
        with pytest.raises(OutcomeUnknown):
            short.result()
        await memory.advance(10.8)
        assert not long.done()  # it waited for the first one, which goes on
        await memory.advance(0.2)
        assert long.result() == "done"


@in_virtual_time
async def test_a_frozen_owner_loses_its_lease_and_is_replaced_within_the_time_advanced() -> None:
    async with MemoryCluster() as memory:
        first = await memory.start_node((Diary, ["D"]), instance_id="d-1")
        second = await memory.start_node((Diary, ["D"]), instance_id="d-2", role="standby")
        assert memory.owner_of(Diary, "D") is first
        memory.freeze_node(first)
        await memory.advance(3600.0)
        assert memory.owner_of("diary", "D") is second
        memory.resume_node(first)
        await memory.advance(5.0)
        assert memory.owner_of(Diary, "D") is second
        behaviour = memory.behaviour(first, "diary", "D")
        assert behaviour is not None
        assert behaviour.is_standby


@in_virtual_time
async def test_a_wait_of_the_test_itself_ends_in_its_order_while_time_is_advanced() -> None:
    async with MemoryCluster() as memory:
        await memory.start_node((Diary, ["D"]))
        diary = memory.cluster.actor(Diary, "D")
        await diary.remind_me("a", 2 * DAY)

        async def later() -> list[str]:
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(3 * DAY, woken.set_result, None)
            await woken
            return await came(memory)

        task = asyncio.ensure_future(later())
        await memory.advance(2 * DAY)
        assert not task.done()
        await memory.advance(5 * DAY)
        assert task.result() == ["a"]


@in_virtual_time
async def test_blocking_handlers_hold_the_time_until_they_are_done() -> None:
    async with MemoryCluster() as memory:
        await memory.start_node((Diary, ["D"]))
        calls = [asyncio.ensure_future(memory.cluster.actor(Diary, "D").block()) for _ in range(3)]
        await memory.advance(0.0)
        assert [call.result() for call in calls] == ["unblocked"] * 3


@in_virtual_time
async def test_a_condition_is_waited_for_and_named_if_it_never_holds() -> None:
    async with MemoryCluster() as memory:
        await memory.start_node((Diary, ["D"]))
        await memory.cluster.actor(Diary, "D").remind_me("a", 7.0)
        began = memory.now

        async def is_there() -> bool:
            return bool(await came(memory))

        await memory.eventually(is_there)
        assert memory.now - began == pytest.approx(7.0, abs=0.1)
        with pytest.raises(AssertionError, match="not within 2 s: pigs fly"):
            await memory.eventually(lambda: False, within=2.0, what="pigs fly")


def test_the_same_test_does_the_same_at_the_same_times_whenever_it_runs() -> None:
    async def scenario() -> list[tuple[float, str]]:
        seen: list[tuple[float, str]] = []
        async with MemoryCluster() as memory:

            def note(source: str, subject: str, _sequence: int, _payload: bytes) -> None:
                seen.append((memory.now, f"{source} {subject}"))

            memory.broker.watchers.append(note)
            await memory.start_node((Diary, ["D"]))
            await memory.start_node((Diary, ["D"]), role="standby", instance_id="other")
            await memory.cluster.actor(Diary, "D").remind_me("a", 100.0, every=100.0)
            await memory.advance(1000.0)
            await memory.kill_owner(Diary, "D")
            await memory.advance(100.0)
            assert len(await came(memory)) == 11
        return [one for one in seen if ".journal." in one[1]]

    assert run(scenario()) == run(scenario())


def test_time_is_advanced_only_where_it_is_virtual() -> None:
    async def scenario() -> None:
        async with MemoryCluster() as memory:
            with pytest.raises(RuntimeError, match="in_virtual_time"):
                await memory.advance(1.0)
            with pytest.raises(RuntimeError, match="in_virtual_time"):
                memory.crash_at("before the append", Diary, "D")
            node = await memory.start_node((Diary, ["D"]))
            with pytest.raises(RuntimeError, match="in_virtual_time"):
                memory.freeze_node(node)

    asyncio.run(scenario())


@in_virtual_time
async def test_time_does_not_go_back() -> None:
    async with MemoryCluster() as memory:
        with pytest.raises(ValueError, match="negative"):
            await memory.advance(-1.0)


@pytest.mark.parametrize("number", [1, 2])
@in_virtual_time
async def test_fixtures_and_parameters_come_to_a_test_in_virtual_time(
    number: int, tmp_path: object
) -> None:
    assert number in (1, 2)
    assert tmp_path is not None
    assert asyncio.get_running_loop().time() >= 1000.0


def test_only_async_tests_can_be_put_into_virtual_time() -> None:
    with pytest.raises(TypeError, match="async def"):
        in_virtual_time(lambda: None)  # type: ignore[arg-type,return-value]


def test_a_test_that_waits_for_nothing_ends() -> None:
    async def scenario() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aegis.transport._virtual_loop.STALL_SECONDS", 0.01)
        with pytest.raises(Deadlock):
            run(scenario())
