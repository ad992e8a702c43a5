"""Recordings played again: what their rows mean, in which order, at which time."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from structlog.testing import capture_logs

from aegis import ConfigurationError
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._config import FeedConfig, ReplaySource
from aegis.marketdata._contract import Contract, Product
from aegis.marketdata._gateways import check_source
from aegis.marketdata._normalizer import Normalizer
from aegis.marketdata._ports import (
    GatewayFailure,
    GatewayState,
    RawTick,
    RecordedGatewayPort,
)
from aegis.marketdata._recorded_rows import RowReader, RowUnreadable, column_name, contract_of
from aegis.marketdata._replay_clock import ReplayClock
from aegis.marketdata._tick import Level, TickFlag
from aegis.marketdata.adapters._recordings import Recordings
from aegis.marketdata.adapters._replay import ReplayGateway
from tests.support.marketdata import SHANGHAI, ns, raw_tick

SAMPLE = Path(__file__).resolve().parents[3] / "examples/recordings/czce_rm705_20170320.csv"

HEAD = "exchange,symbol,trading_day,time,received_ns,last_price,volume,bid_price_1,bid_volume_1\n"


def row(at: str, price: str = "3100", symbol: str = "rb2701", exchange: str = "SHFE") -> str:
    return f"{exchange},{symbol},20261123,2026-11-23 {at},,{price},7,3099,5\n"


def recordings(calendar: Calendar, *files: Path, exchange: str = "") -> Recordings:
    return Recordings.open(ReplaySource(tuple(map(str, files)), exchange=exchange), calendar)


# -- rows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("lastPrice", "last_price"),
        ("bidPrice1", "bid_price_1"),
        ("ask_volume_5", "ask_volume_5"),
        (' "Symbol"', "symbol"),
        ("datetime", "time"),
    ],
)
def test_a_column_has_one_name_however_it_is_written(written: str, name: str) -> None:
    assert column_name(written) == name


def read(head: str, cells: Sequence[Any], exchange: str = "") -> RawTick:
    reader = RowReader([column_name(name) for name in head.split(",")], SHANGHAI, exchange)
    return reader.read(cells)


@pytest.mark.parametrize(
    ("head", "cells"),
    [
        ("symbol,date,time", ["IF2612", "20261123", "10:00:00.5"]),
        ("symbol,date,time", ["IF2612", "2026-11-23", "10:00:00.500"]),
        ("symbol,datetime", ["IF2612", "2026-11-23 10:00:00.500000"]),
        ("symbol,datetime", ["IF2612", "2026-11-23T02:00:00.5+00:00"]),
        ("symbol,time_ns", ["IF2612", str(ns("2026-11-23 10:00:00.5"))]),
        ("symbol,time_ns", ["IF2612", ns("2026-11-23 10:00:00.5")]),
    ],
)
def test_a_time_is_the_same_however_it_is_written(head: str, cells: list[Any]) -> None:
    tick = read(head, cells)
    assert (tick.time_of_day, tick.millisecond) == ("10:00:00", 500)
    assert tick.received_ns == ns("2026-11-23 10:00:00.5")


def test_what_a_recording_does_not_tell_does_not_exist() -> None:
    tick = read("symbol,date,time,lastPrice", ["RM705", "20170320", "09:00:00", ""])
    assert tick.exchange == "CZCE"
    assert (tick.last_price, tick.volume, tick.limit_up) == (None, 0, None)
    assert tick.levels == (Level(None, 0, None, 0),)
    assert (tick.trading_day, tick.flags) == (0, 0)


def test_levels_that_are_empty_are_left_out_behind_the_first() -> None:
    head = "symbol,time_ns,bid_price_1,bid_volume_1,bid_price_2,bid_volume_2,ask_volume_3"
    cells = ["IO2612", ns("2026-11-23 10:00:00"), 3.5, 2, 3.4, 1, None]
    assert read(head, cells).levels == (Level(3.5, 2, None, 0), Level(3.4, 1, None, 0))


def test_trades_are_added_up_where_no_volume_of_the_day_was_recorded() -> None:
    reader = RowReader(["symbol", "date", "time", "last_volume"], SHANGHAI)
    volumes = [
        reader.read(["RM705", day, "09:00:00", traded]).volume
        for day, traded in (("20170320", "3"), ("20170320", "4"), ("20170321", "5"))
    ]
    assert volumes == [3, 7, 5]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"symbol": ""}, "no symbol"),
        ({"symbol": "rb2701", "exchange": ""}, "nothing tells the exchange of rb2701"),
        ({"exchange": "NYSE"}, "the exchange 'NYSE' is unknown"),
        ({"time": "soon"}, "its time makes no sense"),
        ({"time": ""}, "its time makes no sense"),
        ({"last_price": "3l00"}, "last_price is no number: '3l00'"),
        ({"volume": "-1"}, "its volume is negative"),
        ({"volume": "many"}, "volume is no whole number"),
        ({"received_ns": "x"}, "received_ns is no whole number"),
        ({"bid_volume_1": "-5"}, "a volume of -5 makes no sense"),
        ({"bid_volume_1": "nan"}, "a volume of nan makes no sense"),
        ({"volume": "9" * 400}, "a volume of 99999"),
        ({"time": "1970-01-01 00:00:00"}, "its time makes no sense"),
        ({"time": "2970-01-01 00:00:00"}, "its time makes no sense"),
        ({"received_ns": "5"}, "received_ns makes no sense: 5"),
        ({"received_ns": "9" * 40}, "received_ns makes no sense: 999"),
        ({"trading_day": "2026-13-01"}, "its trading day makes no sense"),
        ({"trading_day": "2062-11-23"}, "its trading day 2062-11-23 makes no sense on 2026-11-23"),
    ],
)
def test_a_row_that_makes_no_tick_says_why(change: dict[str, str], reason: str) -> None:
    names = HEAD.strip().split(",")
    cells = dict(zip(names, row("10:00:00").strip().split(","), strict=True)) | change
    with pytest.raises(RowUnreadable) as caught:
        read(HEAD.strip(), [cells[name] for name in names])
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("exchange", "symbol", "product", "product_class", "canonical"),
    [
        ("SHFE", "rb2701", Product.FUTURES, "rb", "rb2701"),
        ("CZCE", "RM705", Product.FUTURES, "RM", "RM1705"),
        ("CZCE", "SR705C5600", Product.OPTION, "SR", "SR1705C5600"),
        ("DCE", "m1705-P-2600", Product.OPTION, "m", "m1705-P-2600"),
        ("SSE", "10004237", Product.OPTION, "10004237", "10004237"),
        ("DCE", "SP a1705&a1709", Product.COMBINATION, "SP", "SP a1705&a1709"),
        ("SHFE", "imci", Product.OTHER, "imci", "imci"),
    ],
)
def test_a_contract_is_what_its_symbol_says(
    exchange: str, symbol: str, product: Product, product_class: str, canonical: str
) -> None:
    contract = contract_of(exchange, symbol, 2017)
    assert (contract.product, contract.product_class) == (product, product_class)
    assert contract.canonical == canonical
    if product is Product.OPTION and exchange != "SSE":
        assert contract.strike in (5600.0, 2600.0)
        assert contract.underlying in ("SR705", "m1705")


# -- files ----------------------------------------------------------------------------------


def test_the_sample_is_read_whole_and_its_day_is_known(calendar: Calendar) -> None:
    found = recordings(calendar, SAMPLE)
    ticks = list(found.ticks())
    assert len(ticks) == len(SAMPLE.read_text().splitlines()) - 1
    assert [contract.key for contract in found.contracts] == ["CZCE.RM705"]
    assert found.statistics()["damaged"] == 0
    normalizer = Normalizer(found.calendar)
    made = [normalizer.normalize(tick) for tick in ticks]
    assert {tick.trading_day for tick in made if tick} == {20170320}
    assert not any(tick.stale for tick in made if tick)
    with pytest.raises(ConfigurationError, match="does not know 2017"):
        Normalizer(calendar).normalize(ticks[0])


def test_the_trading_day_and_the_flags_are_those_that_were_recorded(calendar: Calendar) -> None:
    flags = int(TickFlag.CONFLATED)
    made = Normalizer(calendar).normalize(raw_tick(trading_day=20261130, flags=flags))
    assert made is not None
    assert (made.trading_day, made.flags) == (20261130, flags)
    late = Normalizer(calendar).normalize(raw_tick(time_of_day="08:00:00", flags=flags))
    assert late is not None
    assert late.flags == flags | TickFlag.STALE


def test_a_row_whose_times_are_damaged_does_not_move_those_of_the_recording(
    calendar: Calendar, tmp_path: Path
) -> None:
    file = tmp_path / "day.csv"
    lost = row("10:00:00").replace("2026-11-23", "1970-01-02").replace("20261123", "19700102")
    far = row("10:00:03").replace("20261123", "20621123")
    file.write_text(HEAD + lost + row("10:00:01") + row("10:00:02") + far)
    found = recordings(calendar, file)
    assert found.begin_ns == ns("2026-11-23 10:00:01")
    assert [tick.time_of_day for tick in found.ticks()] == ["10:00:01", "10:00:02"]
    assert found.statistics()["damaged"] == 2


def test_damaged_rows_are_counted_and_named_and_the_rest_plays(
    calendar: Calendar, tmp_path: Path
) -> None:
    file = tmp_path / "day.csv"
    good = row("10:00:00").encode()
    file.write_bytes(
        HEAD.encode()
        + good
        + b"SHFE,rb2701\n"
        + b"\x00\xff\xfe,,,,,,,,\n"
        + b"\n"
        + row("10:00:01").encode()
        + row("10:00:02", price='"31').encode().replace(b"\n", b"")
    )
    found = recordings(calendar, file)
    with capture_logs() as logs:
        ticks = list(found.ticks())
    assert [tick.time_of_day for tick in ticks] == ["10:00:00", "10:00:01", "10:00:02"]
    named = [log["line"] for log in logs if log["event"] == "recorded_row_left_out"]
    assert named == [3, 4]
    assert found.statistics()["damaged"] == 2


def test_a_compressed_file_that_was_cut_off_plays_up_to_there(
    calendar: Calendar, tmp_path: Path
) -> None:
    whole = gzip.compress((HEAD + "".join(row(f"10:{n:02}:00") for n in range(60))).encode())
    file = tmp_path / "day.csv.gz"
    file.write_bytes(whole)
    assert len(list(recordings(calendar, file).ticks())) == 60
    file.write_bytes(whole[:-12])
    with capture_logs() as logs:
        found = recordings(calendar, file)
        ticks = list(found.ticks())
    assert 0 < len(ticks) <= 60
    assert found.statistics()["damaged"] == 1
    assert any("nothing behind it can be read" in log.get("reason", "") for log in logs)


def test_files_are_played_together_in_the_order_of_their_ticks(
    calendar: Calendar, tmp_path: Path
) -> None:
    parts = {"SHFE-1": (0, 20), "SHFE-2": (40,), "DCE-1": (10, 30, 50)}
    for name, seconds in parts.items():
        exchange, symbol = ("SHFE", "rb2701") if name.startswith("S") else ("DCE", "m2701")
        lines = [row(f"10:00:{s:02}", symbol=symbol, exchange=exchange) for s in seconds]
        (tmp_path / f"{name}.csv").write_text(HEAD + "".join(lines))
    ticks = list(recordings(calendar, tmp_path).ticks())
    assert [tick.time_of_day[-2:] for tick in ticks] == ["00", "10", "20", "30", "40", "50"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty"),
        ("time,price\n", "there is no column 'symbol'"),
        ("symbol,price\n", "there is no column 'time_ns' or 'time'"),
    ],
)
def test_a_file_that_is_no_recording_keeps_a_feed_from_starting(
    text: str, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "day.csv"
    file.write_text(text)
    (found,) = check_source(FeedConfig(replay=ReplaySource((str(file),))))
    assert problem in found


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (ReplaySource(()), "none is named"),
        (ReplaySource(("none.csv",)), "none.csv is no file or folder with .csv"),
        (ReplaySource(("*.none",)), "*.none is no file or folder"),
        (ReplaySource((str(SAMPLE),), speed=-1.0), "replay.speed must be above 0"),
        (ReplaySource((str(SAMPLE),), max_pause=-1.0), "replay.max_pause must be in seconds"),
        (ReplaySource((str(SAMPLE),), exchange="NYSE"), "replay.exchange must be one of CFFEX"),
    ],
)
def test_a_replay_that_cannot_be_says_what_to_do(source: ReplaySource, problem: str) -> None:
    (found,) = check_source(FeedConfig(replay=source))
    assert problem in found
    assert check_source(FeedConfig(replay=ReplaySource((str(SAMPLE),)))) == []


def test_a_file_without_a_single_tick_is_refused(calendar: Calendar, tmp_path: Path) -> None:
    file = tmp_path / "day.csv"
    file.write_text("symbol,time\nrb2701,2026-11-23 10:00:00\n")
    with pytest.raises(ConfigurationError, match="no row that makes a tick"):
        recordings(calendar, file)
    assert len(list(recordings(calendar, file, exchange="SHFE").ticks())) == 1


# -- its clock ------------------------------------------------------------------------------

SECOND = 1_000_000_000


def test_a_tick_is_due_when_as_much_time_has_passed_as_when_it_was_recorded() -> None:
    clock = ReplayClock(0, speed=2.0)
    assert clock.seconds_until(0, 100.0) == 0.0
    assert clock.seconds_until(10 * SECOND, 100.0) == 5.0
    assert clock.seconds_until(10 * SECOND, 103.0) == 2.0
    assert clock.market_ns(103.0) == 6 * SECOND
    assert clock.seconds_until(10 * SECOND, 106.0) < 0


def test_the_markets_time_is_never_later_than_the_next_tick() -> None:
    clock = ReplayClock(0, speed=1.0)
    clock.seconds_until(3 * SECOND, 0.0)
    assert clock.market_ns(50.0) == 3 * SECOND
    clock.stop(50.0)
    assert clock.market_ns(99.0) == 3 * SECOND


def test_a_clock_that_was_stopped_goes_on_where_it_stood() -> None:
    clock = ReplayClock(0, speed=1.0)
    clock.seconds_until(10 * SECOND, 0.0)
    clock.stop(4.0)
    assert clock.market_ns(60.0) == 4 * SECOND
    assert clock.seconds_until(10 * SECOND, 60.0) == 6.0


def test_a_long_pause_is_cut_short_and_the_clock_jumps() -> None:
    clock = ReplayClock(0, speed=10.0, max_pause=1.0)
    assert clock.seconds_until(7200 * SECOND, 5.0) == 1.0
    assert clock.market_ns(5.5) == 7195 * SECOND
    assert clock.seconds_until(7200 * SECOND, 6.0) == 0.0


def test_without_a_speed_every_tick_is_due_and_the_clock_follows() -> None:
    clock = ReplayClock(0, speed=0.0)
    assert clock.seconds_until(10 * SECOND, 0.0) == 0.0
    assert clock.seconds_until(9 * SECOND, 0.0) == 0.0
    assert clock.market_ns(1e9) == 10 * SECOND


# -- the gateway ----------------------------------------------------------------------------


@define
class Listener:
    """Keeps what it is told."""

    ticks: list[RawTick] = field(factory=list[RawTick])
    states: list[GatewayState] = field(factory=list[GatewayState])
    contracts: list[Contract] = field(factory=list[Contract])
    subscribed: list[str] = field(factory=list[str])
    ready: threading.Event = field(factory=threading.Event)
    failed: threading.Event = field(factory=threading.Event)
    told: threading.Condition = field(factory=threading.Condition)

    def on_state(self, state: GatewayState, failure: GatewayFailure | None = None) -> None:
        self.states.append(state)
        if state is GatewayState.READY:
            self.ready.set()
        if state is GatewayState.FAILED:
            self.failed.set()

    def on_contract(self, contract: Contract) -> None:
        self.contracts.append(contract)

    def on_subscribed(self, key: str, failure: GatewayFailure | None = None) -> None:
        self.subscribed.append(key)

    def on_tick(self, tick: RawTick) -> None:
        with self.told:
            self.ticks.append(tick)
            self.told.notify()

    def wait_ticks(self, count: int) -> None:
        with self.told:
            assert self.told.wait_for(lambda: len(self.ticks) >= count, timeout=30)


@pytest.fixture
def day(tmp_path: Path) -> Path:
    lines = [
        row(f"10:00:{second:02}", symbol=symbol)
        for second in range(10)
        for symbol in ("rb2701", "cu2701")
    ]
    file = tmp_path / "day.csv"
    file.write_text(HEAD + "".join(lines))
    return file


def test_a_replay_plays_what_is_wanted_as_far_as_it_may(calendar: Calendar, day: Path) -> None:
    gateway = ReplayGateway("a", recordings(calendar, day), speed=0.0)
    assert isinstance(gateway, RecordedGatewayPort)
    listener = Listener()
    gateway.start(listener)
    assert listener.ready.wait(30)
    assert [c.symbol for c in listener.contracts] == ["cu2701", "rb2701"]
    gateway.subscribe([c for c in listener.contracts if c.symbol == "rb2701"])
    assert listener.subscribed == ["SHFE.rb2701"]
    gateway.allow(3)
    listener.wait_ticks(3)
    assert gateway.told == 3
    assert gateway.market_ns() == ns("2026-11-23 10:00:02")
    assert not gateway.progress()["finished"]
    gateway.allow(1_000)
    listener.wait_ticks(10)
    gateway.stop()
    assert {tick.symbol for tick in listener.ticks} == {"rb2701"}
    assert listener.states == [GatewayState.LOADING_CONTRACTS, GatewayState.READY]


def test_at_its_end_a_replay_stays_and_its_clock_stands(calendar: Calendar, day: Path) -> None:
    gateway = ReplayGateway("a", recordings(calendar, day), speed=1e9)
    listener = Listener()
    gateway.start(listener)
    assert listener.ready.wait(30)
    gateway.subscribe(listener.contracts)
    gateway.allow(1_000)
    listener.wait_ticks(20)
    assert gateway._thread is not None
    gateway._thread.join(30)
    assert gateway.progress()["finished"]
    assert gateway.market_ns() == ns("2026-11-23 10:00:09")
    assert listener.states[-1] is GatewayState.READY


def test_a_recording_that_fails_while_it_plays_is_told(calendar: Calendar, day: Path) -> None:
    found = recordings(calendar, day)

    def fail() -> Any:
        raise RuntimeError("the disk is gone")

    found.ticks = fail  # type: ignore[method-assign]
    gateway, listener = ReplayGateway("a", found), Listener()
    gateway.start(listener)
    assert listener.failed.wait(30)
    gateway.stop()
