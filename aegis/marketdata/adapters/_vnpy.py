"""Any gateway that is written in Python for vnpy: its events, without vnpy's main engine.

The gateway is never closed: ``close()`` of one that is not pure Python may freeze the
interpreter for good. What ends it is the end of its process.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, Final

import structlog

from aegis.marketdata._contract import Contract, Product, canonical_symbol, family_of
from aegis.marketdata._ports import (
    GatewayFailure,
    GatewayListener,
    GatewayState,
    GatewayStatistics,
    RawTick,
)
from aegis.marketdata._tick import Level
from aegis.marketdata._vendor_library import import_vnpy
from aegis.marketdata._vendor_sources import VnpySource
from aegis.marketdata.adapters._paced_requests import PacedRequests
from aegis.marketdata.adapters._vnpy_events import EventThread

__all__ = ["VnpyGatewayAdapter", "received_ns_of"]

_PRODUCTS: Final = {
    "FUTURES": Product.FUTURES,
    "OPTION": Product.OPTION,
    "SPREAD": Product.COMBINATION,
}
"""By the name of vnpy's member: its value is a word of whatever language vnpy is set to."""

LONGEST_WAIT_NS: Final = 60_000_000_000
"""Of an event in vnpy's engine; a time that is farther back is another clock's."""

_log = structlog.get_logger("aegis.feed")


class VnpyGatewayAdapter:
    """A `MarketDataGatewayPort` over a ``BaseGateway`` of vnpy.

    ``gateway_class`` is that gateway's class; ``zone`` is the one of the exchanges.
    """

    def __init__(
        self,
        name: str,
        gateway_class: Any,
        source: VnpySource,
        setting: Mapping[str, Any],
        *,
        zone: tzinfo,
    ) -> None:
        self._name = name
        self._gateway_class = gateway_class
        self._setting = dict(setting)
        self._settle = source.contracts_settle
        self._zone = zone
        self._events = EventThread(name, Path(source.folder), self._on_failed)
        folder = Path(source.folder)
        self._types = import_vnpy("vnpy.trader.event", folder)
        self._request_class = import_vnpy("vnpy.trader.object", folder).SubscribeRequest
        self._exchanges: dict[str, Any] = {}
        self._wanted: set[tuple[str, str]] = set()
        self._counts: Counter[str] = Counter()
        self._contracts_at = 0.0
        self._ready = False
        self._stopped = False
        self._listener: GatewayListener | None = None
        self._requests = PacedRequests(
            f"subscribe-{name}", self._send, size=1, per_second=source.requests_per_second
        )
        self.gateway: Any = None

    @property
    def name(self) -> str:
        """What the feed is called."""
        return self._name

    def start(self, listener: GatewayListener) -> None:
        """Start the engine, make the gateway and have it connect, on a thread."""
        self._listener = listener
        types = self._types
        self._events.register(types.EVENT_CONTRACT, self._on_contract)
        self._events.register(types.EVENT_TICK, self._on_tick)
        self._events.register(types.EVENT_LOG, self._on_log)
        self._events.register(types.EVENT_TIMER, self._on_timer)
        self._events.start()
        self._requests.start()
        listener.on_state(GatewayState.CONNECTING)
        threading.Thread(target=self._connect, name=f"connect-{self._name}", daemon=True).start()

    def stop(self) -> None:
        """Tell nothing any more, and end the engine's threads."""
        self._stopped = True
        self._requests.stop()
        self._events.stop()

    def subscribe(self, contracts: Sequence[Contract]) -> None:
        """Ask for the ticks of contracts; their first tick is the answer."""
        self._wanted.update((contract.exchange, contract.symbol) for contract in contracts)
        self._requests.add([contract.key for contract in contracts])

    def unsubscribe(self, contracts: Sequence[Contract]) -> None:
        """Leave out the ticks of contracts: vnpy's gateways know no way to end them."""
        self._wanted.difference_update((c.exchange, c.symbol) for c in contracts)
        self._requests.drop([contract.key for contract in contracts])

    def statistics(self) -> GatewayStatistics:
        """Return what the gateway counts of itself."""
        return GatewayStatistics(
            event_queue=self._events.waiting,
            counts={
                **self._counts,
                "handler_errors": self._events.errors.total(),
                "requests_waiting": len(self._requests),
            },
        )

    # -- on threads of its own ------------------------------------------------------------

    def _connect(self) -> None:
        try:
            self.gateway = self._gateway_class(self._events.engine, self._name)
            self.gateway.connect(self._setting)
        except Exception as error:
            _log.exception("gateway_not_connected", feed=self._name)
            self._on_failed(GatewayFailure(f"connect() failed: {type(error).__name__}: {error}"))

    def _send(self, keys: Sequence[str]) -> int:
        exchange, _, symbol = keys[0].partition(".")
        known = self._exchanges.get(exchange)
        if known is not None:
            try:
                self.gateway.subscribe(self._request_class(symbol=symbol, exchange=known))
            except Exception:
                self._counts["subscribe_errors"] += 1
                if self._counts["subscribe_errors"] == 1:
                    _log.exception("gateway_not_subscribed", feed=self._name, contract=keys[0])
        return 0

    def _on_failed(self, failure: GatewayFailure) -> None:
        if self._listener is not None and not self._stopped:
            self._listener.on_state(GatewayState.FAILED, failure)

    # -- on the engine's thread -----------------------------------------------------------

    def _on_contract(self, event: Any) -> None:
        listener = self._listener
        if listener is None or self._stopped:
            return
        contract = contract_of(event.data, datetime.now(self._zone).year)
        self._exchanges[contract.exchange] = event.data.exchange
        if not self._contracts_at:
            listener.on_state(GatewayState.LOADING_CONTRACTS)
        self._contracts_at = time.monotonic()
        if self._ready:
            # It came late: all are taken to be known anew, once there are no more of them.
            self._ready = False
        listener.on_contract(contract)

    def _on_timer(self, _: Any) -> None:
        settled = self._contracts_at and time.monotonic() - self._contracts_at >= self._settle
        if settled and not self._ready and self._listener is not None and not self._stopped:
            self._ready = True
            self._listener.on_state(GatewayState.READY)

    def _on_tick(self, event: Any) -> None:
        data = event.data
        if (data.exchange.value, data.symbol) not in self._wanted:
            self._counts["unwanted_ticks"] += 1
            return
        if self._listener is not None and not self._stopped:
            self._listener.on_tick(raw_tick_of(data, self._zone, received_ns_of(data)))

    def _on_log(self, event: Any) -> None:
        if not self._stopped:
            _log.info("vnpy_says", feed=self._name, text=event.data.msg)


