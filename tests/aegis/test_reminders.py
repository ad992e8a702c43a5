"""Reminders: commands that a resource gives itself at a time, with their effect exactly once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import pytest
from attrs import define, field

from aegis import AegisActor, HandlerFailed, Rejected, command, query
from tests.support.poll import wait_until
from tests.support.system import Backend, System, on_both
from tests.support.virtual import pass_time


@define
class ClockworkState:
    """What has come, and how late in seconds."""

    came: list[str] = field(factory=list[str])
    late: list[float] = field(factory=list[float])
    ids: list[str] = field(factory=list[str])


class Clockwork(AegisActor):
    """Sets reminders, and notes those that come."""

    service = "clockwork"
    state: ClockworkState

    @command
    async def after(
        self,
        name: str,
        seconds: float | None = None,
        every: float | None = None,
        missed: Literal["run", "skip"] = "run",
        fail: bool = False,
        method: str = "came",
    ) -> None:
        self.remind(name, method, after=seconds, every=every, missed=missed, line=name)
        if fail:
            raise Rejected("changed its mind")

    @command
    async def at(self, name: str, when: datetime) -> None:
        self.remind(name, "came", at=when, line=name)

    @command
    async def by_cron(self, name: str, text: str, tz: str | None = None) -> None:
        self.remind(name, "came", every=text, tz=tz, line=name)

    @command
    async def since(self, name: str, when: datetime, missed: Literal["run", "skip"]) -> None:
        self.remind(name, "came", at=when, every=60, missed=missed, line=name)

    @command
    async def drop(self, name: str) -> None:
        self.forget(name)

    @command
    async def came(self, line: str) -> None:
        if line == "refused":
            raise Rejected("not now")
        self.state.came.append(line)
        self.state.late.append(self.late_seconds)
        self.state.ids.append(self.message_id)
        if line.startswith("again") and len(self.state.came) < 3:
            self.remind(line, "came", after=0.1, line=line)

    @query
    async def whole(self) -> ClockworkState:
        return self.state


async def came(system: System, count: int) -> ClockworkState:
    """Wait until ``count`` reminders have come; return the state."""
    proxy = system.cluster.actor(Clockwork, "C-1")

    async def is_there() -> bool:
        return len((await proxy.whole()).came) >= count

    await wait_until(is_there, what=f"{count} reminders have come", timeout=30)
    return await proxy.whole()


@on_both
async def test_reminders_come_in_the_order_of_their_times(system: System) -> None:
    await system.start_node((Clockwork, ["C-1"]))
    proxy = system.cluster.actor(Clockwork, "C-1")
    await proxy.after("b", 0.4)
    await proxy.after("a", 0.2)
    await proxy.after("dropped", 0.3)
    with pytest.raises(Rejected):
        await proxy.after("never", 0.1, fail=True)
    await proxy.at("past", datetime.fromtimestamp(system.clock.wall_ms() / 1000 - 5, UTC))
    await proxy.drop("dropped")
    await proxy.after("c", 0.6)
    state = await came(system, 4)
    assert state.came == ["past", "a", "b", "c"]
    assert all(late >= 0 for late in state.late)
    assert len(set(state.ids)) == 4


@on_both
async def test_a_reminder_comes_once_after_the_whole_system_was_down(system: System) -> None:
    node = await system.start_node((Clockwork, ["C-1"]), instance_id="c")
    proxy = system.cluster.actor(Clockwork, "C-1")
    await proxy.after("a", 0.1, missed="run")
    await proxy.after("gone", 0.1, missed="skip")
    await system.kill_node(node)
    down = 3.0
    if system.is_virtual:
        await pass_time(down)
    else:
        began = system.clock.boot_seconds()
        await wait_until(lambda: system.clock.boot_seconds() - began > down, what="time passes")
    await system.start_node((Clockwork, ["C-1"]), instance_id="c")
    state = await came(system, 1)
    await proxy.after("b", 0.1)
    state = await came(system, 2)
    assert state.came == ["a", "b"]
    assert state.late[0] > 1
    assert state.late[1] < 1


@on_both
async def test_a_reminder_may_repeat_and_set_others(system: System) -> None:
    await system.start_node((Clockwork, ["C-1"]))
    proxy = system.cluster.actor(Clockwork, "C-1")
    await proxy.after("again", 0.05)
    assert (await came(system, 3)).came == ["again"] * 3
    await proxy.after("tick", every=0.1)
    await came(system, 6)
    await proxy.drop("tick")
    before = len((await proxy.whole()).came)
    await proxy.after("last", 0.5)
    state = await came(system, before + 1)
    assert state.came[before:] == ["last"]


@on_both
async def test_a_reminder_that_is_refused_is_over(system: System) -> None:
    await system.start_node((Clockwork, ["C-1"]))
    proxy = system.cluster.actor(Clockwork, "C-1")
    await proxy.after("refused", 0.05)
    await proxy.after("b", 0.3)
    assert (await came(system, 1)).came == ["b"]


@on_both
async def test_wrong_reminders_are_refused_in_the_command(system: System) -> None:
    await system.start_node((Clockwork, ["C-1"]))
    for arguments, text in (
        ({"name": "a"}, "after"),
        ({"name": "a", "seconds": -1.0}, "negative"),
        ({"name": "a", "every": 0.0}, "every"),
        ({"name": "", "seconds": 1.0}, "name"),
        ({"name": "a", "seconds": 1.0, "method": "nothing"}, "nothing"),
        ({"name": "a", "seconds": 1.0, "method": "whole"}, "query"),
        ({"name": "a", "seconds": 1.0, "method": "drop"}, "line: is unknown"),
    ):
        with pytest.raises(HandlerFailed, match=text):
            await system.cluster.call("clockwork", "after", arguments, resource_id="C-1")


def test_a_cron_text_brings_it_at_its_times_also_after_a_failover() -> None:
    async def scenario(system: System) -> None:
        node = await system.start_node((Clockwork, ["C-1"]), instance_id="c")
        proxy = system.cluster.actor(Clockwork, "C-1")
        await proxy.by_cron("often", "*/2 * * * *", "Asia/Shanghai")
        minutes: list[int] = []
        for _ in range(3):
            while len((await proxy.whole()).came) == len(minutes):
                await pass_time(5)
            minutes.append(system.clock.wall_ms() // 60_000)
            await system.kill_node(node)
            node = await system.start_node((Clockwork, ["C-1"]), instance_id="c")
        assert [minute % 2 for minute in minutes] == [0, 0, 0]
        assert [minute - minutes[0] for minute in minutes] == [0, 2, 4]
        assert max((await proxy.whole()).late) < 1

    Backend(None).run(scenario)


def test_one_whose_first_time_is_past_comes_at_once_or_not_for_that_time() -> None:
    async def scenario(system: System) -> None:
        await system.start_node((Clockwork, ["C-1"]))
        proxy = system.cluster.actor(Clockwork, "C-1")
        past = datetime.fromtimestamp(system.clock.wall_ms() / 1000 - 90, UTC)
        await proxy.since("run", past, "run")
        await proxy.since("skip", past, "skip")
        await pass_time(5)
        state = await proxy.whole()
        assert (state.came, [round(late) for late in state.late]) == (["run"], [90])
        await pass_time(30)
        state = await proxy.whole()
        assert sorted(state.came) == ["run", "run", "skip"]

    Backend(None).run(scenario)


def test_a_wrong_time_fails_the_command_and_says_which_field() -> None:
    async def scenario(system: System) -> None:
        await system.start_node((Clockwork, ["C-1"]))
        proxy = system.cluster.actor(Clockwork, "C-1")
        with pytest.raises(HandlerFailed, match=r"every: '0 25 \* \* \*' .* \(Bad hour\)"):
            await proxy.by_cron("a", "0 25 * * *")
        with pytest.raises(HandlerFailed, match="tz: there is no time zone 'Nowhere'"):
            await proxy.by_cron("a", "0 9 * * *", "Nowhere")
        assert (await system.entries("clockwork", "C-1"))[-1].reminders is None

    Backend(None).run(scenario)
