"""How long each phase of a gateway may take, and what follows when it takes longer.

A front that is not there gives no answer at all: being unconnected is visible only as
absence. So each phase has a deadline of its own.
"""

from __future__ import annotations

from attrs import define, field, frozen

from aegis.marketdata._ports import GatewayFailure, GatewayState

__all__ = ["Deadlines", "Lifecycle"]


@frozen
class Deadlines:
    """Seconds that a gateway may take for each phase of its start."""

    connecting: float = 15.0
    authenticating: float = 10.0
    logging_in: float = 10.0
    loading_contracts: float = 120.0


@define
class Lifecycle:
    """Follows one life of a gateway.

    Times are seconds on a clock that only rises.
    """

    deadlines: Deadlines = field(factory=Deadlines)
    state: GatewayState = GatewayState.STOPPED
    since: float = 0.0
    failure: GatewayFailure | None = None
    disconnects: int = 0
    """How often it fell back after it had been ready."""
    load_seconds: float = 0.0
    """How long it took to tell of all contracts, the last time."""

    def enter(self, state: GatewayState, now: float, failure: GatewayFailure | None = None) -> None:
        """Take a change of state that the gateway tells."""
        if self.state is GatewayState.FAILED:
            return  # What fails does so for good; a new life begins with a new gateway.
        if self.state is GatewayState.READY and state is not GatewayState.READY:
            self.disconnects += 1
        if self.state is GatewayState.LOADING_CONTRACTS and state is GatewayState.READY:
            self.load_seconds = now - self.since
        if state is not self.state:
            self.state, self.since = state, now
        if failure is not None:
            self.failure = failure
        elif state is GatewayState.READY:
            self.failure = None

    def check(self, now: float) -> GatewayFailure | None:
        """Return why the gateway has failed, if its phase takes too long by now."""
        limit = self._limit()
        if limit is None or now - self.since < limit:
            return None
        known = f": {self.failure.reason}" if self.failure is not None else ""
        failure = GatewayFailure(
            f"{self.state.value.replace('_', ' ')} takes longer than {limit:g} s{known}",
            code=self.failure.code if self.failure is not None else 0,
        )
        self.enter(GatewayState.FAILED, now, failure)
        return failure

    def _limit(self) -> float | None:
        limits = self.deadlines
        return {
            GatewayState.CONNECTING: limits.connecting,
            GatewayState.AUTHENTICATING: limits.authenticating,
            GatewayState.LOGGING_IN: limits.logging_in,
            GatewayState.LOADING_CONTRACTS: limits.loading_contracts,
        }.get(self.state)
