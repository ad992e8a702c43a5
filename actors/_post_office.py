"""What the resources of one node share to send and to get mail."""

from __future__ import annotations

from contextlib import suppress

import structlog
from attrs import define, evolve

from aegis._clock import Clock
from aegis._subjects import Subjects
from aegis.actors._appending import APPEND_TIMEOUT, pause_before
from aegis.actors._dead_letters import DeadLetter
from aegis.actors._kept_topics import KeptTopics
from aegis.actors._mail_feed import MailFeed
from aegis.actors._observer import Observer
from aegis.actors._posting import Gauge
from aegis.errors import ConnectionClosed, TooLarge, Unavailable
from aegis.transport._base import Append, Appended, Refused, Transport
from aegis.transport._codec import encode_value

__all__ = ["PostOffice"]

_log = structlog.get_logger("aegis.mail")


@define(eq=False)
class PostOffice:
    """Mail of one node: the feed of mailboxes, the room in the stream, the topics kept."""

    transport: Transport
    subjects: Subjects
    clock: Clock
    feed: MailFeed
    gauge: Gauge
    kept: KeptTopics
    observer: Observer

    @classmethod
    def open(
        cls,
        transport: Transport,
        subjects: Subjects,
        clock: Clock,
        observer: Observer | None = None,
        kept: KeptTopics | None = None,
    ) -> PostOffice:
        """Return one for the running loop."""
        return cls(
            transport,
            subjects,
            clock,
            MailFeed(transport),
            Gauge(transport, subjects.stream),
            kept or KeptTopics(transport, subjects),
            observer or Observer(),
        )

    def stop(self) -> None:
        """End all reads."""
        self.feed.stop()

    def tell_gap(
        self,
        service: str,
        resource: str,
        stream: str,
        subscription: str,
        cause: str,
        **facts: int,
    ) -> None:
        """Log that a durable subscription has missed messages, and publish it."""
        self.observer.on_gap(service)
        told = {
            "service_name": service,
            "stream": stream,
            "subscription": subscription,
            "cause": cause,
            **facts,
        }
        _log.error("gap", resource_id=resource, **told)
        event = {"event": "gap", "resource_ids": [resource], **told}
        with suppress(Unavailable, ConnectionClosed):
            self.transport.publish(self.subjects.event("gap"), encode_value(event))

    async def bury(self, letter: DeadLetter) -> None:
        """Put a message to the dead letters, however long that takes; once for each."""
        subject = self.subjects.dead_letter(
            letter.service, letter.resource_id, letter.sequence, letter.source
        )
        append = Append(subject, letter.encoded(), expect=0)
        attempt = 0
        while True:
            outcome = await self.transport.append(append, timeout=APPEND_TIMEOUT)
            if isinstance(outcome, Appended) or (
                isinstance(outcome, Refused) and outcome.conflict and not outcome.again
            ):
                break  # It is there, now or since an earlier owner.
            if isinstance(outcome, Refused) and outcome.code == TooLarge.code and letter.payload:
                # Only a stranger's can be: without an end of this nothing behind it would run.
                size = len(letter.payload)
                reason = f"{letter.reason}; its {size} bytes are too large to be kept"
                letter = evolve(letter, reason=reason, payload=b"")
                append = Append(subject, letter.encoded(), expect=0)
                continue
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
