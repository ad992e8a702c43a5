"""The callers of `aegis chaos` in memory, in virtual time: killed, started again, judged."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from aegis._cluster import open_over
from aegis._config import ConnectOptions
from aegis.actors._actor import AegisActor
from aegis.contracts import Role
from aegis.ops._chaos_ledger import Ledger, Story, read_story
from aegis.ops._chaos_services import APPLIED, CREDIT, OPENING_CASH, Chest, Purse, Register
from aegis.ops._chaos_transfers import COMPENSATED, DONE
from aegis.ops._chaos_verdict import Verdict, judge
from aegis.ops._chaos_work import BANKS, REGISTERS, RESOURCES, Caller
from aegis.testing import MemoryCluster, MemoryTransport, run
from tests.support.virtual import pass_time

SERVICES: tuple[type[AegisActor], ...] = (Purse, Chest, Register)


async def start_node(memory: MemoryCluster, role: Role) -> Any:
    node = await memory.start_node()
    for service in SERVICES:
        await node.add_service(service, resources=RESOURCES, role=role)
    return node


async def work(memory: MemoryCluster, file: Path, seed: int, ending: asyncio.Event) -> None:
    """Be one life of a caller, with a connection of its own."""
    clock = asyncio.get_running_loop().time
    story, ledger = read_story("caller", file), Ledger(file)
    opened = await open_over(MemoryTransport(memory.broker), ConnectOptions(), memory.clock)
    try:
        await Caller(story, opened.cluster, ledger, seed, ending, clock=clock).work()
    finally:
        await opened.close()
        ledger.close()


async def held(memory: MemoryCluster) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (service, resource): await memory.cluster.call(service, "held", resource_id=resource)
        for service in (*BANKS, REGISTERS)
        for resource in RESOURCES
    }


async def tormented(file: Path, seed: int) -> Verdict:
    """Kill the caller and the owner again and again; let the last life end what is open."""
    rng = random.Random(seed)
    async with MemoryCluster() as memory:
        nodes = [await start_node(memory, Role.ACTIVE), await start_node(memory, Role.STANDBY)]
        for life in range(4):
            ending = asyncio.Event()
            caller = asyncio.ensure_future(work(memory, file, seed + life, ending))
            await pass_time(rng.uniform(0.02, 0.4))
            if life % 2:
                await memory.kill_node(nodes.pop(0))
                await pass_time(0.05)  # Calls are under way that nobody answers yet.
            caller.cancel()
            await asyncio.wait((caller,))
            if life % 2:
                nodes.append(await start_node(memory, Role.STANDBY))
        ending = asyncio.Event()
        ending.set()
        await work(memory, file, seed, ending)
        return judge([read_story("caller", file)], await held(memory), REGISTERS)


@pytest.mark.parametrize("seed", range(2))
def test_callers_that_are_killed_end_all_that_they_had_begun(tmp_path: Path, seed: int) -> None:
    verdict = run(tormented(tmp_path / "caller.ledger", seed))
    assert verdict.wrong == []
    assert verdict.transfers[DONE] > 0
    assert "open" not in verdict.transfers
    assert verdict.unknown > 0
    assert verdict.register_reads > 0
    assert verdict.register_writes > 0


@pytest.mark.parametrize("arrived", [True, False])
def test_a_half_done_transfer_is_finished_or_taken_back_after_a_restart(
    tmp_path: Path, arrived: bool
) -> None:
    """The caller was killed while its credit was under way; nobody knows whether it came."""
    ends: set[str] = set()

    async def restarted(seed: int) -> Story:
        file = tmp_path / f"{seed}.ledger"
        ledger, clock = Ledger(file), asyncio.get_running_loop().time
        async with MemoryCluster() as memory:
            await start_node(memory, Role.ACTIVE)
            await ledger.write("transfer", 1, Purse.service, "R-0", "R-1", 100)
            steps = [("R-0", "debit", "debit", True), ("R-1", CREDIT, "credit", arrived)]
            for resource, what, role, sent in steps:
                key = (Purse.service, resource, 1, 1)
                await ledger.write("ask", clock(), *key, what, 100, 1, role)
                if sent:
                    step = {"caller": "caller", "attempt": 1, "entry": 1, "low": 1}
                    await memory.cluster.call(
                        Purse.service,
                        "step",
                        {"step": {**step, "what": what, "value": 100}},
                        resource_id=resource,
                    )
            ledger.close()
            ending = asyncio.Event()
            ending.set()
            await work(memory, file, seed, ending)
            story = read_story("caller", file)
            assert judge([story], await held(memory), REGISTERS).wrong == []
            sheets = await held(memory)
        moved = OPENING_CASH - sheets[Purse.service, "R-0"]["value"]
        assert moved == (100 if story.transfers[1].end == DONE else 0)
        assert arrived or story.entries[Purse.service, "R-0", 1].outcome is not None
        return story

    for seed in range(8):
        story = run(restarted(seed))
        ends.add(story.transfers[1].end)
        debit = story.entries[Purse.service, "R-0", 1].outcome
        assert debit is not None
        assert debit[0] == APPLIED
    # What has arrived cannot be taken back any more.
    assert ends == ({DONE} if arrived else {DONE, COMPENSATED})
