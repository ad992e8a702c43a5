"""Two lives of one owner, one behind the other: the first has no say any more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from aegis.actors._cell import ActorCell
from aegis.actors._record import Record
from aegis.testing import Hop
from aegis.transport import Append, Appended
from aegis.transport._codec import encode_value
from tests.aegis.test_lost_messages import in_memory, is_journal, set_fate
from tests.support.services import Vault
from tests.support.system import System
from tests.support.virtual import pass_time


def lose_first(system: System, kind: str) -> None:
    """Lose the first append to a journal from now on, or its acknowledgement."""
    lost: list[Hop] = []

    def fate(hop: Hop) -> Sequence[float]:
        if is_journal(hop, kind) and not lost:
            lost.append(hop)
            return []
        return [0.0]

    set_fate(system, fate)


async def owner_of(system: System) -> ActorCell:
    """Return the actor that owns V-1."""
    node = await system.start_node((Vault, ["V-1"]), instance_id="v")
    return node.dispatcher.desks["v"].resources["V-1"]


@in_memory
async def test_what_a_killed_life_has_under_way_is_not_written_behind_the_next_one(
    system: System,
) -> None:
    cell = await owner_of(system)
    vault = system.cluster.actor(Vault, "V-1")
    assert await vault.deposit(Decimal(1)) == 1
    lose_first(system, "append")
    once = system.request("vault", "deposit", {"amount": "1"}, resource="V-1")
    second = asyncio.ensure_future(system.ask("v", once))
    await pass_time(0.5)
    assert not await cell.terminate(timeout=0.1, for_restart=True)
    assert await cell.restart() is None
    answer = await second
    # Who was told that it happened sees it; here it never did.
    assert answer.status == 421
    assert await vault.total() == 1
    assert await vault.deposit(Decimal(1)) == 2
    await pass_time(20.0)
    assert cell.restarts == 1
    assert len(await system.entries("vault", "V-1")) == 2


@in_memory
async def test_a_command_that_was_stored_before_a_newer_owner_came_is_answered(
    system: System,
) -> None:
    cell = await owner_of(system)
    lose_first(system, "acknowledgement")
    asked: asyncio.Future[Any] = asyncio.ensure_future(_deposit(cell))
    await pass_time(0.5)
    newer = Append(
        system.subjects.journal("vault", "V-1"), encode_value(Record(10**6, None).to_wire())
    )
    assert isinstance(await system.transport.append(newer, timeout=5), Appended)
    async with asyncio.timeout(60):
        assert await asked == 1


async def _deposit(cell: ActorCell) -> Any:
    return await cell.ref.proxy().deposit(Decimal(1))
