"""The load generators, on a clock that jumps."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from aegis.ops._bench_load import DRAIN_SECONDS, Load, closed_loop, open_loop
from aegis.testing import run
from tests.support.virtual import pass_time


def _now() -> float:
    return asyncio.get_running_loop().time()


def test_a_closed_loop_keeps_so_many_open_and_no_more() -> None:
    open_now = most = 0

    async def operation(worker: int) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await pass_time(0.1)
        open_now -= 1

    async def scenario() -> Load:
        return await closed_loop(operation, concurrency=4, seconds=1.0, clock=_now)

    load = run(scenario())
    assert most == 4
    assert load.sent == len(load.latencies) == 40
    assert load.failed == load.lost == 0
    assert load.seconds == pytest.approx(1.0)
    assert load.figures.per_second == pytest.approx(40)
    assert load.figures.p50_ms == pytest.approx(100)


def test_workers_of_a_closed_loop_have_numbers() -> None:
    workers: set[int] = set()

    async def operation(worker: int) -> None:
        workers.add(worker)
        await pass_time(0.5)

    async def scenario() -> None:
        await closed_loop(operation, concurrency=3, seconds=1.0, clock=_now)

    run(scenario())
    assert workers == {0, 1, 2}


def test_an_open_loop_keeps_its_rate_though_answers_are_late() -> None:
    starts: list[float] = []

    async def operation(number: int) -> None:
        starts.append(_now())
        await pass_time(5.0)

    async def scenario() -> Load:
        return await open_loop(operation, rate=10.0, seconds=2.0, clock=_now)

    load = run(scenario())
    assert len(starts) == load.sent == 20
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert gaps == pytest.approx([0.1] * 19)
    assert load.figures.p99_ms == pytest.approx(5000)


def test_an_open_loop_counts_from_the_moment_a_request_was_due() -> None:
    # No coordinated omission: the first request holds the loop up for a second, in which
    # nine more were due. All of them waited.
    class Stalled:
        offset = 0.0

    def clock() -> float:
        return _now() + Stalled.offset

    async def operation(number: int) -> None:
        if number == 0:
            Stalled.offset += 1.0

    async def scenario() -> Load:
        return await open_loop(operation, rate=10.0, seconds=1.0, clock=clock)

    load = run(scenario())
    assert len(load.latencies) == 10
    # The clock said 1.1 when the second was sent, and then all others at once.
    waited = [1.0, *(1.1 - number / 10 for number in range(1, 10))]
    assert sorted(load.latencies) == pytest.approx(sorted(waited))


def test_failures_are_counted_and_told_apart() -> None:
    async def operation(number: int) -> None:
        if number % 2:
            raise ValueError("odd")

    async def scenario() -> Load:
        return await open_loop(operation, rate=100.0, seconds=0.1, clock=_now)

    load = run(scenario())
    assert load.sent == 10
    assert load.failed == 5
    assert load.lost == 0
    assert load.errors == {"ValueError: odd": 5}


@pytest.mark.parametrize("is_open", [False, True])
def test_what_never_ends_is_lost_and_does_not_hold_up_the_end(is_open: bool) -> None:
    async def operation(number: int) -> None:
        if number == 1:
            await asyncio.get_running_loop().create_future()
        await pass_time(0.1)

    async def scenario() -> tuple[Load, float]:
        began = _now()
        if is_open:
            load = await open_loop(operation, rate=2.0, seconds=1.0, clock=_now)
        else:
            load = await closed_loop(operation, concurrency=2, seconds=1.0, clock=_now)
        return load, _now() - began

    load, took = run(scenario())
    assert load.lost == 1
    assert load.failed == 0
    assert took <= 1.0 + DRAIN_SECONDS + 0.2
