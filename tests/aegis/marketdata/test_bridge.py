"""The bridge from threads to the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from aegis.marketdata._bridge import Bridge
from aegis.marketdata._contract import Contract
from aegis.marketdata._ports import GatewayFailure, GatewayState, RawTick
from tests.support.marketdata import raw_tick
from tests.support.poll import wait_until


class Consumer:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.ticks: list[RawTick] = []
        self.conflated: list[RawTick] = []
        self.volumes: list[int] = []
        self.facts: list[object] = []
        self.threads: set[int] = set()
        self.turns = 0

    def on_state(self, state: GatewayState, failure: GatewayFailure | None) -> None:
        self.facts.append((state, failure))

    def on_contract(self, contract: Contract) -> None:
        self.facts.append(contract)

    def on_subscribed(self, key: str, failure: GatewayFailure | None) -> None:
        self.facts.append((key, failure))

    def on_ticks(self, ticks: Sequence[RawTick], conflated: bool) -> None:
        self.turns += 1
        self.volumes += [tick.volume for tick in ticks]
        self.threads.add(threading.get_ident())
        (self.conflated if conflated else self.ticks).extend(ticks)


@pytest.mark.asyncio
async def test_ticks_of_several_threads_arrive_in_the_order_of_each() -> None:
    consumer = Consumer()
    bridge = Bridge(asyncio.get_running_loop(), consumer)

    def feed(symbol: str) -> None:
        for number in range(5_000):
            bridge.on_tick(raw_tick(symbol=symbol, volume=number))

    threads = [threading.Thread(target=feed, args=(symbol,)) for symbol in "abc"]
    for thread in threads:
        thread.start()
    await wait_until(lambda: len(consumer.ticks) == 15_000, what="all ticks have come")
    for symbol in "abc":
        assert [t.volume for t in consumer.ticks if t.symbol == symbol] == list(range(5_000))
    assert consumer.threads == {threading.get_ident()}
    assert bridge.depth == 0


@pytest.mark.asyncio
async def test_the_loop_is_woken_once_for_all_that_came() -> None:
    consumer = Consumer()
    bridge = Bridge(asyncio.get_running_loop(), consumer)
    for number in range(200):
        bridge.on_tick(raw_tick(volume=number))
    await wait_until(lambda: len(consumer.ticks) == 200, what="all ticks have come")
    assert consumer.turns == 1


@pytest.mark.asyncio
async def test_beyond_the_bound_the_newest_tick_of_each_contract_is_kept() -> None:
    consumer = Consumer()
    bridge = Bridge(asyncio.get_running_loop(), consumer, bound=10)
    for number in range(100):
        for symbol in "ab":
            bridge.on_tick(raw_tick(symbol=symbol, volume=number))
    assert bridge.depth == 12
    await wait_until(lambda: len(consumer.conflated) == 2, what="the newest have come")
    assert [tick.volume for tick in consumer.ticks] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [(tick.symbol, tick.volume) for tick in consumer.conflated] == [("a", 99), ("b", 99)]
    assert bridge.conflated == {"SHFE": 188}
    bridge.on_tick(raw_tick(volume=1000))
    await wait_until(lambda: len(consumer.ticks) == 11, what="it is as before")


@pytest.mark.asyncio
async def test_no_tick_overtakes_one_that_was_put_aside() -> None:
    consumer = Consumer()
    bridge = Bridge(asyncio.get_running_loop(), consumer, bound=1_500)
    for number in range(1_501):
        bridge.on_tick(raw_tick(volume=number))
    await asyncio.sleep(0)
    assert bridge.depth == 1_251
    bridge.on_tick(raw_tick(volume=1_501))
    await wait_until(lambda: bridge.depth == 0, what="all has been handed on")
    assert consumer.volumes == [*range(1_500), 1_501]


class Interrupted(str):
    """An exchange whose first comparison is when the loop takes its turn."""

    __slots__ = ("turn",)

    turn: Callable[[], None] | None

    def __hash__(self) -> int:
        turn, self.turn = self.turn, None
        if turn is not None:
            turn()
        return str.__hash__(self)

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other)


@pytest.mark.asyncio
async def test_a_tick_that_comes_while_the_loop_takes_what_was_put_aside_is_not_lost() -> None:
    consumer = Consumer()
    bridge = Bridge(asyncio.get_running_loop(), consumer, bound=1)
    bridge.on_tick(raw_tick(volume=1))
    bridge.on_tick(raw_tick(volume=2))
    exchange = Interrupted("SHFE")
    exchange.turn = bridge._hand_on
    bridge.on_tick(raw_tick(exchange=exchange, volume=3))
    await wait_until(lambda: consumer.volumes == [1, 2, 3], what="all has been handed on")
    assert bridge.depth == 0


@pytest.mark.asyncio
async def test_facts_come_in_their_order() -> None:
    consumer = Consumer()
    bridge = Bridge(asyncio.get_running_loop(), consumer)
    contract = Contract("SHFE", "rb2701", "rb")
    failure = GatewayFailure("no such contract", 16)
    bridge.on_state(GatewayState.LOADING_CONTRACTS)
    bridge.on_contract(contract)
    bridge.on_state(GatewayState.READY)
    bridge.on_subscribed("SHFE.x", failure)
    await wait_until(lambda: len(consumer.facts) == 4, what="all has come")
    assert consumer.facts == [
        (GatewayState.LOADING_CONTRACTS, None),
        contract,
        (GatewayState.READY, None),
        ("SHFE.x", failure),
    ]


@pytest.mark.asyncio
async def test_a_closed_bridge_hands_on_nothing() -> None:
    consumer = Consumer()
    bridge = Bridge(asyncio.get_running_loop(), consumer)
    bridge.on_tick(raw_tick())
    bridge.close()
    bridge.on_tick(raw_tick())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert consumer.ticks == []


def test_a_thread_that_outlives_the_loop_is_not_harmed() -> None:
    loop = asyncio.new_event_loop()
    bridge = Bridge(loop, Consumer())
    loop.close()
    bridge.on_tick(raw_tick())
    bridge.on_state(GatewayState.STOPPED)
    assert bridge.depth == 1