def contract_of(data: Any, year: int) -> Contract:
    """Return a contract of vnpy as one of this service; ``year`` is today's."""
    exchange: str = data.exchange.value
    symbol: str = data.symbol
    product = _PRODUCTS.get(data.product.name, Product.OTHER)
    is_option = product is Product.OPTION
    underlying: str = (data.option_underlying or "") if is_option else ""
    return Contract(
        exchange,
        symbol,
        family_of(symbol) or underlying,
        product,
        float(data.size),
        float(data.pricetick),
        data.name,
        underlying,
        float(data.option_strike) if is_option and data.option_strike is not None else None,
        canonical_symbol(exchange, symbol, year),
    )


def received_ns_of(data: Any) -> int:
    """Return when a gateway got a tick: where it says so, its event may have waited since."""
    now_ns = time.time_ns()
    if data.localtime is None:
        return now_ns
    told_ns = round(data.localtime.timestamp() * 1_000_000) * 1000
    return told_ns if 0 <= now_ns - told_ns < LONGEST_WAIT_NS else now_ns


def raw_tick_of(data: Any, zone: tzinfo, received_ns: int) -> RawTick:
    """Return a tick of vnpy as vendors send it; 0 is vnpy's way to say that a price is not there.

    Its date is left behind: gateways take it from the host's clock as often as not.
    """
    moment: datetime = data.datetime
    if moment.tzinfo is not zone and moment.tzinfo is not None:
        moment = moment.astimezone(zone)
    return RawTick(
        data.exchange.value,
        data.symbol,
        f"{_TWO[moment.hour]}:{_TWO[moment.minute]}:{_TWO[moment.second]}",
        moment.microsecond // 1000,
        received_ns,
        data.last_price or None,
        int(data.volume),
        data.turnover,
        data.open_interest,
        data.open_price or None,
        data.high_price or None,
        data.low_price or None,
        None,
        None,
        data.pre_close or None,
        None,
        data.limit_up or None,
        data.limit_down or None,
        _book_of(data),
    )


_TWO: Final = tuple(f"{number:02}" for number in range(60))


def _book_of(data: Any) -> tuple[Level, ...]:
    best = Level(
        data.bid_price_1 or None,
        int(data.bid_volume_1),
        data.ask_price_1 or None,
        int(data.ask_volume_1),
    )
    if not data.bid_volume_2 and not data.ask_volume_2:
        return (best,)
    return (
        best,
        *(
            Level(
                getattr(data, f"bid_price_{n}") or None,
                int(getattr(data, f"bid_volume_{n}")),
                getattr(data, f"ask_price_{n}") or None,
                int(getattr(data, f"ask_volume_{n}")),
            )
            for n in range(2, 6)
        ),
    )
