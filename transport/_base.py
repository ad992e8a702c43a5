"""What a transport is: messages, appends and ordered reads, whatever carries them.

Two implementations exist, NATS (`NatsTransport`) and an in-memory twin with virtual
time (`MemoryTransport`); one test suite holds both to what is written here.

All methods belong to the event loop that the transport was opened on. Handlers are
plain functions called on that loop; one that raises is logged and does no harm to
the others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from attrs import define, frozen

__all__ = [
    "ACCESS_DENIED",
    "Append",
    "AppendOutcome",
    "Appended",
    "ConnectionListener",
    "Message",
    "MessageHandler",
    "Refused",
    "Stored",
    "StreamConfig",
    "StreamFacts",
    "StreamUsage",
    "Subscription",
    "Transport",
    "Unknown",
]


ACCESS_DENIED: Final = 403
"""Code of `Refused` where the server does not let this user publish to the subject."""


@define(slots=True)
class Message:
    """One message as it was received.

    ``no_responders`` is True for the server's notice that nobody subscribes to the
    subject that a message with this reply subject was sent to.
    """

    subject: str
    payload: bytes
    reply_to: str = ""
    headers: Mapping[str, str] | None = None
    no_responders: bool = False


type MessageHandler = Callable[[Message], None]


@define(slots=True)
class Stored:
    """One message of the stream; ``sequence`` is its place in the whole stream."""

    subject: str
    sequence: int
    payload: bytes
    headers: Mapping[str, str] | None = None
    timestamp_ms: int = 0


# One of each is made for every append: an immutable attrs class takes thrice as long.
@define
class Append:
    """One append to the stream.

    ``expect`` is the sequence that the last message of ``expect_subject`` (default:
    of ``subject``) must have; 0 means that there is none; None appends whatever
    stands there. ``rollup`` replaces all earlier messages of the subject. ``ttl``
    deletes the message after so many seconds.
    """

    subject: str
    payload: bytes
    expect: int | None = None
    expect_subject: str | None = None
    rollup: bool = False
    ttl: int | None = None


@define
class Appended:
    """The append is durable at ``sequence``."""

    sequence: int


@frozen
class Refused:
    """The server refused the append and stored nothing.

    ``conflict`` is True when the expected sequence did not hold; ``last_sequence``
    is then the subject's last one, where the server said it. ``again`` is True when
    another append to the subject was under way (code 10164, with ``conflict``), or when
    no stream listened (code 503, without: there is none, or it is electing a leader):
    only then the same append may be tried again as it is, after a pause. Otherwise ``reason`` says why (full store,
    too large, ...).

    A refusal of a *repeated* append is no proof that the first copy failed.
    """

    conflict: bool = True
    last_sequence: int | None = None
    again: bool = False
    code: int = 0
    reason: str = ""


@frozen
class Unknown:
    """No answer came: the append may be stored, or may yet be."""

    reason: str = ""


type AppendOutcome = Appended | Refused | Unknown


@frozen
class StreamConfig:
    """How a stream of the namespace must be set up; a node refuses one that differs.

    ``max_bytes`` is what a new stream gets; one that exists may have another bound. With
    ``max_age`` (seconds) it is one that lets go of what is older, or what is oldest when it
    is full; without, one that keeps all and takes no more.
    """

    name: str
    subjects: list[str]
    replicas: int = 1
    max_bytes: int = 8 * 1024**3
    max_age: int = 0


@frozen
class StreamFacts:
    """What a stream keeps.

    ``batches`` says whether it takes several messages that stand or fall together.
    """

    name: str
    subjects: list[str]
    batches: bool


@frozen
class StreamUsage:
    """How full a stream is, and the sequences of its first and its last message.

    Of an empty one the first is the one that comes next.
    """

    size_bytes: int
    max_bytes: int
    last_sequence: int
    first_sequence: int = 1


class Subscription(Protocol):
    """An interest in a subject."""

    async def unsubscribe(self) -> None:
        """End the interest; the handler is not called afterwards."""
        ...


class ConnectionListener(Protocol):
    """Is told of the state of the connection, on the event loop."""

    def on_disconnected(self) -> None:
        """The server is gone; the transport is looking for one without end."""
        ...

    def on_reconnected(self) -> None:
        """A server is there again; subscriptions are back."""
        ...

    def on_closed(self, reason: str) -> None:
        """The client is closed for good: the node must end. ``reason`` says why."""
        ...


class Transport(Protocol):
    """A connection to the system that carries and keeps messages."""

    @property
    def connected(self) -> bool:
        """Whether a server is connected at this moment."""
        ...

    @property
    def max_payload_bytes(self) -> int:
        """The largest payload together with its headers that a message may have."""
        ...

    @property
    def inbox_prefix(self) -> str:
        """A subject prefix of this connection alone, for reply subjects of one's own.

        Subscribe to ``<inbox_prefix>.<name>.*`` and publish with a ``reply_to``
        below it. No two connections share a prefix.
        """
        ...

    def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        reply_to: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a message to all who listen now; at most once.

        Messages of one loop iteration leave together. If ``reply_to`` is below this
        transport's ``inbox_prefix`` and nobody listens to ``subject``, the handler
        of the reply subject gets a message with ``no_responders`` set.

        Raises:
            TooLarge: payload and headers exceed ``max_payload_bytes``.
            Disconnected: there is no server; nothing is kept to be sent later.
            ConnectionClosed: the client is closed for good.
        """
        ...

    def publish_all(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Send many messages, each a subject and a payload, in their order.

        It is `publish` for those who have thousands of them at once, for a fraction of its
        time. If it raises, none was sent.

        Raises:
            TooLarge: one of the payloads exceeds ``max_payload_bytes``.
            Disconnected: there is no server; nothing is kept to be sent later.
            ConnectionClosed: the client is closed for good.
        """
        ...

    async def subscribe(
        self, subject: str, handler: MessageHandler, *, queue: str = ""
    ) -> Subscription:
        """Call ``handler`` for every message to ``subject`` (wildcards ``*``, ``>``).

        When it returns, the server knows of the interest. Of all subscribers with
        the same ``queue`` one gets each message.

        Raises:
            Disconnected: there is no server; the interest is not kept.
            ConfigurationError: the server denies this user the subject.
        """
        ...

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """Send a request and return the first reply; ``timeout`` in seconds.

        Raises:
            NoResponders: nobody listens to ``subject``.
            TimeoutError: no reply came in time.
        """
        ...

    def append(self, append: Append, *, timeout: float) -> Awaitable[AppendOutcome]:
        """Append to the stream once; the awaitable never raises.

        It is handed to the server before this method returns, so two calls keep
        their order. A lost connection resolves it as `Unknown` at once. A message
        above the size limit is `Refused` with code 413 and was not sent.
        """
        ...

    async def append_batch(self, appends: Sequence[Append], *, timeout: float) -> AppendOutcome:
        """Append all or nothing; `Appended` carries the sequence of the last one."""
        ...

    def read(
        self, subject: str, *, start: int = 1, until: int | None = None
    ) -> AsyncIterator[Stored]:
        """Yield the stored messages of ``subject`` (wildcards allowed) in order.

        From sequence ``start`` to what was stored when the read began, or, with
        ``until``, through the message with that sequence: then the read waits until
        the stream is seen up to there. No gap is ever passed over: a lost delivery restarts the
        read behind the last message yielded.
        """
        ...

    def follow(self, subject: str, *, start: int = 1) -> AsyncIterator[Stored]:
        """Like `read`, and then go on without end with what is appended later."""
        ...

    async def last_sequence(self, subject: str) -> int:
        """Return the sequence of the last message of ``subject`` (wildcards allowed), or 0.

        It is what the stream itself knows. A read without ``until`` ends where the replica
        that serves it ends, and of several replicas that may be behind.

        Raises:
            NotFound: no stream keeps such subjects.
            Unavailable: nobody answered.
        """
        ...

    async def purge(self, subject: str, *, below: int) -> int:
        """Delete the messages of ``subject`` with a sequence lower than ``below``.

        Returns how many; ``subject`` is one subject, without wildcards. Never deletes the subject's last message, since that would
        reset its expected sequence to 0.
        """
        ...

    def denied(self, subject: str) -> int:
        """Return how often the server has denied a publish to ``subject``; 0 if not lately.

        Requests and appends learn of it by their outcome; who publishes has to ask.
        """
        ...

    async def usage(self, stream: str) -> StreamUsage:
        """Return how full a stream is.

        Raises:
            NotFound: there is no such stream.
            Unavailable, TimeoutError: nobody answered.
        """
        ...

    async def streams(self, subject: str) -> list[StreamFacts]:
        """Return the streams that keep any of ``subject`` (wildcards allowed), by name.

        Raises:
            Unavailable, TimeoutError: nobody answered.
        """
        ...

    async def ensure_stream(self, config: StreamConfig) -> None:
        """Create the stream, or check that the one that exists is set up like it.

        Raises:
            ConfigurationError: it differs (the message names each difference), or
                the server is older than 2.12 or has no JetStream.
        """
        ...

    def listen(self, listener: ConnectionListener) -> None:
        """Tell ``listener`` of every change of the connection from now on."""
        ...

    async def flush(self, *, timeout: float = 5.0) -> None:
        """Return when the server has taken all that was published so far."""
        ...

    async def close(self) -> None:
        """Close the connection after what was published has left; idempotent."""
        ...
