"""What is published: a value on its way to a topic, and the moment at which it leaves.

On the wire it is the msgpack array ``[version, trace, value]``; for a topic that is kept
also the publisher's session and the number of the message there, by which a repeat is
known. What a handler has seen may not be durable yet, and what a command does may be taken
back: what it publishes leaves like an answer, once all that it can tell of is stored, or
never.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog
from attrs import define, frozen

from aegis._subjects import Subjects
from aegis._trace import outgoing_traceparent
from aegis.actors._sender import MailSender
from aegis.actors._topic import topic_problem
from aegis.contracts import OK
from aegis.errors import (
    AegisError,
    ConnectionClosed,
    InvalidRequest,
    ProtocolError,
    TooLarge,
    Unavailable,
)
from aegis.transport._base import StreamFacts, Transport
from aegis.transport._codec import decode_value, encode_value
from aegis.transport._convert import to_plain

__all__ = [
    "PUBLICATION_VERSION",
    "KeptPublication",
    "Publication",
    "Published",
    "decode_publication",
    "encode_publication",
    "plain_publication",
]

PUBLICATION_VERSION: Final = 1
KEPT_VERSION: Final = 2
"""Of what is published for a topic that is kept."""

KEPT_TIMEOUT: Final = 30.0
"""How long what nobody waits for is sent again until it is stored."""

_log = structlog.get_logger("aegis.topics")


def plain_publication(topic: str, value: Any) -> Any:
    """Return ``value`` as the plain value that travels to ``topic``.

    Raises:
        InvalidRequest: the topic has no legal form, or the value none on the wire.
    """
    if (problem := topic_problem(topic)) is not None:
        raise InvalidRequest(f"topic: {topic!r} {problem}", field="topic")
    try:
        return to_plain(value)
    except Exception as error:  # what a value of a foreign type raises is its own
        raise InvalidRequest(f"value: cannot be sent: {error}", field="value") from error


def encode_publication(
    topic: str, plain: Any, limit: int, *, trace: str = "", session: str = "", n: int = 0
) -> bytes:
    """Return what stands on the wire, of at most ``limit`` bytes.

    Raises:
        InvalidRequest: the value has no form there.
        TooLarge: it is larger.
    """
    wire: list[Any] = [PUBLICATION_VERSION, trace or outgoing_traceparent(), plain]
    if session:
        wire = [KEPT_VERSION, *wire[1:], session, n]
    try:
        payload = encode_value(wire)
    except Exception as error:
        raise InvalidRequest(f"value: cannot be sent: {error}", field="value") from error
    if len(payload) > limit:
        raise TooLarge(
            f"a message to {topic} takes {len(payload)} bytes; at most {limit} are allowed",
            size_bytes=len(payload),
            limit_bytes=limit,
        )
    return payload


@define(slots=True, frozen=True)
class Publication:
    """A value for a topic, ready to leave. Also the sink of an answer that lets it."""

    transport: Transport
    subject: str
    payload: bytes

    @classmethod
    def of(cls, transport: Transport, subjects: Subjects, topic: str, value: Any) -> Publication:
        """Return ``value`` as what leaves for ``topic``.

        Raises:
            InvalidRequest: the topic has no legal form, or the value none on the wire.
            TooLarge: the value is larger than a message may be.
        """
        plain = plain_publication(topic, value)
        payload = encode_publication(topic, plain, transport.max_payload_bytes)
        return cls(transport, subjects.topic(topic), payload)

    async def send(self, timeout: float) -> None:
        """Send it to whoever listens now.

        Raises:
            Disconnected: there is no server; it is lost.
            ConnectionClosed: the connection is closed for good.
        """
        self.transport.publish(self.subject, self.payload)

    def answer(self, status: int, value: bytes) -> None:
        """Send it if what it tells of has happened; without a server it is lost."""
        if status != OK:
            return
        try:
            self.transport.publish(self.subject, self.payload)
        except (Unavailable, ConnectionClosed) as error:
            _log.warning("publication_lost", subject=self.subject, error=str(error))


@define(slots=True, frozen=True)
class KeptPublication:
    """A value for a topic that a stream keeps: it is sent until it is stored."""

    sender: MailSender
    stream: StreamFacts
    subject: str
    topic: str
    plain: Any
    trace: str
    limit: int

    async def send(self, timeout: float) -> None:
        """Return when it is stored.

        Raises:
            TooLarge, Overloaded, Unavailable: it is not.
            OutcomeUnknown: the time was up and nobody can tell whether it is.
        """
        await self.sender.publish(self.stream, self.subject, self._encoded, timeout=timeout)

    def answer(self, status: int, value: bytes) -> None:
        """Send it if what it tells of has happened; this process may end before it is stored."""
        if status == OK:
            self.sender.keep(asyncio.ensure_future(self._send_or_tell()))

    async def _send_or_tell(self) -> None:
        try:
            await self.send(KEPT_TIMEOUT)
        except AegisError as error:
            _log.warning("publication_lost", subject=self.subject, error=str(error))

    def _encoded(self, session: str, n: int) -> bytes:
        return encode_publication(
            self.topic, self.plain, self.limit, trace=self.trace, session=session, n=n
        )


@frozen
class Published:
    """What a subscriber hears. ``session`` is empty where no repeat can be known."""

    trace: str
    value: Any
    session: str = ""
    n: int = 0


def decode_publication(payload: bytes) -> Published:
    """Return what was published.

    Raises:
        ProtocolError: the bytes are no publication, or of an unknown version.
    """
    wire: Any = decode_value(payload)
    try:
        version, trace, value, *identity = wire
        session, n = identity or ("", 0)
    except (TypeError, ValueError) as error:
        raise ProtocolError("a publication is an array of version, trace and value") from error
    if type(version) is not int or version not in (PUBLICATION_VERSION, KEPT_VERSION):
        raise ProtocolError(
            f"publication: version {version!r} is unknown; "
            f"this release speaks versions {PUBLICATION_VERSION} and {KEPT_VERSION}"
        )
    if not isinstance(trace, str):
        raise ProtocolError("publication: trace must be text")
    if version == PUBLICATION_VERSION:
        return Published(trace, value)
    if not isinstance(session, str) or not session or type(n) is not int or n < 1:
        raise ProtocolError("publication: session and number name no message")
    return Published(trace, value, session, n)
