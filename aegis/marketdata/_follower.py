"""What one consumer of a market is told: each tick once, in order, and what it missed.

A tick carries its feed's epoch and its number among the ticks of its exchange. So a gap is
told for an exchange: whether any of the ticks that are missing there was of a contract
that the consumer wants, nobody can tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from attrs import frozen

from aegis.marketdata._arbiter import Arbiter, Verdict
from aegis.marketdata._subjects import TICK
from aegis.marketdata._tick import Tick

__all__ = ["TickFollower", "TickGap", "subjects_of"]


@frozen
class TickGap:
    """Ticks of an exchange that this consumer did not get: ``missed`` numbers in a row.

    With ``feed_changed`` another feed publishes now, or the same one that was started anew;
    how many are missing is then unknown, and the state of every contract follows. With
    ``dropped`` they came, and were of contracts that are wanted, but the consumer was too
    slow for them.
    """

    exchange: str
    epoch: int
    missed: int
    feed_changed: bool = False
    dropped: bool = False


class TickFollower:
    """Judges what comes for one consumer.

    Patterns are those of `UniverseFilter`, as in ``SHFE.rb*``.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = tuple(patterns)
        self._arbiter = Arbiter()
        self._epoch = 0
        self._from_first = False
        """Whether this epoch was followed from its first tick on: another one went before."""
        self._numbers: dict[str, int] = {}
        self._states: dict[str, int] = {}
        """Up to which number the states of an exchange tell what there was."""
        self._wanted: dict[str, bool] = {}

    def take(self, tick: Tick) -> list[Tick | TickGap]:
        """Return what a tick that was published is to the consumer: first what it missed."""
        if tick.epoch < self._epoch:
            return []  # Of a feed that has been replaced.
        told: list[Tick | TickGap] = []
        gap = self._follow(tick)
        if gap is not None:
            told.append(gap)
        if self._is_news(tick):
            told.append(tick)
        return told

    def take_state(self, tick: Tick) -> list[Tick]:
        """Return what a contract's state, as the feed told it on request, is to the consumer."""
        if tick.epoch < self._epoch:
            return []
        if tick.epoch > self._epoch:
            self._begin(tick.epoch)
        self._states[tick.exchange] = max(self._states.get(tick.exchange, 0), tick.sequence)
        return [tick] if self._is_news(tick) else []

    def _begin(self, epoch: int) -> None:
        self._epoch = epoch
        self._numbers.clear()
        self._states.clear()

    def _follow(self, tick: Tick) -> TickGap | None:
        exchange, number, changed = tick.exchange, tick.sequence, False
        if tick.epoch > self._epoch:
            self._from_first = changed = self._epoch > 0
            self._begin(tick.epoch)
        last = self._numbers.get(exchange)
        self._numbers[exchange] = number
        if last is None:
            last = self._states.get(exchange, 0 if self._from_first else None)
        elif number <= last:
            changed = True  # The feed's gateway was started anew, and counts from 1 again.
        if changed:
            return TickGap(exchange, tick.epoch, 0, feed_changed=True)
        if last is not None and number > last + 1:
            return TickGap(exchange, tick.epoch, number - last - 1)
        return None

    def _is_news(self, tick: Tick) -> bool:
        key = tick.key
        wanted = self._wanted.get(key)
        if wanted is None:
            wanted = any(fnmatchcase(key, pattern) for pattern in self._patterns)
            self._wanted[key] = wanted  # At most one for each contract of the market.
        # Of another feed's view of all, too, only the news are for the consumer.
        return wanted and self._arbiter.judge(tick) is Verdict.NEWS


def subjects_of(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the subjects that have all ticks of the exchanges which patterns name.

    All of an exchange's, or gaps could not be told; and no tick on two of them.
    """
    exchanges = {pattern.partition(".")[0] for pattern in patterns}
    if any(set(exchange) & _WILD for exchange in exchanges):
        return (f"{TICK}.>",)
    return tuple(f"{TICK}.{exchange}.>" for exchange in sorted(exchanges))


_WILD = frozenset("*?[{")
"""Signs with which a part of a pattern stands for more than itself."""
