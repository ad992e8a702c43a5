"""The clock of a recorded market: what time it is there, and when a tick is due.

It is the recorded time of what is being played, never that of today: whether a contract is
quiet, an exchange open or a tick late are questions about that day.
"""

from __future__ import annotations

__all__ = ["ReplayClock"]


class ReplayClock:
    """A clock that begins to go with the first tick and stands still when it is stopped.

    ``now`` is in seconds on a clock that only rises; times of the market are nanoseconds
    since 1970. With speed 0 every tick is due at once.
    """

    def __init__(self, begin_ns: int, *, speed: float = 1.0, max_pause: float = 0.0) -> None:
        self._speed = speed
        self._max_pause = max_pause
        self._at_ns = begin_ns
        """The market's time, where it stands or where it last began to go."""
        self._since: float | None = None
        """When it last began to go; None while it stands."""
        self._next_ns = begin_ns

    def market_ns(self, now: float) -> int:
        """Return what time it is in the market: never later than the next tick."""
        if self._since is None:
            return self._at_ns
        gone = int((now - self._since) * self._speed * 1e9)
        return min(self._at_ns + gone, self._next_ns)

    def stop(self, now: float) -> None:
        """Stand still until the next tick is asked about."""
        self._at_ns = self.market_ns(now)
        self._since = None

    def seconds_until(self, tick_ns: int, now: float) -> float:
        """Return how long the next tick is to be waited for; 0 or less if it is due."""
        # A recording may hold a tick that is older than the one before it.
        self._next_ns = max(self._next_ns, tick_ns)
        if not self._speed:
            self._at_ns = self._next_ns
            return 0.0
        if self._since is None:
            self._since = now
        left = (tick_ns - self._at_ns) / 1e9 / self._speed - (now - self._since)
        if self._max_pause and left > self._max_pause:
            self._at_ns = tick_ns - int(self._max_pause * self._speed * 1e9)
            self._since = now
            left = self._max_pause
        return left
