"""The fake front under vnpy's own gateway: it behaves as the vendor's library was seen to.

What is shown of vnpy here is what the adapter has to live with.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.ctp_front.build import Build
from tests.ctp_front.front import FakeFront
from tests.ctp_front.stock import StockGateway
from tests.support.poll import wait_until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

NO_PRICE = sys.float_info.max


async def test_a_login_goes_through_all_its_steps_in_order(ctp: Build, tmp_path: Path) -> None:
    async with (
        FakeFront.open(query_limit=1, subscribe_limit=700) as front,
        StockGateway.open(front, tmp_path, ctp.environ()) as gateway,
    ):
        await gateway.wait_ready(100)
        await front.wait("contracts")
        steps = [(event.name, *event.words) for event in front.events if event.kind == "td"]
        assert steps[:5] == [
            ("authenticate", "client_1"),
            ("login", "alice"),
            ("confirm", "alice"),
            ("query", "instrument"),
            ("contracts", "100"),
        ]
        assert [event.words for event in await front.wait("login", "md")] == [("alice",)]
        told = (await gateway.ask("front"))["front"]
        assert (told["QryFreq"], told["FTDPkgFreq"]) == (1, 700)
        assert front.pids() == {gateway.process.pid}


@pytest.mark.parametrize(
    ("setting", "code", "text"),
    [
        ("auth_error", 63, "客户端认证失败"),
        ("login_error", 3, "不合法的登录"),
        ("login_error", 75, "登录被禁止"),
        ("md_login_error", 7, "还没有初始化"),
    ],
)
async def test_a_refusal_reaches_python_with_its_code_and_its_chinese_text(
    ctp: Build, tmp_path: Path, setting: str, code: int, text: str
) -> None:
    async with (
        FakeFront.open(**{setting: code}) as front,
        StockGateway.open(front, tmp_path, ctp.environ()) as gateway,
    ):
        assert f"代码：{code}" in await gateway.wait_log(text)
        assert [event.words[0] for event in await front.wait("refused")] == [str(code)]


@pytest.mark.parametrize("code", [-2, -3])
async def test_contracts_come_once_the_front_takes_the_query(
    ctp: Build, tmp_path: Path, code: int
) -> None:
    async with (
        FakeFront.open(refuse_queries=2, refuse_code=code) as front,
        StockGateway.open(front, tmp_path, ctp.environ()) as gateway,
    ):
        await gateway.wait_ready(100)
        refused = [e.words for e in front.seen("refused") if e.words[-1] == "instrument"]
        assert refused == [(str(code), "query", "instrument")] * 2


async def test_a_market_of_25_000_contracts_is_told_whole(ctp: Build, tmp_path: Path) -> None:
    async with (
        FakeFront.open(futures=1_000, options=24_000) as front,
        StockGateway.open(front, tmp_path, ctp.environ()) as gateway,
    ):
        await gateway.wait_ready(25_000)
        names = (await gateway.ask("report"))["names"]
        assert len(names) == 25_000
        assert all(names.values())
        assert next(name for symbol, name in names.items() if symbol.startswith("rb")).startswith(
            "螺纹钢"
        )


async def test_ticks_have_the_prices_and_the_dates_of_a_night_session(
    ctp: Build, tmp_path: Path
) -> None:
    async with (
        FakeFront.open(rate=400, night=True) as front,
        StockGateway.open(front, tmp_path, ctp.environ()) as gateway,
    ):
        await gateway.wait_ready(100)
        await gateway.ask("subscribe 0")

        async def have_all() -> bool:
            return bool((await gateway.ask("report"))["ticking"] == 100)

        await wait_until(have_all, what="all contracts tick", timeout=60)
        symbols = list((await gateway.ask("report"))["names"])
        ticks = {symbol: (await gateway.ask(f"tick {symbol}"))["tick"] for symbol in symbols}
        ahead = {
            tick["ExchangeID"]: (tick["TradingDay"] > tick["ActionDay"], tick["UpdateMillisec"])
            for tick in ticks.values()
        }
        # CZCE stays with the calendar's day, DCE dates the tick itself ahead.
        assert {name: days for name, (days, _) in ahead.items()} == {
            "SHFE": True,
            "INE": True,
            "CFFEX": True,
            "GFEX": True,
            "CZCE": False,
            "DCE": False,
        }
        assert ahead["CZCE"][1] == 0
        days = {tick["ExchangeID"]: tick["ActionDay"] for tick in ticks.values()}
        assert days["DCE"] > days["CZCE"] == days["SHFE"]
        future = ticks[symbols[0]]
        assert future["SettlementPrice"] == future["ClosePrice"] == future["BidPrice5"] == NO_PRICE
        never_traded = [tick for tick in ticks.values() if tick["LastPrice"] == NO_PRICE]
        assert never_traded
        assert all(tick["Volume"] == 0 for tick in never_traded)
        assert any(tick["BidPrice1"] == NO_PRICE for tick in ticks.values())


async def test_the_whole_market_asked_for_at_once_is_cut_again_and_again(
    ctp: Build, tmp_path: Path
) -> None:
    market = {"futures": 1_000, "options": 24_000, "rate": 100, "link": 10_000, "backlog": 10_000}
    async with (
        FakeFront.open(**market) as front,
        StockGateway.open(front, tmp_path, ctp.environ()) as gateway,
    ):
        await gateway.wait_ready(25_000)
        await gateway.ask("subscribe 0")
        await gateway.wait_log("行情服务器连接断开，原因8193")
        await front.wait("overrun", count=2)


async def test_requests_beyond_the_limit_are_lost_on_stock_vnpy(ctp: Build, tmp_path: Path) -> None:
    async with (
        FakeFront.open(futures=300, options=0, rate=1_200, subscribe_limit=100) as front,
        StockGateway.open(front, tmp_path, ctp.environ()) as gateway,
    ):
        await gateway.wait_ready(300)
        assert (await gateway.ask("subscribe 0"))["subscribed"] == 300
        report = await front.report()
        assert report["subscribed"] + report["refused"] == 300
        assert report["refused"] > 0
        assert report["peak"] == 100


async def test_without_the_locale_the_first_text_aborts_the_process(
    ctp: Build, tmp_path: Path
) -> None:
    environ = {**ctp.environ(), "LOCPATH": str(tmp_path)}
    async with (
        FakeFront.open() as front,
        StockGateway.open(front, tmp_path, environ) as gateway,
    ):
        assert await gateway.process.wait() == -signal.SIGABRT


@pytest.mark.parametrize(
    ("says", "problem"),
    [('{"log": "a"}{"log": "b"}', "Extra data"), ("", "has ended")],
    ids=["two lines in one", "nothing"],
)
async def test_whoever_waits_for_the_gateway_hears_why_in_vain(says: str, problem: str) -> None:
    process = await asyncio.create_subprocess_exec("echo", says, stdin=PIPE, stdout=PIPE)
    gateway = StockGateway(process)
    with pytest.raises(AssertionError, match=problem):
        await gateway.ask("report")
    with pytest.raises(AssertionError, match=problem):
        await gateway.wait_log("logged in")
    assert await process.wait() == 0
