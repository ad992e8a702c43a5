"""Appending to mailboxes: the stream's room, and one append until its outcome is known.

Sends stop at a share of the stream, so that journals, leases and the purge of mail always
have room: both those of clients and those that actors' commands have committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from aegis.actors._appending import APPEND_TIMEOUT
from aegis.errors import AccessDenied, AegisError, Overloaded, TooLarge, Unavailable
from aegis.transport._base import ACCESS_DENIED, Append, AppendOutcome, Refused, Transport

__all__ = ["MAILBOX_SHARE", "Gauge", "append_all", "refusal_of"]

MAILBOX_SHARE: Final = 0.8
"""Sends stop when the stream is so full."""

GAUGE_SECONDS: Final = 1.0
"""How old what is known of the stream's size may be."""

_FULL: Final = 10077
"""The server's code for a stream that holds ``max_bytes``."""


class Gauge:
    """How full the stream is, as far as is known here. Belongs to one event loop."""

    def __init__(self, transport: Transport, stream: str) -> None:
        self._transport = transport
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._size = 0
        self._limit = 0
        self._read_at = -GAUGE_SECONDS
        self._reading: asyncio.Task[None] | None = None

    def take(self, size_bytes: int) -> bool:
        """Take room for a message without waiting; if that is refused, `check` tells more."""
        size = self._size + size_bytes
        if size > self._limit or self._loop.time() - self._read_at >= GAUGE_SECONDS:
            return False
        self._size = size
        return True

    async def check(self, size_bytes: int) -> None:
        """Return if a message of ``size_bytes`` may be appended to a mailbox.

        Raises:
            Overloaded: sends are stopped; the error says the limit.
            NotFound: the stream does not exist: no node was ever started.
            Unavailable: nobody says how full the stream is.
        """
        if self._loop.time() - self._read_at >= GAUGE_SECONDS:
            reading = self._reading
            if reading is None or reading.done():
                reading = self._reading = self._loop.create_task(self._read())
            # All who wait read once; whoever is cancelled leaves the others theirs.
            await asyncio.shield(reading)
        if self._size + size_bytes > self._limit:
            raise Overloaded(
                f"the stream holds {self._size} bytes, and sends stop at {self._limit}: "
                "let the receivers catch up, or give the stream a higher max_bytes",
                limit_bytes=self._limit,
                size_bytes=self._size,
            )
        self._size += size_bytes

    async def _read(self) -> None:
        try:
            usage = await self._transport.usage(self._stream)
        except TimeoutError as error:
            raise Unavailable("the server does not say how full the stream is") from error
        self._size = usage.size_bytes
        self._limit = int(usage.max_bytes * MAILBOX_SHARE)
        self._read_at = self._loop.time()


def refusal_of(outcome: AppendOutcome) -> AegisError | None:
    """Return the error that an append's outcome stands for for good, or None."""
    if not isinstance(outcome, Refused) or outcome.again or outcome.conflict:
        return None
    if outcome.code == TooLarge.code:
        return TooLarge(f"the message is too large: {outcome.reason}")
    if outcome.code == ACCESS_DENIED:
        return AccessDenied(outcome.reason)
    if outcome.code == _FULL:
        return Overloaded("the stream is full: let the receivers catch up")
    return Unavailable(f"the server refuses the message: {outcome.reason}")


async def append_all(transport: Transport, appends: Sequence[Append]) -> AppendOutcome:
    """Append one message, or several that stand or fall together, once."""
    if len(appends) == 1:
        return await transport.append(appends[0], timeout=APPEND_TIMEOUT)
    return await transport.append_batch(appends, timeout=APPEND_TIMEOUT)
