"""Deals, letters and bells of `aegis chaos` in memory, in virtual time: nodes and callers die."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aegis._cluster import open_over
from aegis._config import ConnectOptions
from aegis.actors._mail import MailTable
from aegis.actors._sessions import Fresh
from aegis.contracts import Role
from aegis.ops import _chaos_mail_services
from aegis.ops._chaos_ledger import Ledger, read_story
from aegis.ops._chaos_mail_services import FORGOTTEN_BELL, RUNG
from aegis.ops._chaos_mail_verdict import MAIL_SERVICES, MailVerdict, is_at_rest, judge_mail
from aegis.ops._chaos_mail_work import MailCaller
from aegis.ops._chaos_saga_services import Phase
from aegis.ops._chaos_work import RESOURCES
from aegis.testing import MemoryCluster, MemoryTransport, run
from tests.support.virtual import pass_time

LIVES = 2
LIFE_SECONDS = (0.3, 1.2)


async def start_node(memory: MemoryCluster, role: Role) -> Any:
    node = await memory.start_node()
    for service in MAIL_SERVICES:
        await node.add_service(service, resources=RESOURCES, role=role)
    return node


async def work(memory: MemoryCluster, file: Path, seed: int, ending: asyncio.Event) -> None:
    """Be one life of a caller, with a connection of its own."""
    clock = asyncio.get_running_loop().time
    story, ledger = read_story("caller", file).mail, Ledger(file)
    opened = await open_over(MemoryTransport(memory.broker), ConnectOptions(), memory.clock)
    try:
        caller = MailCaller("caller", story, opened.cluster, ledger, seed, ending, clock=clock)
        await caller.work()
    finally:
        await opened.close()
        ledger.close()


async def held(memory: MemoryCluster) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (actor.service, name): await memory.cluster.call(actor.service, "held", resource_id=name)
        for actor in MAIL_SERVICES
        for name in RESOURCES
    }


async def tormented(file: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> MailVerdict:
    """Kill the caller and the owner again and again; let the last life end what is open."""
    rng = random.Random(seed)
    async with MemoryCluster() as memory:
        monkeypatch.setattr(_chaos_mail_services, "now", lambda: memory.clock.wall_ms() / 1000)
        nodes = [await start_node(memory, Role.ACTIVE), await start_node(memory, Role.STANDBY)]
        for life in range(LIVES):
            ending = asyncio.Event()
            caller = asyncio.ensure_future(work(memory, file, seed + life, ending))
            await pass_time(rng.uniform(*LIFE_SECONDS))
            if life:
                await memory.kill_node(nodes.pop(0))
                nodes.append(await start_node(memory, Role.STANDBY))
                await pass_time(rng.uniform(*LIFE_SECONDS))
            caller.cancel()
            await asyncio.wait((caller,))
        ending = asyncio.Event()
        ending.set()
        await work(memory, file, seed, ending)
        sheets = await held(memory)
        while not is_at_rest(sheets):
            await pass_time(1.0)
            sheets = await held(memory)
        return judge_mail([("caller", read_story("caller", file).mail)], sheets)


@pytest.mark.timeout(180)
def test_nothing_vanishes_or_doubles_though_nodes_and_callers_die(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deals: Counter[str] = Counter()
    bells: Counter[str] = Counter()
    for seed in range(2):
        verdict = run(tormented(tmp_path / f"{seed}.ledger", seed, monkeypatch))
        assert verdict.wrong == [], f"seed {seed}"
        assert verdict.letters_taken >= verdict.letters > 0
        deals.update(verdict.deals)
        bells.update(verdict.bells)
    assert {Phase.BOOKED, Phase.NO_CASH} <= deals.keys()
    assert "open" not in deals
    assert bells.keys() == {RUNG, FORGOTTEN_BELL}


@pytest.mark.timeout(180)
def test_the_books_tell_that_repeats_are_not_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The fault is planted in the real owners: what their predecessors forwarded and did not
    # note comes again, and is taken for new.
    def take_for_new(table: MailTable, session: str, n: int, low: int) -> Fresh:
        return Fresh()

    monkeypatch.setattr(MailTable, "look_up", take_for_new)
    assert run(tormented(tmp_path / "caller.ledger", 0, monkeypatch)).wrong
