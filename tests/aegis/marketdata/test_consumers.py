"""What consumers of a market are told: the state first, then each tick once, and every gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

import aegis
from aegis import AegisActor, ConfigurationError, subscribes
from aegis.marketdata import Tick, TickGap, TickStream, ticks_of
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._contract import Contract, UniverseFilter
from aegis.marketdata._follower import TickFollower, subjects_of
from aegis.marketdata._last_ticks import PART, answer_last, ask_last
from aegis.marketdata._pipeline import FeedPipeline
from aegis.marketdata._ports import GatewayListener, GatewayState
from aegis.marketdata._subjects import tick_subject
from aegis.marketdata.adapters._nats_publisher import NatsTickPublisher
from tests.support.marketdata import ns, raw_tick, tick
from tests.support.nats import NatsServer
from tests.support.poll import wait_until
from tests.support.system import Backend, System, on_both

# -- the rules ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "subjects"),
    [
        (["SHFE.rb*"], ("md.tick.SHFE.>",)),
        (["SHFE.rb*", "SHFE.cu2701"], ("md.tick.SHFE.>",)),
        (["SHFE.rb*", "DCE.*"], ("md.tick.DCE.>", "md.tick.SHFE.>")),
        (["*"], ("md.tick.>",)),
        (["*", "SHFE.rb*"], ("md.tick.>",)),
        (["S*.rb*"], ("md.tick.>",)),
        (["[SD]*.m*"], ("md.tick.>",)),
    ],
)
def test_no_tick_comes_on_two_subjects(patterns: list[str], subjects: tuple[str, ...]) -> None:
    assert subjects_of(patterns) == subjects


def at(sequence: int, **changes: Any) -> Tick:
    """Return a tick with that number; each is a change of its contract."""
    return tick(**{"sequence": sequence, "volume": 100 + sequence, **changes})


def test_a_number_that_is_missing_is_a_gap_of_its_exchange() -> None:
    follower = TickFollower(["SHFE.rb*"])
    assert follower.take(at(5)) == [at(5)]
    assert follower.take(at(6, symbol="cu2701")) == []
    assert follower.take(at(9)) == [TickGap("SHFE", 7, 2), at(9)]
    assert follower.take(at(12, symbol="cu2701")) == [TickGap("SHFE", 7, 2)]
    other = at(1, exchange="DCE", symbol="m2701")
    assert follower.take(other) == []


def test_another_feed_is_told_once_and_the_one_before_is_heard_no_more() -> None:
    follower = TickFollower(["*"])
    follower.take(at(5))
    changed = TickGap("SHFE", 8, 0, feed_changed=True)
    assert follower.take(at(1, epoch=8, volume=200)) == [changed, at(1, epoch=8, volume=200)]
    assert follower.take(at(6)) == []
    # Its view of what the other has said already is none of the consumer's business.
    assert follower.take(at(2, epoch=8, volume=200)) == []


def test_what_was_lost_of_another_exchange_since_the_feed_changed_is_told() -> None:
    follower = TickFollower(["*"])
    dce = {"exchange": "DCE", "symbol": "m2701"}
    follower.take(at(5))
    follower.take(at(3, **dce))
    changed = TickGap("SHFE", 8, 0, feed_changed=True)
    assert follower.take(at(1, epoch=8, volume=200)) == [changed, at(1, epoch=8, volume=200)]
    assert follower.take(at(4, epoch=8, **dce))[0] == TickGap("DCE", 8, 3)
    gfex = {"exchange": "GFEX", "symbol": "si2701"}
    assert follower.take(at(1, epoch=8, **gfex)) == [at(1, epoch=8, **gfex)]


def test_a_feed_that_counts_anew_was_started_anew() -> None:
    follower = TickFollower(["*"])
    follower.take(at(5))
    told = follower.take(at(1, volume=300))
    assert told == [TickGap("SHFE", 7, 0, feed_changed=True), at(1, volume=300)]
    assert follower.take(at(2, volume=301)) == [at(2, volume=301)]


def test_a_state_says_up_to_where_nothing_is_missing() -> None:
    follower = TickFollower(["*"])
    assert follower.take_state(at(10)) == [at(10)]
    # On its way since before the state was told.
    assert follower.take(at(9)) == []
    assert follower.take(at(10)) == []
    assert follower.take(at(11)) == [at(11)]
    late = TickFollower(["*"])
    late.take_state(at(10))
    assert late.take(at(13)) == [TickGap("SHFE", 7, 2), at(13)]
    assert late.take_state(at(99, epoch=6)) == []


# -- a market with its consumers ------------------------------------------------------------


class Gateway:
    """Is told nothing, and tells nothing: the test does."""

    name = "a"

    def start(self, listener: GatewayListener) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""

    def subscribe(self, contracts: Sequence[Contract]) -> None:
        """Nothing."""

    def unsubscribe(self, contracts: Sequence[Contract]) -> None:
        """Nothing."""


class Market:
    """The feed of a market, whose ticks the test tells."""

    def __init__(self, system: System, calendar: Calendar) -> None:
        self.cluster = system.cluster
        self.volume = 0
        self.pipeline = FeedPipeline(
            Gateway(),
            NatsTickPublisher(system.cluster),
            calendar,
            UniverseFilter(),
            now=lambda: 0.0,
            wall_ns=lambda: ns("2026-11-23 10:00:01"),
        )
        self.pipeline.on_state(GatewayState.READY, None)
        self.pipeline.activate(7, 1.5)

    @classmethod
    @asynccontextmanager
    async def open(cls, system: System, calendar: Calendar) -> AsyncGenerator[Market]:
        market = cls(system, calendar)
        async with answer_last(system.cluster, market.pipeline):
            yield market

    def tick(self, symbol: str = "rb2701", exchange: str = "SHFE") -> None:
        """Tell a tick of a contract."""
        self.volume += 1
        raw = raw_tick(symbol=symbol, exchange=exchange, volume=self.volume)
        self.pipeline.on_ticks([raw], False)

    def lose(self, symbol: str = "rb2701") -> None:
        """Tell a tick that is lost on its way."""
        until, self.pipeline._publisher = self.pipeline._publisher, _Nowhere()
        self.tick(symbol)
        self.pipeline._publisher = until


class _Nowhere:
    def publish(self, ticks: Sequence[Tick]) -> None:
        """Nothing leaves."""

    def statistics(self) -> dict[str, int]:
        return {}


async def take(stream: TickStream, count: int) -> list[tuple[list[TickGap], str, int]]:
    """Return the next ticks, with the gaps right before each."""
    taken: list[tuple[list[TickGap], str, int]] = []
    async with asyncio.timeout(60):
        async for one in stream:
            taken.append((stream.take_gaps(), one.symbol, one.volume))
            if len(taken) == count:
                return taken
    return taken


@on_both
async def test_the_state_of_each_contract_comes_first_then_each_change(system: System) -> None:
    async with Market.open(system, Calendar.load()) as market:
        for symbol in ("rb2701", "cu2701", "rb2702", "rb2701"):
            market.tick(symbol)
        market.tick("m2701", "DCE")
        async with system.cluster.ticks("SHFE.rb*", "DCE.*") as stream:
            assert stream.snapshot == 3
            market.tick("cu2701")
            market.tick("rb2702")
            assert await take(stream, 4) == [
                ([], "rb2701", 4),
                ([], "rb2702", 3),
                ([], "m2701", 5),
                ([], "rb2702", 7),
            ]


@on_both
async def test_a_state_of_thousands_of_contracts_comes_in_parts(system: System) -> None:
    async with Market.open(system, Calendar.load()) as market:
        for number in range(2 * PART + 1):
            market.tick(f"rb{number}")
        states = await ask_last(system.cluster, ["SHFE.*"])
        assert states is not None
        assert [state.volume for state in states] == list(range(1, 2 * PART + 2))
        assert await ask_last(system.cluster, ["DCE.*"]) == []


@on_both
async def test_without_a_feed_there_is_no_state_and_a_stream_waits_for_one(system: System) -> None:
    async with system.cluster.ticks() as stream:
        assert stream.snapshot is None
        async with Market.open(system, Calendar.load()) as market:
            market.pipeline.mute()
            assert await ask_last(system.cluster, ["*"]) is None
            market.pipeline.activate(8, 1.5)
            market.tick()
            assert await take(stream, 1) == [([], "rb2701", 1)]


@on_both
async def test_what_comes_while_the_state_is_waited_for_is_not_lost(system: System) -> None:
    async with Market.open(system, Calendar.load()) as market:
        market.pipeline.mute()  # It stands by: it answers nothing.
        stream = system.cluster.ticks()
        entering = asyncio.ensure_future(stream.__aenter__())
        await wait_until(lambda: bool(stream._subscriptions), what="it listens")
        await system.cluster.transport.flush()
        for number in (1, 2):
            payload = at(number).to_wire()
            system.cluster.transport.publish(tick_subject("SHFE", "rb2701"), payload)
        await entering
        assert stream.snapshot is None
        assert await take(stream, 2) == [([], "rb2701", 101), ([], "rb2701", 102)]
        await stream.__aexit__()


@on_both
async def test_what_is_lost_on_the_way_is_told_before_the_next_tick(system: System) -> None:
    async with (
        Market.open(system, Calendar.load()) as market,
        system.cluster.ticks("SHFE.rb*", snapshot=False) as stream,
    ):
        market.tick()
        market.lose("cu2701")
        market.lose()
        market.tick()
        assert await take(stream, 2) == [
            ([], "rb2701", 1),
            ([TickGap("SHFE", 7, 2)], "rb2701", 4),
        ]


@on_both
async def test_a_slow_consumer_loses_the_oldest_ticks_and_is_told_where(system: System) -> None:
    async with (
        Market.open(system, Calendar.load()) as market,
        system.cluster.ticks("SHFE.rb*", bound=3) as stream,
    ):
        for _ in range(8):
            market.tick()
        await system.cluster.transport.flush()
        await wait_until(lambda: stream.dropped == 5, what="the oldest gave way")
        market_gap = TickGap("SHFE", 7, 5, dropped=True)
        assert await take(stream, 3) == [
            ([market_gap], "rb2701", 6),
            ([], "rb2701", 7),
            ([], "rb2701", 8),
        ]


def test_a_blocking_client_iterates_over_ticks_and_is_told_what_it_missed(
    nats_server: NatsServer,
) -> None:
    async def scenario(system: System) -> None:
        async with Market.open(system, Calendar.load()) as market:
            market.tick("cu2701")
            market.tick()

            def in_a_thread() -> None:
                with aegis.connect_blocking(nats_server.url) as cluster:
                    ticks = cluster.ticks("SHFE.rb*")
                    stream = iter(ticks)
                    assert next(stream).volume == 2
                    loop.call_soon_threadsafe(go_on)
                    assert next(stream).volume == 5
                    assert ticks.take_gaps() == [TickGap("SHFE", 7, 2)]
                    stream.close()

            def go_on() -> None:
                market.lose()
                market.lose()
                market.tick()

            loop = asyncio.get_running_loop()
            await asyncio.to_thread(in_a_thread)

    Backend(nats_server.url).run(scenario)


# -- actors ---------------------------------------------------------------------------------


class Trader(AegisActor):
    """Hears the market in several ways."""

    service = "trader"

    def on_start(self) -> None:
        self.heard: list[Any] = []
        self.own: list[str] = []
        self.slow: list[tuple[int, int]] = []
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()

    @subscribes(ticks_of("SHFE.rb*", gaps=True))
    async def on_tick(self, said: Tick | TickGap) -> None:
        self.heard.append(said)

    @subscribes(ticks_of("{resource_id}"))
    def on_own_tick(self, tick: Tick, topic: str) -> None:
        self.own.append(topic)

    @subscribes(ticks_of("DCE.*"), queue_size=2)
    async def on_slow(self, tick: Tick, missed: int) -> None:
        self.entered.set()
        await self.opened.wait()
        self.slow.append((tick.volume, missed))


def trader(system: System, resource: str | None) -> Any:
    (desk,) = system.nodes[0].dispatcher.desks.values()
    cell = desk.cell if resource is None else desk.resources[resource]
    assert cell is not None
    return cell.actor


@on_both
async def test_an_actor_hears_ticks_in_order_and_what_it_missed(system: System) -> None:
    await system.start_node((Trader, ["SHFE.rb2701", "SHFE.cu2701"]))
    async with Market.open(system, Calendar.load()) as market:
        market.tick()
        market.tick("cu2701")
        market.lose()
        market.tick()
        system.cluster.transport.publish(tick_subject("SHFE", "rb2701"), at(9, epoch=6).to_wire())
        system.cluster.transport.publish(tick_subject("SHFE", "rb2701"), b"no tick")
        actor = trader(system, "SHFE.rb2701")
        await wait_until(lambda: len(actor.heard) == 3, what="all was heard")
        first, gap, last = actor.heard
        assert (first.volume, gap, last.volume) == (1, TickGap("SHFE", 7, 1), 4)
        counts = {c.topic: c for c in system.nodes[0].topics.statistics()}
        await wait_until(
            lambda: counts["ticks of SHFE.rb*"].refused == 1, what="what is no tick was counted"
        )


@on_both
async def test_an_actor_that_is_named_like_a_contract_hears_that_contract(system: System) -> None:
    await system.start_node((Trader, ["SHFE.rb2701", "SHFE.cu2701"]))
    async with Market.open(system, Calendar.load()) as market:
        for symbol in ("rb2701", "rb2702", "cu2701", "rb2701"):
            market.tick(symbol)
        rb, cu = (trader(system, f"SHFE.{symbol}") for symbol in ("rb2701", "cu2701"))
        await wait_until(lambda: len(rb.own) == 2 and len(cu.own) == 1, what="each heard its own")
        assert set(rb.own) == {"md.tick.SHFE.rb2701"}
        assert set(cu.own) == {"md.tick.SHFE.cu2701"}
        assert trader(system, None).own == []


@on_both
async def test_an_actor_that_is_too_slow_is_told_how_many_ticks_it_missed(system: System) -> None:
    await system.start_node(Trader)
    actor = trader(system, None)
    async with Market.open(system, Calendar.load()) as market:
        market.tick("m2701", "DCE")
        await actor.entered.wait()
        for _ in range(6):
            market.tick("m2701", "DCE")
        counts = {c.topic: c for c in system.nodes[0].topics.statistics()}["ticks of DCE.*"]
        await wait_until(lambda: counts.received == 7, what="all came")
        actor.opened.set()
        await wait_until(lambda: len(actor.slow) == 3, what="what was kept was heard")
        assert actor.slow == [(1, 0), (6, 4), (7, 0)]
        assert counts.dropped == 4


@pytest.mark.parametrize(
    ("patterns", "gaps", "problem"),
    [
        (("NYSE.*",), False, "names no exchange that is known"),
        (("{resource_id}", "SHFE.*"), False, "stands alone"),
        (("{resource_id}",), True, "gaps are an exchange's"),
    ],
)
def test_ticks_that_cannot_be_subscribed_to_are_refused(
    patterns: tuple[str, ...], gaps: bool, problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        ticks_of(*patterns, gaps=gaps)
