"""Showing owners their mail: one read for all the mailboxes of a service on a node.

A node may own a thousand resources that get no mail for hours; and what a durable
subscription reads, all of them may want. Mail that owners are done with is deleted by and
by, so that it takes no room in the stream.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from aegis.actors._shared_read import MailReader, SharedRead
from aegis.errors import AegisError, ConnectionClosed
from aegis.transport._base import Transport

__all__ = ["MailFeed"]

_log = structlog.get_logger("aegis.mail")

PURGE_SECONDS: Final = 2.0
"""How often mail is deleted that nobody will read again."""


class MailFeed:
    """Shows the owners of one node their mail. Belongs to one event loop."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._reads: dict[tuple[str, int | None], SharedRead] = {}
        self._done: dict[str, int] = {}
        self._purging: asyncio.Task[None] | None = None

    def add(self, reader: MailReader) -> None:
        """Show ``reader`` its mail from ``mail_from`` on, and go on without end."""
        place = reader.place
        key = (place.pattern, place.own)
        read = self._reads.get(key)
        if read is None:
            read = self._reads[key] = SharedRead(self._transport, place)
        read.add(reader)

    def catch_up(self, reader: MailReader) -> None:
        """Show ``reader`` what it had no room for."""
        read = self._reads.get((reader.place.pattern, reader.place.own))
        if read is not None:
            read.catch_up(reader)

    def remove(self, reader: MailReader) -> None:
        """Show ``reader`` nothing more."""
        key = (reader.place.pattern, reader.place.own)
        read = self._reads.get(key)
        if read is not None and read.remove(reader):
            read.stop()
            del self._reads[key]

    def done(self, reader: MailReader, cursor: int) -> None:
        """The journal says that ``reader`` needs its mail up to ``cursor`` no more."""
        subject = reader.place.subject
        self._done[subject] = max(cursor, self._done.get(subject, 0))
        if self._purging is None:
            self._purging = asyncio.get_running_loop().create_task(self._purge_forever())

    def stop(self) -> None:
        """End all reads."""
        for read in self._reads.values():
            read.stop()
        self._reads.clear()
        if self._purging is not None:
            self._purging.cancel()

    async def _purge_forever(self) -> None:
        while True:
            await asyncio.sleep(PURGE_SECONDS)
            done, self._done = self._done, {}
            try:
                while done:
                    subject, cursor = next(iter(done.items()))
                    await self._transport.purge(subject, below=cursor + 1)
                    del done[subject]
            except ConnectionClosed:
                return
            except (AegisError, TimeoutError) as error:
                _log.info("mail_not_purged", error=str(error))
                # The others have their turn first: this one may be refused for ever.
                for subject in [*list(done)[1:], next(iter(done))]:
                    self._done[subject] = max(done[subject], self._done.get(subject, 0))
