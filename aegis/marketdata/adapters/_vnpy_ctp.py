"""CTP, and its twin for options on shares, through vnpy's bindings.

vnpy's classes log in, confirm the settlement statement and ask for the contracts. What
comes in is taken from the vendor's own callbacks, before vnpy makes its objects of it:
those leave out or get wrong what a feed needs (dates at night, milliseconds, limits that do
not exist, exchanges that vnpy does not know).

Neither connection is ever closed: ``close()`` joins the binding's thread while it holds the
interpreter, which freezes for good if that thread is about to call back. The end of the
process ends them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import tzinfo
from typing import TYPE_CHECKING, Any, Final

import structlog
from attrs import evolve, frozen

from aegis.marketdata._contract import Product
from aegis.marketdata._ports import GatewayListener, GatewayStatistics, RawTick
from aegis.marketdata._vendor_library import import_vnpy
from aegis.marketdata._vendor_sources import CtpSource
from aegis.marketdata.adapters._ctp_adapter import REQUEST_PAUSE, CtpAdapter, guarded
from aegis.marketdata.adapters._ctp_errors import QUERY_AGAIN
from aegis.marketdata.adapters._ctp_fields import CTP_PRODUCTS, SOPT_PRODUCTS, raw_tick_of
from aegis.marketdata.adapters._vnpy_events import EventThread

__all__ = ["CTP", "SOPT", "Binding", "CTPGatewayAdapter"]

QUICK: Final = 2
"""From the vendor's header: of the private stream only what is new, not the day's orders."""

_log = structlog.get_logger("aegis.feed")


@frozen
class Binding:
    """Which of vnpy's bindings, and how it names things."""

    module: str
    gateway: str
    trading_api: str
    market_api: str
    products: Mapping[str, Product]
    test_mode: bool = False
    """Whether it is told if the front is one of a test environment."""


CTP: Final = Binding(
    *("vnpy_ctp.gateway.ctp_gateway", "CtpGateway", "CtpTdApi", "CtpMdApi", CTP_PRODUCTS),
    test_mode=True,
)
SOPT: Final = Binding(
    "vnpy_sopt.gateway.sopt_gateway", "SoptGateway", "SoptTdApi", "SoptMdApi", SOPT_PRODUCTS
)


