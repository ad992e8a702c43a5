"""Callers and owners on three real servers, of which one dies."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from attrs import define

from aegis import AegisActor, command, query
from aegis.transport import NatsOptions, Transport, connect_nats
from tests.support.cluster import Cluster, start_cluster
from tests.support.poll import wait_until
from tests.support.system import System

pytestmark = pytest.mark.timeout(180)

DEADLINE = 60.0


@define
class Count:
    """How often it was counted."""

    n: int = 0


class Counter(AegisActor):
    """Numbers its commands."""

    service = "counter"
    state: Count

    @command
    async def count(self) -> int:
        self.state.n += 1
        return self.state.n

    @query
    async def total(self) -> int:
        return self.state.n


@asynccontextmanager
async def system_on(cluster: Cluster) -> AsyncGenerator[System]:
    """A system of which each process is connected to another server at first."""
    turn = itertools.count()

    async def connect() -> Transport:
        first = next(turn) % cluster.size
        user = cluster.credentials
        servers = tuple(cluster.urls[first:] + cluster.urls[:first])
        return await connect_nats(NatsOptions(servers, user=user.user, password=user.password))

    system = System(connect)
    await system.open()
    try:
        yield system
    finally:
        await system.close()


class Caller:
    """Counts, one call after the other; what it was told must be 1, 2, 3 and so on."""

    def __init__(self, system: System) -> None:
        self.told: list[int] = []
        self._system = system
        self._stopping = False
        self._task = asyncio.create_task(self._call())

    async def _call(self) -> None:
        while not self._stopping:
            told = await self._system.cluster.call(
                "counter", "count", resource_id="C-1", timeout=DEADLINE
            )
            self.told.append(told)

    async def wait_more(self, count: int) -> None:
        """Return when so many more calls were answered."""
        wanted = len(self.told) + count
        await wait_until(
            lambda: len(self.told) >= wanted or self._task.done(),
            what=f"{count} more calls are answered",
            timeout=DEADLINE,
        )

    async def stop(self) -> list[int]:
        self._stopping = True
        await self._task
        return self.told


async def test_calls_wait_out_the_election_of_the_stream_within_their_deadline(
    tmp_path: Path,
) -> None:
    async with start_cluster(tmp_path) as cluster, system_on(cluster) as system:
        await system.start_node((Counter, ["C-1"]), replicas=3)
        caller = Caller(system)
        await caller.wait_more(50)
        killed = await cluster.wait_stream_leader(system.subjects.stream, replicas=3)
        cluster.kill(killed)
        # No call fails: the one that was open, too, is answered in the end.
        await caller.wait_more(50)
        await cluster.start(killed)
        told = await caller.stop()
        assert told == list(range(1, len(told) + 1))
        total = await system.cluster.call("counter", "total", resource_id="C-1", timeout=DEADLINE)
        assert total == len(told)


async def test_an_owner_that_dies_with_the_streams_leader_is_succeeded_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    async with start_cluster(tmp_path) as cluster, system_on(cluster) as system:
        owner = await system.start_node((Counter, ["C-1"]), instance_id="c-1", replicas=3)
        await system.start_node((Counter, ["C-1"]), instance_id="c-2", replicas=3, role="standby")
        caller = Caller(system)
        await caller.wait_more(50)
        cluster.kill(await cluster.wait_stream_leader(system.subjects.stream, replicas=3))
        await system.kill_node(owner)
        await caller.wait_more(50)
        told = await caller.stop()
        assert told == list(range(1, len(told) + 1))
