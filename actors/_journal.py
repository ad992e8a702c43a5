"""A resource's journal in the stream: records to bytes, appends until they are known.

The decisions are `Owner`'s; this module moves its records. One `Journal` serves one
owner at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from aegis.actors._appending import begin_append, pause_before
from aegis.actors._owner import AppendPlan, Owner, Phase
from aegis.actors._record import Record
from aegis.errors import Fenced, JournalUnreadable, ProtocolError
from aegis.transport._base import Append, Appended, AppendOutcome, Refused, Transport
from aegis.transport._codec import decode_value, encode_value

__all__ = ["MAX_CONCURRENT_READS", "RESERVED_BYTES", "Journal", "encode_record"]

MAX_CONCURRENT_READS: Final = 64
"""So many journals a node reads at the same time: each read is a consumer on the server,
and a thousand resources that start or change hands together need not be a thousand."""

RESERVED_BYTES: Final = 4 * 1024
"""A record stays this far below the server's limit, for its headers and frame."""


def encode_record(record: Record) -> bytes:
    """Return the record as the bytes that stand in the journal."""
    return encode_value(record.to_wire())


class Journal:
    """Reads and appends the records of one subject."""

    __slots__ = ("_transport", "reads", "subject")

    def __init__(
        self, transport: Transport, subject: str, reads: asyncio.Semaphore | None = None
    ) -> None:
        self._transport = transport
        self.subject = subject
        self.reads = reads or asyncio.Semaphore(MAX_CONCURRENT_READS)
        """To be held as long as a `read` lasts."""

    async def read(
        self, *, start: int, until: int | None
    ) -> AsyncIterator[tuple[int, Record, int]]:
        """Yield ``(sequence, record, size in bytes)`` in order, as `Transport.read` does.

        Raises:
            JournalUnreadable: a record is broken or of an unknown version; the
                message names the subject and the sequence.
        """
        async for stored in self._transport.read(self.subject, start=start, until=until):
            record = self.decode(stored.sequence, stored.payload)
            yield stored.sequence, record, len(stored.payload)

    def decode(self, sequence: int, payload: bytes) -> Record:
        """Return the record that stands at ``sequence``.

        Raises:
            JournalUnreadable: it is broken or of an unknown version; the message names
                the subject and the sequence.
        """
        try:
            return Record.from_wire(decode_value(payload))
        except (JournalUnreadable, ProtocolError) as error:
            raise JournalUnreadable(
                f"{self.subject}, sequence {sequence}: {error}",
                subject=self.subject,
                sequence=sequence,
            ) from error

    def append(self, plan: AppendPlan) -> asyncio.Future[AppendOutcome]:
        """Make the append once; the future never fails."""
        if not plan.payload:
            plan.payload = encode_record(plan.record)
        append = Append(self.subject, plan.payload, expect=plan.expect, rollup=plan.rollup)
        return begin_append(self._transport, append)

    async def fence(self, owner: Owner) -> None:
        """Append the epoch record of ``owner``, however long that takes.

        If nothing stands behind what the owner knows of the journal (a new one, or one
        that it has followed to the end), it serves already; else the journal has to be
        read from ``owner.read_from`` through ``owner.read_until``.
        """
        outcome = await self.append(owner.fence(expect_new=True))
        if isinstance(outcome, Appended):
            owner.fenced_at(outcome.sequence, is_first=True)
            return
        attempt = 0
        while owner.phase is Phase.FENCING:
            outcome = await self.append(owner.fence())
            if isinstance(outcome, Appended):
                owner.fenced_at(outcome.sequence)
                return
            await pause_before(attempt, self.subject, outcome)
            attempt += 1

    async def settle(
        self, owner: Owner, refused: Refused, release: Callable[[list[Any]], None]
    ) -> None:
        """Find out what a refused append means; ``release`` the answers that may leave.

        They leave as their record is met: what stands behind it, or goes wrong there, does
        not undo it. Afterwards the owner has stopped, or its append has come through, or it
        is to be made again with the expectation that now holds.

        Raises:
            Fenced: a newer owner exists.
            JournalUnreadable: the tail cannot be explained.
        """
        until = refused.last_sequence
        if until is not None and until <= owner.last_sequence:
            until = None
        async with self.reads:
            async for sequence, record, _ in self.read(start=owner.last_sequence + 1, until=until):
                release(owner.tail(sequence, record))
                if owner.phase is Phase.STOPPED:
                    raise Fenced(
                        f"{self.subject}: a newer owner has epoch {owner.newer_epoch}",
                        epoch=owner.newer_epoch,
                    )
