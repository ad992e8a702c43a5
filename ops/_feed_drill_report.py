"""What a consumer saw of a change of feeds."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from attrs import asdict, define, field, frozen

from aegis.errors import Unavailable
from aegis.marketdata._follower import TickGap
from aegis.marketdata._tick import Tick, TickFlag, TickUnreadable
from aegis.marketdata._ticks import TickStream
from aegis.transport._base import Message

__all__ = ["DrillReport", "Witness"]


@frozen
class DrillReport:
    """A drill in figures; times in seconds, as the consumer's clock has them."""

    kind: str
    cause: str
    """Why the feeds changed, as the market's journal says."""
    old_feed: str
    old_epoch: int
    old_last: str
    """The last tick of the old feed, as ``exchange.symbol number``."""
    new_feed: str
    new_epoch: int
    new_first: str
    after_fault: float
    """From the fault to the first tick of the new feed."""
    gap: float
    """From the last tick of the old feed to that."""
    exchange_gaps: dict[str, float]
    """The same of each exchange."""
    missed: int
    """Numbers that were left out, which the consumer was told of."""
    restated: int
    """Contracts of which the new feed first told how they stand."""
    before: int
    after: int
    """Ticks that the consumer got of either feed."""
    fenced: int
    """Ticks that the old feed sent after the new one's first; no consumer gets them."""
    duplicates: int
    """Ticks that came twice, or after a newer one of their contract. There may be none."""
    feed_changed: int
    """How often the consumer was told that another feed publishes."""

    @property
    def passed(self) -> bool:
        """Whether it went as promised: no tick twice, and the change was told."""
        return not self.duplicates and self.feed_changed > 0

    def document(self) -> dict[str, Any]:
        """Return it as it is printed with ``--json``."""
        return {**asdict(self), "passed": self.passed}

    def lines(self) -> list[str]:
        """Return it for people."""
        gaps = ", ".join(f"{name} {gap:.2f} s" for name, gap in self.exchange_gaps.items())
        return [
            f"{self.kind}: {self.old_feed} gave way to {self.new_feed} ({self.cause})",
            f"  last tick of epoch {self.old_epoch}: {self.old_last}",
            f"  first tick of epoch {self.new_epoch}: {self.new_first}, {self.after_fault:.2f} s "
            f"after the fault, {self.gap:.2f} s after the last one",
            f"  without ticks: {gaps}",
            f"  {self.missed} numbers were missed and told, {self.restated} contracts told anew, "
            f"{self.fenced} late ticks of the old feed dropped",
            f"  {self.before:,} ticks before and {self.after:,} after, {self.duplicates} duplicates",
            "passed" if self.passed else "FAILED: a consumer saw what it must not",
        ]


@define(eq=False)
class Witness:
    """A consumer that remembers what it got, and when."""

    old: str
    new: str
    broken_at: float = 0.0
    before: int = 0
    after: int = 0
    restated: int = 0
    duplicates: int = 0
    fenced: int = 0
    gaps: list[TickGap] = field(factory=list[TickGap])
    _last: dict[str, Tick] = field(factory=dict[str, Tick])
    _numbers: set[tuple[int, str, int]] = field(factory=set[tuple[int, str, int]])
    _old_last: dict[str, tuple[float, Tick]] = field(factory=dict[str, tuple[float, Tick]])
    _new_first: dict[str, tuple[float, Tick]] = field(factory=dict[str, tuple[float, Tick]])
    _highest: int = 0
    _more: asyncio.Event = field(factory=asyncio.Event)

    def on_message(self, message: Message) -> None:
        """Look at what is on the wire, which consumers need not get."""
        try:
            tick = Tick.from_wire(message.payload)
        except TickUnreadable:
            return
        self.fenced += tick.epoch < self._highest
        self._highest = max(self._highest, tick.epoch)

    async def follow(self, stream: TickStream) -> None:
        """Take what the consumer gets."""
        async for tick in stream:
            self.gaps += stream.take_gaps()
            self.take(tick, time.monotonic())

    def take(self, tick: Tick, now: float) -> None:
        """Take one tick."""
        last, number = self._last.get(tick.key), (tick.epoch, tick.exchange, tick.sequence)
        if number in self._numbers or (last is not None and _is_no_news(last, tick)):
            self.duplicates += 1
        self._last[tick.key] = tick
        self._numbers.add(number)
        if tick.feed == self.old:
            self.before += 1
            self._old_last[tick.exchange] = now, tick
        else:
            self.after += 1
            self.restated += bool(tick.flags & TickFlag.SNAPSHOT)
            self._new_first.setdefault(tick.exchange, (now, tick))
            self._more.set()

    async def wait_taken_over(self, timeout: float, exchanges: set[str]) -> None:
        """Return once the new feed was heard of all these exchanges.

        Raises:
            Unavailable: it was not, in so many seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while not exchanges <= self._new_first.keys():
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            missing = sorted(exchanges - self._new_first.keys())
            raise Unavailable(
                f"{self.new} has told nothing of {', '.join(missing)} {timeout:g} s after the fault"
            ) from None

    def report(self, kind: str, cause: str) -> DrillReport:
        """Return what was seen."""
        old_at, old = max(self._old_last.values(), key=lambda seen: seen[0])
        new_at, new = min(self._new_first.values(), key=lambda seen: seen[0])
        gaps = {
            exchange: first - self._old_last[exchange][0]
            for exchange, (first, _) in sorted(self._new_first.items())
            if exchange in self._old_last
        }
        return DrillReport(
            kind,
            cause,
            old.feed,
            old.epoch,
            f"{old.key} {old.sequence}",
            new.feed,
            new.epoch,
            f"{new.key} {new.sequence}",
            new_at - self.broken_at,
            new_at - old_at,
            gaps,
            sum(gap.missed for gap in self.gaps),
            self.restated,
            self.before,
            self.after,
            self.fenced,
            self.duplicates,
            sum(gap.feed_changed for gap in self.gaps),
        )


def _is_no_news(last: Tick, tick: Tick) -> bool:
    """Whether a tick is the last one again, or older: its place, feed and flags aside."""
    older = (tick.time_ns, tick.volume) < (last.time_ns, last.volume)
    return older or (tick.time_ns == last.time_ns and tick[10:] == last[10:])
