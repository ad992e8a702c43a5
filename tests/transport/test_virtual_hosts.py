"""Hosts that freeze and die as machines do, on one loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aegis.transport import (
    Append,
    Appended,
    Deadlock,
    Host,
    HostClock,
    HostLoop,
    MemoryBroker,
    MemoryTransport,
    StreamConfig,
    current_host,
)
from tests.support.virtual import pass_time


def run[T](main: Callable[[HostLoop], Coroutine[Any, Any, T]]) -> T:
    """Run ``main`` on a loop of its own; all hosts end with it."""

    async def body() -> T:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, HostLoop)
        try:
            return await main(loop)
        finally:
            loop.release_all()

    with asyncio.Runner(loop_factory=HostLoop) as runner:
        return runner.run(body())


def test_all_that_a_host_starts_belongs_to_it() -> None:
    async def main(loop: HostLoop) -> None:
        seen: list[Host | None] = []
        host = loop.host("a")

        async def deeper() -> None:
            seen.append(current_host())
            loop.call_later(1.0, lambda: seen.append(current_host()))

        async def work() -> None:
            await asyncio.gather(deeper(), loop.create_task(deeper()))

        await host.start(work())
        await pass_time(2.0)
        assert seen == [host] * 4
        assert current_host() is None

    run(main)


def test_a_frozen_host_does_afterwards_what_came_meanwhile_in_its_order() -> None:
    async def main(loop: HostLoop) -> None:
        host, done = loop.host("a"), list[tuple[str, float]]()

        def note(what: str) -> None:
            done.append((what, round(loop.now - 1000.0, 6)))

        async def work() -> None:
            await pass_time(0.5)
            note("timer")

        host.start(work())
        await pass_time(0.1)
        host.freeze()
        host.call_soon(note, "message")
        await pass_time(2.0)
        assert done == []
        host.resume()
        await pass_time(0.1)
        assert done == [("message", 2.1), ("timer", 2.1)]

    run(main)


def test_a_killed_host_runs_no_cleanup_and_never_again() -> None:
    async def main(loop: HostLoop) -> None:
        host, done = loop.host("a"), list[str]()

        async def work() -> None:
            try:
                await pass_time(1.0)
                done.append("went on")
            finally:
                done.append("cleaned up")

        task = host.start(work())
        await pass_time(0.5)
        host.kill()
        host.resume()
        task.cancel()
        await pass_time(5.0)
        assert done == []

    run(main)


def test_the_tasks_of_killed_hosts_can_be_ended_when_all_is_over() -> None:
    done: list[str] = []

    async def main(loop: HostLoop) -> None:
        host = loop.host("a")

        async def work() -> None:
            try:
                await pass_time(1.0)
            finally:
                done.append("cleaned up")

        host.start(work())
        await pass_time(0.5)
        host.kill()
        await pass_time(5.0)
        assert done == []

    run(main)
    assert done == ["cleaned up"]


def test_each_host_has_a_clock_that_may_be_too_fast() -> None:
    async def main(loop: HostLoop) -> None:
        fast = loop.host("fast", HostClock(loop, rate=2.0, boot_seconds=50.0, wall_error_ms=-7))
        woke: list[float] = []

        async def sleep() -> None:
            began = loop.time()
            await pass_time(3.0)
            woke.extend([loop.time() - began, loop.now - 1000.0])

        await fast.start(sleep())
        assert woke == pytest.approx([3.0, 1.5])
        assert fast.clock.boot_seconds() == pytest.approx(53.0)
        assert fast.clock.wall_ms() == 1_700_000_000_000 + 3000 - 7

    run(main)


def test_the_clock_of_a_frozen_host_goes_on() -> None:
    async def main(loop: HostLoop) -> None:
        host = loop.host("a")
        before = host.clock.boot_seconds()
        host.freeze()
        await pass_time(4.0)
        assert host.clock.boot_seconds() == pytest.approx(before + 4.0)

    run(main)


def test_timers_of_one_moment_fire_in_the_order_in_which_they_were_set() -> None:
    async def main(loop: HostLoop) -> None:
        order: list[int] = []
        for number in range(50):
            loop.call_at(1001.0, order.append, number)
        await pass_time(2.0)
        assert order == list(range(50))

    run(main)


def test_what_arrives_at_a_frozen_host_waits_and_what_it_sent_lands() -> None:
    async def main(loop: HostLoop) -> None:
        broker = MemoryBroker(latency=0.1)
        broker.ensure_stream(StreamConfig("t", ["t.journal.>"]))
        host = loop.host("a")
        mine = host.context.run(MemoryTransport, broker, name="a")
        other = MemoryTransport(broker, name="b")
        heard, outcomes = list[float](), list[Any]()

        async def work() -> None:
            await mine.subscribe("t.plain", lambda _: heard.append(loop.now - 1000.0))
            outcomes.append(await mine.append(Append("t.journal.a", b"1"), timeout=30))

        host.start(work())
        await pass_time(0.15)
        host.freeze()
        other.publish("t.plain", b"hello")
        await pass_time(1.0)
        assert broker.last_sequence("t.journal.a") == 1
        assert (heard, outcomes) == ([], [])
        host.resume()
        await pass_time(0.01)
        assert heard == pytest.approx([1.15])
        assert outcomes == [Appended(1)]

    run(main)


def test_a_circle_without_time_is_told_and_does_not_hang() -> None:
    async def main(loop: HostLoop) -> None:
        loop.max_callbacks = 1000

        def again() -> None:
            loop.call_soon(again)

        again()
        await pass_time(1.0)

    with pytest.raises(Deadlock, match="circle"):
        run(main)
