"""Which ticks are news: one contract's ticks in order, from whatever source.

Two feeds see the same market, a front sends its last ticks again after a login, and an
exchange that tells whole seconds makes two real ticks of the same time. What is older than
what was published must never follow it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from aegis.marketdata._tick import Tick, TickFlag

__all__ = ["Arbiter", "Verdict"]


class Verdict(StrEnum):
    """What becomes of a tick."""

    NEWS = "news"
    DUPLICATE = "duplicate"
    OLDER = "older"


_NEWS: Final = Verdict.NEWS
_DUPLICATE: Final = Verdict.DUPLICATE
_OLDER: Final = Verdict.OLDER
_STALE: Final = int(TickFlag.STALE)


class Arbiter:
    """Judges the ticks of any number of contracts; keeps the last one of each."""

    def __init__(self) -> None:
        self.last: dict[tuple[str, str], Tick] = {}
        self._news = 0
        self._others: Counter[Verdict] = Counter()

    @property
    def judged(self) -> Mapping[Verdict, int]:
        """How often each verdict was given."""
        return Counter({_NEWS: self._news}) + self._others

    def judge(self, tick: Tick) -> Verdict:
        """Return whether a tick is news, and take it as the last one if it is."""
        key = (tick.exchange, tick.symbol)
        last = self.last.get(key)
        verdict = _NEWS if last is None else _compare(last, tick)
        if verdict is _NEWS:
            self.last[key] = tick
            self._news += 1
        else:
            self._others[verdict] += 1
        return verdict

    def forget(self, exchange: str, symbol: str) -> None:
        """Forget a contract, so that any next tick of it is news."""
        self.last.pop((exchange, symbol), None)


_FIRST_FACT: Final = Tick._fields.index("last_price")


def _compare(last: Tick, tick: Tick) -> Verdict:
    if tick.trading_day != last.trading_day:
        # The volume begins anew; the days themselves come from the calendar.
        return _NEWS if tick.trading_day > last.trading_day else _OLDER
    time_ns, last_ns = tick.time_ns, last.time_ns
    volume, last_volume = tick.volume, last.volume
    if time_ns == last_ns and volume == last_volume and tick[_FIRST_FACT:] == last[_FIRST_FACT:]:
        return _DUPLICATE
    if (last.flags | tick.flags) & _STALE:
        # A time that is not to be believed cannot be compared, and the volume may be that
        # of another day: any tick is better than a stale one, a stale one than none.
        return _NEWS if last.flags & _STALE else _OLDER
    if volume < last_volume or time_ns < last_ns:
        return _OLDER  # Within a day both only rise.
    return _NEWS
