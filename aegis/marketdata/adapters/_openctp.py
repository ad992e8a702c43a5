"""CTP through the wheel ``openctp-ctp``: the vendor's own interface, nearly as it is.

Against vnpy's binding it takes many symbols in one request, confirms no settlement
statement (nothing here asks for that), and needs no compiler. Its callbacks run on the
vendor's threads: as long as one takes, the front's packets wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import tzinfo
from typing import Any, Final

from aegis.marketdata._ports import RawTick
from aegis.marketdata._tick import Level
from aegis.marketdata._vendor_library import import_vendor
from aegis.marketdata._vendor_sources import CtpSource
from aegis.marketdata.adapters._ctp_adapter import REQUEST_PAUSE, CtpAdapter, guarded
from aegis.marketdata.adapters._ctp_errors import QUERY_AGAIN
from aegis.marketdata.adapters._ctp_fields import CONTRACT_FIELDS, CTP_PRODUCTS

__all__ = ["OpenCTPGatewayAdapter"]

SYMBOLS: Final = 500
"""In one request; the vendor's library packs them into as many packets as they need."""


class OpenCTPGatewayAdapter(CtpAdapter):
    """A `MarketDataGatewayPort` over one account at CTP, through the vendor's interface.

    ``zone`` is the one of the exchanges.

    Raises:
        ConfigurationError: the wheel cannot be imported, or a secret is not there.
    """

    def __init__(
        self,
        name: str,
        source: CtpSource,
        *,
        zone: tzinfo,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__(
            name, source, CTP_PRODUCTS, zone=zone, wall_ns=wall_ns, request_size=SYMBOLS
        )
        self._td: Any = import_vendor("openctp_ctp.thosttraderapi")
        self._md: Any = import_vendor("openctp_ctp.thostmduserapi")
        trading: Any = type("TradingSpi", (_Trading, self._td.CThostFtdcTraderSpi), {})
        market: Any = type("MarketSpi", (_Market, self._md.CThostFtdcMdSpi), {})
        self.trading_spi: Any = trading()
        self.market_spi: Any = market()
        self.trading_spi.adapter = self.market_spi.adapter = self
        self.trading: Any = None
        self.market: Any = None
        self._request_id = 0

    # -- connecting -----------------------------------------------------------------------

    def connect_trading(self) -> None:
        """Make the trading API and have it connect."""
        prefix = f"{self.folder / 'trading'}-"  # The library puts its files beside it.
        create = self._td.CThostFtdcTraderApi.CreateFtdcTraderApi
        api = self.trading = create(prefix, self.source.production)
        api.RegisterSpi(self.trading_spi)
        api.SubscribePrivateTopic(self._td.THOST_TERT_QUICK)
        api.SubscribePublicTopic(self._td.THOST_TERT_QUICK)
        for front in self.source.trading_fronts:
            api.RegisterFront(front)
        api.Init()

    def connect_market(self) -> None:
        """Make the market-data API and have it connect, if that was not done before."""
        if self.market is not None:
            return
        prefix = f"{self.folder / 'market'}-"
        create = self._md.CThostFtdcMdApi.CreateFtdcMdApi
        # Neither by UDP nor by multicast: those need a front on the same network.
        api = self.market = create(prefix, False, False, self.source.production)
        api.RegisterSpi(self.market_spi)
        for front in self.source.market_fronts:
            api.RegisterFront(front)
        api.Init()

    def authenticate_or_log_in(self) -> None:
        """Begin the login of the trading front."""
        authenticates = bool(self.source.app_id)
        self.session.trading_connected(authenticates=authenticates)
        if not authenticates:
            self.log_in_trading()
            return
        request = self._td.CThostFtdcReqAuthenticateField()
        request.BrokerID, request.UserID = self.source.broker, self.source.user
        request.AppID, request.AuthCode = self.source.app_id, self.auth_code
        self.request(lambda: self.trading.ReqAuthenticate(request, self._next_id()))

    def log_in_trading(self) -> None:
        """Log in to the trading front."""
        self._log_in(self.trading, self._td.CThostFtdcReqUserLoginField())

    def log_in_market(self) -> None:
        """Log in to the market-data front."""
        self._log_in(self.market, self._md.CThostFtdcReqUserLoginField())

    def _log_in(self, api: Any, request: Any) -> None:
        request.BrokerID, request.UserID = self.source.broker, self.source.user
        request.Password = self.password
        self.request(lambda: api.ReqUserLogin(request, self._next_id()))

    # -- requests -------------------------------------------------------------------------

    def query_contracts(self) -> None:
        """Ask for all contracts."""
        request = self._td.CThostFtdcQryInstrumentField()
        self.request(lambda: self.trading.ReqQryInstrument(request, self._next_id()))

    def query_later(self) -> None:
        """Ask for the contracts once more in a moment."""
        self.later(REQUEST_PAUSE, self.query_contracts)

    def _next_id(self) -> int:
        self._request_id += 1
        return self._request_id

    def subscribe_symbols(self, symbols: Sequence[str]) -> int:
        """Ask for the ticks of symbols in one request."""
        code: int = self.market.SubscribeMarketData([s.encode() for s in symbols], len(symbols))
        return code

    def unsubscribe_symbols(self, symbols: Sequence[str]) -> int:
        """Ask for them no more."""
        code: int = self.market.UnSubscribeMarketData([s.encode() for s in symbols], len(symbols))
        return code

    # -- what comes -----------------------------------------------------------------------

    def raw_tick(self, data: Any, exchange: str, received_ns: int) -> RawTick:
        """Return a tick of the vendor's attributes."""
        return raw_tick_of(data, exchange, received_ns)

    def on_instrument(self, instrument: Any) -> None:
        """Tell one contract."""
        self.on_contract({name: getattr(instrument, name) for name in CONTRACT_FIELDS})


def raw_tick_of(data: Any, exchange: str, received_ns: int) -> RawTick:
    """Return a tick; each attribute of ``data`` is read once, since that is what takes time."""
    best = Level(data.BidPrice1, data.BidVolume1, data.AskPrice1, data.AskVolume1)
    levels: tuple[Level, ...] = (best,)
    if data.BidVolume2 or data.AskVolume2:
        levels = (
            best,
            Level(data.BidPrice2, data.BidVolume2, data.AskPrice2, data.AskVolume2),
            Level(data.BidPrice3, data.BidVolume3, data.AskPrice3, data.AskVolume3),
            Level(data.BidPrice4, data.BidVolume4, data.AskPrice4, data.AskVolume4),
            Level(data.BidPrice5, data.BidVolume5, data.AskPrice5, data.AskVolume5),
        )
    return RawTick(
        exchange,
        data.InstrumentID,
        data.UpdateTime,
        data.UpdateMillisec,
        received_ns,
        data.LastPrice,
        data.Volume,
        data.Turnover,
        data.OpenInterest,
        data.OpenPrice,
        data.HighestPrice,
        data.LowestPrice,
        data.ClosePrice,
        data.SettlementPrice,
        data.PreClosePrice,
        data.PreSettlementPrice,
        data.UpperLimitPrice,
        data.LowerLimitPrice,
        levels,
    )


def _error_of(info: Any) -> tuple[int, str]:
    """Return code and text of an answer; one without either is a yes."""
    return (0, "") if info is None else (info.ErrorID, info.ErrorMsg)


class _Trading:
    """Goes before the wheel's trading callbacks among the bases of a class."""

    adapter: OpenCTPGatewayAdapter

    @guarded
    def OnFrontConnected(self) -> None:
        self.adapter.authenticate_or_log_in()

    @guarded
    def OnFrontDisconnected(self, reason: int) -> None:
        self.adapter.session.trading_lost(reason)

    @guarded
    def OnRspAuthenticate(self, data: Any, info: Any, request_id: int, last: bool) -> None:
        code, message = _error_of(info)
        if code:
            self.adapter.session.trading_refused("the authentication", code, message)
        else:
            self.adapter.session.authenticated()
            self.adapter.log_in_trading()

    @guarded
    def OnRspUserLogin(self, data: Any, info: Any, request_id: int, last: bool) -> None:
        code, message = _error_of(info)
        if code:
            self.adapter.session.trading_refused("the login", code, message)
        else:
            self.adapter.session.trading_logged_in("" if data is None else data.TradingDay)
            self.adapter.query_contracts()
            self.adapter.connect_market()

    @guarded
    def OnRspQryInstrument(self, data: Any, info: Any, request_id: int, last: bool) -> None:
        code, message = _error_of(info)
        if code in QUERY_AGAIN:
            self.adapter.query_later()
        elif code:
            self.adapter.session.trading_refused("the query of contracts", code, message)
        else:
            if data is not None:
                self.adapter.on_instrument(data)
            if last:
                self.adapter.session.contracts_complete()


class _Market:
    """Goes before the wheel's market-data callbacks among the bases of a class."""

    adapter: OpenCTPGatewayAdapter

    @guarded
    def OnFrontConnected(self) -> None:
        self.adapter.session.market_connected()
        self.adapter.log_in_market()

    @guarded
    def OnFrontDisconnected(self, reason: int) -> None:
        self.adapter.on_market_lost(reason)

    @guarded
    def OnRspUserLogin(self, data: Any, info: Any, request_id: int, last: bool) -> None:
        code, message = _error_of(info)
        if code:
            self.adapter.session.market_refused(code, message)
        else:
            self.adapter.session.market_logged_in("" if data is None else data.TradingDay)

    @guarded
    def OnRspSubMarketData(self, data: Any, info: Any, request_id: int, last: bool) -> None:
        code, message = _error_of(info)
        if data is not None:
            self.adapter.on_subscribed(data.InstrumentID, code, message)

    @guarded
    def OnRtnDepthMarketData(self, data: Any) -> None:
        self.adapter.on_tick(data.InstrumentID, data.ExchangeID, data)
