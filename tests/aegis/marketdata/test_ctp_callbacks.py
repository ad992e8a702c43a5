"""vnpy's own CTP classes, called back as the vendor's library would; its requests are kept.

Runs where the bindings are installed (`make ctp`). Neither a front nor a locale is needed:
nothing reaches the vendor's library.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from aegis.marketdata._calendar import Calendar
from aegis.marketdata._contract import Contract, Product
from aegis.marketdata._normalizer import Normalizer
from aegis.marketdata._ports import GatewayState
from aegis.marketdata._vendor_library import import_vnpy, is_installed
from aegis.marketdata.adapters._vnpy_ctp import CTP, SOPT, Binding, CTPGatewayAdapter
from tests.support.ctp import Asked, Heard, account_source, depth, instrument
from tests.support.ctp_rows import CONTRACTS, NIGHTS
from tests.support.marketdata import NO_PRICE, SHANGHAI, ns
from tests.support.poll import wait_until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

READY, FAILED = GatewayState.READY, GatewayState.FAILED
YES = {"ErrorID": 0, "ErrorMsg": ""}
LOGIN = {"TradingDay": "20261123", "FrontID": 1, "SessionID": 2}

TRADING = (
    *("createFtdcTraderApi", "subscribePrivateTopic", "subscribePublicTopic", "registerFront"),
    *("init", "reqAuthenticate", "reqUserLogin", "reqSettlementInfoConfirm", "reqQryInstrument"),
)
MARKET = (
    *("createFtdcMdApi", "registerFront", "init", "reqUserLogin"),
    *("subscribeMarketData", "unSubscribeMarketData"),
)


def refused(code: int) -> dict[str, Any]:
    return {"ErrorID": code, "ErrorMsg": "no"}


@define
class Front(Asked):
    """The vendor's library, and what time it is."""

    now_ns: int = ns("2026-11-23 10:00:00.520")

    def method(self, api: str, name: str) -> Callable[..., int]:
        def ask(_: object, *arguments: Any) -> int:
            return self.ask(api, name, arguments)

        return ask


@define
class Account:
    """An adapter on vnpy's classes, and what it told."""

    adapter: CTPGatewayAdapter
    front: Front
    heard: Heard

    @property
    def td(self) -> Any:
        return self.adapter.trading

    @property
    def md(self) -> Any:
        return self.adapter.market

    def log_in_trading(self) -> None:
        self.td.onFrontConnected()
        self.td.onRspAuthenticate({}, YES, 1, True)
        self.td.onRspUserLogin(LOGIN, YES, 2, True)
        self.td.onRspSettlementInfoConfirm({}, YES, 3, True)

    def log_in_market(self) -> None:
        self.md.onFrontConnected()
        self.md.onRspUserLogin(LOGIN, YES, 1, True)

    def come_up(self, *instruments: dict[str, Any]) -> None:
        self.log_in_trading()
        self.log_in_market()
        rows = instruments or (instrument(),)
        for row in rows:
            self.td.onRspQryInstrument(row, {}, 4, row is rows[-1])


@pytest.fixture(params=[CTP, SOPT], ids=["ctp", "sopt"])
def binding(request: pytest.FixtureRequest) -> Binding:
    binding: Binding = request.param
    if not is_installed(binding.module.partition(".")[0]):
        pytest.skip(f"{binding.module} is not installed; `make ctp` does")
    return binding


