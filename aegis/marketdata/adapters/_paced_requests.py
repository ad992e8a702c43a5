"""Subscriptions on their way to a front: one request after another, no faster than allowed.

vnpy's binding takes one symbol a call where the vendor's own interface takes many, so
what is one request elsewhere is five hundred here; and a front cuts a session that sends
too many at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog

__all__ = ["PacedRequests"]

REFUSED_PAUSE: Final = 0.25
"""Seconds until a request that the library would not take is given to it again."""

_log = structlog.get_logger("aegis.feed")

_BURST: Final = 20
"""Requests between two pauses: pausing after each would cost a thread switch for each."""


class PacedRequests:
    """Sends symbols from a thread of its own.

    ``send`` takes at most ``size`` symbols, and returns 0, or what else the library said:
    then the same is sent again a moment later, as often as it takes. Where it raises, they
    are left out: whoever asked for them gets no answer, and asks again.
    """

    def __init__(
        self, name: str, send: Callable[[Sequence[str]], int], *, size: int, per_second: int
    ) -> None:
        self._send = send
        self._size = size
        self._pause = _BURST / per_second
        self._waiting: deque[str] = deque()
        self._queued: set[str] = set()
        """All that waits: what is asked for again before it was sent waits once."""
        self._lock = threading.Lock()
        self._errors = 0
        self._session = 0
        self._more = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __len__(self) -> int:
        return len(self._waiting)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send nothing any more."""
        self._stopping.set()
        self.clear()
        self._more.set()

    def add(self, symbols: Sequence[str]) -> None:
        """Send these after all others, but for those that wait already."""
        with self._lock:
            fresh = [symbol for symbol in symbols if symbol not in self._queued]
            self._waiting.extend(fresh)
            self._queued.update(fresh)
        self._more.set()

    def drop(self, symbols: Sequence[str]) -> None:
        """Do not send these any more."""
        gone = set(symbols)
        with self._lock:
            self._queued -= gone
            self._waiting = deque(symbol for symbol in self._waiting if symbol not in gone)

    def clear(self) -> None:
        """Forget what has not been sent: its session is gone."""
        with self._lock:
            self._session += 1
            self._waiting.clear()
            self._queued.clear()

    def _run(self) -> None:
        sent = 0
        while True:
            self._more.wait()
            self._more.clear()
            while batch := self._take():
                if self._stopping.is_set():
                    return
                session = self._session
                if self._refused(batch):
                    if not self._put_back(batch, session):
                        break
                    self._stopping.wait(REFUSED_PAUSE)
                    continue
                sent += 1
                if sent % _BURST == 0:
                    self._stopping.wait(self._pause)
            if self._stopping.is_set():
                return

    def _refused(self, batch: Sequence[str]) -> int:
        try:
            return self._send(batch)
        except Exception:
            # A thread that ends by it would send nothing any more.
            self._errors += 1
            if self._errors == 1:
                _log.exception("request_failed", first=batch[0], symbols=len(batch))
            return 0

    def _put_back(self, batch: Sequence[str], session: int) -> bool:
        with self._lock:
            if session != self._session:
                return False
            self._waiting.extendleft(reversed(batch))
            self._queued.update(batch)
            return True

    def _take(self) -> list[str]:
        with self._lock:
            count = min(self._size, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            self._queued.difference_update(batch)
        return batch
