"""What CTP sends, field by field as the vendor names them, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from attrs import define, evolve, field

from aegis.marketdata._contract import Contract
from aegis.marketdata._ports import GatewayFailure, GatewayState, RawTick
from aegis.marketdata._vendor_sources import CtpSource
from tests.support.marketdata import NO_PRICE

__all__ = ["Asked", "Heard", "account_source", "depth", "instrument"]

_DEEPER: Final = {
    f"{side}{what}{n}": NO_PRICE if what == "Price" else 0
    for n in range(2, 6)
    for side in ("Bid", "Ask")
    for what in ("Price", "Volume")
}


def depth(**changes: Any) -> dict[str, Any]:
    """Return a tick of rb2701 at ten in the morning, with changes."""
    return {
        "TradingDay": "20261123",
        "ActionDay": "20261123",
        "reserve1": "",
        "reserve2": "",
        "ExchangeID": "",  # as most fronts leave it
        "InstrumentID": "rb2701",
        "ExchangeInstID": "",
        "UpdateTime": "10:00:00",
        "UpdateMillisec": 500,
        "LastPrice": 3100.0,
        "PreSettlementPrice": 3096.0,
        "PreClosePrice": 3095.0,
        "PreOpenInterest": 19_000.0,
        "OpenPrice": 3090.0,
        "HighestPrice": 3110.0,
        "LowestPrice": 3080.0,
        "Volume": 100,
        "Turnover": 3_100_000.0,
        "OpenInterest": 20_000.0,
        "ClosePrice": NO_PRICE,
        "SettlementPrice": NO_PRICE,
        "UpperLimitPrice": 3300.0,
        "LowerLimitPrice": 2900.0,
        "PreDelta": NO_PRICE,
        "CurrDelta": NO_PRICE,
        "BidPrice1": 3099.0,
        "BidVolume1": 5,
        "AskPrice1": 3101.0,
        "AskVolume1": 7,
        **_DEEPER,
        "AveragePrice": 31_000.0,
        "BandingUpperPrice": 0.0,
        "BandingLowerPrice": 0.0,
        **changes,
    }


def instrument(**changes: Any) -> dict[str, Any]:
    """Return the contract of rb2701, with changes."""
    return {
        "InstrumentID": "rb2701",
        "ExchangeID": "SHFE",
        "InstrumentName": "螺纹钢2701",
        "ExchangeInstID": "rb2701",
        "ProductID": "rb",
        "ProductClass": "1",
        "DeliveryYear": 2027,
        "DeliveryMonth": 1,
        "VolumeMultiple": 10,
        "PriceTick": 1.0,
        "CreateDate": "20260115",
        "OpenDate": "20260116",
        "ExpireDate": "20270115",
        "InstLifePhase": "1",
        "IsTrading": 1,
        "UnderlyingInstrID": "rb",
        "StrikePrice": NO_PRICE,
        "OptionsType": "",
        "InstrumentCode": "",
        **changes,
    }


def account_source(folder: Path, **changes: Any) -> CtpSource:
    """Return an account at two fronts, with changes; its secrets are in ``A_PASSWORD``."""
    source = CtpSource(
        broker="9999",
        user="me",
        app_id="client",
        trading_fronts=("tcp://a:1", "tcp://b:1"),
        market_fronts=("tcp://a:2", "tcp://b:2"),
        password_env="A_PASSWORD",
        auth_code_env="A_PASSWORD",
        folder=str(folder),
    )
    return evolve(source, **changes)


@define
class Asked:
    """What was asked of a vendor's library, and what it answers at once: 0 if not told else."""

    calls: list[tuple[str, tuple[Any, ...]]] = field(factory=list[tuple[str, tuple[Any, ...]]])
    answers: dict[str, list[int]] = field(factory=dict[str, list[int]])

    def ask(self, api: str, name: str, arguments: tuple[Any, ...]) -> int:
        """Keep a request; return its answer."""
        self.calls.append((f"{api}.{name}", arguments))
        left = self.answers.get(name, [])
        return left.pop(0) if left else 0

    def names(self) -> list[str]:
        """Return all requests, as in ``td.reqUserLogin``."""
        return [name for name, _ in self.calls]

    def arguments(self, name: str) -> list[tuple[Any, ...]]:
        """Return what came with each request of a name."""
        return [arguments for asked, arguments in self.calls if asked == name]


class Heard:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.states: list[GatewayState] = []
        self.failures: list[GatewayFailure] = []
        self.contracts: list[Contract] = []
        self.subscribed: list[tuple[str, GatewayFailure | None]] = []
        self.ticks: list[RawTick] = []

    def on_state(self, state: GatewayState, failure: GatewayFailure | None = None) -> None:
        self.states.append(state)
        if failure is not None:
            self.failures.append(failure)

    def on_contract(self, contract: Contract) -> None:
        self.contracts.append(contract)

    def on_subscribed(self, key: str, failure: GatewayFailure | None = None) -> None:
        self.subscribed.append((key, failure))

    def on_tick(self, tick: RawTick) -> None:
        self.ticks.append(tick)
