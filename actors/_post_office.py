"""What the resources of one node share to send and to get mail."""

from __future__ import annotations

import structlog
from attrs import define

from aegis._clock import Clock
from aegis._subjects import Subjects
from aegis.actors._appending import APPEND_TIMEOUT, pause_before
from aegis.actors._dead_letters import DeadLetter
from aegis.actors._mail_feed import MailFeed
from aegis.actors._observer import Observer
from aegis.actors._posting import Gauge
from aegis.transport._base import Append, Appended, Refused, Transport

__all__ = ["PostOffice"]

_log = structlog.get_logger("aegis.mail")


@define(eq=False)
class PostOffice:
    """Mail of one node: the feed of mailboxes, and the room in the stream."""

    transport: Transport
    subjects: Subjects
    clock: Clock
    feed: MailFeed
    gauge: Gauge
    observer: Observer

    @classmethod
    def open(
        cls,
        transport: Transport,
        subjects: Subjects,
        clock: Clock,
        observer: Observer | None = None,
    ) -> PostOffice:
        """Return one for the running loop."""
        return cls(
            transport,
            subjects,
            clock,
            MailFeed(transport, subjects),
            Gauge(transport, subjects.stream),
            observer or Observer(),
        )

    def stop(self) -> None:
        """End all reads."""
        self.feed.stop()

    async def bury(self, letter: DeadLetter) -> None:
        """Put a message to the dead letters, however long that takes; once for each."""
        subject = self.subjects.dead_letter(letter.service, letter.resource_id, letter.sequence)
        append = Append(subject, letter.encoded(), expect=0)
        attempt = 0
        while True:
            outcome = await self.transport.append(append, timeout=APPEND_TIMEOUT)
            if isinstance(outcome, Appended) or (
                isinstance(outcome, Refused) and outcome.conflict and not outcome.again
            ):
                break  # It is there, now or since an earlier owner.
            await pause_before(attempt, subject, outcome)
            attempt += 1
        self.observer.on_dead_letter(letter.service)
        _log.error(
            "dead_letter",
            service_name=letter.service,
            resource_id=letter.resource_id,
            sequence=letter.sequence,
            message_id=letter.message_id,
            operation=letter.method,
            reason=letter.reason,
            action="see `aegis dead-letters`; replay it when its cause is gone",
        )
