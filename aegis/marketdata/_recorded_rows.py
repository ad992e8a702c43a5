"""Rows of recordings: what their columns are called, and how a row becomes a tick.

The names are those of `Tick`, with a column for each part of each level of the book, as in
``bid_price_1``. Names in the manner of ``lastPrice`` and ``bidPrice1`` are the same ones.
What a recording has no column for does not exist: no price, a volume of 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, tzinfo
from typing import Any, Final

from aegis.marketdata._contract import EXCHANGES, Contract, Product, canonical_symbol
from aegis.marketdata._ports import RawTick
from aegis.marketdata._tick import Level, TickFlag

__all__ = [
    "LEVELS",
    "LEVEL_PARTS",
    "RowReader",
    "RowUnreadable",
    "column_name",
    "contract_of",
    "exchange_of",
]

LEVELS: Final = 5
LEVEL_PARTS: Final = ("bid_price", "bid_volume", "ask_price", "ask_volume")

_ALIASES: Final = {"datetime": "time", "pre_close": "previous_close"}
"""What vnpy's recorder calls them."""

_PRICES: Final = (
    "open_price",
    "high_price",
    "low_price",
    "close_price",
    "settlement_price",
    "previous_close",
    "previous_settlement",
    "limit_up",
    "limit_down",
)

KNOWN: Final = frozenset(
    {
        *("symbol", "exchange", "date", "time", "time_ns", "received_ns", "trading_day", "flags"),
        *("feed", "epoch", "sequence", "last_price", "volume", "last_volume", "turnover"),
        *("open_interest", *_PRICES),
        *(f"{part}_{level}" for part in LEVEL_PARTS for level in range(1, LEVELS + 1)),
    }
)

_FLAGS: Final = int(TickFlag.SNAPSHOT | TickFlag.CONFLATED)
"""What a recorded tick says of itself; whether it is stale follows from its times."""

