"""What a standby that is promoted has yet to see of its journal.

Most of it is on its way already: the node follows the journals of the whole service with
one read. So a standby goes on being shown its journal until its fence comes by. Only if
that read does not get on does each read for itself; a thousand reads, each of which has
the server look through the stream for one subject, take seconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from aegis.actors._standby import Follower, StandbyFeed

__all__ = ["PATIENCE_SECONDS", "Remainder"]

PATIENCE_SECONDS: Final = 0.5
"""So long a feed may show nothing at all before it is taken to be stuck."""


class Remainder:
    """The records that are shown to ``follower`` from now on, until `leave`."""

    __slots__ = ("_arrival", "_feed", "_follower", "_left", "_records")

    def __init__(self, feed: StandbyFeed, follower: Follower) -> None:
        self._feed = feed
        self._follower = follower
        self._records: deque[tuple[int, bytes]] = deque()
        self._arrival = asyncio.Event()
        self._left = False

    def put(self, sequence: int, payload: bytes) -> None:
        """A record has come by."""
        self._records.append((sequence, payload))
        self._arrival.set()

    def leave(self) -> None:
        """Be shown nothing more; whoever waits for it goes without."""
        if not self._left:
            self._left = True
            self._feed.remove(self._follower)
            self._arrival.set()

    async def read(self, *, until: int) -> AsyncIterator[tuple[int, bytes]]:
        """Yield ``(sequence, payload)`` in order, to sequence ``until`` or beyond.

        It ends before that if the feed will not show the rest.
        """
        progress = self._feed.progress(self._follower)
        while True:
            while self._records:
                sequence, payload = self._records.popleft()
                yield sequence, payload
                if sequence >= until:
                    return
            if self._left or not self._feed.will_show(self._follower, until):
                return
            self._arrival.clear()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._arrival.wait()
            except TimeoutError:
                before, progress = progress, self._feed.progress(self._follower)
                if progress == before:
                    return
