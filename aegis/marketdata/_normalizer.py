"""From what vendors send to ticks that mean what they say.

The rules are those of the exchanges' feeds at CTP: prices that do not exist come as the
largest double; times have no date to rely on, since each exchange means another one at
night; what was last said is said again after a login, with its old time of day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Final

from aegis import ConfigurationError
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._contract import EXCHANGES
from aegis.marketdata._ports import RawTick
from aegis.marketdata._tick import HIGHEST_PRICE, VERSION, Level, Tick, TickFlag, price

__all__ = ["Normalizer"]

STALE_SECONDS: Final = 180.0
"""So far from its arrival, a tick's time is not that of its arrival. Hosts' clocks and
vendors' delays stay well below; a tick of last night or of the morning is hours away."""

_STALE: Final = int(TickFlag.STALE)
_STALE_MS: Final = int(STALE_SECONDS * 1000)
_EARLIEST_MS: Final = -_STALE_MS
_DAY_MS: Final = 86_400_000
_HALF_DAY_MS: Final = _DAY_MS // 2
_HOUR_NS: Final = 3_600_000_000_000

_KNOWN: Final = frozenset(EXCHANGES)
_DAILY: Final = 9
"""Where the fields of a raw tick begin that are of the whole day; all are prices."""
_LEVELS: Final = 18
_LOWEST_PRICE: Final = -HIGHEST_PRICE

type _Prices = tuple[float | None, ...]


