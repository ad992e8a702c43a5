"""What an actor costs. Times are the benchmark's matter; bytes are the same everywhere."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import pytest

from aegis.actors._actor import AegisActor
from aegis.actors._cell import Props
from aegis.actors._handlers import command, query
from aegis.actors._restarts import RestartType
from aegis.actors._supervisor import Supervisor

ACTORS = 10_000

IDLE_BYTES = 2048
"""Of the 3 KiB that an idle resource may cost, its journal has the other third."""


class Idle(AegisActor):
    service = "idle"

    @command
    async def touch(self) -> None: ...

    @query
    async def look(self) -> int:
        return 1


@pytest.mark.timeout(120)
async def test_an_idle_supervised_actor_costs_at_most_two_kibibytes() -> None:
    root = Supervisor(address="/services/idle/idle-1")
    await root.start()
    props = Props(Idle, instance_id="idle-1")
    await root.start_actor("warm-up", props, resource_id="warm-up")
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(ACTORS):
            name = f"ACC-{number:06}"
            await root.start_actor(name, props, restart=RestartType.TRANSIENT, resource_id=name)
        # Having handled a message must leave nothing behind either.
        for number in range(0, ACTORS, 2):
            child = root.child(f"ACC-{number:06}")
            assert not isinstance(child, Supervisor)
            await child.proxy().touch()
        await asyncio.sleep(0)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    each = (after - before) / ACTORS
    assert each <= IDLE_BYTES, f"{each:.0f} bytes"
    assert each > 300, "the measurement itself is broken"
    await root.stop()


@pytest.mark.timeout(120)
async def test_stopped_actors_leave_nothing_behind() -> None:
    async def round_trip(count: int) -> None:
        refs = [Idle.start() for _ in range(count)]
        for ref in refs:
            await ref.proxy().look()
            await ref.stop()

    await round_trip(500)  # Tables that have grown do not shrink.
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(4):
            await round_trip(500)
        await asyncio.sleep(0)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 100_000
