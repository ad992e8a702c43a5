"""Ticks for a consumer: in order, without repeats, with every gap told.

A tick carries its feed's epoch and its number among the ticks of its exchange. A consumer
of one contract cannot tell from the numbers alone what it has missed of that contract, so
a gap is told per exchange, and only where everything of an exchange is followed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, Self

from attrs import frozen

from aegis import Cluster
from aegis.marketdata._arbiter import Arbiter, Verdict
from aegis.marketdata._subjects import TICK
from aegis.marketdata._tick import Tick, TickUnreadable

if TYPE_CHECKING:
    from aegis.transport import Message, Subscription

__all__ = ["TickGap", "TickStream", "ticks"]

DEFAULT_BOUND: Final = 100_000
"""Ticks that wait for a slow consumer; beyond it the oldest are dropped and counted."""


@frozen
class TickGap:
    """Ticks of an exchange that this consumer did not get: ``missed`` numbers in a row.

    With ``epoch`` changed, another feed publishes now; the state of every contract follows.
    """

    exchange: str
    epoch: int
    missed: int
    feed_changed: bool = False


def ticks(cluster: Cluster, *patterns: str, bound: int = DEFAULT_BOUND) -> TickStream:
    """Return a stream of the ticks of all contracts that match, to be iterated.

    Patterns are those of `UniverseFilter`, as in ``SHFE.rb*``; without any, all.
    """
    return TickStream(cluster, patterns or ("*",), bound)


class TickStream:
    """The ticks of some contracts, as they come."""

    def __init__(
        self, cluster: Cluster, patterns: tuple[str, ...], bound: int = DEFAULT_BOUND
    ) -> None:
        self.dropped = 0
        """Ticks that were left out since the consumer was slower than they came."""
        self._gaps: list[TickGap] = []
        self._cluster = cluster
        self._patterns = patterns
        self._bound = bound
        self._arbiter = Arbiter()
        self._epoch = 0
        self._numbers: dict[str, int] = {}
        self._waiting: deque[Tick] = deque()
        self._more = asyncio.Event()
        self._subscriptions: list[Subscription] = []

    async def __aenter__(self) -> Self:
        for subject in sorted({_subject(pattern) for pattern in self._patterns}):
            self._subscriptions.append(
                await self._cluster.transport.subscribe(subject, self._on_message)
            )
        await self._cluster.transport.flush()
        return self

    async def __aexit__(self, *_: object) -> None:
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions.clear()

    async def __aiter__(self) -> AsyncIterator[Tick]:
        if not self._subscriptions:
            async with self:
                async for tick in self:
                    yield tick
            return
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            self._more.clear()
            await self._more.wait()

    def take_gaps(self) -> list[TickGap]:
        """Return what was missed, and changes of the feed, since this was last asked."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def _on_message(self, message: Message) -> None:
        try:
            tick = Tick.from_wire(message.payload)
        except TickUnreadable:
            return
        if tick.epoch < self._epoch:
            return  # Of a feed that has been replaced.
        self._follow(tick)
        if not any(fnmatchcase(tick.key, pattern) for pattern in self._patterns):
            return
        # Of another feed's view of all, too, only the news are for the consumer.
        if self._arbiter.judge(tick) is not Verdict.NEWS:
            return
        if len(self._waiting) >= self._bound:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(tick)
        self._more.set()

    def _follow(self, tick: Tick) -> None:
        changed = tick.epoch > self._epoch
        if changed:
            first = not self._epoch
            self._epoch = tick.epoch
            self._numbers.clear()
            if not first:
                self._gaps.append(TickGap(tick.exchange, tick.epoch, 0, feed_changed=True))
        last = self._numbers.get(tick.exchange)
        self._numbers[tick.exchange] = tick.sequence
        if last is not None and tick.sequence > last + 1 and self._takes_all(tick.exchange):
            self._gaps.append(TickGap(tick.exchange, tick.epoch, tick.sequence - last - 1))

    def _takes_all(self, exchange: str) -> bool:
        return any(pattern in ("*", f"{exchange}.*") for pattern in self._patterns)


def _subject(pattern: str) -> str:
    """Return the narrowest subject that a pattern is within."""
    exchange = pattern.partition(".")[0]
    return f"{TICK}.>" if "*" in exchange else f"{TICK}.{exchange}.>"