class Normalizer:
    """Makes ticks."""

    def __init__(self, calendar: Calendar, feed: str = "") -> None:
        self.feed = feed
        self.invalid: Counter[str] = Counter()
        """Ticks that were refused, by reason."""
        self._calendar = calendar
        self._times: dict[str, int] = {}
        self._days: dict[str, tuple[_Prices, _Prices]] = {}
        # Of the hour of the newest tick. No trading day begins or ends within an hour, and
        # no zone changes its clocks: both do at whole hours.
        self._hour_ns = 0
        self._hour_ms = 0
        self._trading_day = 0
        self._told_day = 0

    def normalize(self, raw: RawTick, epoch: int = 0, sequence: int = 0) -> Tick | None:
        """Return the tick, or None for one that makes no sense (counted by reason)."""
        # For every tick of a market: so all in one place, and by position.
        (
            exchange,
            symbol,
            time_of_day,
            millisecond,
            received_ns,
            last,
            volume,
            turnover,
            interest,
        ) = raw[:_DAILY]
        levels, trading_day, flags = raw[_LEVELS:]
        of_day = self._times.get(time_of_day)
        if of_day is None:
            of_day = self._time_of_day(time_of_day)
        if not (
            exchange in _KNOWN
            and symbol
            and volume >= 0
            and of_day >= 0
            and 0 <= millisecond < 1000
        ):
            self.invalid[_why_invalid(exchange, symbol, volume)] += 1
            return None
        hour_ns = self._hour_ns
        if not 0 <= received_ns - hour_ns < _HOUR_NS:
            hour_ns = self._enter_hour(received_ns)
        # The date is that of yesterday, today or tomorrow which brings the time of day
        # closest to the arrival: true for every exchange at any hour, whatever each writes
        # into its date fields at night.
        into_hour = (received_ns - hour_ns) // 1_000_000
        distance = of_day + millisecond - self._hour_ms - into_hour
        if not _EARLIEST_MS <= distance <= _STALE_MS:
            distance = (distance + _HALF_DAY_MS) % _DAY_MS - _HALF_DAY_MS
            if not _EARLIEST_MS <= distance <= _STALE_MS:
                flags |= _STALE
        day = raw[_DAILY:_LEVELS]
        known = self._days.get(symbol)
        if known is None or known[0] != day:
            # They change rarely: most ticks are of the book alone.
            known = self._days[symbol] = day, tuple(map(price, day))
        if len(levels) == 1:
            bid, bid_volume, ask, ask_volume = levels[0]
            if not (
                bid_volume
                and ask_volume
                and bid is not None
                and ask is not None
                and _LOWEST_PRICE < bid < HIGHEST_PRICE
                and _LOWEST_PRICE < ask < HIGHEST_PRICE
            ):
                levels = _book(levels)
        else:
            levels = _book(levels)
        return _tick_of(
            (
                VERSION,
                self.feed,
                epoch,
                sequence,
                exchange,
                symbol,
                trading_day or self._trading_day,
                hour_ns + (into_hour + distance) * 1_000_000,
                received_ns,
                flags,
                last if last is not None and _LOWEST_PRICE < last < HIGHEST_PRICE else None,
                volume,
                turnover if _LOWEST_PRICE < turnover < HIGHEST_PRICE else 0.0,
                interest if _LOWEST_PRICE < interest < HIGHEST_PRICE else 0.0,
                *known[1],
                levels,
            )
        )

    # -- time ---------------------------------------------------------------------------

    def _time_of_day(self, text: str) -> int:
        """Return milliseconds since midnight, or -1 if the text is no time."""
        found = self._times.get(text)
        if found is None:
            found = _parse_time(text)
            if found >= 0:
                self._times[text] = found  # At most one for each second of a day.
        return found

    def take_trading_day(self, day: int, at_ns: int) -> bool:
        """Take the day that a front told with a login; return whether it can be.

        Between two sessions a front may begin the next day hours before the calendar does.
        An earlier one is that of a login long ago, or of a front that plays an old day.
        """
        calendar = self._calendar
        try:
            today = calendar.trading_day(datetime.fromtimestamp(at_ns // 1_000_000_000, UTC))
            if day > _number_of(today):
                if day != _number_of(calendar.next_trading_day(today)):
                    return False
                self._told_day = day
                self._enter_hour(at_ns)
        except ConfigurationError:
            return False
        return True

    def _enter_hour(self, at_ns: int) -> int:
        """Find an hour's trading day and the time of day at which it begins; return when."""
        hour_ns = at_ns - at_ns % _HOUR_NS
        begin = datetime.fromtimestamp(hour_ns // 1_000_000_000, UTC)
        local = begin.astimezone(self._calendar.zone)
        day = self._calendar.trading_day(begin)
        self._hour_ms = (local.hour * 60 + local.minute) * 60_000
        self._trading_day = max(_number_of(day), self._told_day)
        self._hour_ns = hour_ns
        return hour_ns

    def statistics(self) -> Mapping[str, int]:
        """Return how many ticks were refused, by reason."""
        return dict(self.invalid)


_tick_of: Final = Tick._make


def _number_of(day: date) -> int:
    return day.year * 10_000 + day.month * 100 + day.day


def _why_invalid(exchange: str, symbol: str, volume: int) -> str:
    if exchange not in _KNOWN:
        return "unknown exchange"
    if not symbol:
        return "no symbol"
    return "negative volume" if volume < 0 else "unreadable time"


def _parse_time(text: str) -> int:
    if len(text) != 8 or text[2] != ":" or text[5] != ":" or not text.isascii():
        return -1
    hours, minutes, seconds = text[:2], text[3:5], text[6:]
    if not (hours.isdigit() and minutes.isdigit() and seconds.isdigit()):
        return -1
    if int(hours) > 23 or int(minutes) > 59 or int(seconds) > 59:
        return -1
    return ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1000


def _book(levels: tuple[Level, ...]) -> tuple[Level, ...]:
    """Return the levels of a book that say something, at least the first."""
    cleaned = [
        Level(
            price(bid) if bid_volume else None,
            bid_volume,
            price(ask) if ask_volume else None,
            ask_volume,
        )
        for bid, bid_volume, ask, ask_volume in levels
    ]
    while len(cleaned) > 1 and cleaned[-1].bid_price is None and cleaned[-1].ask_price is None:
        cleaned.pop()
    return tuple(cleaned)
