"""`aegis.testing`: what users test their own actors with."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from aegis import NotFound
from aegis.testing import MemoryCluster, run
from tests.support.services import Quoter, Vault


def test_a_system_in_memory_takes_no_time_and_no_server() -> None:
    async def scenario() -> None:
        async with MemoryCluster() as memory:
            await memory.start_node((Vault, ["V-1"]), Quoter)
            vault = memory.cluster.actor(Vault, "V-1")
            assert await vault.deposit(amount=Decimal(1)) == Decimal(1)
            assert await vault.total() == Decimal(1)
            assert await memory.cluster.actor(Quoter).place(Decimal(1))
            with pytest.raises(NotFound):
                await memory.cluster.actor(Vault, "V-2").total()

    run(scenario())


def test_a_killed_node_is_replaced_and_a_stopped_one_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        async with MemoryCluster(namespace="other", timeout=60) as memory:
            node = await memory.start_node((Vault, ["V-1"]), instance_id="v")
            vault = memory.cluster.actor(Vault, "V-1")
            calls = [asyncio.ensure_future(vault.deposit(Decimal(1))) for _ in range(20)]
            await asyncio.sleep(0)
            await memory.kill_node(node)
            node = await memory.start_node((Vault, ["V-1"]), instance_id="v")
            assert sorted(await asyncio.gather(*calls)) == [Decimal(n) for n in range(1, 21)]
            await memory.stop_node(node)
            await memory.start_node((Vault, ["V-1"]))
            assert await vault.total() == 20

    run(scenario())


def test_it_works_on_any_loop_in_real_time() -> None:
    async def scenario() -> None:
        async with MemoryCluster() as memory:
            await memory.start_node((Vault, ["V-1"]))
            assert await memory.cluster.actor(Vault, "V-1").deposit(Decimal(1)) == Decimal(1)

    asyncio.run(scenario())
