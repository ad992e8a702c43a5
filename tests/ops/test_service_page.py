"""The page of a service: what its viewers are told, over a system in memory and virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from aegis import AdminPage, AegisActor, Rejected, Unavailable, query
from aegis.ops import _page_sampler
from aegis.ops._live_stream import LiveStream
from aegis.ops._page_sampler import PageSampler
from aegis.ops._page_state import MAX_SAMPLES, PageInstance, PageState
from tests.support.poll import wait_until
from tests.support.system import Backend, System
from tests.support.virtual import pass_time

PAGE = AdminPage("pumps", "Pumps", Path(__file__).parent, "pressure")


class Pump(AegisActor):
    """A service with a page."""

    service = "pump"
    admin_page = PAGE
    asked: ClassVar[list[str]] = []
    broken: ClassVar[set[str]] = set()

    @query
    async def pressure(self) -> dict[str, Any]:
        self.asked.append(self.instance_id)
        if self.instance_id in self.broken:
            raise Rejected("no pressure")
        return {"bar": 3, "sample": [len(self.asked), None, "much"]}


class Viewer:
    """Takes the events of a stream."""

    def __init__(self, sampler: PageSampler) -> None:
        self.messages: list[dict[str, Any]] = []
        self._leaves = asyncio.Event()
        self._task = asyncio.ensure_future(
            LiveStream(sampler)({"headers": []}, self._receive, self._send)
        )

    async def _receive(self) -> dict[str, Any]:
        await self._leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        for line in message.get("body", b"").decode().splitlines():
            if line.startswith("data: "):
                self.messages.append(json.loads(line.removeprefix("data: ")))

    async def leave(self) -> None:
        self._leaves.set()
        await self._task


@asynccontextmanager
async def pumps(system: System) -> AsyncGenerator[PageSampler]:
    Pump.asked, Pump.broken = [], set()
    node = await system.start_node(Pump, instance_id="one")
    await system.start_node(Pump, instance_id="two")
    sampler = PageSampler(node, "pump", PAGE)
    async with sampler.sampling():
        yield sampler


def in_memory(scenario: Callable[[System], Awaitable[None]]) -> None:
    async def run(system: System) -> None:
        await scenario(system)

    Backend(None).run(run)


def test_a_viewer_is_told_what_every_instance_answers() -> None:
    async def scenario(system: System) -> None:
        async with pumps(system) as sampler:
            viewer = Viewer(sampler)
            await wait_until(lambda: len(viewer.messages) >= 3, what="there are three events")
            first, second = viewer.messages[:2]
            assert [one["instance_id"] for one in first["instances"]] == ["one", "two"]
            assert first["instances"][0]["told"] == {"bar": 3}
            assert (first["reset"], second["reset"]) == (True, False)
            # What is no number is none; the samples before are not told again.
            ((_, count, *rest),) = second["samples"]["one"]
            assert rest == [None, None]
            assert count > first["samples"]["one"][-1][1]
            await viewer.leave()

    in_memory(scenario)


def test_an_instance_that_answers_nothing_keeps_nobody_from_the_others() -> None:
    async def scenario(system: System) -> None:
        async with pumps(system) as sampler:
            Pump.broken = {"two"}
            viewer = Viewer(sampler)
            await wait_until(lambda: bool(viewer.messages), what="there is an event")
            one, two = viewer.messages[-1]["instances"]
            assert (one["told"], one["error"]) == ({"bar": 3}, "")
            assert two["told"] is None
            assert "no pressure" in two["error"]
            await viewer.leave()

    in_memory(scenario)


def test_instances_are_asked_each_second_while_somebody_watches_and_seldom_else() -> None:
    async def scenario(system: System) -> None:
        async with pumps(system) as sampler:
            await pass_time(60.0)
            alone = len(Pump.asked) / 2
            assert 10 <= alone <= 14
            viewers = [Viewer(sampler) for _ in range(5)]
            await pass_time(60.0)
            assert 58 <= len(Pump.asked) / 2 - alone <= 64
            # Those that came later have the minutes before, too.
            assert len(viewers[-1].messages[0]["samples"]["one"]) >= alone
            for viewer in viewers:
                await viewer.leave()

    in_memory(scenario)


def test_only_so_many_may_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_page_sampler, "MAX_VIEWERS", 1)

    async def scenario(system: System) -> None:
        async with pumps(system) as sampler:
            viewer = Viewer(sampler)
            await wait_until(lambda: bool(viewer.messages), what="one watches")
            with pytest.raises(Unavailable, match="another node"):
                sampler.check_room()
            await viewer.leave()
            sampler.check_room()

    in_memory(scenario)


def test_who_comes_back_is_told_only_what_is_new() -> None:
    state = PageState("page")
    for number in range(MAX_SAMPLES + 5):
        state.advance(float(number), [PageInstance("one", "n", "ok", {"sample": [number]})])
    whole = json.loads(state.since(0))
    assert whole["reset"]
    assert len(whole["samples"]["one"]) == MAX_SAMPLES
    known = state.version_of(state.event_id())
    state.advance(9_999.0, [PageInstance("one", "n", "ok", {"sample": [1.23456789, 10**12 + 1]})])
    assert json.loads(state.since(known))["samples"] == {"one": [[9_999.0, 1.23457, 10**12 + 1]]}
    assert state.version_of("other.3") == 0
    assert json.loads(state.since(10**9))["reset"]
    state.advance(10_000.0, [])
    assert json.loads(state.since(known))["samples"] == {}