@pytest.fixture
def front(binding: Binding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    front = Front()
    vendor = import_vnpy(binding.module, tmp_path)
    for api, names in ((binding.trading_api, TRADING), (binding.market_api, MARKET)):
        for name in names:
            kept = "td" if api == binding.trading_api else "md"
            monkeypatch.setattr(getattr(vendor, api), name, front.method(kept, name))
    yield front
    importlib.invalidate_caches()


@pytest.fixture
async def account(
    binding: Binding, front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Account]:
    monkeypatch.setenv("A_PASSWORD", "hunter2")
    source = account_source(tmp_path / "flow", confirm_settlement=True)
    heard = Heard()
    adapter = CTPGatewayAdapter("a", binding, source, zone=SHANGHAI, wall_ns=lambda: front.now_ns)
    adapter.start(heard)
    await wait_until(
        lambda: "td.init" in front.names(), what="the trading API is started", timeout=60
    )
    yield Account(adapter, front, heard)
    adapter.stop()


async def test_all_fronts_are_registered_and_trading_comes_first(account: Account) -> None:
    front = account.front
    assert front.names() == [
        "td.createFtdcTraderApi",
        "td.subscribePrivateTopic",
        "td.subscribePublicTopic",
        "td.registerFront",
        "td.registerFront",
        "td.init",
    ]
    assert front.arguments("td.registerFront") == [("tcp://a:1",), ("tcp://b:1",)]
    account.log_in_trading()
    assert front.names()[6:] == [
        "td.reqAuthenticate",
        "td.reqUserLogin",
        "md.createFtdcMdApi",
        "md.registerFront",
        "md.registerFront",
        "md.init",
        "td.reqSettlementInfoConfirm",
        "td.reqQryInstrument",
    ]
    ((login, _),) = front.arguments("td.reqUserLogin")
    assert (login["UserID"], login["BrokerID"], login["Password"]) == ("me", "9999", "hunter2")
    ((authentication, _),) = front.arguments("td.reqAuthenticate")
    assert (authentication["AppID"], authentication["AuthCode"]) == ("client", "hunter2")


async def test_the_states_are_told_up_to_ready(account: Account) -> None:
    account.come_up()
    assert [state.value for state in account.heard.states] == [
        "connecting",
        "authenticating",
        "logging_in",
        "loading_contracts",
        "ready",
    ]
    assert account.heard.failures == []


async def test_a_second_login_of_the_trading_front_makes_no_second_market_data_api(
    account: Account,
) -> None:
    account.come_up()
    account.td.onFrontDisconnected(4097)
    account.log_in_trading()
    assert account.front.names().count("md.init") == 1


@pytest.mark.parametrize("code", [3, 75, 140, 7])
async def test_a_refused_login_is_told_and_never_repeated(account: Account, code: int) -> None:
    account.td.onFrontConnected()
    account.td.onRspAuthenticate({}, YES, 1, True)
    account.td.onRspUserLogin({}, refused(code), 2, True)
    account.td.onFrontDisconnected(4097)
    account.td.onFrontConnected()
    account.td.onRspAuthenticate({}, YES, 1, True)
    assert account.heard.states[-1] is FAILED
    assert account.heard.failures[-1].code == code
    assert account.heard.failures[-1].permanent == (code != 7)
    assert account.front.names().count("td.reqUserLogin") == 1


async def test_a_refused_app_id_is_told_and_no_login_follows(account: Account) -> None:
    account.td.onFrontConnected()
    account.td.onRspAuthenticate({}, refused(63), 1, True)
    assert account.heard.failures[-1].permanent
    assert "td.reqUserLogin" not in account.front.names()


@pytest.mark.parametrize("reason", [4097, 8193])
async def test_after_a_disconnection_vnpy_subscribes_to_nothing_by_itself(
    account: Account, reason: int
) -> None:
    account.come_up()
    account.adapter.subscribe(account.heard.contracts)
    await wait_until(
        lambda: account.front.arguments("md.subscribeMarketData") == [("rb2701",)],
        what="it is subscribed to",
        timeout=60,
    )
    account.md.onFrontDisconnected(reason)
    assert account.heard.states[-1] is GatewayState.CONNECTING
    assert account.heard.failures[-1].code == reason
    account.log_in_market()
    assert account.heard.states[-1] is READY
    assert len(account.front.arguments("md.subscribeMarketData")) == 1


async def test_answers_of_the_flow_control_are_counted_and_asked_again(account: Account) -> None:
    account.come_up()
    account.front.answers["subscribeMarketData"] = [-2, -3]
    account.adapter.subscribe(account.heard.contracts)
    await wait_until(
        lambda: len(account.front.arguments("md.subscribeMarketData")) == 3,
        what="it was taken",
        timeout=60,
    )
    limited = account.adapter.statistics().rate_limited
    assert limited == {"outstanding": 1, "per_second": 1}


@pytest.mark.parametrize(
    "name", ["reqAuthenticate", "reqUserLogin", "reqSettlementInfoConfirm", "reqQryInstrument"]
)
async def test_a_request_that_exceeds_a_limit_is_sent_again(account: Account, name: str) -> None:
    account.front.answers[name] = [-3]
    account.log_in_trading()
    await wait_until(
        lambda: account.front.names().count(f"td.{name}") == 2, what="it is sent again", timeout=60
    )
    assert account.adapter.statistics().rate_limited == {"per_second": 1}
    assert account.heard.failures == []


async def test_a_request_without_a_connection_waits_for_the_next_login(account: Account) -> None:
    account.front.answers["reqAuthenticate"] = [-1]
    account.td.onFrontConnected()
    account.td.onFrontDisconnected(4097)
    account.td.onFrontConnected()
    assert account.front.names().count("td.reqAuthenticate") == 2
    assert account.adapter.counts["requests_not_sent"] == 1


async def test_an_answer_to_a_subscription_is_told_by_contract(account: Account) -> None:
    account.come_up()
    account.md.onRspSubMarketData({"InstrumentID": "rb2701"}, {}, 0, True)
    account.md.onRspSubMarketData({"InstrumentID": "rb2701"}, refused(16), 0, True)
    yes, no = account.heard.subscribed
    assert yes == ("SHFE.rb2701", None)
    assert no[0] == "SHFE.rb2701"
    assert no[1] is not None
    assert no[1].code == 16


async def test_an_answer_without_an_error_is_a_yes(account: Account) -> None:
    account.td.onFrontConnected()
    account.td.onRspAuthenticate({}, {}, 1, True)
    account.td.onRspUserLogin(LOGIN, {}, 2, True)
    account.td.onRspSettlementInfoConfirm({}, {}, 3, True)
    assert account.front.names()[-1] == "td.reqQryInstrument"
    assert not [name for name in account.adapter.counts if "error" in name]


async def test_a_query_that_is_not_ready_is_asked_again(account: Account) -> None:
    account.log_in_trading()
    account.td.onRspQryInstrument({}, refused(90), 4, True)
    await wait_until(
        lambda: account.front.names().count("td.reqQryInstrument") == 2,
        what="it is asked again",
        timeout=60,
    )
    assert account.heard.failures == []


async def test_no_order_of_the_account_is_kept_or_told(account: Account) -> None:
    account.come_up()
    account.td.onRtnOrder({"InstrumentID": "rb2701"})
    account.td.onRtnTrade({"InstrumentID": "rb2701"})
    assert account.td.order_data == []
    assert account.front.arguments("td.subscribePrivateTopic") == [(2,)]


async def test_contracts_are_told_as_the_vendor_names_them(
    account: Account, binding: Binding
) -> None:
    if binding is SOPT:
        account.come_up(instrument(ProductClass="7", UnderlyingInstrID="510050"))
        assert account.heard.contracts[0].product is Product.OPTION
        return
    account.come_up(*(instrument(**changes) for changes, _ in CONTRACTS))
    assert account.heard.contracts == [contract for _, contract in CONTRACTS]


async def test_an_exchange_or_a_class_that_vnpy_does_not_know_keeps_its_contract(
    account: Account,
) -> None:
    account.come_up(instrument(ExchangeID="HKX"), instrument(InstrumentID="z1", ProductClass="Z"))
    assert [c.key for c in account.heard.contracts] == ["HKX.rb2701", "SHFE.z1"]
    assert account.heard.states[-1] is READY


def published(account: Account, calendar: Calendar) -> Any:
    return Normalizer(calendar, "a").normalize(account.heard.ticks[-1])


@pytest.mark.parametrize(("exchange", "changes", "received", "meant", "day", "stale"), NIGHTS)
async def test_times_and_trading_days_at_night_are_right_for_each_exchange(
    account: Account,
    calendar: Calendar,
    exchange: str,
    changes: dict[str, Any],
    received: str,
    meant: str,
    day: int,
    stale: bool,
) -> None:
    account.come_up(instrument(ExchangeID=exchange))
    account.front.now_ns = ns(received)
    account.md.onRtnDepthMarketData(depth(**changes))
    tick = published(account, calendar)
    shown = datetime.fromtimestamp(tick.time_ns / 1e9, calendar.zone)
    assert shown.strftime("%Y-%m-%d %H:%M:%S") == meant
    assert (tick.exchange, tick.trading_day, tick.stale) == (exchange, day, stale)


@pytest.mark.parametrize("millisecond", [0, 5, 50, 500])
async def test_milliseconds_are_not_made_others(
    account: Account, calendar: Calendar, millisecond: int
) -> None:
    account.come_up()
    account.md.onRtnDepthMarketData(depth(UpdateMillisec=millisecond))
    tick = published(account, calendar)
    assert tick.time_ns == ns("2026-11-23 10:00:00") + millisecond * 1_000_000


async def test_prices_that_do_not_exist_are_none(account: Account, calendar: Calendar) -> None:
    account.come_up()
    account.md.onRtnDepthMarketData(
        depth(LastPrice=NO_PRICE, UpperLimitPrice=NO_PRICE, BidPrice1=NO_PRICE, BidVolume1=0)
    )
    tick = published(account, calendar)
    assert (tick.last_price, tick.limit_up, tick.levels[0].bid_price) == (None, None, None)
    assert (tick.previous_settlement, tick.open_price) == (3096.0, 3090.0)


async def test_a_tick_of_a_contract_that_nobody_told_is_counted(account: Account) -> None:
    account.come_up()
    account.md.onRtnDepthMarketData(depth(InstrumentID="zz9999"))
    account.md.onRtnDepthMarketData(depth(InstrumentID="cu2701", ExchangeID="SHFE"))
    assert [tick.symbol for tick in account.heard.ticks] == ["cu2701"]
    assert account.adapter.counts["ticks_of_unknown_contracts"] == 1


async def test_a_callback_that_fails_is_counted_and_the_next_is_served(account: Account) -> None:
    account.come_up()
    broken = depth()
    del broken["LastPrice"]
    account.md.onRtnDepthMarketData(broken)
    account.md.onRtnDepthMarketData(depth())
    assert account.adapter.counts["callback_errors_onRtnDepthMarketData"] == 1
    assert len(account.heard.ticks) == 1


async def test_stopped_it_tells_nothing_and_closes_nothing(account: Account) -> None:
    account.come_up()
    before = list(account.heard.states)
    account.adapter.stop()
    account.md.onFrontDisconnected(4097)
    account.md.onRtnDepthMarketData(depth())
    account.td.onRspQryInstrument(instrument(), YES, 5, True)
    assert account.heard.states == before
    assert account.heard.ticks == []
    assert not {"td.exit", "md.exit", "md.release"} & set(account.front.names())


async def test_contracts_of_the_next_day_are_told_to_be_complete_again(account: Account) -> None:
    account.come_up()
    account.td.onFrontDisconnected(8193)
    account.log_in_trading()
    new = instrument(InstrumentID="rb2712")
    account.td.onRspQryInstrument(new, YES, 5, True)
    assert account.heard.states[-2:] == [READY, READY]
    assert Contract("SHFE", "rb2712", "rb").key in {c.key for c in account.heard.contracts}
