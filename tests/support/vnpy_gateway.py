"""A gateway as people write them for vnpy, in Python: a known market, driven by a test."""

# pyright: reportMissingTypeStubs=false
from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from vnpy.event import EventEngine
from vnpy.trader.constant import Exchange, Product
from vnpy.trader.gateway import BaseGateway
from vnpy.trader.object import (
    CancelRequest,
    ContractData,
    OrderRequest,
    SubscribeRequest,
    TickData,
)

from tests.support.marketdata import SHANGHAI

__all__ = ["KnownGateway"]


class KnownGateway(BaseGateway):
    """Tells two contracts when it connects, and the ticks that a test gives it."""

    default_name = "KNOWN"
    exchanges: list[Exchange] = [Exchange.SHFE, Exchange.DCE]  # noqa: RUF012 - as vnpy declares it
    made: ClassVar[list[KnownGateway]] = []
    """Every one of them, the newest last."""

    def __init__(self, event_engine: EventEngine, gateway_name: str) -> None:
        super().__init__(event_engine, gateway_name)
        self.setting: dict[str, Any] = {}
        self.subscribed: list[str] = []
        self.closed = False
        self.made.append(self)

    def connect(self, setting: dict[str, Any]) -> None:
        self.setting = setting
        if setting.get("refuse"):
            raise ConnectionError("there is no way")
        self.write_log("connected")
        self.on_contract(self.contract("rb2701", Exchange.SHFE, Product.FUTURES))
        self.on_contract(self.contract("SP a2701&a2705", Exchange.DCE, Product.SPREAD))
        self.on_contract(self.contract("ES", Exchange.CME, Product.FUTURES))

    def contract(self, symbol: str, exchange: Exchange, product: Product) -> ContractData:
        return ContractData(
            gateway_name=self.gateway_name,
            symbol=symbol,
            exchange=exchange,
            name="螺纹钢",
            product=product,
            size=10,
            pricetick=1.0,
        )

    def tick(self, symbol: str = "rb2701", **changes: Any) -> TickData:
        """Return a tick of now, with changes."""
        values: dict[str, Any] = {
            "exchange": Exchange.SHFE,
            "datetime": datetime.now(SHANGHAI),
            "volume": 100,
            "turnover": 3_100_000.0,
            "open_interest": 20_000.0,
            "last_price": 3100.0,
            "limit_up": 3300.0,
            "limit_down": 2900.0,
            "open_price": 3090.0,
            "high_price": 3110.0,
            "low_price": 3080.0,
            "pre_close": 3095.0,
            "bid_price_1": 3099.0,
            "bid_volume_1": 5,
            "ask_price_1": 3101.0,
            "ask_volume_1": 7,
            **changes,
        }
        return TickData(gateway_name=self.gateway_name, symbol=symbol, **values)

    def subscribe(self, req: SubscribeRequest) -> None:
        self.subscribed.append(req.vt_symbol)

    def close(self) -> None:
        self.closed = True

    def send_order(self, req: OrderRequest) -> str:
        raise NotImplementedError

    def cancel_order(self, req: CancelRequest) -> None:
        raise NotImplementedError

    def query_account(self) -> None:
        raise NotImplementedError

    def query_position(self) -> None:
        raise NotImplementedError
