"""vnpy's real event engine and a gateway written for it, from its events to NATS."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nats
import pytest
from attrs import define, evolve, field
from vnpy.event import EventEngine
from vnpy.trader.constant import Exchange, Product

from aegis.marketdata import Tick, _pipeline
from aegis.marketdata._config import MarketConfig
from aegis.marketdata._contract import Product as Kind
from aegis.marketdata._contract import UniverseFilter
from aegis.marketdata._gateway_process import GatewayProcess
from aegis.marketdata._gateways import make_gateway
from aegis.marketdata._ports import GatewayState
from aegis.marketdata._tick import Level, TickFlag
from aegis.marketdata.adapters._vnpy import VnpyGatewayAdapter, received_ns_of
from aegis.marketdata.adapters._vnpy_events import EventThread
from tests.support.ctp import Heard
from tests.support.marketdata import NO_PRICE, SHANGHAI
from tests.support.nats import NatsServer
from tests.support.poll import wait_until
from tests.support.vnpy_gateway import KnownGateway

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

SUBJECT = "md.tick.SHFE.rb2701"


def market(folder: Path, **source: Any) -> MarketConfig:
    vnpy = {
        "gateway": "tests.support.vnpy_gateway:KnownGateway",
        "contracts_settle": 0.1,
        **source,
    }
    return MarketConfig.from_tables({"calendar": "always", "feeds": {"a": {"vnpy": vnpy}}}, folder)


@define
class Running:
    """A gateway process in this process, and what came of it."""

    gateway: KnownGateway
    told: list[dict[str, Any]]
    orders: asyncio.Queue[str]
    ticks: list[Tick] = field(factory=list[Tick])

    @property
    def status(self) -> dict[str, Any]:
        found = [told["status"] for told in self.told if told["told"] == "status"]
        return found[-1] if found else {}

    async def next_tick(self) -> Tick:
        await wait_until(lambda: bool(self.ticks), what="a tick is published", timeout=60)
        return self.ticks.pop(0)


@asynccontextmanager
async def running(server: NatsServer, config: MarketConfig) -> AsyncGenerator[Running]:
    """Run a feed with a real subscriber, active, until its contract is subscribed to."""
    told: list[dict[str, Any]] = []
    orders: asyncio.Queue[str] = asyncio.Queue()
    until = time.monotonic() + 600.0
    orders.put_nowait(json.dumps({"do": "activate", "epoch": 7, "until": until}))
    before = len(KnownGateway.made)
    task = asyncio.create_task(GatewayProcess(told.append).run(config, "a", orders))
    connection: Any = await nats.connect(server.url)  # pyright: ignore[reportUnknownMemberType]
    try:
        await wait_until(
            lambda: len(KnownGateway.made) > before, what="there is a gateway", timeout=60
        )
        gateway = KnownGateway.made[-1]
        run = Running(gateway, told, orders)

        async def on_message(message: Any) -> None:
            run.ticks.append(Tick.from_wire(message.data))

        await connection.subscribe(SUBJECT, cb=on_message)
        await connection.flush()
        await wait_until(
            lambda: bool(gateway.subscribed) or task.done(), what="it is subscribed to", timeout=60
        )
        assert not task.done()
        yield run
    finally:
        orders.put_nowait(json.dumps({"do": "stop"}))
        await task
        await connection.close()
        for gateway in KnownGateway.made[before:]:
            gateway.event_engine._active = False  # Its process would end here.


@pytest.fixture
def server(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> NatsServer:
    monkeypatch.setenv("AEGIS_NATS_URL", nats_server.url)
    return nats_server


async def test_the_states_of_all_contracts_leave_however_many_they_are(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pipeline, "STATES_TOGETHER", 1)
    config = evolve(market(tmp_path), universe=UniverseFilter(products=tuple(Kind)))
    async with running(server, config) as run:
        run.gateway.on_tick(run.gateway.tick("SP a2701&a2705", exchange=Exchange.DCE))
        run.gateway.on_tick(run.gateway.tick())
        assert (await run.next_tick()).epoch == 7
        order = {"do": "activate", "epoch": 8, "until": time.monotonic() + 600.0}
        run.orders.put_nowait(json.dumps(order))
        # Nothing else is asked of it, and this one is the second.
        assert (await run.next_tick()).epoch == 8


async def test_every_field_of_a_tick_arrives_at_a_subscriber(
    server: NatsServer, tmp_path: Path
) -> None:
    config = market(tmp_path)
    deeper: dict[str, Any] = {
        f"{s}_{w}_{n}": float(n)
        for n in (2, 3, 4, 5)
        for s in ("bid", "ask")
        for w in ("price", "volume")
    }
    async with running(server, config) as run:
        sent = run.gateway.tick(**deeper)
        run.gateway.on_tick(sent)
        first = await run.next_tick()
        # What does not exist: vnpy's 0, and what it forgets to make one of.
        later = run.gateway.tick(
            volume=101, last_price=0, open_price=0, limit_up=NO_PRICE, bid_price_1=0, bid_volume_1=0
        )
        run.gateway.on_tick(later)
        second = await run.next_tick()
    calendar = config.load_calendar()
    day = calendar.trading_day(sent.datetime.astimezone(UTC))
    moment = sent.datetime
    expected = Tick(
        version=1,
        feed="a",
        epoch=7,
        sequence=1,
        exchange="SHFE",
        symbol="rb2701",
        trading_day=day.year * 10_000 + day.month * 100 + day.day,
        time_ns=int(moment.replace(microsecond=0).timestamp()) * 10**9
        + moment.microsecond // 1000 * 10**6,
        received_ns=first.received_ns,
        flags=TickFlag.SNAPSHOT,
        last_price=3100.0,
        volume=100,
        turnover=3_100_000.0,
        open_interest=20_000.0,
        open_price=3090.0,
        high_price=3110.0,
        low_price=3080.0,
        close_price=None,
        settlement_price=None,
        previous_close=3095.0,
        previous_settlement=None,
        limit_up=3300.0,
        limit_down=2900.0,
        levels=(
            Level(3099.0, 5, 3101.0, 7),
            *(Level(float(n), n, float(n), n) for n in (2, 3, 4, 5)),
        ),
    )
    assert first == expected
    assert 0 <= first.lag_seconds < 60
    assert second == expected._replace(
        sequence=2,
        flags=0,
        time_ns=second.time_ns,
        received_ns=second.received_ns,
        trading_day=second.trading_day,
        volume=101,
        last_price=None,
        open_price=None,
        limit_up=None,
        levels=(Level(None, 0, 3101.0, 7),),
    )


async def test_contracts_are_told_by_name_and_only_what_is_known_is_subscribed_to(
    server: NatsServer, tmp_path: Path
) -> None:
    async with running(server, market(tmp_path)) as run:
        await wait_until(
            lambda: any(told["told"] == "contracts" for told in run.told),
            what="all contracts are told",
            timeout=60,
        )
        (told,) = [told["contracts"] for told in run.told if told["told"] == "contracts"][-1:]
        assert [contract[:4] for contract in told] == [
            ["SHFE", "rb2701", "rb", "futures"],
            ["DCE", "SP a2701&a2705", "a", "combination"],
            ["CME", "ES", "ES", "futures"],
        ]
        assert run.gateway.subscribed == ["rb2701.SHFE"]


async def test_a_handler_that_raises_does_not_end_the_feed(
    server: NatsServer, tmp_path: Path
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("not mine")

    async with running(server, market(tmp_path)) as run:
        run.gateway.event_engine.register("eLog", broken)
        run.gateway.write_log("hello")
        run.gateway.on_tick(run.gateway.tick())
        assert (await run.next_tick()).volume == 100
        await wait_until(
            lambda: run.status["gateway"]["counts"]["handler_errors"] == 1,
            what="the failure is counted",
            timeout=60,
        )
        assert "event_queue" in run.status["gateway"]


def adapter_of(folder: Path, **source: Any) -> VnpyGatewayAdapter:
    config = market(folder, **source)
    gateway = make_gateway(config, "a", config.load_calendar())
    assert isinstance(gateway, VnpyGatewayAdapter)
    return gateway


@asynccontextmanager
async def started(adapter: VnpyGatewayAdapter) -> AsyncGenerator[Heard]:
    heard = Heard()
    adapter.start(heard)
    try:
        yield heard
    finally:
        adapter.stop()


async def told(heard: Heard, state: GatewayState) -> None:
    await wait_until(lambda: state in heard.states, what=f"it is {state.value}", timeout=60)


async def test_events_that_nobody_handles_do_not_wait_for_the_engine(tmp_path: Path) -> None:
    def handle(event: object) -> None:
        pass

    events = EventThread("a", tmp_path, lambda failure: None)
    events.register("eTick.", handle)
    gateway = KnownGateway(events.engine, "known")
    gateway.on_tick(gateway.tick())  # Told twice, the second time under its contract's name.
    assert events.waiting == 1
    events.engine.register_general(handle)
    gateway.on_tick(gateway.tick())
    assert events.waiting == 3


async def test_an_event_thread_that_ends_or_is_stuck_fails_the_gateway(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path)
    async with started(adapter) as heard:
        events = adapter._events
        assert events.problem() == ""
        events._beat_at -= 31
        assert "vnpy's event thread is 31 s behind" in events.problem()
        events.engine._active = False  # As an exception in a handler of plain vnpy ends it.
        await told(heard, GatewayState.FAILED)
    assert "event thread has ended" in heard.failures[-1].reason


async def test_contracts_that_come_late_are_said_to_be_complete_again(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path)
    async with started(adapter) as heard:
        await told(heard, GatewayState.READY)
        gateway = adapter.gateway
        gateway.on_contract(gateway.contract("rb2705", Exchange.SHFE, Product.FUTURES))
        await wait_until(
            lambda: heard.states.count(GatewayState.READY) == 2,
            what="it is ready again",
            timeout=60,
        )
    assert [contract.symbol for contract in heard.contracts][-1] == "rb2705"


async def test_ticks_that_nobody_wants_any_more_are_left_out(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path)
    async with started(adapter) as heard:
        await told(heard, GatewayState.READY)
        rb = heard.contracts[0]
        adapter.subscribe([rb])
        adapter.gateway.on_tick(adapter.gateway.tick())
        await wait_until(lambda: len(heard.ticks) == 1, what="the first tick has come", timeout=60)
        adapter.unsubscribe([rb])
        adapter.gateway.on_tick(adapter.gateway.tick(volume=101))
        await wait_until(
            lambda: adapter.statistics().counts.get("unwanted_ticks") == 1,
            what="the second was dropped",
            timeout=60,
        )
    assert [tick.volume for tick in heard.ticks] == [100]


async def test_a_gateway_that_cannot_connect_says_why(tmp_path: Path) -> None:
    async with started(adapter_of(tmp_path, setting={"refuse": True})) as heard:
        await told(heard, GatewayState.FAILED)
    assert heard.failures[-1].reason == "connect() failed: ConnectionError: there is no way"


async def test_secrets_reach_the_gateway_and_it_is_never_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_PASSWORD", "hunter2")
    adapter = adapter_of(tmp_path, setting={"user": "me"}, setting_env={"密码": "A_PASSWORD"})
    async with started(adapter) as heard:
        await told(heard, GatewayState.READY)
    assert adapter.gateway.setting == {"user": "me", "密码": "hunter2"}
    assert not adapter.gateway.closed


async def test_times_of_another_zone_are_told_in_the_exchanges(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path)
    moment = datetime(2026, 11, 23, 2, 0, 0, 500_000, tzinfo=UTC)
    async with started(adapter) as heard:
        await told(heard, GatewayState.READY)
        adapter.subscribe(heard.contracts[:1])
        adapter.gateway.on_tick(adapter.gateway.tick(datetime=moment))
        await wait_until(lambda: bool(heard.ticks), what="the tick has come", timeout=60)
    assert (heard.ticks[0].time_of_day, heard.ticks[0].millisecond) == ("10:00:00", 500)
    assert moment.astimezone(SHANGHAI).hour == 10


async def test_a_tick_was_received_when_its_gateway_says_so_and_else_when_its_event_came() -> None:
    gateway = KnownGateway(EventEngine(), "known")
    before_ns = time.time_ns()
    told = datetime.fromtimestamp(before_ns / 1e9 - 2, SHANGHAI)
    assert received_ns_of(gateway.tick(localtime=told)) == round(told.timestamp() * 1e6) * 1000
    for other in (None, told - timedelta(hours=8), told + timedelta(hours=8)):
        assert before_ns <= received_ns_of(gateway.tick(localtime=other)) <= time.time_ns()


async def test_vnpy_brings_neither_its_desktop_nor_its_indicators(tmp_path: Path) -> None:
    adapter_of(tmp_path)
    assert not {"PySide6", "talib", "vnpy.trader.engine"} & set(sys.modules)
