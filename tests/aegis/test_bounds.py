"""What is kept and written is bounded, whatever is called."""

from __future__ import annotations

from decimal import Decimal

import pytest

from aegis import AegisActor, HandlerFailed, command
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


class Printer(AegisActor):
    service = "printer"

    @command
    async def fill(self, size: int) -> str:
        return "x" * size


def test_an_answer_larger_than_a_claim_may_be_is_a_500_and_claimed_as_such() -> None:
    async def scenario() -> None:
        async with MemoryCluster() as memory:
            await memory.start_node(Printer)
            printer = memory.cluster.actor(Printer)
            limit = memory.cluster.transport.max_payload_bytes
            with pytest.raises(HandlerFailed, match="more than a claim may have"):
                await printer.fill(limit)
            assert await printer.fill(3) == "xxx"

    run(scenario())
