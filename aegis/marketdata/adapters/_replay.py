"""A gateway to recorded days: what they say is told again, at any speed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from aegis.marketdata._calendar import Calendar
from aegis.marketdata._contract import Contract
from aegis.marketdata._ports import GatewayFailure, GatewayListener, GatewayState
from aegis.marketdata._replay_clock import ReplayClock
from aegis.marketdata.adapters._recordings import Recordings

__all__ = ["ReplayGateway"]

STOP_TIMEOUT: Final = 2.0

_log = structlog.get_logger("aegis.feed")


class ReplayGateway:
    """A `RecordedGatewayPort` over recordings, with a thread of its own.

    Ticks keep the times that were recorded. They are told in the order in which they were
    received, those of contracts that nobody asks for are left out. At the end it stays
    connected and silent, and its clock stands.
    """

    def __init__(
        self,
        name: str,
        recordings: Recordings,
        *,
        speed: float = 1.0,
        max_pause: float = 0.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._recordings = recordings
        self._clock = ReplayClock(recordings.begin_ns, speed=speed, max_pause=max_pause)
        self._now = now
        self._wanted: set[tuple[str, str]] = set()
        self._listener: GatewayListener | None = None
        self._told = 0
        self._allowed = 0
        self._finished = False
        self._stopping = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """What the feed is called."""
        return self._name

    @property
    def calendar(self) -> Calendar:
        """The calendar, which knows the recorded days too."""
        return self._recordings.calendar

    @property
    def told(self) -> int:
        """How many ticks it has told the listener."""
        return self._told

    def start(self, listener: GatewayListener) -> None:
        """Tell all contracts, then wait until it may play."""
        self._listener = listener
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name=f"gateway-{self._name}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(STOP_TIMEOUT)

    def subscribe(self, contracts: Sequence[Contract]) -> None:
        """Ask for the ticks of contracts; each is confirmed at once."""
        self._wanted |= {(contract.exchange, contract.symbol) for contract in contracts}
        if self._listener is not None:
            for contract in contracts:
                self._listener.on_subscribed(contract.key)

    def unsubscribe(self, contracts: Sequence[Contract]) -> None:
        """Ask for them no more."""
        self._wanted -= {(contract.exchange, contract.symbol) for contract in contracts}

    # -- its clock ------------------------------------------------------------------------

    def market_ns(self) -> int:
        """Return what time it is in the recorded market."""
        with self._changed:
            return self._clock.market_ns(self._now())

    def allow(self, told: int) -> None:
        """Let it go on until it has told so many ticks in all."""
        with self._changed:
            self._allowed = told
            self._changed.notify()

    def progress(self) -> dict[str, Any]:
        """Return how far it has come."""
        return {
            **self._recordings.statistics(),
            "told": self._told,
            "market_ns": self.market_ns(),
            "finished": self._finished,
        }

    # -- on the thread --------------------------------------------------------------------

    def _run(self, listener: GatewayListener) -> None:
        listener.on_state(GatewayState.LOADING_CONTRACTS)
        for contract in self._recordings.contracts:
            listener.on_contract(contract)
        listener.on_state(GatewayState.READY)
        try:
            self._play(listener)
        except Exception as error:
            # A thread that ends by it would leave a market that is silent for no reason.
            failure = GatewayFailure(f"the recording cannot be read: {error}", permanent=True)
            listener.on_state(GatewayState.FAILED, failure)
            _log.exception("replay_failed", feed=self._name)

    def _play(self, listener: GatewayListener) -> None:
        for tick in self._recordings.ticks():
            if not self._wait_until_due(tick.received_ns):
                return
            if (tick.exchange, tick.symbol) in self._wanted:
                listener.on_tick(tick)
                self._told += 1
        with self._changed:
            self._clock.stop(self._now())
        self._finished = True
        _log.info("replay_finished", feed=self._name, **self.progress())

    def _wait_until_due(self, tick_ns: int) -> bool:
        """Return when a tick may be told; False if there is no more to be told."""
        with self._changed:
            while not self._stopping:
                now = self._now()
                if self._told >= self._allowed:
                    self._clock.stop(now)
                    self._changed.wait()
                    continue
                left = self._clock.seconds_until(tick_ns, now)
                if left <= 0:
                    return True
                self._changed.wait(left)
            return False
