"""One row of `aegis bench failover`: its processes, its load, and what happens to them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aegis.ops._bench_failover_cast import Cast, open_cast
from aegis.ops._bench_failover_load import Books, SteadyLoad
from aegis.ops._bench_failover_rows import (
    PLANS,
    RESOURCES,
    FailoverReport,
    FollowingReport,
    Row,
    RowReport,
)
from aegis.ops._bench_load import open_loop
from aegis.ops._bench_processes import BenchFailed
from aegis.ops._bench_stats import Figures
from aegis.ops._node_processes import NodeProcess
from aegis.transport._discovery import read_state
from aegis.transport._server import EmbeddedServer

__all__ = ["measure"]

SETTLE: Final = (0.3, 1.3)
"""Seconds between all being well and the next signal: over more than one heartbeat, so
that signals fall anywhere between two."""

ROUND_SECONDS: Final = 1.0
"""How long each of the two turns of a round with and without a standby takes."""

_MIN_COMMANDS: Final = 20
"""Acknowledged before each signal: the load is steady by then."""


async def measure(
    row: Row,
    count: int,
    rate: float,
    server: EmbeddedServer,
    folder: Path,
    rng: random.Random,
    tell: Callable[[str], None],
) -> RowReport:
    """Measure ``row``, ``count`` times; what does not work is told in the report."""
    plan = PLANS[row]

    def progress(number: int) -> None:
        tell(f"{plan.title}: {number + 1} of {count}")

    following, failover = FollowingReport(row), FailoverReport(row)
    report: RowReport = following if row is Row.STANDBY else failover
    async with open_cast(plan, server, folder) as cast:
        try:
            if not plan.leads:
                await cast.start_supervisor()
            if row is Row.STANDBY:
                await _follow(cast, count, rate, following, progress)
            else:
                await _lose(cast, count, rate, server, failover, rng, progress)
        except BenchFailed as error:
            report.failed.append(f"{error}\n{cast.last_words()}")
    return report


# -- owners that are lost ------------------------------------------------------------------


async def _lose(
    cast: Cast,
    count: int,
    rate: float,
    server: EmbeddedServer,
    report: FailoverReport,
    rng: random.Random,
    progress: Callable[[int], None],
) -> None:
    row, plan = report.row, report.plan
    resources = [f"T-{number}" for number in range(plan.resources)]
    owner = await cast.start_owner(resources)
    standby = await cast.start_standby(resources)
    books = Books(cast.cluster, resources)
    load = SteadyLoad(books, rate)
    try:
        for number in range(count):
            progress(number)
            await load.wait_more(_MIN_COMMANDS)
            await asyncio.sleep(rng.uniform(*SETTLE))
            load.longest = 0.0
            began = time.perf_counter()
            if row is Row.SERVER:
                load.watch(began, None)
                os.kill(_server_pid(server), plan.signal)
            else:
                load.watch(began, standby.name)
                owner.send_signal(plan.signal)
            if row is Row.MANY:
                for name in resources:
                    load.send(name, began)
            report.times.append(await load.wait_answered())
            if row is not Row.SERVER:
                owner, standby = standby, await _replace(cast, row, owner, resources)
            report.longest_calls.append(load.longest)
        await load.end()
        await books.verify(report)
    finally:
        await load.abandon()


async def _replace(cast: Cast, row: Row, former: NodeProcess, resources: list[str]) -> NodeProcess:
    """Return the next standby: the former owner that comes back, or a new one."""
    if row is Row.STOP:
        former.send_signal(signal.SIGCONT)
        await cast.wait_standing_by(former, len(resources))
        return former
    code = await former.wait_ended()
    if row is Row.TERM and code != 0:
        raise BenchFailed(f"{former.name} ended with exit code {code}")
    return await cast.start_standby(resources)


def _server_pid(server: EmbeddedServer) -> int:
    state = read_state(server.data_dir)
    return server.pid if state is None else int(state["pid"])


# -- owners that are followed --------------------------------------------------------------


async def _follow(
    cast: Cast,
    rounds: int,
    rate: float,
    report: FollowingReport,
    progress: Callable[[int], None],
) -> None:
    """Measure resources with and without a standby, in turns, at the same owner."""
    followed = [f"F-{number}" for number in range(RESOURCES)]
    alone = [f"A-{number}" for number in range(RESOURCES)]
    await cast.start_owner([*followed, *alone])
    await cast.start_standby(followed)
    books = Books(cast.cluster, [*followed, *alone])

    async def turn(names: list[str], figures: list[Figures] | None) -> None:
        async def add(number: int) -> None:
            await books.add(names[number % len(names)])

        load = await open_loop(add, rate=rate, seconds=ROUND_SECONDS)
        books.check_failed()
        if figures is not None:
            figures.append(load.figures)

    # The first turns warm up caches, connections and the interpreter.
    await turn(followed, None)
    await turn(alone, None)
    for number in range(rounds):
        progress(number)
        turns = [(followed, report.following), (alone, report.alone)]
        for names, figures in turns if number % 2 else reversed(turns):
            await turn(names, figures)
    await books.verify(report)
