"""One tick: what an exchange said of one contract at one instant, in its form on the wire.

A tick is a plain tuple with names. Its wire form is that tuple in msgpack, as it stands:
nothing is converted on either side. The version comes first; a later version may only
add fields at the end, so a reader of this one leaves out what it does not know.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Any, Final, NamedTuple, Self, cast

import msgpack

__all__ = ["HIGHEST_PRICE", "Level", "Tick", "TickFlag", "TickUnreadable", "price"]

VERSION: Final = 1


class TickFlag(IntFlag):
    """What a consumer should know of a tick besides its numbers."""

    STALE = 1
    """Its time is minutes away from when it came: sent again after a login, or wrong."""
    SNAPSHOT = 2
    """The first of its contract after a subscription or a change of feeds."""
    CONFLATED = 8
    """It stands for earlier ones too, which were left out under load."""


class TickUnreadable(ValueError):
    """Bytes that are no tick of a version that this program reads."""


class Level(NamedTuple):
    """One level of the book; a side that is empty has None as its price."""

    bid_price: float | None
    bid_volume: int
    ask_price: float | None
    ask_volume: int


class Tick(NamedTuple):
    """One tick of one contract.

    A price that does not exist is None, never 0 and never a huge number. Prices and
    turnover are in the contract's currency; volume, turnover and open interest are those
    of the whole trading day so far, as the exchanges count them.
    """

    version: int
    feed: str
    """Which feed published it, as in ``ctp-a``."""
    epoch: int
    """Of the feed's ownership; it only rises. A lower one than seen is to be ignored."""
    sequence: int
    """Counts what this feed published of this exchange in this epoch, from 1."""
    exchange: str
    symbol: str
    """As the exchange spells it."""
    trading_day: int
    """As in 20261123; a night session belongs to the day after."""
    time_ns: int
    """When the exchange made it, in nanoseconds since 1970 in UTC."""
    received_ns: int
    """When the gateway got it, on the clock of its host, in the same form."""
    flags: int
    """Of `TickFlag`."""
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
    """The book, best first: one level of futures, up to five of options on shares."""

    @property
    def key(self) -> str:
        """The contract's name in the whole market, as in ``SHFE.rb2701``."""
        return f"{self.exchange}.{self.symbol}"

    @property
    def lag_seconds(self) -> float:
        """How long it took from the exchange to the gateway, by the clocks of both."""
        return (self.received_ns - self.time_ns) / 1e9

    @property
    def stale(self) -> bool:
        """Whether its time is not to be believed."""
        return bool(self.flags & TickFlag.STALE)

    def to_wire(self) -> bytes:
        """Return the tick as it is published."""
        packed: bytes = msgpack.packb(self)
        return packed

    @classmethod
    def from_wire(cls, data: bytes) -> Self:
        """Read a tick.

        Raises:
            TickUnreadable: the bytes are none, or of a version before the first.
        """
        try:
            fields = msgpack.unpackb(data, use_list=False)
        except Exception as error:
            raise TickUnreadable(f"this is no tick: {error}") from error
        return cls.from_fields(fields)

    @classmethod
    def from_fields(cls, fields: Any) -> Self:
        """Read a tick from its unpacked fields, as they stand in a batch.

        Raises:
            TickUnreadable: they are not those of a tick.
        """
        if not _is_tick(fields):
            raise TickUnreadable(f"this is no tick of version {VERSION}: {str(fields)[:80]}")
        levels = tuple(map(Level._make, fields[_COUNT - 1]))
        return cls._make((*fields[: _COUNT - 1], levels))


_COUNT: Final = len(Tick._fields)


def _is_tick(fields: object) -> bool:
    # A form that only adds fields at the end keeps the version; so there may be more.
    if not isinstance(fields, tuple):
        return False
    known = cast("tuple[object, ...]", fields)
    return len(known) >= _COUNT and known[0] == VERSION


HIGHEST_PRICE: Final = 1e300
"""No price is as large; CTP sends DBL_MAX (1.8e308) for one that does not exist."""


def price(value: float | None) -> float | None:
    """Return a price as a tick has it: None for what vendors send where there is none.

    They send the largest double, an infinity or no number at all; the last compares as
    false with everything.
    """
    return value if value is not None and -HIGHEST_PRICE < value < HIGHEST_PRICE else None
