"""The saga of examples/saga.py: killed at each of its steps, no cash and no share is lost."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from aegis.testing import MemoryTransport, run
from aegis.transport import MemoryBroker, Stored, Transport
from examples.saga import Holding, Order, Phase, Stock
from tests.support.poll import wait_until
from tests.support.system import System

CASH, SHARES = Decimal(1000), Decimal(50)

STEPS = ("journal", "mailbox")


class Killer:
    """Cuts the node off the moment that the given append of the saga is stored."""

    def __init__(self, system: System, kill_at: int | None) -> None:
        self.stored = 0
        self.reached = asyncio.Event()
        self._system = system
        self._kill_at = kill_at

    def on_stored(self, source: str, stored: Stored) -> None:
        """Count; the node hears of this append no more."""
        if stored.subject.split(".")[1] not in STEPS or self.reached.is_set():
            return
        self.stored += 1
        if self.stored == self._kill_at:
            self.reached.set()
            for node in self._system.nodes:
                assert isinstance(node.transport, MemoryTransport)
                node.transport.disconnect()


async def settle(shares: Decimal, kill_at: int | None) -> tuple[int, Phase]:
    """Run one order to its end; return how many appends it took, and how it ended."""
    broker = MemoryBroker()

    async def open_transport() -> Transport:
        return MemoryTransport(broker)

    system = System(open_transport)
    await system.open()
    try:
        held = ["alice-cash", "bob-shares"]

        async def start() -> None:
            await system.start_node((Stock, held), instance_id="stocks")
            await system.nodes[-1].add_service(Order, instance_id="orders", resources=["O-1"])

        await start()
        await system.cluster.actor(Stock, held[0]).put_in(CASH)
        await system.cluster.actor(Stock, held[1]).put_in(SHARES)
        killer = Killer(system, kill_at)
        broker.on_stored = killer.on_stored
        receipt = await system.cluster.send(
            Order,
            "place",
            {"buyer": "alice", "seller": "bob", "shares": shares, "price": Decimal(10)},
            resource_id="O-1",
        )
        if kill_at is not None:
            await killer.reached.wait()
            await system.kill_node(system.nodes[0])
            await start()
        await system.cluster.result(receipt)
        order = system.cluster.actor(Order, "O-1")
        stocks = [system.cluster.actor(Stock, name) for name in held]

        async def is_over() -> bool:
            for stock in stocks:
                holding = await stock.whole()
                if holding.reserved:
                    return False
            return (await order.status()).phase in (Phase.BOOKED, Phase.REFUSED)

        await wait_until(is_over, what="the order is booked or refused")
        cash, position = [await stock.whole() for stock in stocks]
        phase = (await order.status()).phase
        spent = shares if phase is Phase.BOOKED else Decimal(0)
        assert cash == Holding(CASH - spent * 10, {}, spent * 10)
        assert position == Holding(SHARES - spent, {}, spent)
        return killer.stored, phase
    finally:
        await system.close()


async def kill_at_each_step(shares: Decimal, expected: Phase) -> int:
    count, phase = await settle(shares, None)
    assert phase is expected
    for step in range(1, count + 1):
        _, phase = await settle(shares, step)
        assert phase is expected, f"killed at append {step} of {count}"
    return count


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        (Decimal(20), Phase.BOOKED),
        (Decimal(60), Phase.REFUSED),  # there is the cash for it, and not the shares
        (Decimal(500), Phase.REFUSED),  # there is no cash for it either
    ],
)
def test_an_order_ends_alike_at_whatever_step_its_node_is_killed(
    shares: Decimal, expected: Phase
) -> None:
    assert run(kill_at_each_step(shares, expected)) >= 4
