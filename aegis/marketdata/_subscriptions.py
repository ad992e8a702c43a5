"""Subscribing to thousands of contracts, no faster than the front answers.

A front cuts a session that asks for too much, or that falls behind with what it is sent.
So the pace is set by what has come back: a contract is confirmed by the front's word or
by its first tick, only so many are unconfirmed at any time, and what stays without an
answer is asked for again, and that alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from attrs import define, frozen

__all__ = ["Pace", "Subscriptions"]


@frozen
class Pace:
    """How fast to subscribe."""

    batch: int = 500
    """Contracts in one request."""
    outstanding: int = 2_000
    """Contracts without an answer at any time."""
    answer_timeout: float = 5.0
    """Seconds until one without an answer is asked for again."""
    attempts: int = 3
    """So often it is asked for; then it is missing until the next session."""


@define
class _Pending:
    asked_at: float
    attempts: int


class Subscriptions:
    """Which contracts are wanted, asked for, confirmed and refused."""

    def __init__(self, pace: Pace | None = None) -> None:
        self.pace = pace or Pace()
        self.confirmed: set[str] = set()
        self.refused: dict[str, str] = {}
        """Contracts that the front will not give, with its reason."""
        self.silent: set[str] = set()
        """Contracts that were asked for as often as may be, without an answer."""
        self._waiting: deque[str] = deque()
        self._attempts: dict[str, int] = {}
        self._pending: dict[str, _Pending] = {}
        self._wanted: set[str] = set()

    @property
    def wanted(self) -> frozenset[str]:
        """Every contract that is to be had."""
        return frozenset(self._wanted)

    @property
    def outstanding(self) -> int:
        """How many have been asked for and are not answered yet."""
        return len(self._pending)

    @property
    def all_confirmed(self) -> bool:
        """Whether the front has answered for all that is wanted with a yes, or a tick."""
        return len(self.confirmed) == len(self._wanted)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be asked for or waited for."""
        return not self._waiting and not self._pending

    def want(self, keys: Iterable[str]) -> None:
        """Add contracts; those that are wanted already stay as they are."""
        for key in keys:
            if key not in self._wanted:
                self._wanted.add(key)
                self._waiting.append(key)

    def drop(self, keys: Iterable[str]) -> list[str]:
        """Want contracts no more; return those that the front has to be told of."""
        dropped = [key for key in keys if key in self._wanted]
        told = [key for key in dropped if key in self.confirmed or key in self._pending]
        gone = set(dropped)
        self._wanted -= gone
        self._waiting = deque(key for key in self._waiting if key not in gone)
        for key in dropped:
            self._forget(key)
        return told

    def lost(self) -> None:
        """The session is gone: all that is wanted has to be asked for again."""
        for key in list(self._wanted):
            self._forget(key)
        self._waiting = deque(sorted(self._wanted))

    def retry(self, keys: Iterable[str]) -> int:
        """Ask again for contracts that should have ticked; return how many that are."""
        again = [key for key in keys if key in self._wanted and key not in self._pending]
        waiting = set(self._waiting)
        for key in again:
            self._forget(key)
            if key not in waiting:
                self._waiting.append(key)
        return len(again)

    def _forget(self, key: str) -> None:
        self.confirmed.discard(key)
        self.silent.discard(key)
        self.refused.pop(key, None)
        self._pending.pop(key, None)
        self._attempts.pop(key, None)

    def confirm(self, key: str) -> None:
        """The front said yes, or a tick came."""
        if key not in self.confirmed and key in self._wanted:
            self._pending.pop(key, None)
            self.silent.discard(key)
            self.refused.pop(key, None)
            self.confirmed.add(key)

    def refuse(self, key: str, reason: str) -> None:
        """The front said no."""
        if key in self._wanted:
            self._pending.pop(key, None)
            self.refused[key] = reason

    def next_batch(self, now: float) -> list[str]:
        """Return what to ask for at this moment; maybe nothing.

        ``now`` is in seconds on a clock that only rises.
        """
        self._give_up_waiting(now)
        pace = self.pace
        room = min(pace.batch, pace.outstanding - len(self._pending))
        batch: list[str] = []
        while self._waiting and len(batch) < room:
            key = self._waiting.popleft()
            if key not in self._wanted or key in self.confirmed:
                continue
            attempts = self._attempts[key] = self._attempts.get(key, 0) + 1
            self._pending[key] = _Pending(now, attempts)
            batch.append(key)
        return batch

    def _give_up_waiting(self, now: float) -> None:
        # They are in the order in which they were asked for.
        for key, pending in list(self._pending.items()):
            if now - pending.asked_at < self.pace.answer_timeout:
                return
            del self._pending[key]
            if pending.attempts < self.pace.attempts:
                self._waiting.append(key)
            else:
                self.silent.add(key)

    def statistics(self) -> Mapping[str, int]:
        """Return how many contracts are in which state."""
        return {
            "wanted": len(self._wanted),
            "confirmed": len(self.confirmed),
            "outstanding": len(self._pending),
            "waiting": len(self._waiting),
            "refused": len(self.refused),
            "silent": len(self.silent),
        }
