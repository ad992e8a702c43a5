"""Ticks for a consumer: what there is at first, then what comes, with every gap told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Final, Self

from aegis import Cluster
from aegis.marketdata._follower import TickFollower, TickGap, subjects_of
from aegis.marketdata._last_ticks import ask_last
from aegis.marketdata._tick import Tick, TickUnreadable

if TYPE_CHECKING:
    from aegis.transport import Message, Subscription

__all__ = ["TickStream", "ticks"]

DEFAULT_BOUND: Final = 100_000
"""Ticks that wait for a slow consumer; beyond it the oldest are dropped and counted."""

GAPS_KEPT: Final = 1_000
"""For a consumer that does not ask for them; the newest."""


def ticks(
    cluster: Cluster, *patterns: str, bound: int = DEFAULT_BOUND, snapshot: bool = True
) -> TickStream:
    """Return a stream of the ticks of all contracts that match, to be iterated.

    Patterns are those of `UniverseFilter`, as in ``SHFE.rb*``; without any, all. First
    comes how each of these contracts stands, if a feed is there to tell and ``snapshot`` is
    not switched off, then every change. More than ``bound`` ticks do not wait for a slow
    consumer: the oldest give way, and it is told.
    """
    return TickStream(cluster, patterns or ("*",), bound, snapshot=snapshot)


class TickStream:
    """The ticks of some contracts, as they come."""

    def __init__(
        self,
        cluster: Cluster,
        patterns: tuple[str, ...],
        bound: int = DEFAULT_BOUND,
        *,
        snapshot: bool = True,
    ) -> None:
        self.dropped = 0
        """Ticks that were left out since the consumer was slower than they came."""
        self.snapshot: int | None = None
        """Of how many contracts the state came first; None if no feed was there to tell."""
        self._wants_snapshot = snapshot
        self._gaps: deque[TickGap] = deque(maxlen=GAPS_KEPT)
        self._cluster = cluster
        self._patterns = patterns
        self._bound = bound
        self._follower = TickFollower(patterns)
        self._early: list[Tick] | None = None
        """What came before the snapshot was there."""
        self._waiting: deque[Tick | TickGap] = deque()
        self._left_out: dict[str, TickGap] = {}
        """What had to give way in front of all that waits, by exchange."""
        self._more = asyncio.Event()
        self._subscriptions: list[Subscription] = []

    async def __aenter__(self) -> Self:
        self._early = [] if self._wants_snapshot else None
        for subject in subjects_of(self._patterns):
            self._subscriptions.append(
                await self._cluster.transport.subscribe(subject, self._on_message)
            )
        if self._wants_snapshot:
            try:
                await self._begin_with_snapshot()
            except BaseException:
                await self.__aexit__()
                raise
        return self

    async def __aexit__(self, *_: object) -> None:
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            await subscription.unsubscribe()

    async def __aiter__(self) -> AsyncGenerator[Tick]:
        if not self._subscriptions:
            async with self:
                async for tick in self:
                    yield tick
            return
        while True:
            while self._waiting:
                said = self._waiting.popleft()
                if self._left_out:
                    self._gaps += self._left_out.values()
                    self._left_out.clear()
                if isinstance(said, TickGap):
                    self._gaps.append(said)
                else:
                    yield said
            self._more.clear()
            await self._more.wait()

    def take_gaps(self) -> list[TickGap]:
        """Return what was missed right before the tick at hand, and since this was last asked.

        Changes of the feed are among it.
        """
        gaps = list(self._gaps)
        self._gaps.clear()
        return gaps

    async def _begin_with_snapshot(self) -> None:
        states = await ask_last(self._cluster, self._patterns)
        if states is not None:
            self.snapshot = len(states)
            for tick in states:
                self._put(self._follower.take_state(tick))
        early, self._early = self._early or [], None
        for tick in early:
            self._put(self._follower.take(tick))

    def _on_message(self, message: Message) -> None:
        try:
            tick = Tick.from_wire(message.payload)
        except TickUnreadable:
            return
        if self._early is not None and len(self._early) < self._bound:
            self._early.append(tick)
        elif self._early is None:
            self._put(self._follower.take(tick))

    def _put(self, told: Sequence[Tick | TickGap]) -> None:
        for said in told:
            if len(self._waiting) >= self._bound:
                self._leave_out(self._waiting.popleft())
            self._waiting.append(said)
        if told:
            self._more.set()

    def _leave_out(self, said: Tick | TickGap) -> None:
        """Have what gives way told as a gap; a gap that was to be told stays one."""
        before = self._left_out.get(said.exchange)
        missed, changed = (before.missed, before.feed_changed) if before else (0, False)
        if isinstance(said, TickGap):
            missed, changed = missed + said.missed, changed or said.feed_changed
        else:
            missed += 1
            self.dropped += 1
        gap = TickGap(said.exchange, said.epoch, missed, feed_changed=changed, dropped=True)
        self._left_out[said.exchange] = gap
