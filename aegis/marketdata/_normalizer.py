"""From what vendors send to ticks that mean what they say.

The rules are those of the exchanges' feeds at CTP: prices that do not exist come as the
largest double; times have no date to rely on, since each exchange means another one at
night; what was last said is said again after a login, with its old time of day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from aegis.marketdata._calendar import Calendar
from aegis.marketdata._contract import EXCHANGES
from aegis.marketdata._ports import RawTick
from aegis.marketdata._tick import VERSION, Level, Tick, TickFlag, price

__all__ = ["Normalizer"]

STALE_SECONDS: Final = 180.0
"""So far from its arrival, a tick's time is not that of its arrival. Hosts' clocks and
vendors' delays stay well below; a tick of last night or of the morning is hours away."""

_STALE: Final = int(TickFlag.STALE)
_DAY_MS: Final = 86_400_000
_HALF_DAY_MS: Final = _DAY_MS // 2
_HOUR_NS: Final = 3_600_000_000_000


class Normalizer:
    """Makes ticks; feed, epoch and sequence are left to whoever publishes them."""

    def __init__(self, calendar: Calendar, feed: str = "") -> None:
        self.feed = feed
        self.invalid: Counter[str] = Counter()
        """Ticks that were refused, by reason."""
        self._calendar = calendar
        self._times: dict[str, int] = {}
        self._trading_days: dict[int, int] = {}
        self._offsets: dict[int, int] = {}

    def normalize(self, raw: RawTick) -> Tick | None:
        """Return the tick, or None for one that makes no sense (counted by reason)."""
        reason = self._why_invalid(raw)
        if reason:
            self.invalid[reason] += 1
            return None
        time_ns, stale = self._time(raw)
        return Tick(
            VERSION,
            self.feed,
            0,
            0,
            raw.exchange,
            raw.symbol,
            self._trading_day(raw.received_ns),
            time_ns,
            raw.received_ns,
            _STALE if stale else 0,
            price(raw.last_price),
            raw.volume,
            price(raw.turnover) or 0.0,
            price(raw.open_interest) or 0.0,
            price(raw.open_price),
            price(raw.high_price),
            price(raw.low_price),
            price(raw.close_price),
            price(raw.settlement_price),
            price(raw.previous_close),
            price(raw.previous_settlement),
            price(raw.limit_up),
            price(raw.limit_down),
            _book(raw.levels),
        )

    def _why_invalid(self, raw: RawTick) -> str:
        if raw.exchange not in EXCHANGES:
            return "unknown exchange"
        if not raw.symbol:
            return "no symbol"
        if raw.volume < 0:
            return "negative volume"
        if not 0 <= raw.millisecond < 1000 or self._time_of_day(raw.time_of_day) < 0:
            return "unreadable time"
        return ""

    # -- time ---------------------------------------------------------------------------

    def _time(self, raw: RawTick) -> tuple[int, bool]:
        """Return when the exchange made a tick, and whether that is far from its arrival.

        The date is that of yesterday, today or tomorrow which brings the time of day
        closest to the arrival: true for every exchange at any hour, whatever each writes
        into its date fields at night.
        """
        offset = self._offset(raw.received_ns)
        arrived_ms = raw.received_ns // 1_000_000 + offset
        of_day = self._time_of_day(raw.time_of_day) + raw.millisecond
        distance = (of_day - arrived_ms + _HALF_DAY_MS) % _DAY_MS - _HALF_DAY_MS
        time_ms = arrived_ms + distance - offset
        return time_ms * 1_000_000, abs(distance) > STALE_SECONDS * 1000

    def _time_of_day(self, text: str) -> int:
        """Return milliseconds since midnight, or -1 if the text is no time."""
        found = self._times.get(text)
        if found is None:
            found = _parse_time(text)
            if found >= 0:
                self._times[text] = found  # At most one for each second of a day.
        return found

    def _offset(self, at_ns: int) -> int:
        """Return how far the exchange's zone is ahead of UTC, in milliseconds."""
        hour = at_ns // _HOUR_NS
        found = self._offsets.get(hour)
        if found is None:
            local = datetime.fromtimestamp(at_ns / 1e9, self._calendar.zone)
            delta = local.utcoffset()
            assert delta is not None
            found = int(delta.total_seconds() * 1000)
            self._offsets = {hour: found}
        return found

    def _trading_day(self, at_ns: int) -> int:
        # No trading day begins or ends within an hour: both limits are whole hours.
        hour = at_ns // _HOUR_NS
        found = self._trading_days.get(hour)
        if found is None:
            day = self._calendar.trading_day(datetime.fromtimestamp(at_ns / 1e9, UTC))
            found = day.year * 10_000 + day.month * 100 + day.day
            self._trading_days = {hour: found}
        return found

    def statistics(self) -> Mapping[str, int]:
        """Return how many ticks were refused, by reason."""
        return dict(self.invalid)


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
    if len(cleaned) == 1:
        return tuple(cleaned)
    while len(cleaned) > 1 and cleaned[-1].bid_price is None and cleaned[-1].ask_price is None:
        cleaned.pop()
    return tuple(cleaned)
