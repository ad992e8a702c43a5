"""Where an owner's mail comes from: its mailbox, or a topic's stream.

To the owner both are the same: messages in order, each of them a command to be run once.
"""

from __future__ import annotations

from typing import Protocol

from attrs import frozen

from aegis._subjects import Subjects, escape
from aegis.actors._handlers import DurableSpec
from aegis.actors._inbox import Letter
from aegis.actors._publication import decode_publication
from aegis.actors._registry_entries import ResourceKey
from aegis.actors._shared_read import Place
from aegis.actors._topic import OWN_RESOURCE
from aegis.contracts import Kind, Mail, Request
from aegis.errors import ProtocolError
from aegis.transport._codec import decode_mail

__all__ = ["MailSource", "MailboxSource", "TopicSource"]


class MailSource(Protocol):
    """Where messages stand, and how one is read."""

    @property
    def name(self) -> str:
        """The name of the durable subscription; empty for the mailbox."""
        ...

    @property
    def place(self) -> Place:
        """Where the messages stand."""
        ...

    @property
    def begins_with_new(self) -> bool:
        """Whether a subscription that has just begun leaves out what is there already."""
        ...

    def read(self, letter: Letter) -> Mail:
        """Return the command that a message is.

        Raises:
            ProtocolError: it is none, or for somebody else.
        """
        ...


@frozen
class MailboxSource:
    """Durable sends to one resource."""

    key: ResourceKey
    place: Place
    name: str = ""
    begins_with_new: bool = False

    @classmethod
    def of(cls, key: ResourceKey, subjects: Subjects) -> MailboxSource:
        """Return that of a resource."""
        subject = subjects.mailbox(*key)
        own = subject.count(".")
        return cls(key, Place(subjects.stream, subjects.mailboxes(key[0]), subject, own))

    def read(self, letter: Letter) -> Mail:
        """Return what stands in the mailbox."""
        mail = decode_mail(letter.payload)
        request = mail.request
        if (request.service, request.resource) != self.key:
            raise ProtocolError(f"it is for {request.service}/{request.resource}")
        return mail


@frozen
class TopicSource:
    """What one durable subscription of one resource reads.

    Each message becomes a command of the class. Its session is the publisher's with the
    name of the subscription: two that hear the same do not take each other's for repeats.
    """

    key: ResourceKey
    place: Place
    spec: DurableSpec
    subjects: Subjects

    @classmethod
    def of(
        cls, key: ResourceKey, subjects: Subjects, spec: DurableSpec, stream: str
    ) -> TopicSource:
        """Return that of a resource; ``stream`` keeps all that ``spec`` reads."""
        levels = spec.pattern.split(".")
        pattern = subjects.topic(spec.pattern.replace(OWN_RESOURCE, "*"))
        if OWN_RESOURCE not in levels:
            return cls(key, Place(stream, pattern, pattern, None, lets_go=True), spec, subjects)
        own = pattern.count(".") - len(levels) + 1 + levels.index(OWN_RESOURCE)
        tokens = pattern.split(".")
        tokens[own] = escape(key[1])
        place = Place(stream, pattern, ".".join(tokens), own, lets_go=True)
        return cls(key, place, spec, subjects)

    @property
    def name(self) -> str:
        """The name of the subscription."""
        return self.spec.durable

    @property
    def begins_with_new(self) -> bool:
        """Whether it leaves out what was published before it began."""
        return self.spec.begins_with_new

    def read(self, letter: Letter) -> Mail:
        """Return the command that a publication is for this subscription."""
        spec = self.spec
        published = decode_publication(letter.payload)
        params = {spec.value_parameter: published.value}
        if spec.wants_topic:
            params["topic"] = self.subjects.topic_of(letter.subject)
        session, n = published.session, published.n
        if not session:
            # Nobody sends it twice: its place in the stream is all that it is known by.
            session, n = f"{self.key[0]}/{self.key[1]}|stream", letter.sequence
        request = Request(
            Kind.COMMAND,
            f"{session}|{self.name}",
            n,
            n,  # Its publisher stores one after the other.
            *self.key,
            spec.method,
            params,
            0,
            trace=published.trace,
        )
        return Mail(request)
