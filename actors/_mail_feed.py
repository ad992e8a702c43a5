"""Showing owners their mail: one read for all the mailboxes of a service on a node.

A node may own a thousand resources that get no mail for hours. One endless read of the
service's mailboxes wakes whoever has any; an owner that begins, or that had no room, first
reads its own mailbox from its cursor on. Mail that owners are done with is deleted by and
by, so that it takes no room in the stream.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import structlog
from attrs import define

from aegis._subjects import Subjects
from aegis.actors._registry_entries import ResourceKey
from aegis.errors import AegisError, ConnectionClosed
from aegis.transport._base import Transport

__all__ = ["MailFeed", "MailReader"]

_log = structlog.get_logger("aegis.mail")

MAX_SINGLE_READS: Final = 16
"""More mailboxes than so many are caught up with by one read of the whole service."""

RETRY_SECONDS: Final = 0.5
"""Pause after a read that the server refused, before the next one."""

TURN_MESSAGES: Final = 64
"""After so many messages in one go, the rest of the event loop has its turn."""

PURGE_SECONDS: Final = 2.0
"""How often mail is deleted that nobody will read again."""


class MailReader(Protocol):
    """An owner as the reader of its mailbox."""

    @property
    def key(self) -> ResourceKey:
        """The service and the resource."""
        ...

    @property
    def mail_from(self) -> int:
        """The sequence from which on messages are wanted."""
        ...

    def offer_mail(self, sequence: int, payload: bytes) -> bool:
        """Take the next message, unless it is known; False if there is no room for it.

        From then on it wants no more until it asks to catch up.
        """
        ...


class MailFeed:
    """Shows the owners of one node their mail. Belongs to one event loop."""

    def __init__(self, transport: Transport, subjects: Subjects) -> None:
        self._transport = transport
        self._subjects = subjects
        self._services: dict[str, _ServiceMail] = {}
        self._done: dict[ResourceKey, int] = {}
        self._purging: asyncio.Task[None] | None = None

    def add(self, reader: MailReader) -> None:
        """Show ``reader`` its mail from ``mail_from`` on, and go on without end."""
        service, resource = reader.key
        mail = self._services.get(service)
        if mail is None:
            mail = _ServiceMail(
                self._transport, self._subjects.stream, self._subjects.mailboxes(service)
            )
            self._services[service] = mail
        mail.add(self._subjects.mailbox(service, resource), reader)

    def catch_up(self, reader: MailReader) -> None:
        """Show ``reader`` what it had no room for."""
        service, resource = reader.key
        mail = self._services.get(service)
        if mail is not None:
            mail.catch_up(self._subjects.mailbox(service, resource), reader)

    def remove(self, reader: MailReader) -> None:
        """Show ``reader`` nothing more."""
        service, resource = reader.key
        mail = self._services.get(service)
        if mail is not None and mail.remove(self._subjects.mailbox(service, resource), reader):
            mail.stop()
            del self._services[service]

    def done(self, key: ResourceKey, cursor: int) -> None:
        """The journal of a resource says that its mail up to ``cursor`` is done with."""
        self._done[key] = max(cursor, self._done.get(key, 0))
        if self._purging is None:
            self._purging = asyncio.get_running_loop().create_task(self._purge_forever())

    def stop(self) -> None:
        """End all reads."""
        for mail in self._services.values():
            mail.stop()
        self._services.clear()
        if self._purging is not None:
            self._purging.cancel()

    async def _purge_forever(self) -> None:
        while True:
            await asyncio.sleep(PURGE_SECONDS)
            done, self._done = self._done, {}
            try:
                for key, cursor in done.items():
                    subject = self._subjects.mailbox(*key)
                    await self._transport.purge(subject, below=cursor + 1)
            except ConnectionClosed:
                return
            except (AegisError, TimeoutError) as error:
                # What it was is told again with the next mail, or the next owner.
                _log.info("mail_not_purged", error=str(error))


@define(eq=False)
class _Behind:
    """A reader that has to be shown its mailbox from where it is."""

    subject: str
    reader: MailReader
    skipped: int = 0
    """The sequence of the last message that it was not shown as it came."""


class _ServiceMail:
    """The owners of one service, by the subject of their mailbox."""

    def __init__(self, transport: Transport, stream: str, pattern: str) -> None:
        self._transport = transport
        self._stream = stream
        self._pattern = pattern
        self._readers: dict[str, MailReader] = {}
        self._position: int | None = None
        self._behind: dict[str, _Behind] = {}
        self._loop = asyncio.get_running_loop()
        self._catching_up: asyncio.Task[None] | None = None
        self._follow = self._loop.create_task(self._follow_forever())

    def add(self, subject: str, reader: MailReader) -> None:
        """Show ``reader`` its mailbox."""
        self._readers[subject] = reader
        self.catch_up(subject, reader)

    def catch_up(self, subject: str, reader: MailReader) -> None:
        """Read a mailbox from where its reader is."""
        if self._readers.get(subject) is not reader:
            return
        self._behind[subject] = _Behind(subject, reader)
        self._start()

    def remove(self, subject: str, reader: MailReader) -> bool:
        """Forget a reader; return whether none is left."""
        if self._readers.get(subject) is reader:
            del self._readers[subject]
            self._behind.pop(subject, None)
        return not self._readers

    def stop(self) -> None:
        """End the reads."""
        self._follow.cancel()
        if self._catching_up is not None:
            self._catching_up.cancel()

    def _start(self) -> None:
        # Not until it is known from where on the mailboxes are followed: between the end
        # of a read and the beginning of that there could be a gap.
        if self._position is None or not self._behind:
            return
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = self._loop.create_task(self._catch_up_all())

    async def _follow_forever(self) -> None:
        while True:
            try:
                if self._position is None:
                    usage = await self._transport.usage(self._stream)
                    self._position = usage.last_sequence
                    self._start()
                await self._follow_on(self._position + 1)
            except ConnectionClosed:
                return
            except (AegisError, TimeoutError) as error:
                _log.warning("mail_cannot_be_followed", subject=self._pattern, error=str(error))
            await asyncio.sleep(RETRY_SECONDS)

    async def _follow_on(self, start: int) -> None:
        count = 0
        async for stored in self._transport.follow(self._pattern, start=start):
            self._position = stored.sequence
            reader = self._readers.get(stored.subject)
            behind = self._behind.get(stored.subject)
            if behind is not None:
                # It is reading up to here, and must not see this one first.
                behind.skipped = stored.sequence
            elif reader is not None:
                reader.offer_mail(stored.sequence, stored.payload)
            count += 1
            if count % TURN_MESSAGES == 0:
                await asyncio.sleep(0)

    async def _catch_up_all(self) -> None:
        while self._behind:
            behind = dict(self._behind)
            try:
                if len(behind) <= MAX_SINGLE_READS:
                    await asyncio.gather(
                        *(self._read(subject, {subject: one}) for subject, one in behind.items())
                    )
                else:
                    await self._read(self._pattern, behind)
            except ConnectionClosed:
                return
            except (AegisError, TimeoutError) as error:
                _log.warning("mail_cannot_be_read", subject=self._pattern, error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def _read(self, subject: str, behind: dict[str, _Behind]) -> None:
        full: set[_Behind] = set()
        count = 0
        start = min(one.reader.mail_from for one in behind.values())
        async for stored in self._transport.read(subject, start=start):
            one = behind.get(stored.subject)
            if (
                one is not None
                and one not in full
                and not one.reader.offer_mail(stored.sequence, stored.payload)
            ):
                full.add(one)
                if len(full) == len(behind):
                    break
            count += 1
            if count % TURN_MESSAGES == 0:
                await asyncio.sleep(0)
        # Nothing is awaited from here on: no message can come in between.
        for one in behind.values():
            shown_all = one.skipped < one.reader.mail_from
            if (one in full or shown_all) and self._behind.get(one.subject) is one:
                del self._behind[one.subject]
