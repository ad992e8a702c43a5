"""A gateway for vnpy under `aegis bench feed`: the made-up market as vnpy's own objects.

It is a ``BaseGateway`` like any other: it tells contracts and ticks to vnpy's event engine.
Each tick says in ``localtime`` when the gateway told it.
"""

from __future__ import annotations

import importlib
from datetime import date, datetime
from typing import Any, Final

from aegis.marketdata._calendar import Calendar
from aegis.marketdata._contract import Contract, Product
from aegis.marketdata._ports import GatewayFailure, GatewayState, RawTick
from aegis.marketdata._simulated_universe import SimulatedUniverse
from aegis.marketdata.adapters._simulated import SimulatedGateway

__all__ = ["VNPY_GATEWAY", "Market"]

VNPY_GATEWAY: Final = f"{__name__}:MadeUpGateway"


class Market:
    """Tells a vnpy gateway of a made-up market, as its vendor's library would.

    ``setting`` is that of the gateway: futures, options, rate, even.
    """

    def __init__(self, gateway: Any, setting: dict[str, Any]) -> None:
        self._gateway = gateway
        self._objects = importlib.import_module("vnpy.trader.object")
        constants = importlib.import_module("vnpy.trader.constant")
        self._exchanges: dict[str, Any] = {one.value: one for one in constants.Exchange}
        self._products = {
            Product.FUTURES: constants.Product.FUTURES,
            Product.OPTION: constants.Product.OPTION,
        }
        self._zone = Calendar.load("always").zone
        self._second = (0, "")
        self._received = self._told = datetime.fromtimestamp(0, self._zone)
        contracts = SimulatedUniverse(date.today(), setting["futures"], setting["options"])
        self._contracts = {contract.key: contract for contract in contracts.contracts()}
        self._source = SimulatedGateway(
            gateway.gateway_name,
            list(self._contracts.values()),
            zone=self._zone,
            rate=setting["rate"],
            even=setting["even"],
        )

    def start(self) -> None:
        """Tell the contracts, and then ticks."""
        self._source.start(self)

    def subscribe(self, symbol: str, exchange: str) -> None:
        """Tell the ticks of a contract from now on."""
        self._source.subscribe([self._contracts[f"{exchange}.{symbol}"]])

    def stop(self) -> None:
        """Tell nothing any more."""
        self._source.stop()

    # -- what the made-up market tells ------------------------------------------------------

    def on_state(self, state: GatewayState, failure: GatewayFailure | None = None) -> None:
        """Nothing: vnpy's gateways tell no states."""

    def on_subscribed(self, key: str, failure: GatewayFailure | None = None) -> None:
        """Nothing: the first tick is the answer."""

    def on_contract(self, contract: Contract) -> None:
        """Tell a contract."""
        data = self._objects.ContractData(
            gateway_name=self._gateway.gateway_name,
            symbol=contract.symbol,
            exchange=self._exchanges[contract.exchange],
            name=contract.name,
            product=self._products[contract.product],
            size=contract.multiplier,
            pricetick=contract.price_tick,
            option_strike=contract.strike,
            option_underlying=contract.underlying,
        )
        self._gateway.on_contract(data)

    def on_tick(self, tick: RawTick) -> None:
        """Tell a tick."""
        raw = tick
        second, told_us = divmod(raw.received_ns // 1000, 1_000_000)
        if (second, raw.time_of_day) != self._second:
            # Once for all ticks of a second, as this is not what is measured.
            self._second = second, raw.time_of_day
            self._received = datetime.fromtimestamp(second, self._zone)
            hour, minute, of_minute = map(int, raw.time_of_day.split(":"))
            self._told = self._received.replace(hour=hour, minute=minute, second=of_minute)
        (bid, bid_volume, ask, ask_volume), *_ = raw.levels
        data = self._objects.TickData(
            gateway_name=self._gateway.gateway_name,
            symbol=raw.symbol,
            exchange=self._exchanges[raw.exchange],
            datetime=self._told.replace(microsecond=raw.millisecond * 1000),
            volume=raw.volume,
            turnover=raw.turnover,
            open_interest=raw.open_interest,
            last_price=raw.last_price,
            limit_up=raw.limit_up,
            limit_down=raw.limit_down,
            open_price=raw.open_price,
            high_price=raw.high_price,
            low_price=raw.low_price,
            pre_close=raw.previous_close,
            bid_price_1=bid,
            bid_volume_1=bid_volume,
            ask_price_1=ask,
            ask_volume_1=ask_volume,
            localtime=self._received.replace(microsecond=told_us),
        )
        self._gateway.on_tick(data)


class _MadeUp:
    """The methods of the gateway; the class below has vnpy's as its other base."""

    market: Market

    def connect(self, setting: dict[str, Any]) -> None:
        self.market = Market(self, setting)
        # Only now: who hears of a contract may subscribe to it at once.
        self.market.start()

    def close(self) -> None:
        self.market.stop()

    def subscribe(self, request: Any) -> None:
        self.market.subscribe(request.symbol, request.exchange.value)

    def send_order(self, request: Any) -> str:
        return ""

    def cancel_order(self, request: Any) -> None:
        pass

    def query_account(self) -> None:
        pass

    def query_position(self) -> None:
        pass


def __getattr__(name: str) -> Any:
    # vnpy may not be installed, and importing it has effects on folders.
    if name != "MadeUpGateway":
        raise AttributeError(name)
    base = importlib.import_module("vnpy.trader.gateway").BaseGateway
    return type(name, (_MadeUp, base), {})
