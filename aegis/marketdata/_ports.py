"""The two ports of the market-data service: where ticks come from, and where they go.

An adapter implements one of them and is the only place that knows its vendor's library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, runtime_checkable

from attrs import field, frozen

from aegis.marketdata._calendar import Calendar
from aegis.marketdata._contract import Contract
from aegis.marketdata._tick import Level, Tick

__all__ = [
    "DatedGateway",
    "EventPublisherPort",
    "GatewayFailure",
    "GatewayListener",
    "GatewayState",
    "GatewayStatistics",
    "MarketDataGatewayPort",
    "MeasuredGateway",
    "RawTick",
    "RecordedGatewayPort",
]


class GatewayState(StrEnum):
    """How far a gateway has come. All but the first and the last two have a deadline."""

    STOPPED = "stopped"
    CONNECTING = "connecting"
    AUTHENTICATING = "authenticating"
    LOGGING_IN = "logging_in"
    LOADING_CONTRACTS = "loading_contracts"
    READY = "ready"
    """It has told all contracts and takes subscriptions."""
    FAILED = "failed"
    """It will not go on by itself; the failure says why."""


@frozen
class GatewayFailure:
    """Why a gateway is not connected.

    ``code`` is the vendor's own (0 if it has none). One that is ``permanent`` must not be
    tried again: a wrong password repeated locks the account.
    """

    reason: str
    code: int = 0
    permanent: bool = False


class RawTick(NamedTuple):
    """A tick as vendors send it: times as text without a date to rely on, odd prices.

    Prices that do not exist may be the largest double, an infinity, not a number or
    None. ``time_of_day`` is ``HH:MM:SS`` in the exchange's zone.
    """

    exchange: str
    symbol: str
    time_of_day: str
    millisecond: int
    received_ns: int
    last_price: float | None
    volume: int
    turnover: float
    open_interest: float
    open_price: float | None
    high_price: float | None
    low_price: float | None
    close_price: float | None
    settlement_price: float | None
    previous_close: float | None
    previous_settlement: float | None
    limit_up: float | None
    limit_down: float | None
    levels: tuple[Level, ...]
    trading_day: int = 0
    """As in 20261123, where the source knows it; 0 leaves it to the calendar."""
    flags: int = 0
    """What the source knows of it already, of `TickFlag`."""


class GatewayListener(Protocol):
    """What a gateway tells. Each method may be called from any thread; none blocks or raises."""

    def on_state(self, state: GatewayState, failure: GatewayFailure | None = None) -> None:
        """The gateway has come further, or has fallen back."""
        ...

    def on_contract(self, contract: Contract) -> None:
        """One of all contracts; they are complete when the state is `GatewayState.READY`."""
        ...

    def on_subscribed(self, key: str, failure: GatewayFailure | None = None) -> None:
        """A subscription was taken or refused, where the vendor says so."""
        ...

    def on_tick(self, tick: RawTick) -> None:
        """A tick has come."""
        ...


class MarketDataGatewayPort(Protocol):
    """A source of ticks: an account at a front, a recorded day, a simulation.

    No method blocks; what comes of it is told to the listener.
    """

    @property
    def name(self) -> str:
        """What the feed is called, as in ``ctp-a``."""
        ...

    def start(self, listener: GatewayListener) -> None:
        """Connect, log in and load all contracts."""
        ...

    def subscribe(self, contracts: Sequence[Contract]) -> None:
        """Ask for the ticks of contracts; repeating it does no harm."""
        ...

    def unsubscribe(self, contracts: Sequence[Contract]) -> None:
        """Ask for them no more."""
        ...

    def stop(self) -> None:
        """Disconnect; nothing is told any more afterwards."""
        ...


@frozen
class GatewayStatistics:
    """What a gateway may tell of itself besides."""

    event_queue: int = 0
    """Events that wait between the vendor's library and the listener."""
    rate_limited: Mapping[str, int] = field(factory=dict[str, int])
    """How often the front refused a request as one too many, by kind: ``outstanding``,
    ``per_second``, ``front_cut``. It only grows."""
    counts: Mapping[str, int] = field(factory=dict[str, int])
    """What else there is to tell: callbacks that failed, requests that wait; by name."""


@runtime_checkable
class MeasuredGateway(Protocol):
    """A gateway that has such figures; they become metrics."""

    def statistics(self) -> GatewayStatistics:
        """Return them; asked for twice a second, from the loop."""
        ...


@runtime_checkable
class DatedGateway(Protocol):
    """A gateway whose front tells the trading day with the login."""

    @property
    def trading_day(self) -> int:
        """That day, as in 20261123; 0 before it is told."""
        ...


@runtime_checkable
class RecordedGatewayPort(MarketDataGatewayPort, Protocol):
    """A gateway to a market of the past: it has a clock of its own, and it can wait.

    What is asked about "now" has to be asked of its clock, or a recorded day would be one
    on which everything stands still.
    """

    @property
    def calendar(self) -> Calendar:
        """The calendar, which knows the recorded days too."""
        ...

    @property
    def told(self) -> int:
        """How many ticks it has told the listener."""
        ...

    def market_ns(self) -> int:
        """Return what time it is in the recorded market, in nanoseconds since 1970."""
        ...

    def allow(self, told: int) -> None:
        """Let it go on until it has told so many ticks in all; none, before this is called.

        Its clock stands still where it must not go on.
        """
        ...

    def progress(self) -> dict[str, Any]:
        """Return how far it has come, as plain values; ``finished`` once all is told."""
        ...


class EventPublisherPort(Protocol):
    """Where ticks go."""

    def publish(self, ticks: Sequence[Tick]) -> None:
        """Publish ticks in their order; it never blocks.

        Raises:
            Unavailable: it cannot be done now; the ticks are counted as lost.
        """
        ...

    def statistics(self) -> Mapping[str, int]:
        """Return what has been published so far, by kind."""
        ...
