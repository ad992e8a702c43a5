"""Which ticks are news: one contract's ticks in order, from whatever source.

Two feeds see the same market, a front sends its last ticks again after a login, and an
exchange that tells whole seconds makes two real ticks of the same time. What is older than
what was published must never follow it.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Final

from aegis.marketdata._tick import Tick

__all__ = ["Arbiter", "Verdict"]


class Verdict(StrEnum):
    """What becomes of a tick."""

    NEWS = "news"
    DUPLICATE = "duplicate"
    OLDER = "older"


class Arbiter:
    """Judges the ticks of any number of contracts; keeps the last one of each."""

    def __init__(self) -> None:
        self.last: dict[tuple[str, str], Tick] = {}
        self.judged: Counter[Verdict] = Counter()

    def judge(self, tick: Tick) -> Verdict:
        """Return whether a tick is news, and take it as the last one if it is."""
        key = (tick.exchange, tick.symbol)
        verdict = _compare(self.last.get(key), tick)
        if verdict is Verdict.NEWS:
            self.last[key] = tick
        self.judged[verdict] += 1
        return verdict

    def forget(self, exchange: str, symbol: str) -> None:
        """Forget a contract, so that any next tick of it is news."""
        self.last.pop((exchange, symbol), None)


_FIRST_FACT: Final = Tick._fields.index("last_price")


def _compare(last: Tick | None, tick: Tick) -> Verdict:
    if last is None:
        return Verdict.NEWS
    if tick.trading_day != last.trading_day:
        # The volume begins anew; the days themselves come from the calendar.
        return Verdict.NEWS if tick.trading_day > last.trading_day else Verdict.OLDER
    if (
        tick.time_ns == last.time_ns
        and tick.volume == last.volume
        and tick[_FIRST_FACT:] == last[_FIRST_FACT:]
    ):
        return Verdict.DUPLICATE
    if last.stale or tick.stale:
        # A time that is not to be believed cannot be compared, and the volume may be that
        # of another day: any tick is better than a stale one, a stale one than none.
        return Verdict.NEWS if last.stale else Verdict.OLDER
    if tick.volume < last.volume or tick.time_ns < last.time_ns:
        return Verdict.OLDER  # Within a day both only rise.
    return Verdict.NEWS
