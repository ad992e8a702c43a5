"""The two connections of one CTP account, told as one state of a gateway.

Contracts come from the trading front, ticks from the market-data front. Each connects,
falls and comes back by itself; what counts for the feed is whether all contracts of the
market's trading day are known and ticks can come. Once they are known, the trading front
may come and go without the ticks being touched.
"""

from __future__ import annotations

import threading

import structlog

from aegis.marketdata._ports import GatewayFailure, GatewayListener, GatewayState
from aegis.marketdata.adapters._ctp_errors import disconnection, refusal

__all__ = ["CtpSession"]

_log = structlog.get_logger("aegis.feed")


class CtpSession:
    """Follows both connections, from any thread, and tells a listener once it is started.

    Days are trading days as the vendor writes them, ``20261123``; an empty one is unknown.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._listener: GatewayListener | None = None
        self._lock = threading.Lock()
        self._trading = GatewayState.CONNECTING
        self._trading_day = ""
        self._market = GatewayState.CONNECTING
        self._market_day = ""
        self._contracts_day: str | None = None
        self._told = GatewayState.STOPPED
        self._lost: dict[str, int] = {}
        self._logged_in: set[str] = set()

    @property
    def live(self) -> bool:
        """Whether all contracts are known and ticks can come."""
        return self._told is GatewayState.READY

    @property
    def market_day(self) -> str:
        """The trading day of the market-data front's last login."""
        return self._market_day

    def start(self, listener: GatewayListener) -> None:
        """Begin to connect."""
        with self._lock:
            self._listener = listener
            self._tell()

    def close(self) -> None:
        """Tell nothing any more."""
        with self._lock:
            self._listener = None

    # -- the trading front ----------------------------------------------------------------

    def trading_connected(self, *, authenticates: bool) -> None:
        """The trading front is reached; what follows is an authentication or the login."""
        with self._lock:
            after = GatewayState.AUTHENTICATING if authenticates else GatewayState.LOGGING_IN
            self._trading = after
            self._tell()

    def authenticated(self) -> None:
        """The app id was taken."""
        with self._lock:
            self._trading = GatewayState.LOGGING_IN
            self._tell()

    def trading_logged_in(self, day: str) -> None:
        """The trading front took the login; it tells its contracts next."""
        with self._lock:
            self._trading = GatewayState.LOADING_CONTRACTS
            self._trading_day = day
            self._took_login("trading")

    def contracts_complete(self) -> None:
        """All contracts of the trading front's day have been told.

        That is said again when they were told again, so that new ones are taken.
        """
        with self._lock:
            again = self._told is GatewayState.READY
            self._trading = GatewayState.READY
            self._contracts_day = self._trading_day
            self._tell(again=again)

    def trading_lost(self, reason: int) -> None:
        """The connection to the trading front broke; the library tries again by itself."""
        with self._lock:
            self._trading = GatewayState.CONNECTING
            self._fall("trading", reason)

    # -- the market-data front ------------------------------------------------------------

    def market_connected(self) -> None:
        """The market-data front is reached; the login follows."""
        with self._lock:
            self._market = GatewayState.LOGGING_IN
            self._tell()

    def market_logged_in(self, day: str) -> None:
        """The market-data front took the login."""
        with self._lock:
            self._market = GatewayState.READY
            self._market_day = day
            self._took_login("market")

    def market_lost(self, reason: int) -> None:
        """The connection to the market-data front broke; the library tries again by itself."""
        with self._lock:
            self._market = GatewayState.CONNECTING
            self._fall("market", reason)

    # -- what is wrong --------------------------------------------------------------------

    def trading_refused(self, phase: str, code: int, message: str) -> None:
        """The trading front refused the authentication or the login.

        While ticks come that changes nothing: the next process tries again, or not at all.
        """
        with self._lock:
            self._refuse(refusal(phase, code, message), fatal=not self.live)

    def market_refused(self, code: int, message: str) -> None:
        """The market-data front refused the login."""
        with self._lock:
            self._refuse(refusal("the market-data login", code, message), fatal=True)

    def fail(self, failure: GatewayFailure) -> None:
        """Something else is wrong, after which nothing goes on."""
        with self._lock:
            self._refuse(failure, fatal=True)

    def _refuse(self, failure: GatewayFailure, *, fatal: bool) -> None:
        _log.error("front_refused", feed=self._name, reason=failure.reason, code=failure.code)
        if fatal and self._listener is not None:
            self._told = GatewayState.FAILED
            self._listener.on_state(GatewayState.FAILED, failure)

    def _took_login(self, front: str) -> None:
        self._logged_in.add(front)
        self._lost.pop(front, None)
        self._tell()

    def _fall(self, front: str, reason: int) -> None:
        failure = disconnection(front, reason, before_login=front not in self._logged_in)
        # A front that is not there is lost once a second, for one reason or by turns.
        news = self._lost.get(front) != reason
        if news:
            _log.warning("front_lost", feed=self._name, reason=failure.reason, code=reason)
        self._lost[front] = reason
        self._tell(failure, again=news and not self.live)

    # -- as one ---------------------------------------------------------------------------

    def _state(self) -> GatewayState:
        if self._contracts_day is None:
            return self._trading
        if self._contracts_day < self._market_day:
            # A new trading day has begun here; its contracts are still to come.
            loading = GatewayState.LOADING_CONTRACTS
            return loading if self._trading is GatewayState.READY else self._trading
        return self._market

    def _tell(self, failure: GatewayFailure | None = None, *, again: bool = False) -> None:
        state = self._state()
        if self._listener is None or self._told is GatewayState.FAILED:
            return
        if state is not self._told or again:
            self._told = state
            self._listener.on_state(state, failure)
