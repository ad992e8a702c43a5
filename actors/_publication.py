"""What is published: a value on its way to a topic, and the moment at which it leaves.

On the wire it is the msgpack array ``[version, trace, value]``. What a handler has seen
may not be durable yet, and what a command does may be taken back: what it publishes
leaves like an answer, once all that it can tell of is stored, or never.
"""

from __future__ import annotations

from typing import Any, Final

import structlog
from attrs import define

from aegis._subjects import Subjects
from aegis._trace import outgoing_traceparent
from aegis.actors._topic import topic_problem
from aegis.contracts import OK
from aegis.errors import ConnectionClosed, InvalidRequest, ProtocolError, TooLarge, Unavailable
from aegis.transport._base import Transport
from aegis.transport._codec import decode_value, encode_value
from aegis.transport._convert import to_plain

__all__ = ["PUBLICATION_VERSION", "Publication", "decode_publication"]

PUBLICATION_VERSION: Final = 1

_log = structlog.get_logger("aegis.topics")


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
        if (problem := topic_problem(topic)) is not None:
            raise InvalidRequest(f"topic: {topic!r} {problem}", field="topic")
        try:
            plain = to_plain(value)
            payload = encode_value([PUBLICATION_VERSION, outgoing_traceparent(), plain])
        except Exception as error:  # what a value of a foreign type raises is its own
            raise InvalidRequest(f"value: cannot be sent: {error}", field="value") from error
        limit = transport.max_payload_bytes
        if len(payload) > limit:
            raise TooLarge(
                f"a message to {topic} takes {len(payload)} bytes; at most {limit} are allowed",
                size_bytes=len(payload),
                limit_bytes=limit,
            )
        return cls(transport, subjects.topic(topic), payload)

    def send(self) -> None:
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
            self.send()
        except (Unavailable, ConnectionClosed) as error:
            _log.warning("publication_lost", subject=self.subject, error=str(error))


def decode_publication(payload: bytes) -> tuple[str, Any]:
    """Return the traceparent and the plain value that were published.

    Raises:
        ProtocolError: the bytes are no publication, or of an unknown version.
    """
    wire: Any = decode_value(payload)
    try:
        version, trace, value = wire
    except (TypeError, ValueError) as error:
        raise ProtocolError("a publication is an array of version, trace and value") from error
    if version != PUBLICATION_VERSION or type(version) is not int:
        raise ProtocolError(
            f"publication: version {version!r} is unknown; "
            f"this release speaks version {PUBLICATION_VERSION}"
        )
    if not isinstance(trace, str):
        raise ProtocolError("publication: trace must be text")
    return trace, value
