"""A node whose link to the server is gone: what it answers meanwhile, and afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from aegis.testing import Hop, MemoryTransport
from aegis.transport import NatsOptions, Transport, connect_nats
from tests.support.nats import NatsServer
from tests.support.services import Ledger, Vault
from tests.support.system import Backend, System
from tests.support.virtual import pass_time

pytestmark = pytest.mark.timeout(60)

LEASE = 2.0


@pytest.mark.parametrize("is_noticed", [True, False], ids=["closed", "silent"])
def test_a_node_without_its_server_answers_no_query_beyond_its_lease_and_loses_nothing(
    is_noticed: bool,
) -> None:
    async def scenario(system: System) -> None:
        # So patient that the resources stay with their owner.
        patient: dict[str, Any] = {"lease": LEASE, "heartbeat_timeout": 60.0}
        await system.start_node(**patient)  # leads, and stays
        node = await system.start_node((Vault, ["V-1"]), (Ledger, ["L-1"]), **patient)
        transport, broker = node.transport, system.broker
        assert isinstance(transport, MemoryTransport)
        assert broker is not None
        # A caller within the node needs no server to reach the actor.
        vault = node.cluster.actor(Vault, "V-1", timeout=100)
        ledger = node.cluster.actor(Ledger, "L-1", timeout=100)
        assert await vault.deposit(Decimal(1)) == await ledger.deposit(Decimal(1)) == 1
        await pass_time(1.0)

        def fate(hop: Hop) -> Sequence[float]:
            return [] if transport.name in (hop.source, hop.destination) else [0.0]

        if is_noticed:
            transport.disconnect()
        else:
            broker.fate = fate
            await pass_time(LEASE)
        calls = [
            asyncio.ensure_future(call)
            for call in (vault.total(), ledger.total(), vault.deposit(Decimal(2)))
        ]
        await pass_time(5.0)
        assert not any(call.done() for call in calls)
        if is_noticed:
            transport.reconnect()
        else:
            broker.fate = None
        before, other, after = await asyncio.gather(*calls)
        assert other == 1
        assert after == 3
        assert before in (1, 3)  # The deposit may come before the query by now.
        assert await ledger.deposit(Decimal(2)) == 3
        entries = await system.entries("vault", "V-1")
        assert len(entries) == len({(entry.session, entry.n) for entry in entries}) == 2

    Backend(None).run(scenario)


async def test_resources_recover_when_all_nodes_and_the_server_were_stopped_and_started_again(
    tmp_path: Path,
) -> None:
    server = NatsServer(tmp_path)
    server.start()

    async def connect() -> Transport:
        return await connect_nats(NatsOptions((server.url,)))

    system = System(connect)
    await system.open()
    try:
        drained = await system.start_node((Vault, ["V-1"]), instance_id="vaults")
        killed = await system.start_node((Ledger, ["L-1"]), instance_id="ledgers")
        vault, ledger = system.cluster.actor(Vault, "V-1"), system.cluster.actor(Ledger, "L-1")
        assert await vault.deposit(Decimal(5)) == 5
        assert await ledger.deposit(Decimal(7)) == 7
        await system.stop_node(drained)
        await system.kill_node(killed)
        server.stop()
        server.start()
        await system.start_node((Vault, ["V-1"]), instance_id="vaults")
        await system.start_node((Ledger, ["L-1"]), instance_id="ledgers")
        assert await vault.total() == 5
        assert await ledger.deposit(Decimal(1)) == 8
    finally:
        await system.close()
        server.stop()
