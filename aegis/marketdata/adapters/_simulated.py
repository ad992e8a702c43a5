"""A gateway to a made-up market: everything but the exchange is real."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import tzinfo
from fnmatch import fnmatchcase
from typing import Final

from attrs import frozen

from aegis.marketdata._contract import Contract
from aegis.marketdata._ports import GatewayFailure, GatewayListener, GatewayState
from aegis.marketdata._simulated_faults import SimulatedFaults
from aegis.marketdata._simulated_market import (
    PHASE_NS,
    Burst,
    MarketFaults,
    Roster,
    SimulatedMarket,
)

__all__ = ["GatewayFaults", "SimulatedGateway"]

STOP_TIMEOUT: Final = 2.0


@frozen
class GatewayFaults:
    """What goes wrong with the connection; everything is off unless asked for."""

    login: GatewayFailure | None = None
    """Each login is refused with this."""
    unreachable: bool = False
    """The front is not there: nothing is ever told."""
    unanswered: frozenset[str] = frozenset()
    """Subscriptions to these contracts get no answer, and no ticks."""
    late_contracts: int = 0
    """So many of the contracts are told only after the gateway said that it is ready."""
    cut_at: int = 0
    """The front cuts a session that subscribes to more than so many in half a second."""
    last_night: bool = False
    """With a subscription a tick that is hours old is sent first."""
    lag: float = 0.0
    """Ticks come so many seconds late; below 0 the exchange's clock is ahead."""


