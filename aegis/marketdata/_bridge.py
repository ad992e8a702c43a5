"""The bridge from a gateway's threads to the event loop.

A vendor's thread must never wait for Python's loop, and must not fill memory while that
is busy: what comes is put aside at the price of one append, the loop is woken once for as
much as has come, and beyond a bound only the newest tick of each contract is kept.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from aegis.marketdata._contract import Contract
from aegis.marketdata._ports import GatewayFailure, GatewayState, RawTick

__all__ = ["DEFAULT_BOUND", "Bridge", "BridgeConsumer"]

DEFAULT_BOUND: Final = 50_000
"""Ticks that wait before they are conflated: some ten seconds of the whole market."""

BATCH: Final = 250
"""Ticks that are handed on in one turn of the loop; the next turn goes on. So many are still
in the processor's cache when they are packed, and their subscribers work meanwhile."""


class BridgeConsumer(Protocol):
    """Who gets what the gateway tells, in the loop."""

    def on_state(self, state: GatewayState, failure: GatewayFailure | None) -> None:
        """The gateway has come further, or has fallen back."""
        ...

    def on_contract(self, contract: Contract) -> None:
        """One of all contracts."""
        ...

    def on_subscribed(self, key: str, failure: GatewayFailure | None) -> None:
        """A subscription was taken or refused."""
        ...

    def on_ticks(self, ticks: Sequence[RawTick], conflated: bool) -> None:
        """Ticks in the order in which they came; conflated ones stand for others too."""
        ...


class Bridge:
    """A `GatewayListener` that hands all on to a consumer in the loop.

    Its methods may be called from any thread; they neither block nor raise.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        consumer: BridgeConsumer,
        *,
        bound: int = DEFAULT_BOUND,
    ) -> None:
        self.conflated: Counter[str] = Counter()
        """Ticks that were left out for a newer one of their contract, by exchange."""
        self._loop = loop
        self._consumer = consumer
        self._bound = bound
        self._ticks: deque[RawTick] = deque()
        self._newest: dict[tuple[str, str], RawTick] = {}
        self._facts: deque[Callable[[], None]] = deque()
        self._woken = False
        self._closed = False

    @property
    def depth(self) -> int:
        """How many ticks wait."""
        return len(self._ticks) + len(self._newest)

    def close(self) -> None:
        """Hand on nothing any more; what still comes is dropped."""
        self._closed = True
        self._ticks.clear()
        self._newest = {}
        self._facts.clear()

    # -- from any thread ------------------------------------------------------------------

    def on_state(self, state: GatewayState, failure: GatewayFailure | None = None) -> None:
        """Take a change of state."""
        self._facts.append(lambda: self._consumer.on_state(state, failure))
        self._wake()

    def on_contract(self, contract: Contract) -> None:
        """Take a contract."""
        self._facts.append(lambda: self._consumer.on_contract(contract))
        self._wake()

    def on_subscribed(self, key: str, failure: GatewayFailure | None = None) -> None:
        """Take the fate of a subscription."""
        self._facts.append(lambda: self._consumer.on_subscribed(key, failure))
        self._wake()

    def on_tick(self, tick: RawTick) -> None:
        """Take a tick. Single steps of a deque or a dict are atomic, so no lock is needed."""
        if len(self._ticks) < self._bound and not self._newest:
            self._ticks.append(tick)
        else:
            # From the first that is put here on, all are, so that none overtakes another.
            newest, key = self._newest, (tick.exchange, tick.symbol)
            if key in newest:
                self.conflated[tick.exchange] += 1
            newest[key] = tick
            if newest is not self._newest:
                # The loop has taken all that was put aside, maybe just before this one. If it
                # was with it, it is seen to come twice.
                self._ticks.append(tick)
        if not self._woken:
            self._wake()

    def _wake(self) -> None:
        if self._woken or self._closed:
            return
        self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._hand_on)
        except RuntimeError:
            self._closed = True  # The loop has ended before the vendor's threads.

    # -- in the loop ----------------------------------------------------------------------

    def _hand_on(self) -> None:
        # First: what comes from here on wakes the loop again.
        self._woken = False
        if self._closed:
            return
        while self._facts:
            self._facts.popleft()()
        ticks = self._ticks
        count = min(len(ticks), BATCH)
        if count:
            self._consumer.on_ticks([ticks.popleft() for _ in range(count)], False)
        if ticks:
            self._wake()
        elif self._newest:
            newest, self._newest = self._newest, {}
            self._consumer.on_ticks(list(newest.values()), True)