class CTPGatewayAdapter(CtpAdapter):
    """A `MarketDataGatewayPort` over one account at CTP or SOPT, through vnpy's binding.

    ``zone`` is the one of the exchanges.

    Raises:
        ConfigurationError: the binding cannot be imported, or a secret is not there.
    """

    def __init__(
        self,
        name: str,
        binding: Binding,
        source: CtpSource,
        *,
        zone: tzinfo,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        # The binding takes one symbol in a request.
        super().__init__(name, source, binding.products, zone=zone, wall_ns=wall_ns, request_size=1)
        self._binding = binding
        vendor = import_vnpy(binding.module, self.folder)
        self._events = EventThread(name, self.folder, self.fail)
        self.gateway: Any = getattr(vendor, binding.gateway)(self._events.engine, name)
        # Made here, with our callbacks before vnpy's.
        trading: Any = type("TradingApi", (_Trading, getattr(vendor, binding.trading_api)), {})
        market: Any = type("MarketApi", (_Market, getattr(vendor, binding.market_api)), {})
        self.trading: Any = trading(self.gateway)
        self.market: Any = market(self.gateway)
        self.trading.adapter = self.market.adapter = self
        self.gateway.td_api, self.gateway.md_api = self.trading, self.market

    def start(self, listener: GatewayListener) -> None:
        """Start vnpy's event engine, and connect."""
        self._events.register("eLog", self._on_log)
        self._events.start()
        super().start(listener)

    def stop(self) -> None:
        """Tell nothing any more. The connections stay until the process ends."""
        super().stop()
        self._events.stop()

    def statistics(self) -> GatewayStatistics:
        """Return what the gateway counts of itself, the events that wait among it."""
        found = super().statistics()
        return evolve(
            found,
            event_queue=self._events.waiting,
            counts={**found.counts, "handler_errors": self._events.errors.total()},
        )

    def connect_trading(self) -> None:
        """Make the trading API and have it connect."""
        source, api = self.source, self.trading
        api.userid, api.brokerid, api.appid = source.user, source.broker, source.app_id
        api.password, api.auth_code = self.password, self.auth_code
        self._create(api.createFtdcTraderApi, "trading")
        api.subscribePrivateTopic(QUICK)
        api.subscribePublicTopic(QUICK)
        self._init(api, source.trading_fronts)

    def connect_market(self) -> None:
        """Make the market-data API and have it connect, if that was not done before."""
        source, api = self.source, self.market
        if api.connect_status:
            return
        api.userid, api.brokerid, api.password = source.user, source.broker, self.password
        self._create(api.createFtdcMdApi, "market")
        self._init(api, source.market_fronts)

    def _create(self, create: Callable[..., None], kind: str) -> None:
        prefix = f"{self.folder / kind}-"  # The library puts its files beside it.
        if self._binding.test_mode:
            create(prefix, self.source.production)
        else:
            create(prefix)

    def _init(self, api: Any, fronts: Sequence[str]) -> None:
        for front in fronts:
            api.registerFront(front)
        api.connect_status = True
        api.init()

    def subscribe_symbols(self, symbols: Sequence[str]) -> int:
        """Ask for the ticks of one symbol."""
        code: int = self.market.subscribeMarketData(symbols[0])
        return code

    def unsubscribe_symbols(self, symbols: Sequence[str]) -> int:
        """Ask for the ticks of one symbol no more."""
        code: int = self.market.unSubscribeMarketData(symbols[0])
        return code

    def raw_tick(self, data: Any, exchange: str, received_ns: int) -> RawTick:
        """Return a tick of the vendor's fields."""
        return raw_tick_of(data, exchange, received_ns)

    def query_later(self) -> None:
        """Ask for the contracts once more in a moment, and again until the request leaves."""
        self.later(REQUEST_PAUSE, self._query)

    def _query(self) -> None:
        api = self.trading
        api.reqid += 1
        if api.reqQryInstrument({}, api.reqid):
            self.query_later()

    def _on_log(self, event: Any) -> None:
        if self.started:
            _log.info("vnpy_says", feed=self.name, text=event.data.msg)


def _outcome(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer's error; an answer that brings none is a yes, on which vnpy stumbles."""
    return {"ErrorID": 0, "ErrorMsg": "", **error}


if TYPE_CHECKING:

    class _Api:
        """What is taken of vnpy's classes of both connections."""

        adapter: CTPGatewayAdapter
        auth_code: str
        reqid: int

        def onFrontConnected(self) -> None: ...
        def onFrontDisconnected(self, reason: int) -> None: ...
        def onRspAuthenticate(self, data: Any, error: Any, reqid: int, last: bool) -> None: ...
        def onRspUserLogin(self, data: Any, error: Any, reqid: int, last: bool) -> None: ...
        def onRspSettlementInfoConfirm(
            self, data: Any, error: Any, reqid: int, last: bool
        ) -> None: ...
        def reqAuthenticate(self, request: Any, reqid: int) -> int: ...
        def reqUserLogin(self, request: Any, reqid: int) -> int: ...
        def reqSettlementInfoConfirm(self, request: Any, reqid: int) -> int: ...
        def reqQryInstrument(self, request: Any, reqid: int) -> int: ...

else:
    _Api = object


class _Trading(_Api):
    """Goes before vnpy's trading API among the bases of a class."""

    @guarded
    def onFrontConnected(self) -> None:
        self.adapter.session.trading_connected(authenticates=bool(self.auth_code))
        super().onFrontConnected()

    @guarded
    def onFrontDisconnected(self, reason: int) -> None:
        super().onFrontDisconnected(reason)
        self.adapter.session.trading_lost(reason)

    @guarded
    def onRspAuthenticate(self, data: Any, error: Any, reqid: int, last: bool) -> None:
        outcome = _outcome(error)
        session = self.adapter.session
        if outcome["ErrorID"]:
            session.trading_refused("the authentication", outcome["ErrorID"], outcome["ErrorMsg"])
        else:
            session.authenticated()
        super().onRspAuthenticate(data, outcome, reqid, last)

    @guarded
    def onRspUserLogin(self, data: Any, error: Any, reqid: int, last: bool) -> None:
        outcome = _outcome(error)
        adapter = self.adapter
        if outcome["ErrorID"]:
            adapter.session.trading_refused("the login", outcome["ErrorID"], outcome["ErrorMsg"])
        else:
            adapter.session.trading_logged_in(data.get("TradingDay", ""))
            adapter.connect_market()
        super().onRspUserLogin(data, outcome, reqid, last)

    @guarded
    def onRspQryInstrument(self, data: Any, error: Any, reqid: int, last: bool) -> None:
        outcome = _outcome(error)
        if outcome["ErrorID"] in QUERY_AGAIN:
            self.adapter.query_later()
            return
        if outcome["ErrorID"]:
            self.adapter.session.trading_refused(
                "the query of contracts", outcome["ErrorID"], outcome["ErrorMsg"]
            )
            return
        if data:
            self.adapter.on_contract(data)
        if last:
            self.adapter.session.contracts_complete()

    def onRtnOrder(self, data: Any) -> None:
        """Leave out: orders are not this service's."""

    def onRtnTrade(self, data: Any) -> None:
        """Leave out: trades are not this service's."""

    # vnpy sends each of these once, whether it is taken or not.

    def reqAuthenticate(self, request: Any, reqid: int) -> int:
        send = super().reqAuthenticate
        return self.adapter.request(lambda: send(request, reqid))

    def reqUserLogin(self, request: Any, reqid: int) -> int:
        send = super().reqUserLogin
        return self.adapter.request(lambda: send(request, reqid))

    def reqSettlementInfoConfirm(self, request: Any, reqid: int) -> int:
        send = super().reqSettlementInfoConfirm
        return self.adapter.request(lambda: send(request, reqid))

    # This one it sends until it is taken.

    def reqQryInstrument(self, request: Any, reqid: int) -> int:
        return self.adapter.sent(super().reqQryInstrument(request, reqid))


class _Market(_Api):
    """Goes before vnpy's market-data API among the bases of a class."""

    @guarded
    def onFrontConnected(self) -> None:
        self.adapter.session.market_connected()
        super().onFrontConnected()

    @guarded
    def onFrontDisconnected(self, reason: int) -> None:
        super().onFrontDisconnected(reason)
        self.adapter.on_market_lost(reason)

    @guarded
    def onRspUserLogin(self, data: Any, error: Any, reqid: int, last: bool) -> None:
        outcome = _outcome(error)
        # vnpy subscribes to nothing here: it has been asked for nothing, we ask ourselves.
        super().onRspUserLogin(data, outcome, reqid, last)
        if outcome["ErrorID"]:
            self.adapter.session.market_refused(outcome["ErrorID"], outcome["ErrorMsg"])
        else:
            self.adapter.session.market_logged_in(data.get("TradingDay", ""))

    @guarded
    def onRspSubMarketData(self, data: Any, error: Any, reqid: int, last: bool) -> None:
        outcome = _outcome(error)
        if data:
            self.adapter.on_subscribed(
                data["InstrumentID"], outcome["ErrorID"], outcome["ErrorMsg"]
            )

    @guarded
    def onRtnDepthMarketData(self, data: Any) -> None:
        self.adapter.on_tick(data["InstrumentID"], data["ExchangeID"], data)

    def reqUserLogin(self, request: Any, reqid: int) -> int:
        send = super().reqUserLogin
        return self.adapter.request(lambda: send(request, reqid))
