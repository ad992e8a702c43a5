"""What the adapters to CTP share, whichever library they go through."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, Final

import structlog

from aegis.marketdata._contract import Contract, Product
from aegis.marketdata._ports import (
    GatewayFailure,
    GatewayListener,
    GatewayStatistics,
    RawTick,
)
from aegis.marketdata._vendor_sources import CtpSource
from aegis.marketdata.adapters._ctp_errors import limit_of, refusal
from aegis.marketdata.adapters._ctp_fields import contract_of
from aegis.marketdata.adapters._ctp_session import CtpSession
from aegis.marketdata.adapters._paced_requests import PacedRequests

__all__ = ["REQUEST_PAUSE", "CtpAdapter", "guarded"]

REQUEST_PAUSE: Final = 1.0
"""Seconds until a request that exceeds a limit is sent again; fronts take a query a second."""

_log = structlog.get_logger("aegis.feed")

_for_ever: Final[list[object]] = []
"""What a vendor's threads call back as long as the process lives; its destructors may hang."""


class CtpAdapter(ABC):
    """A `MarketDataGatewayPort` over one account, but for the library.

    The trading front is connected first: some fronts take a market-data login only from
    who has logged in there. Neither connection is ever closed; the end of the process ends
    them. Secrets are read from ``source`` here.

    Raises:
        ConfigurationError: a secret is not there.
    """

    def __init__(
        self,
        name: str,
        source: CtpSource,
        products: Mapping[str, Product],
        *,
        zone: tzinfo,
        wall_ns: Callable[[], int] = time.time_ns,
        request_size: int,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """What went wrong besides: callbacks that failed, requests without a connection."""
        self.rate_limited: Counter[str] = Counter()
        """By kind, as in `GatewayStatistics`."""
        self.source = source
        self.password = source.password
        self.auth_code = source.auth_code
        self.folder = Path(source.folder)
        self.session = CtpSession(name)
        self._name = name
        self._products = products
        self._zone = zone
        self._wall_ns = wall_ns
        self._exchanges: dict[str, str] = {}
        self._listener: GatewayListener | None = None
        self._ending: set[str] = set()
        """Symbols whose next request is to end their ticks; any other asks for them."""
        self._requests = PacedRequests(
            f"subscribe-{name}",
            self._send,
            size=request_size,
            per_second=source.requests_per_second,
        )
        _for_ever.append(self)

    @property
    def name(self) -> str:
        """What the feed is called."""
        return self._name

    @property
    def started(self) -> bool:
        """Whether it was started and not stopped."""
        return self._listener is not None

    @property
    def trading_day(self) -> int:
        """The trading day by the login's answer, as in 20261123; 0 if it is not known."""
        day = self.session.market_day
        return int(day) if day.isascii() and day.isdigit() else 0

    def start(self, listener: GatewayListener) -> None:
        """Connect the trading front; the market-data front follows once that took the login."""
        self._listener = listener
        self._requests.start()
        self.session.start(listener)
        # Making an API takes a moment and the interpreter with it, so not on the loop.
        threading.Thread(target=self._connect, name=f"connect-{self._name}", daemon=True).start()

    def stop(self) -> None:
        """Tell nothing any more. The connections stay until the process ends."""
        self._listener = None
        self.session.close()
        self._requests.stop()

    def subscribe(self, contracts: Sequence[Contract]) -> None:
        """Ask for the ticks of contracts."""
        symbols = [contract.symbol for contract in contracts]
        self._ending.difference_update(symbols)
        self._requests.add(symbols)

    def unsubscribe(self, contracts: Sequence[Contract]) -> None:
        """Ask for them no more."""
        symbols = [contract.symbol for contract in contracts]
        self._ending.update(symbols)
        self._requests.add(symbols)

    def statistics(self) -> GatewayStatistics:
        """Return what the gateway counts of itself."""
        return GatewayStatistics(
            rate_limited=dict(self.rate_limited),
            counts={**self.counts, "requests_waiting": len(self._requests)},
        )

    # -- what the library does ------------------------------------------------------------

    @abstractmethod
    def connect_trading(self) -> None:
        """Make the trading API and have it connect."""

    @abstractmethod
    def connect_market(self) -> None:
        """Make the market-data API and have it connect, if that was not done before."""

    @abstractmethod
    def subscribe_symbols(self, symbols: Sequence[str]) -> int:
        """Ask for ticks; return what the library says of the request, 0 if it was sent."""

    @abstractmethod
    def unsubscribe_symbols(self, symbols: Sequence[str]) -> int:
        """Ask for them no more; return what the library says of the request."""

    @abstractmethod
    def raw_tick(self, data: Any, exchange: str, received_ns: int) -> RawTick:
        """Return a tick as the library hands it over, for the normaliser."""

    # -- requests -------------------------------------------------------------------------

    def _connect(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.connect_trading()
        except Exception as error:
            _log.exception("gateway_not_connected", feed=self._name)
            self.fail(GatewayFailure(f"the trading API cannot be made: {error!r}"))

    def _send(self, symbols: Sequence[str]) -> int:
        # What a symbol is to have is decided now: it waits once, whatever was said of it since.
        ending = [symbol for symbol in symbols if symbol in self._ending]
        wanted = [symbol for symbol in symbols if symbol not in self._ending]
        code = self.sent(self.unsubscribe_symbols(ending)) if ending else 0
        if wanted and not code:
            code = self.sent(self.subscribe_symbols(wanted))
        return code

    def sent(self, code: int) -> int:
        """Count a request that could not be sent; return what the library said of it."""
        if code:
            limit = limit_of(code)
            if limit:
                self.rate_limited[limit] += 1
            else:
                self.counts["requests_not_sent"] += 1
        return code

    def request(self, send: Callable[[], int]) -> int:
        """Send a request, again in a moment if it exceeds a limit, as often as it takes.

        One that finds no connection is not repeated: the next login begins anew.
        """
        code = self.sent(send())
        if limit_of(code):
            self.later(REQUEST_PAUSE, lambda: self.request(send))
        return code

    def later(self, seconds: float, work: Callable[[], object]) -> None:
        """Do something in a moment, unless it is stopped by then.

        Not on the library's thread: as long as that waits, nothing comes in.
        """

        def unless_stopped() -> None:
            if self._listener is not None:
                work()

        timer = threading.Timer(seconds, unless_stopped)
        timer.daemon = True
        timer.start()

    # -- what comes -----------------------------------------------------------------------

    def on_contract(self, fields: Mapping[str, Any]) -> None:
        """Tell one contract."""
        listener = self._listener
        contract = contract_of(fields, self._products, datetime.now(self._zone).year)
        if contract is not None and listener is not None:
            self._exchanges[contract.symbol] = contract.exchange
            listener.on_contract(contract)

    def on_subscribed(self, symbol: str, code: int, message: str) -> None:
        """Tell what became of a subscription."""
        exchange, listener = self._exchanges.get(symbol), self._listener
        if exchange is not None and listener is not None:
            failure = refusal("the subscription", code, message) if code else None
            listener.on_subscribed(f"{exchange}.{symbol}", failure)

    def on_tick(self, symbol: str, told: str, data: Any) -> None:
        """Tell a tick; ``told`` is its exchange by the vendor's field, which is often empty."""
        received_ns = self._wall_ns()
        exchange = self._exchanges.get(symbol) or told
        listener = self._listener
        if not exchange:
            self.counts["ticks_of_unknown_contracts"] += 1
        elif listener is not None:
            listener.on_tick(self.raw_tick(data, exchange, received_ns))

    def on_market_lost(self, reason: int) -> None:
        """Forget what has not been sent: after the next login all is asked for anew.

        A front that finds that too much is asked of it cuts the session without a word.
        """
        if self._requests:
            self.rate_limited["front_cut"] += 1
        self._requests.clear()
        self.session.market_lost(reason)

    def on_error(self, where: str, error: Exception) -> None:
        """Count a callback that failed; the library would print it, or end the process."""
        name = f"callback_errors_{where}"
        self.counts[name] += 1
        if self.counts[name] == 1:
            _log.error("callback_failed", feed=self._name, callback=where, exc_info=error)

    def fail(self, failure: GatewayFailure) -> None:
        """Tell that nothing goes on."""
        self.session.fail(failure)


def guarded[**P](callback: Callable[P, None]) -> Callable[P, None]:
    """Let no exception out of a callback of an object that has an ``adapter``."""

    def guarded_callback(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            callback(*args, **kwargs)
        except Exception as error:
            caller: Any = args[0]
            caller.adapter.on_error(callback.__name__, error)

    return guarded_callback