_DAY_NS: Final = 86_400_000_000_000
_EARLIEST_NS: Final = int(datetime(1990, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000_000
_LATEST_NS: Final = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000_000
"""Beyond these a time is damaged. A replay would wait for it for years."""

FAR_DAYS: Final = 31
"""No holidays are as long: a tick is not received so many days after its time, nor does it
belong to a trading day as far from it."""

MAX_VOLUME: Final = 10**15


class RowUnreadable(ValueError):
    """A row, or the head of a file, that says nothing sensible."""


def column_name(text: str) -> str:
    """Return a column's name as it is known here: ``bidPrice1`` is ``bid_price_1``."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z0-9])", "_", text.strip().strip('"')).lower()
    return _ALIASES.get(name, name)


class RowReader:
    """Makes ticks of the rows of one file.

    ``columns`` are names as `column_name` gives them; ``exchange`` is that of rows which
    do not name theirs, where their symbols do not tell it.

    Raises:
        RowUnreadable: a column that no recording can do without is missing.
    """

    def __init__(self, columns: Sequence[str], zone: tzinfo, exchange: str = "") -> None:
        self.ignored = [name for name in columns if name not in KNOWN]
        """Columns that mean nothing here."""
        self._zone = zone
        self._exchange = exchange
        self._width = len(columns)
        self._at = {name: index for index, name in enumerate(columns)}
        if "symbol" not in self._at:
            raise RowUnreadable("there is no column 'symbol'")
        if "time_ns" not in self._at and "time" not in self._at:
            raise RowUnreadable("there is no column 'time_ns' or 'time'")
        self._levels = self._level_columns()
        self._traded: dict[tuple[str, str, object], int] = {}
        self._hours: dict[tuple[str, int], int] = {}
        self._clock = (-1, "")
        self._days: set[tuple[int, int]] = set()
        """Trading days with days, since 1970, on which a tick of them was received."""

    def _level_columns(self) -> list[tuple[int | None, ...]]:
        named = [
            tuple(self._at.get(f"{part}_{level}") for part in LEVEL_PARTS)
            for level in range(1, LEVELS + 1)
        ]
        while len(named) > 1 and not any(index is not None for index in named[-1]):
            named.pop()
        return named

    def key(self, row: Sequence[Any]) -> tuple[str, str]:
        """Return the exchange and the symbol of a row.

        Raises:
            RowUnreadable: it has none, or another number of cells than columns.
        """
        if len(row) != self._width:
            raise RowUnreadable(f"it has {len(row)} cells for {self._width} columns")
        symbol = str(row[self._at["symbol"]] or "").strip()
        if not symbol:
            raise RowUnreadable("it has no symbol")
        index = self._at.get("exchange")
        named = "" if index is None else str(row[index] or "").strip()
        exchange = named or self._exchange or exchange_of(symbol)
        if not exchange:
            raise RowUnreadable(
                f"nothing tells the exchange of {symbol}; name it by a column, or for the file"
            )
        if exchange not in EXCHANGES:
            raise RowUnreadable(f"the exchange {exchange!r} is unknown")
        return exchange, symbol

    def read(self, row: Sequence[Any]) -> RawTick:
        """Return the tick of a row, whose cells may be text or values.

        Raises:
            RowUnreadable: it makes none.
        """
        exchange, symbol = self.key(row)
        time_ns, received_ns = self._times(row)
        trading_day = self._trading_day_of(row, received_ns)
        volume = self._volume(row, exchange, symbol)
        if volume < 0:
            raise RowUnreadable("its volume is negative")
        if volume >= MAX_VOLUME:
            raise RowUnreadable(f"a volume of {str(volume)[:40]} makes no sense")
        number = self._number
        return RawTick(
            exchange,
            symbol,
            self._clock_text(time_ns // 1_000_000_000),
            time_ns // 1_000_000 % 1000,
            received_ns,
            number(row, "last_price"),
            volume,
            number(row, "turnover") or 0.0,
            number(row, "open_interest") or 0.0,
            number(row, "open_price"),
            number(row, "high_price"),
            number(row, "low_price"),
            number(row, "close_price"),
            number(row, "settlement_price"),
            number(row, "previous_close"),
            number(row, "previous_settlement"),
            number(row, "limit_up"),
            number(row, "limit_down"),
            self._book(row),
            trading_day,
            self._whole(row, "flags", 0) & _FLAGS,
        )

    # -- time ---------------------------------------------------------------------------

    def trading_day(self, row: Sequence[Any]) -> int:
        """Return the trading day of a row, as in 20261123; 0 if it does not tell."""
        index = self._at.get("trading_day")
        return 0 if index is None else _number_of_day(row[index])

    def moment(self, row: Sequence[Any]) -> tuple[int, date]:
        """Return when a row was received, and its trading day, or else its date.

        Raises:
            RowUnreadable: it has no time.
        """
        time_ns, received_ns = self._times(row)
        number = self._trading_day_of(row, received_ns)
        if number:
            return received_ns, date(number // 10_000, number // 100 % 100, number % 100)
        return received_ns, datetime.fromtimestamp(time_ns // 1_000_000_000, self._zone).date()

    def _trading_day_of(self, row: Sequence[Any], received_ns: int) -> int:
        """Return the trading day that a row tells, which is near to when it was received."""
        number = self.trading_day(row)
        found = number, received_ns // _DAY_NS
        if number and found not in self._days:
            day = date(number // 10_000, number // 100 % 100, number % 100)
            came = datetime.fromtimestamp(received_ns // 1_000_000_000, self._zone).date()
            if abs((day - came).days) > FAR_DAYS:
                raise RowUnreadable(f"its trading day {day} makes no sense on {came}")
            self._days.add(found)
        return number

    def _times(self, row: Sequence[Any]) -> tuple[int, int]:
        """Return the time of a row, and when it was received."""
        time_ns = self._time(row)
        received_ns = self._whole(row, "received_ns", 0) or time_ns
        if not _EARLIEST_NS <= time_ns < _LATEST_NS:
            raise RowUnreadable(f"its time makes no sense: {time_ns} ns since 1970")
        if abs(received_ns - time_ns) > FAR_DAYS * _DAY_NS:
            raise RowUnreadable(f"received_ns makes no sense: {received_ns}")
        return time_ns, received_ns

    def _time(self, row: Sequence[Any]) -> int:
        index = self._at.get("time_ns")
        if index is not None and row[index] not in ("", None):
            return self._whole(row, "time_ns", 0)
        if "time" not in self._at:
            raise RowUnreadable("it has no time")
        value = row[self._at["time"]]
        try:
            if isinstance(value, datetime):
                return self._moment(value)
            text = str(value or "").strip()
            day = self._at.get("date")
            if day is None:
                return self._moment(datetime.fromisoformat(text))
            return self._moment_of(str(row[day] or "").strip(), text)
        except ValueError as error:
            raise RowUnreadable(f"its time makes no sense: {error}") from error

    def _moment(self, moment: datetime) -> int:
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=self._zone)
        return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1_000

    def _moment_of(self, day: str, text: str) -> int:
        """Return the nanoseconds of ``20170320`` and ``09:00:00.5``."""
        hours, minutes, rest = text.split(":")
        seconds, _, fraction = rest.partition(".")
        hour, minute, second = int(hours), int(minutes), int(seconds)
        if not (0 <= minute < 60 and 0 <= second < 60):
            raise ValueError(f"{text!r} is no time of a day")
        begin = self._hours.get((day, hour))
        if begin is None:
            # By the hour: on a day on which the clocks change, too.
            at = date.fromisoformat(day)
            begun = datetime(at.year, at.month, at.day, hour, tzinfo=self._zone)
            begin = self._hours[day, hour] = int(begun.timestamp()) * 1_000_000_000
        nanoseconds = int(f"{fraction:0<9}"[:9]) if fraction else 0
        return begin + (minute * 60 + second) * 1_000_000_000 + nanoseconds

    def _clock_text(self, second: int) -> str:
        if self._clock[0] != second:
            try:
                at = datetime.fromtimestamp(second, self._zone)
            except (ValueError, OverflowError, OSError) as error:
                raise RowUnreadable(f"its time makes no sense: {error}") from error
            self._clock = (second, at.strftime("%H:%M:%S"))
        return self._clock[1]

    # -- numbers ------------------------------------------------------------------------

    def _number(self, row: Sequence[Any], name: str) -> float | None:
        index = self._at.get(name)
        if index is None:
            return None
        value = row[index]
        if value is None or value == "":
            return None
        try:
            return float(value)
        except (TypeError, ValueError):
            raise RowUnreadable(f"{name} is no number: {str(value)[:40]!r}") from None

    def _whole(self, row: Sequence[Any], name: str, default: int) -> int:
        index = self._at.get(name)
        value = None if index is None else row[index]
        if value is None or value == "":
            return default
        return _whole(value, name)

    def _volume(self, row: Sequence[Any], exchange: str, symbol: str) -> int:
        """Return the volume of the day so far, added up where only trades were recorded."""
        if "volume" in self._at:
            return self._whole(row, "volume", 0)
        index = self._at.get("last_volume")
        if index is None:
            return 0
        day = row[self._at["date"]] if "date" in self._at else self.trading_day(row)
        traded = self._number(row, "last_volume")
        total = self._traded.get((exchange, symbol, day), 0) + _size(traded)
        self._traded[exchange, symbol, day] = total
        return total

    def _book(self, row: Sequence[Any]) -> tuple[Level, ...]:
        levels: list[Level] = []
        for number, indexes in enumerate(self._levels, 1):
            cells = [None if index is None else row[index] for index in indexes]
            if number > 1 and all(cell is None or cell == "" for cell in cells):
                continue
            bid, bid_volume, ask, ask_volume = (
                self._number(row, f"{part}_{number}") for part in LEVEL_PARTS
            )
            levels.append(Level(bid, _size(bid_volume), ask, _size(ask_volume)))
        return tuple(levels)


def _whole(value: Any, name: str) -> int:
    try:
        # Not by way of a float: that has too few digits for nanoseconds.
        number = value if isinstance(value, int) else int(str(value))
    except ValueError:
        try:
            number = int(float(value))
        except (TypeError, ValueError, OverflowError):
            raise RowUnreadable(f"{name} is no whole number: {str(value)[:40]!r}") from None
    return number


def _size(volume: float | None) -> int:
    if volume is None:
        return 0
    if not 0 <= volume < MAX_VOLUME:
        raise RowUnreadable(f"a volume of {volume:g} makes no sense")
    return int(volume)


def _number_of_day(value: Any) -> int:
    """Return 20261123 for a day in any of its spellings; 0 for none."""
    if value is None or value == "":
        return 0
    if isinstance(value, date):
        return value.year * 10_000 + value.month * 100 + value.day
    try:
        day = date.fromisoformat(str(value).strip())
    except ValueError:
        raise RowUnreadable(f"its trading day makes no sense: {str(value)[:40]!r}") from None
    return day.year * 10_000 + day.month * 100 + day.day


# -- contracts ------------------------------------------------------------------------------


def exchange_of(symbol: str) -> str:
    """Return the exchange that a symbol can only be of, or nothing.

    Capital letters with three digits are CZCE's way, with four CFFEX's.
    """
    match = _CAPITALS.match(symbol)
    return "" if match is None else "CZCE" if len(match[1]) == 3 else "CFFEX"


def contract_of(exchange: str, symbol: str, year: int) -> Contract:
    """Return what can be known of a contract from its symbol alone.

    Multiplier and price step cannot. ``year`` is that of the recording.
    """
    letters = _LETTERS.match(symbol)
    product_class = letters[0] if letters else symbol
    canonical = canonical_symbol(exchange, symbol, year)
    if " " in symbol or "&" in symbol:
        kind = Product.COMBINATION
        return Contract(exchange, symbol, product_class, kind, canonical=canonical)
    option = _OPTION.fullmatch(symbol)
    if option is not None:
        underlying, strike = option[1], float(option[2])
        return Contract(
            exchange,
            symbol,
            product_class,
            Product.OPTION,
            underlying=underlying,
            strike=strike,
            canonical=canonical,
        )
    of_shares = exchange in ("SSE", "SZSE") and symbol.isdigit() and len(symbol) == 8
    kind = Product.OPTION if of_shares else Product.OTHER
    if _FUTURE.fullmatch(symbol):
        kind = Product.FUTURES
    return Contract(exchange, symbol, product_class, kind, canonical=canonical)


_CAPITALS: Final = re.compile(r"[A-Z]{1,2}(\d{3,4})(?!\d)")
_LETTERS: Final = re.compile(r"[A-Za-z]+")
_FUTURE: Final = re.compile(r"[A-Za-z]+\d{3,4}")
_OPTION: Final = re.compile(r"([A-Za-z]+\d{3,4})-?[CP]-?(\d+(?:\.\d+)?)")
