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

__all__ = ["PacedRequests"]

REFUSED_PAUSE: Final = 0.25
"""Seconds until a request that the library would not take is given to it again."""

_BURST: Final = 20
"""Requests between two pauses: pausing after each would cost a thread switch for each."""


class PacedRequests:
    """Sends symbols from a thread of its own.

    ``send`` takes at most ``size`` symbols, and returns 0, or what else the library said:
    then the same is sent again a moment later, as often as it takes.
    """

    def __init__(
        self, name: str, send: Callable[[Sequence[str]], int], *, size: int, per_second: int
    ) -> None:
        self._send = send
        self._size = size
        self._pause = _BURST / per_second
        self._waiting: deque[str] = deque()
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
        """Send these after all others."""
        self._waiting.extend(symbols)
        self._more.set()

    def clear(self) -> None:
        """Forget what has not been sent: its session is gone."""
        self._session += 1
        self._waiting.clear()

    def _run(self) -> None:
        sent = 0
        while True:
            self._more.wait()
            self._more.clear()
            while batch := self._take():
                if self._stopping.is_set():
                    return
                session = self._session
                if self._send(batch):
                    if session != self._session:
                        break
                    self._waiting.extendleft(reversed(batch))
                    self._stopping.wait(REFUSED_PAUSE)
                    continue
                sent += 1
                if sent % _BURST == 0:
                    self._stopping.wait(self._pause)
            if self._stopping.is_set():
                return

    def _take(self) -> list[str]:
        batch: list[str] = []
        while len(batch) < self._size:
            try:
                batch.append(self._waiting.popleft())
            except IndexError:
                break
        return batch