class SimulatedGateway:
    """A `MarketDataGatewayPort` over a `SimulatedMarket`, with a thread of its own.

    ``even`` spreads the ticks of each half second over it, instead of a burst. ``look``
    is asked twice a second what goes wrong from now on; None is no news.
    """

    def __init__(
        self,
        name: str,
        contracts: Sequence[Contract],
        *,
        zone: tzinfo,
        seed: int = 1,
        rate: float = 1.0,
        even: bool = False,
        faults: SimulatedFaults | None = None,
        look: Callable[[], SimulatedFaults | None] | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.faults = GatewayFaults()
        self.connected = True
        """Set to False to cut the connection, and to True to let it come back."""
        self._name = name
        self._contracts = list(contracts)
        self._market = SimulatedMarket(contracts, seed=seed, zone=zone, rate=rate)
        self._even = even
        self._look = look
        self._wall_ns = wall_ns
        self._phase = 0
        self._wanted: dict[str, None] = {}
        self._roster: Roster | None = None
        """Of what is wanted; None if that has changed."""
        self._fresh: list[str] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.suffer(faults or SimulatedFaults())

    @property
    def name(self) -> str:
        """What the feed is called."""
        return self._name

    def start(self, listener: GatewayListener) -> None:
        """Connect, log in and load all contracts, on a thread."""
        self._stopping.clear()
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name=f"gateway-{self._name}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(STOP_TIMEOUT)

    def subscribe(self, contracts: Sequence[Contract]) -> None:
        """Ask for the ticks of contracts; each is answered by its state at once."""
        with self._lock:
            self._roster = None
            for contract in contracts:
                if contract.key not in self.faults.unanswered:
                    self._wanted[contract.key] = None
                    self._fresh.append(contract.key)

    def unsubscribe(self, contracts: Sequence[Contract]) -> None:
        """Ask for them no more."""
        with self._lock:
            self._roster = None
            for contract in contracts:
                self._wanted.pop(contract.key, None)

    def break_market(self, faults: MarketFaults) -> None:
        """Have the market say wrong things from now on."""
        self._market.faults = faults

    def suffer(self, faults: SimulatedFaults) -> None:
        """Have these things go wrong from now on, and nothing else."""
        code = faults.login_code
        refused = GatewayFailure("the login was refused", code, permanent=code in _FOR_GOOD)
        self.faults = GatewayFaults(
            refused if code else None,
            faults.unreachable,
            self._matching(faults.unanswered),
            faults.late_contracts,
            faults.cut_at,
            faults.last_night,
            faults.lag,
        )
        self.break_market(
            MarketFaults(
                frozenset(faults.silent_exchanges),
                self._matching(faults.stalled),
                faults.repeat_share,
            )
        )
        self.connected = not faults.disconnected

    def _matching(self, patterns: Sequence[str]) -> frozenset[str]:
        return frozenset(
            contract.key
            for contract in self._contracts
            if any(fnmatchcase(contract.key, pattern) for pattern in patterns)
        )

    # -- on the thread --------------------------------------------------------------------

    def _look_at_faults(self) -> None:
        faults = self._look() if self._look is not None else None
        if faults is not None:
            self.suffer(faults)

    def _run(self, listener: GatewayListener) -> None:
        self._look_at_faults()
        if not self._log_in(listener):
            return
        up = True
        self._phase = self._wall_ns() // PHASE_NS
        while not self._stopping.wait(self._until_next_phase()):
            self._phase = self._wall_ns() // PHASE_NS
            self._look_at_faults()
            if not self.connected:
                if up:
                    self._cut(listener)
                    up = False
                continue
            if not up:
                up = self._log_in(listener)
            elif self._is_too_much():
                self._cut(listener)
                up = False
                continue
            self._speak(listener)

    def _until_next_phase(self) -> float:
        """Return the seconds to the next phase; one that went by under load is left out."""
        now = self._wall_ns()
        return (PHASE_NS - now % PHASE_NS) / 1e9 if now // PHASE_NS == self._phase else 0.0

    def _log_in(self, listener: GatewayListener) -> bool:
        listener.on_state(GatewayState.CONNECTING)
        if self.faults.unreachable:
            return False
        listener.on_state(GatewayState.LOGGING_IN)
        if self.faults.login is not None:
            listener.on_state(GatewayState.FAILED, self.faults.login)
            return False
        listener.on_state(GatewayState.LOADING_CONTRACTS)
        late = len(self._contracts) - self.faults.late_contracts
        for contract in self._contracts[:late]:
            listener.on_contract(contract)
        listener.on_state(GatewayState.READY)
        for contract in self._contracts[late:]:
            listener.on_contract(contract)
        return True

    def _cut(self, listener: GatewayListener) -> None:
        with self._lock:
            self._roster = None
            self._wanted.clear()
            self._fresh.clear()
        listener.on_state(
            GatewayState.CONNECTING, GatewayFailure("the front does not answer", code=8193)
        )

    def _is_too_much(self) -> bool:
        with self._lock:
            return 0 < self.faults.cut_at < len(self._fresh)

    def _speak(self, listener: GatewayListener) -> None:
        with self._lock:
            fresh, self._fresh = self._fresh, []
            if self._roster is None:
                self._roster = self._market.roster(self._wanted)
            roster = self._roster
        received = self._wall_ns()
        now = received - int(self.faults.lag * 1e9)
        for key in fresh:
            if self.faults.last_night:
                old = self._market.snapshot(key, now - _NIGHT_NS, received)
                if old is not None:
                    listener.on_tick(old)
            snapshot = self._market.snapshot(key, now, received)
            if snapshot is not None:
                listener.on_tick(snapshot)
        burst = self._market.burst(roster, now)
        if self._even:
            self._spread(burst, listener)
        else:
            for tick in burst.ticks(0, len(burst), self._wall_ns):
                listener.on_tick(tick)

    def _spread(self, burst: Burst, listener: GatewayListener) -> None:
        """Tell a burst over the time that there is until the next."""
        began, count = self._wall_ns(), len(burst)
        time_ns = _SPREAD_SHARE * (PHASE_NS - began % PHASE_NS)
        slices = min(count // _SLICE + 1, _MOST_SLICES)
        for number in range(1, slices + 1):
            for tick in burst.ticks(
                (number - 1) * count // slices, number * count // slices, self._wall_ns
            ):
                listener.on_tick(tick)
            pause = (began + time_ns * number / slices - self._wall_ns()) / 1e9
            if pause > 0 and self._stopping.wait(pause):
                return


_FOR_GOOD: Final = (3, 63, 75)
"""Codes of CTP that say that the account cannot log in: a repetition locks it."""

_NIGHT_NS: Final = 8 * 3_600_000_000_000

_SLICE: Final = 8
_MOST_SLICES: Final = 250
"""Ticks at a time when they are spread evenly, until a slice comes every two milliseconds."""

_SPREAD_SHARE: Final = 0.95
