"""What a client keeps is bounded, whatever it calls."""

from __future__ import annotations

from decimal import Decimal

import pytest

from aegis.actors import _client
from aegis.testing import MemoryCluster, run
from examples.accounts import Account


def test_sessions_with_addresses_that_are_idle_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_client, "MAX_DESTINATIONS", 3)
    names = [f"ACC-{number}" for number in range(10)]

    async def scenario() -> None:
        async with MemoryCluster() as memory:
            await memory.start_node((Account, names))
            for _ in range(2):
                for name in names:
                    await memory.cluster.actor(Account, name).deposit(amount=Decimal(1))
            kept = memory.cluster.statistics().sessions
            assert kept == 3
            for name in names:
                assert await memory.cluster.actor(Account, name).balance() == 2

    run(scenario())
