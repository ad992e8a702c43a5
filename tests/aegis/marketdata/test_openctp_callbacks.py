"""The adapter over ``openctp-ctp``, on stand-ins that have the wheel's names and no threads."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import define

from aegis.marketdata._calendar import Calendar
from aegis.marketdata._normalizer import Normalizer
from aegis.marketdata._ports import GatewayState
from aegis.marketdata.adapters import _ctp_adapter, _openctp
from aegis.marketdata.adapters._openctp import OpenCTPGatewayAdapter
from tests.support.ctp import Asked, Heard, account_source, depth, instrument
from tests.support.ctp_rows import CONTRACTS
from tests.support.marketdata import SHANGHAI, ns, tick
from tests.support.poll import wait_until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

LOGIN = SimpleNamespace(TradingDay="20261123")
YES = SimpleNamespace(ErrorID=0, ErrorMsg="")


def refused(code: int) -> SimpleNamespace:
    return SimpleNamespace(ErrorID=code, ErrorMsg="no")


class Library(Asked):
    """Both modules of the wheel: what is asked of them is kept, and answered at once."""

    THOST_TERT_QUICK = 2

    class CThostFtdcTraderSpi:
        pass

    class CThostFtdcMdSpi:
        pass

    def __init__(self) -> None:
        super().__init__()
        self.CThostFtdcTraderApi = SimpleNamespace(CreateFtdcTraderApi=self._maker("td"))
        self.CThostFtdcMdApi = SimpleNamespace(CreateFtdcMdApi=self._maker("md"))
        self.CThostFtdcReqAuthenticateField = SimpleNamespace
        self.CThostFtdcReqUserLoginField = SimpleNamespace
        self.CThostFtdcQryInstrumentField = SimpleNamespace

    def _maker(self, api: str) -> Callable[..., Any]:
        library = self

        class Api:
            def __getattr__(self, name: str) -> Callable[..., int]:
                return lambda *arguments: library.ask(api, name, arguments)

        return lambda *arguments: Api()


@define
class Account:
    """An adapter, its library, and what it told."""

    adapter: OpenCTPGatewayAdapter
    library: Library
    heard: Heard

    @property
    def td(self) -> Any:
        return self.adapter.trading_spi

    @property
    def md(self) -> Any:
        return self.adapter.market_spi

    def come_up(self, *instruments: dict[str, Any]) -> None:
        self.td.OnFrontConnected()
        self.td.OnRspAuthenticate(None, YES, 1, True)
        self.td.OnRspUserLogin(LOGIN, YES, 2, True)
        self.log_in_market()
        rows = instruments or (instrument(),)
        for row in rows:
            self.td.OnRspQryInstrument(SimpleNamespace(**row), None, 3, row is rows[-1])

    def log_in_market(self) -> None:
        self.md.OnFrontConnected()
        self.md.OnRspUserLogin(LOGIN, None, 1, True)


@pytest.fixture
async def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Account]:
    library = Library()

    def load(module: str) -> Library:
        return library

    monkeypatch.setattr(_openctp, "import_vendor", load)
    monkeypatch.setattr(_openctp, "REQUEST_PAUSE", 0.0)
    monkeypatch.setattr(_ctp_adapter, "REQUEST_PAUSE", 0.0)
    monkeypatch.setenv("A_PASSWORD", "hunter2")
    source = account_source(tmp_path, market_fronts=("tcp://a:2",))
    received = ns("2026-11-23 10:00:00.520")
    adapter = OpenCTPGatewayAdapter("a", source, zone=SHANGHAI, wall_ns=lambda: received)
    heard = Heard()
    adapter.start(heard)
    await wait_until(
        lambda: "td.Init" in library.names(), what="the trading API is started", timeout=60
    )
    yield Account(adapter, library, heard)
    adapter.stop()


async def test_the_trading_day_is_that_of_the_market_data_login(account: Account) -> None:
    assert account.adapter.trading_day == 0
    account.come_up()
    assert account.adapter.trading_day == 20261123


async def test_it_logs_in_and_asks_for_contracts_and_confirms_nothing(account: Account) -> None:
    account.come_up()
    assert [name for name in account.library.names() if ".Req" in name] == [
        "td.ReqAuthenticate",
        "td.ReqUserLogin",
        "td.ReqQryInstrument",
        "md.ReqUserLogin",
    ]
    assert account.library.arguments("td.RegisterFront") == [("tcp://a:1",), ("tcp://b:1",)]
    ((login, _),) = account.library.arguments("td.ReqUserLogin")
    assert (login.BrokerID, login.UserID, login.Password) == ("9999", "me", "hunter2")
    assert [state.value for state in account.heard.states] == [
        "connecting",
        "authenticating",
        "logging_in",
        "loading_contracts",
        "ready",
    ]


async def test_contracts_are_those_that_the_vendor_names(account: Account) -> None:
    account.come_up(*(instrument(**changes) for changes, _ in CONTRACTS))
    assert account.heard.contracts == [contract for _, contract in CONTRACTS]


async def test_subscriptions_leave_many_in_one_request(account: Account) -> None:
    rows = [instrument(InstrumentID=f"rb{n}") for n in range(700)]
    account.come_up(*rows)
    account.adapter.subscribe(account.heard.contracts)
    await wait_until(
        lambda: len(account.library.arguments("md.SubscribeMarketData")) == 2,
        what="all are asked",
        timeout=60,
    )
    first, second = account.library.arguments("md.SubscribeMarketData")
    assert first == ([b"rb%d" % n for n in range(500)], 500)
    assert second[1] == 200


async def test_ending_subscriptions_is_paced_and_repeated_like_asking_for_them(
    account: Account,
) -> None:
    account.come_up(*(instrument(InstrumentID=f"rb{n}") for n in range(700)))
    account.library.answers["UnSubscribeMarketData"] = [-3]
    account.adapter.unsubscribe(account.heard.contracts)
    await wait_until(
        lambda: len(account.library.arguments("md.UnSubscribeMarketData")) == 3,
        what="all are ended, the first once more",
        timeout=60,
    )
    first, again, last = account.library.arguments("md.UnSubscribeMarketData")
    assert first == again == ([b"rb%d" % n for n in range(500)], 500)
    assert last[1] == 200
    assert account.adapter.statistics().rate_limited == {"per_second": 1}
    assert account.library.arguments("md.SubscribeMarketData") == []
    account.adapter.subscribe(account.heard.contracts[:1])
    await wait_until(
        lambda: account.library.arguments("md.SubscribeMarketData") == [([b"rb0"], 1)],
        what="one of them is asked for anew",
        timeout=60,
    )


async def test_every_field_of_a_tick_is_taken_from_its_own(
    account: Account, calendar: Calendar
) -> None:
    account.come_up()
    deeper = {"BidPrice2": 3098.0, "BidVolume2": 4, "AskPrice5": 3105.0, "AskVolume5": 6}
    account.md.OnRtnDepthMarketData(SimpleNamespace(**depth()))
    account.md.OnRtnDepthMarketData(SimpleNamespace(**depth(**deeper)))
    first, second = account.heard.ticks
    assert Normalizer(calendar, "a").normalize(first) == tick(epoch=0, sequence=0)
    levels = [(level.bid_price, level.bid_volume, level.ask_volume) for level in second.levels]
    assert levels[1][:2] == (3098.0, 4)
    assert levels[4][2] == 6


@pytest.mark.parametrize(("code", "permanent"), [(3, True), (140, True), (7, False)])
async def test_a_refused_login_is_told_and_not_repeated(
    account: Account, code: int, permanent: bool
) -> None:
    account.td.OnFrontConnected()
    account.td.OnRspAuthenticate(None, YES, 1, True)
    account.td.OnRspUserLogin(LOGIN, refused(code), 2, True)
    failure = account.heard.failures[-1]
    assert (failure.code, failure.permanent) == (code, permanent)
    assert account.library.names().count("td.ReqUserLogin") == 1
    assert "td.ReqQryInstrument" not in account.library.names()


async def test_a_request_that_was_not_taken_is_counted_and_sent_again(account: Account) -> None:
    account.library.answers["ReqQryInstrument"] = [-2, -3]
    account.come_up()
    await wait_until(
        lambda: account.library.names().count("td.ReqQryInstrument") == 3,
        what="it was taken",
        timeout=60,
    )
    limited = account.adapter.statistics().rate_limited
    assert limited == {"outstanding": 1, "per_second": 1}


async def test_a_query_that_is_not_ready_is_asked_again(account: Account) -> None:
    account.td.OnRspQryInstrument(None, refused(90), 3, True)
    await wait_until(
        lambda: "td.ReqQryInstrument" in account.library.names(),
        what="it is asked again",
        timeout=60,
    )
    assert account.heard.failures == []


async def test_after_a_disconnection_it_is_ready_with_the_next_login(account: Account) -> None:
    account.come_up()
    account.md.OnFrontDisconnected(8193)
    account.log_in_market()
    account.td.OnFrontDisconnected(4097)
    assert account.heard.states[-3:] == [
        GatewayState.CONNECTING,
        GatewayState.LOGGING_IN,
        GatewayState.READY,
    ]
    assert account.heard.failures[-1].code == 8193


async def test_an_answer_to_a_subscription_is_told_by_contract(account: Account) -> None:
    account.come_up()
    answer = SimpleNamespace(InstrumentID="rb2701")
    account.md.OnRspSubMarketData(answer, YES, 0, True)
    account.md.OnRspSubMarketData(answer, refused(16), 0, True)
    account.md.OnRspSubMarketData(SimpleNamespace(InstrumentID="zz"), YES, 0, True)
    yes, no = account.heard.subscribed
    assert yes == ("SHFE.rb2701", None)
    assert no[1] is not None
    assert no[1].code == 16


async def test_no_exception_leaves_a_callback(account: Account) -> None:
    account.come_up()
    account.md.OnRtnDepthMarketData(SimpleNamespace())
    account.md.OnRtnDepthMarketData(SimpleNamespace(**depth(InstrumentID="zz", ExchangeID="")))
    assert account.adapter.counts == {
        "callback_errors_OnRtnDepthMarketData": 1,
        "ticks_of_unknown_contracts": 1,
    }


async def test_stopped_it_tells_nothing(account: Account) -> None:
    account.come_up()
    before = list(account.heard.states)
    account.adapter.stop()
    account.md.OnFrontDisconnected(4097)
    account.md.OnRtnDepthMarketData(SimpleNamespace(**depth()))
    assert account.heard.states == before
    assert account.heard.ticks == []
