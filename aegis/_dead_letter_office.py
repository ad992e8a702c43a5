"""Dead letters from an operator's side: list, show, replay, drop."""

from __future__ import annotations

from typing import Final

import structlog
from attrs import evolve

from aegis._subjects import Subjects
from aegis.actors._dead_letters import DeadLetter
from aegis.actors._sender import MailSender
from aegis.contracts import Receipt
from aegis.errors import Conflict, NotFound, ProtocolError, Unavailable
from aegis.transport._base import Append, Appended, Stored, Transport
from aegis.transport._codec import decode_mail

__all__ = ["DeadLetterOffice"]

_log = structlog.get_logger("aegis.mail")

TOMBSTONE_SECONDS: Final = 1
"""What takes a dead letter's place goes by itself; the server counts in whole seconds."""

DROP_TIMEOUT: Final = 5.0


class DeadLetterOffice:
    """The dead letters of one system."""

    def __init__(self, transport: Transport, subjects: Subjects, sender: MailSender) -> None:
        self._transport = transport
        self._subjects = subjects
        self._sender = sender

    async def all(self, address: str = "") -> list[DeadLetter]:
        """Return those to ``address``, a service or ``service/resource``, or all."""
        return [letter for _, letter in await self._read(address)]

    async def get(self, sequence: int) -> DeadLetter:
        """Return the one whose message stood at ``sequence`` of the stream.

        Of one that came through a subscription it is its own place there.

        Raises:
            NotFound: there is none.
        """
        return (await self._find(sequence))[1]

    async def replay(self, sequence: int, *, force: bool = False, timeout: float) -> Receipt:
        """Send the message again, as a new one, and drop the dead letter.

        However often that is tried, it takes effect once.

        Raises:
            NotFound: there is none.
            Conflict: it may have taken effect already; ``force`` sends it all the same.
            ProtocolError: this release cannot read it either.
        """
        stored, letter = await self._find(sequence)
        if letter.uncertain and not force:
            raise Conflict(
                f"dead letter {sequence} may be a repeat of a message that took effect: "
                f"{letter.reason}; look at {letter.service}/{letter.resource_id}, and use "
                "--force if it did not",
                sequence=sequence,
            )
        mail = decode_mail(letter.payload)
        receipt = await self._sender.send(
            letter.service,
            letter.resource_id,
            mail.request.method,
            mail.request.params,
            timeout=timeout,
            trace=mail.request.trace,
            reply_to=mail.reply_to,
            # A session of its own, of the form that receivers never forget.
            session=f"aegis.dead-letter/{sequence}",
        )
        await self._drop(stored)
        return receipt

    async def drop(self, sequence: int) -> DeadLetter:
        """Delete a dead letter for good; return what it was.

        Raises:
            NotFound: there is none.
        """
        stored, letter = await self._find(sequence)
        await self._drop(stored)
        return letter

    async def _find(self, sequence: int) -> tuple[Stored, DeadLetter]:
        for stored, letter in await self._read(""):
            if letter.sequence == sequence:
                return stored, letter
        raise NotFound(f"there is no dead letter {sequence}", sequence=sequence)

    async def _read(self, address: str) -> list[tuple[Stored, DeadLetter]]:
        found: list[tuple[Stored, DeadLetter]] = []
        async for stored in self._transport.read(self._subjects.dead_letters):
            if not stored.payload:
                continue  # Dropped a moment ago.
            try:
                letter = DeadLetter.decode(stored.payload)
            except ProtocolError as error:
                _log.warning("dead_letter_unreadable", subject=stored.subject, error=str(error))
                continue
            if letter.source:
                # Many may have given up the same message of a topic: its own place names it.
                letter = evolve(letter, sequence=stored.sequence)
            if address in ("", letter.service, f"{letter.service}/{letter.resource_id}"):
                found.append((stored, letter))
        return found

    async def _drop(self, stored: Stored) -> None:
        # A subject's last message cannot be purged: an empty one takes its place, and goes.
        outcome = await self._transport.append(
            Append(stored.subject, b"", expect=stored.sequence, rollup=True, ttl=TOMBSTONE_SECONDS),
            timeout=DROP_TIMEOUT,
        )
        if not isinstance(outcome, Appended):
            raise Unavailable(f"the dead letter could not be deleted: {outcome}; try again")
