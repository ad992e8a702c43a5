"""One read of a stream for many who each have a place in it of their own.

One endless read wakes whoever gets anything; a reader that begins, or that had no room,
first reads its own subject from its place on.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Final, Protocol

import structlog
from attrs import define, frozen

from aegis.errors import AegisError, ConnectionClosed, NotFound
from aegis.transport._base import Stored, Transport

__all__ = ["MailReader", "Place", "SharedRead"]

_log = structlog.get_logger("aegis.mail")

MAX_SINGLE_READS: Final = 16
"""More subjects than so many are caught up with by one read of them all."""

RETRY_SECONDS: Final = 0.5
"""Pause after a read that the server refused, before the next one."""

TURN_MESSAGES: Final = 64
"""After so many messages in one go, the rest of the event loop has its turn."""


@frozen
class Place:
    """Where the messages of a reader stand, and of those with whom it shares one read.

    ``own`` is the token of a subject (from 0) by which each knows its own among those of
    ``pattern``; None if all get all. ``lets_go`` says whether the stream lets go of old
    messages by itself.
    """

    stream: str
    pattern: str
    subject: str
    own: int | None
    lets_go: bool = False

    def slot(self, subject: str) -> str:
        """Return what all readers of a message have in common."""
        return "" if self.own is None else subject.split(".")[self.own]


class MailReader(Protocol):
    """An owner as the reader of its mailbox, or of a stream that it subscribes to."""

    @property
    def place(self) -> Place:
        """Where its messages stand."""
        ...

    @property
    def mail_from(self) -> int:
        """The sequence from which on messages are wanted."""
        ...

    def offer_mail(self, stored: Stored) -> bool:
        """Take the next message, unless it is known; False if there is no room for it.

        From then on it wants no more until it asks to catch up.
        """
        ...

    def on_kept(self, first: int, last: int) -> None:
        """The stream, which lets go of old messages, has those from ``first`` to ``last``."""
        ...


@define(eq=False)
class _Behind:
    """A reader that has to be shown its messages from where it is."""

    reader: MailReader
    skipped: int = 0
    """The sequence of the last message that it was not shown as it came."""


class SharedRead:
    """The readers of one pattern, by what tells their messages apart."""

    def __init__(self, transport: Transport, place: Place) -> None:
        self._transport = transport
        self._pattern = place.pattern
        self._slot = place.slot
        self._lets_go = place.lets_go
        self._stream = place.stream
        self._readers: dict[str, list[MailReader]] = {}
        self._position: int | None = None
        self._behind: dict[MailReader, _Behind] = {}
        self._loop = asyncio.get_running_loop()
        self._catching_up: asyncio.Task[None] | None = None
        self._follow = self._loop.create_task(self._follow_forever())

    def add(self, reader: MailReader) -> None:
        """Show ``reader`` its messages."""
        self._readers.setdefault(self._slot(reader.place.subject), []).append(reader)
        self.catch_up(reader)

    def catch_up(self, reader: MailReader) -> None:
        """Read from where ``reader`` is."""
        if reader not in self._readers.get(self._slot(reader.place.subject), ()):
            return
        self._behind[reader] = _Behind(reader)
        self._start()

    def remove(self, reader: MailReader) -> bool:
        """Forget a reader; return whether none is left."""
        slot = self._slot(reader.place.subject)
        left = [one for one in self._readers.get(slot, ()) if one is not reader]
        if left:
            self._readers[slot] = left
        else:
            self._readers.pop(slot, None)
        self._behind.pop(reader, None)
        return not self._readers

    def stop(self) -> None:
        """End the reads."""
        self._follow.cancel()
        if self._catching_up is not None:
            self._catching_up.cancel()

    def _start(self) -> None:
        # Not until it is known from where on the messages are followed: between the end
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
                if isinstance(error, NotFound):
                    self._begin_anew()
            await asyncio.sleep(RETRY_SECONDS)

    def _begin_anew(self) -> None:
        """The stream is gone: in one that takes its place all sequences are others."""
        self._position = None
        for readers in self._readers.values():
            for reader in readers:
                self._behind[reader] = _Behind(reader)

    async def _follow_on(self, start: int) -> None:
        count = 0
        async for stored in self._transport.follow(self._pattern, start=start):
            self._position = stored.sequence
            for reader in self._readers.get(self._slot(stored.subject), ()):
                behind = self._behind.get(reader)
                if behind is not None:
                    # It is reading up to here, and must not see this one first.
                    behind.skipped = stored.sequence
                else:
                    reader.offer_mail(stored)
            count += 1
            if count % TURN_MESSAGES == 0:
                await asyncio.sleep(0)

    async def _catch_up_all(self) -> None:
        while self._behind:
            by_subject: dict[str, list[_Behind]] = defaultdict(list)
            for reader, behind in self._behind.items():
                by_subject[reader.place.subject].append(behind)
            until: int | None = None
            try:
                if self._lets_go:
                    usage = await self._transport.usage(self._stream)
                    for one in (one for group in by_subject.values() for one in group):
                        # One that went on meanwhile may be further than what was said.
                        if self._behind.get(one.reader) is one:
                            one.reader.on_kept(usage.first_sequence, usage.last_sequence)
                    until = usage.last_sequence
                if len(by_subject) <= MAX_SINGLE_READS:
                    await asyncio.gather(*(self._read(*one, until) for one in by_subject.items()))
                else:
                    everyone = [one for group in by_subject.values() for one in group]
                    await self._read(self._pattern, everyone, until)
            except ConnectionClosed:
                return
            except (AegisError, TimeoutError) as error:
                _log.warning("mail_cannot_be_read", subject=self._pattern, error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def _read(self, subject: str, group: list[_Behind], until: int | None) -> None:
        by_slot: dict[str, list[_Behind]] = defaultdict(list)
        for one in group:
            by_slot[self._slot(one.reader.place.subject)].append(one)
        full: set[_Behind] = set()
        count = 0
        start = min(one.reader.mail_from for one in group)
        # To the last one that the stream has: what the replica that serves this read
        # lacks so far will not be followed either, and would be passed over for ever.
        if until is None:
            until = await self._transport.last_sequence(subject)
        async for stored in self._transport.read(subject, start=start, until=until):
            if count == 0 and self._lets_go and stored.sequence > start:
                # Some may have gone since it was last asked, and before they were read.
                usage = await self._transport.usage(self._stream)
                for one in group:
                    one.reader.on_kept(
                        min(usage.first_sequence, stored.sequence), usage.last_sequence
                    )
            for one in by_slot.get(self._slot(stored.subject), ()):
                if one not in full and not one.reader.offer_mail(stored):
                    full.add(one)
            if len(full) == len(group):
                break
            count += 1
            if count % TURN_MESSAGES == 0:
                await asyncio.sleep(0)
        # Nothing is awaited from here on: no message can come in between.
        for one in group:
            shown_all = one.skipped < one.reader.mail_from
            if (one in full or shown_all) and self._behind.get(one.reader) is one:
                del self._behind[one.reader]
