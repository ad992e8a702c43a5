"""The in-memory twin of NATS: the same meaning, without a server.

A `MemoryBroker` stands for the server and its stream, a `MemoryTransport` for one
connection. Nothing in it is random: the same calls on the same loop happen in the
same order. What a network does to messages comes in through `MemoryBroker.fate`, a
function that says for each `Hop` when its copies arrive (none: lost; two: repeated).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import Context, copy_context
from typing import Final, Literal, NamedTuple

import structlog
from attrs import define, field

from aegis.errors import (
    ConfigurationError,
    ConnectionClosed,
    Disconnected,
    NoResponders,
    NotFound,
    TooLarge,
)
from aegis.transport._base import (
    Append,
    Appended,
    AppendOutcome,
    ConnectionListener,
    Message,
    MessageHandler,
    Refused,
    Stored,
    StreamConfig,
    StreamFacts,
    StreamUsage,
    Unknown,
)
from aegis.transport._pattern_index import PatternIndex, matches_cached
from aegis.transport._subject import check_filter, check_subject, matches, overlaps
from aegis.transport._wire import append_headers, encoded_headers_size

__all__ = ["Hop", "MemoryBroker", "MemoryTransport"]

MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024
"""As on the embedded server."""

MAX_BATCH: Final = 1000
"""The most messages that the server takes in one atomic batch."""

READ_AGAIN_SECONDS: Final = 0.5
"""After a lost delivery a reader notices its silence, and reads again behind the last."""

CONTROL_SECONDS: Final = 5.0
"""How long a transport waits for the server itself."""

_log = structlog.get_logger("aegis.transport")


class Hop(NamedTuple):
    """One step of something on its way, for `MemoryBroker.fate` to decide on.

    ``message``: a message to one subscriber, or the notice that there is none.
    ``append``: an append to the stream. ``acknowledgement``: its outcome on the way
    back. ``read``: what stands in the stream on its way to a reader; lost, it comes
    again, but later. ``control``: a question to the server itself, like the one that
    ends a subscription's set-up. ``source`` and ``destination`` are names of
    transports, or ``broker``.
    """

    kind: Literal["message", "append", "acknowledgement", "read", "control"]
    source: str
    destination: str
    subject: str
    payload: bytes


type Fate = Callable[[Hop], Sequence[float]]

type StoreFate = Callable[[Append], AppendOutcome | None]
"""Says what becomes of an append that has reached the server, instead of being stored:
an outcome, of which `Unknown` is never told; None stores it."""

type StoredListener = Callable[[str, Stored], None]
"""Is told of each message that was stored, with the name of the transport it came from."""


@define(eq=False)
class _Subscription:
    transport: MemoryTransport
    subject: str
    handler: MessageHandler
    queue: str
    active: bool = True

    async def unsubscribe(self) -> None:
        self.active = False
        self.transport.broker.drop_subscription(self)


@define(eq=False)
class _Stream:
    config: StreamConfig
    messages: dict[int, Stored] = field(factory=dict[int, Stored])
    by_subject: dict[str, deque[int]] = field(factory=dict[str, deque[int]])
    last_sequence: int = 0
    size_bytes: int = 0


class MemoryBroker:
    """What a NATS server does: routes messages and keeps one or more streams.

    ``latency`` (seconds) is how long every hop takes; ``fate`` overrules it.
    """

    def __init__(
        self,
        *,
        latency: float = 0.0,
        fate: Fate | None = None,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        self.latency = latency
        self.fate = fate
        self.max_payload_bytes = max_payload_bytes
        self.streams: dict[str, _Stream] = {}
        self.context = copy_context()
        """What arrives here happens in this context, not in that of the sender."""
        self._subscriptions: PatternIndex[_Subscription] = PatternIndex()
        self._captures: PatternIndex[_Stream] = PatternIndex()
        self._turns: dict[tuple[str, str], int] = {}
        self._connections = 0
        self._arrivals: list[tuple[str, asyncio.Event]] = []
        self.store_fate: StoreFate | None = None
        self.on_stored: StoredListener | None = None

    # -- the side of the transports -------------------------------------------------

    def connection_number(self) -> int:
        """Return a number that no other connection has."""
        self._connections += 1
        return self._connections

    def add_subscription(self, subscription: _Subscription) -> None:
        """Route messages to ``subscription`` from now on."""
        self._subscriptions.add(subscription.subject, subscription)

    def drop_subscription(self, subscription: _Subscription) -> None:
        """Route no more messages to ``subscription``."""
        self._subscriptions.remove(subscription.subject, subscription)

    def delays(self, hop: Hop) -> Sequence[float]:
        """Return after how many seconds each copy of ``hop`` arrives."""
        return (self.latency,) if self.fate is None else self.fate(hop)

    def hop(self, hop: Hop, arrive: Callable[[], None], context: Context) -> None:
        """Call ``arrive`` once for every copy of ``hop`` that arrives, when it does.

        It is called in a copy of ``context``: that of whoever it arrives at.
        """
        loop = asyncio.get_running_loop()
        for delay in self.delays(hop):
            if delay > 0:
                loop.call_later(delay, arrive, context=context.copy())
            else:
                loop.call_soon(arrive, context=context.copy())

    def route(self, source: MemoryTransport, message: Message) -> bool:
        """Send ``message`` to its subscribers; return whether there is any.

        A stream that captures the subject counts, and stores the message.
        """
        stream = self._stream_of(message.subject)
        if stream is not None:
            self._store(source.name, stream, message.subject, message.payload, message.headers)
        return self._deliver(source.name, message) or stream is not None

    def _deliver(self, source: str, message: Message) -> bool:
        groups: dict[tuple[str, str], list[_Subscription]] = {}
        chosen: list[_Subscription] = []
        for subscription in self._subscriptions.find(message.subject):
            if not subscription.transport.attached:
                continue
            if subscription.queue:
                key = (subscription.subject, subscription.queue)
                groups.setdefault(key, []).append(subscription)
            else:
                chosen.append(subscription)
        for key, members in groups.items():
            turn = self._turns.get(key, 0)
            self._turns[key] = turn + 1
            chosen.append(members[turn % len(members)])
        for subscription in chosen:
            self._send(source, subscription, message)
        return bool(chosen)

    def _send(self, source: str, subscription: _Subscription, message: Message) -> None:
        transport = subscription.transport
        connection = transport.connection
        hop = Hop("message", source, transport.name, message.subject, message.payload)

        def arrive() -> None:
            if subscription.active and transport.connected and transport.connection == connection:
                transport.call(subscription.handler, message)

        self.hop(hop, arrive, transport.context)

    def send_notice(self, subscription: _Subscription, notice: Message) -> None:
        """Tell one who asked that nobody listens."""
        self._send("broker", subscription, notice)

    # -- the streams ----------------------------------------------------------------

    def ensure_stream(self, config: StreamConfig) -> None:
        """Create the stream, or compare; see `Transport.ensure_stream`."""
        existing = self.streams.get(config.name)
        if existing is None:
            stream = self.streams[config.name] = _Stream(config)
            for pattern in config.subjects:
                self._captures.add(pattern, stream)
            return
        found = existing.config
        differences = [
            f"{name} is {ours!r}, not {wanted!r}"
            for name, ours, wanted in (
                ("subjects", sorted(found.subjects), sorted(config.subjects)),
                ("replicas", found.replicas, config.replicas),
            )
            if ours != wanted
        ]
        if differences:
            raise ConfigurationError(f"stream {config.name}: {'; '.join(differences)}")

    def facts_of(self, subject: str) -> list[StreamFacts]:
        """Return what the streams keep that have any of ``subject``."""
        return [
            StreamFacts(name, list(stream.config.subjects), batches=True)
            for name, stream in sorted(self.streams.items())
            if any(overlaps(kept, subject) for kept in stream.config.subjects)
        ]

    def _stream_of(self, subject: str) -> _Stream | None:
        found = self._captures.find(subject)
        return found[0] if found else None

    def stream_for(self, pattern: str) -> _Stream:
        """Return the stream that keeps the messages of ``pattern``.

        Raises:
            NotFound: there is none.
        """
        stream = self._stream_of(pattern)
        if stream is None:
            raise NotFound(f"no stream keeps {pattern}")
        return stream

    def last_sequence(self, subject: str) -> int:
        """Return the sequence of the last message of ``subject``, 0 if there is none."""
        stream = self._stream_of(subject)
        sequences = stream.by_subject.get(subject) if stream else None
        return sequences[-1] if sequences else 0

    def append(self, source: str, append: Append) -> AppendOutcome:
        """Store ``append`` if its condition holds."""
        refusal = self._check(append, {})
        if refusal is not None:
            return refusal
        stream = self.stream_for(append.subject)
        return Appended(self._apply(source, stream, append))

    def append_batch(self, source: str, appends: Sequence[Append]) -> AppendOutcome:
        """Store all of ``appends`` if all their conditions hold."""
        staged: dict[str, int] = {}
        stream: _Stream | None = None
        for append in appends:
            refusal = self._check(append, staged)
            if refusal is not None:
                return refusal
            found = self.stream_for(append.subject)
            if stream is not None and found is not stream:
                return Refused(conflict=False, code=400, reason="the batch is for several streams")
            stream = found
            staged[append.subject] = staged.get(append.subject, 0) + 1
        assert stream is not None
        last = 0
        for append in appends:
            last = self._apply(source, stream, append)
        return Appended(last)

    def _check(self, append: Append, staged: Mapping[str, int]) -> Refused | None:
        stream = self._stream_of(append.subject)
        if stream is None:
            return Refused(conflict=False, again=True, code=503, reason="no stream listens")
        if append.expect is not None:
            subject = append.expect_subject or append.subject
            if subject in staged:
                return Refused(again=True, code=10164, reason="wrong last sequence")
            sequences = stream.by_subject.get(subject)
            last = sequences[-1] if sequences else 0
            if last != append.expect:
                return Refused(
                    last_sequence=last, code=10071, reason=f"wrong last sequence: {last}"
                )
        if (
            not stream.config.max_age
            and stream.size_bytes + _stored_size(append.subject, append.payload)
            > stream.config.max_bytes
        ):
            return Refused(conflict=False, code=10077, reason="maximum bytes exceeded")
        return None

    def _apply(self, source: str, stream: _Stream, append: Append) -> int:
        headers = append_headers(append)
        if append.rollup:
            for old in list(stream.by_subject.get(append.subject, ())):
                self._delete(stream, old)
        sequence = self._store(source, stream, append.subject, append.payload, headers)
        if append.ttl is not None:
            asyncio.get_running_loop().call_later(append.ttl, self._delete, stream, sequence)
        self._deliver(source, Message(append.subject, append.payload, "", headers))
        return sequence

    def _store(
        self,
        source: str,
        stream: _Stream,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str] | None,
    ) -> int:
        stream.last_sequence += 1
        sequence = stream.last_sequence
        timestamp_ms = round(asyncio.get_running_loop().time() * 1000)
        stored = stream.messages[sequence] = Stored(
            subject, sequence, payload, headers, timestamp_ms
        )
        stream.by_subject.setdefault(subject, deque()).append(sequence)
        stream.size_bytes += _stored_size(subject, payload)
        if stream.config.max_age:
            self._let_go(stream)
        if self.on_stored is not None:
            self.on_stored(source, stored)
        for pattern, arrival in self._arrivals:
            if matches_cached(pattern, subject):
                arrival.set()
        return sequence

    def _let_go(self, stream: _Stream) -> None:
        """Delete what is too old, or too much, in a stream that lets go of its messages."""
        oldest_ms = round((asyncio.get_running_loop().time() - stream.config.max_age) * 1000)
        for stored in list(stream.messages.values()):
            if stored.timestamp_ms >= oldest_ms and stream.size_bytes <= stream.config.max_bytes:
                return
            self._delete(stream, stored.sequence)

    def _delete(self, stream: _Stream, sequence: int) -> None:
        stored = stream.messages.pop(sequence, None)
        if stored is None:
            return
        stream.size_bytes -= _stored_size(stored.subject, stored.payload)
        sequences = stream.by_subject[stored.subject]
        sequences.remove(sequence)
        if not sequences:
            del stream.by_subject[stored.subject]

    def purge(self, subject: str, below: int) -> int:
        """Delete what is older than ``below``, but never the last message."""
        stream = self.stream_for(subject)
        sequences = stream.by_subject.get(subject)
        if not sequences:
            return 0
        doomed = [s for s in sequences if s < min(below, sequences[-1])]
        for sequence in doomed:
            self._delete(stream, sequence)
        return len(doomed)

    def stored_from(self, stream: _Stream, pattern: str, start: int) -> list[Stored]:
        """Return the messages of ``pattern`` from sequence ``start`` on, in order."""
        if "*" in pattern or ">" in pattern:
            sequences: list[int] = []
            for subject, all_of_it in stream.by_subject.items():
                if all_of_it[-1] >= start and matches_cached(pattern, subject):
                    sequences += _from(all_of_it, start)
            sequences.sort()
        else:
            sequences = _from(stream.by_subject.get(pattern, ()), start)
        return [stream.messages[sequence] for sequence in sequences]

    def watch_arrivals(self, pattern: str, arrival: asyncio.Event, *, on: bool) -> None:
        """Set ``arrival`` at every message of ``pattern`` that is stored, while ``on``."""
        if on:
            self._arrivals.append((pattern, arrival))
        else:
            self._arrivals.remove((pattern, arrival))


def _from(sequences: Sequence[int], start: int) -> list[int]:
    """Return those of some sequences, which rise, that are not below ``start``."""
    found: list[int] = []
    for sequence in reversed(sequences):
        if sequence < start:
            break
        found.append(sequence)
    found.reverse()
    return found


def _stored_size(subject: str, payload: bytes) -> int:
    # What the server counts besides: a record's head and its checksum.
    return len(subject) + len(payload) + 30


class MemoryTransport:
    """One connection to a `MemoryBroker`; keeps to `aegis.transport.Transport`.

    `detach`, `disconnect`, `reconnect` and `close_for_good` do what a network and a
    server would do to a real one. What arrives is handled in the context in which the
    transport was made.
    """

    def __init__(self, broker: MemoryBroker, *, name: str = "") -> None:
        number = broker.connection_number()
        self.broker = broker
        self.name = name or f"connection-{number}"
        self.connection = 1
        self.attached = True
        """Whether the server has the connection; the client may learn later that it has not."""
        self.context = copy_context()
        self._prefix = f"_INBOX.memory{number}"
        self._connected = True
        self._closed = ""
        self._listeners: list[ConnectionListener] = []
        self._subscriptions: list[_Subscription] = []
        self._appends: dict[int, asyncio.Future[AppendOutcome]] = {}
        self._requests: dict[int, asyncio.Future[Message]] = {}
        self._inbox: _Subscription | None = None
        self._token = 0
        self._changed = asyncio.Event()
        self._arrivals: list[asyncio.Event] = []
        """What the reads under way wait for: news in the stream, or of the connection."""

    # -- state ----------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the broker is connected at this moment."""
        return self._connected

    @property
    def max_payload_bytes(self) -> int:
        """The broker's limit for payload and headers together."""
        return self.broker.max_payload_bytes

    @property
    def inbox_prefix(self) -> str:
        """A subject prefix that is this transport's alone."""
        return self._prefix

    def listen(self, listener: ConnectionListener) -> None:
        """Tell ``listener`` of every change from now on."""
        self._listeners.append(listener)

    def detach(self) -> None:
        """The server gives the connection up, and the client does not know it yet.

        Nothing comes and nothing arrives any more, until the client notices (`disconnect`).
        """
        self.attached = False

    def disconnect(self) -> None:
        """Lose the connection, as when the server dies."""
        if not self._connected:
            return
        self._drop("the connection was lost")
        for listener in list(self._listeners):
            _guarded(listener.on_disconnected)

    def reconnect(self) -> None:
        """Find the server again; subscriptions are back."""
        if self._connected or self._closed:
            return
        self._connected = self.attached = True
        self.connection += 1
        self._wake()
        for listener in list(self._listeners):
            _guarded(listener.on_reconnected)

    def close_for_good(self, reason: str) -> None:
        """Close as a server does that wants no more of this client."""
        if self._closed:
            return
        self._closed = reason
        self._drop(reason)
        for listener in list(self._listeners):
            _guarded(listener.on_closed, reason)

    async def close(self) -> None:
        """Close the connection; idempotent."""
        if self._closed:
            return
        await asyncio.sleep(0)
        self._closed = "the transport was closed"
        self._drop(self._closed)
        for subscription in list(self._subscriptions):
            await subscription.unsubscribe()

    async def flush(self, *, timeout: float = 5.0) -> None:
        """Return when the broker has taken all that was published so far."""
        self._check_open()
        await self._round_trip("")

    def _drop(self, reason: str) -> None:
        self._connected = self.attached = False
        appends, self._appends = self._appends, {}
        requests, self._requests = self._requests, {}
        for outcome in appends.values():
            if not outcome.done():
                outcome.set_result(Unknown(reason))
        for reply in requests.values():
            if not reply.done():
                reply.set_exception(Disconnected(reason))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        for arrival in self._arrivals:
            arrival.set()

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionClosed(self._closed)
        if not self._connected:
            raise Disconnected("there is no connection to the server")

    # -- messages -------------------------------------------------------------------

    def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        reply_to: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """See `Transport.publish`."""
        check_subject(subject)
        self._check_open()
        self._check_size(subject, len(payload) + encoded_headers_size(headers))
        if not self.attached:
            return
        message = Message(subject, bytes(payload), reply_to, dict(headers) if headers else None)
        if not self.broker.route(self, message) and reply_to:
            notice = Message(reply_to, b"", "", None, no_responders=True)
            for subscription in self._subscriptions:
                if matches(subscription.subject, reply_to):
                    self.broker.send_notice(subscription, notice)

    def _check_size(self, subject: str, size: int) -> None:
        if size > self.max_payload_bytes:
            raise TooLarge(
                f"the message to {subject} has {size} bytes; the limit is {self.max_payload_bytes}",
                size_bytes=size,
                limit_bytes=self.max_payload_bytes,
            )

    def publish_all(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """See `Transport.publish_all`."""
        self._check_open()
        known = list(messages)
        for subject, payload in known:
            check_subject(subject)
            self._check_size(subject, len(payload))
        for subject, payload in known:
            self.publish(subject, payload)

    def call(self, handler: MessageHandler, message: Message) -> None:
        """Call ``handler``; what it raises is logged."""
        try:
            handler(message)
        except Exception:
            _log.exception("message handler failed", subject=message.subject)

    async def subscribe(
        self, subject: str, handler: MessageHandler, *, queue: str = ""
    ) -> _Subscription:
        """See `Transport.subscribe`."""
        check_filter(subject)
        self._check_open()
        subscription = self._add_subscription(subject, handler, queue)
        try:
            await self._round_trip(subject)
        except BaseException:
            await subscription.unsubscribe()
            raise
        return subscription

    async def _round_trip(self, subject: str) -> None:
        """Return when the server has answered, and with it taken all that was sent before.

        Raises:
            Disconnected: it did not, or the connection was lost meanwhile.
        """
        connection = self.connection
        delays = self.broker.delays(Hop("control", self.name, "broker", subject, b""))
        if not delays or not self.attached:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONTROL_SECONDS):
                    while self._connected and self.connection == connection:
                        await self._changed.wait()
            raise Disconnected("the server does not answer")
        await asyncio.sleep(delays[0])
        self._check_open()

    def _add_subscription(self, subject: str, handler: MessageHandler, queue: str) -> _Subscription:
        subscription = _Subscription(self, subject, handler, queue)
        self._subscriptions.append(subscription)
        self.broker.add_subscription(subscription)
        return subscription

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """See `Transport.request`."""
        self._check_open()
        if self._inbox is None:
            self._inbox = self._add_subscription(f"{self._prefix}._r.*", self._on_reply, "")
        self._token += 1
        token = self._token
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._requests[token] = future
        try:
            self.publish(subject, payload, reply_to=f"{self._prefix}._r.{token}", headers=headers)
            async with asyncio.timeout(timeout):
                reply = await future
        finally:
            self._requests.pop(token, None)
        if reply.no_responders:
            raise NoResponders(f"nobody listens to {subject}")
        return reply

    def _on_reply(self, message: Message) -> None:
        token = message.subject.rpartition(".")[2]
        future = self._requests.get(int(token)) if token.isdecimal() else None
        if future is not None and not future.done():
            future.set_result(message)

    # -- appends --------------------------------------------------------------------

    def append(self, append: Append, *, timeout: float) -> Awaitable[AppendOutcome]:
        """See `Transport.append`."""
        return self._append(
            append.subject,
            append.payload,
            [append],
            lambda: self.broker.append(self.name, append),
            timeout,
        )

    async def append_batch(self, appends: Sequence[Append], *, timeout: float) -> AppendOutcome:
        """See `Transport.append_batch`."""
        if not appends:
            raise ValueError("a batch needs at least one append")
        if len(appends) > MAX_BATCH:
            return Refused(conflict=False, code=413, reason=f"a batch holds at most {MAX_BATCH}")
        first = appends[0]
        return await self._append(
            first.subject,
            first.payload,
            appends,
            lambda: self.broker.append_batch(self.name, appends),
            timeout,
        )

    def _append(
        self,
        subject: str,
        payload: bytes,
        appends: Sequence[Append],
        store: Callable[[], AppendOutcome],
        timeout: float,
    ) -> asyncio.Future[AppendOutcome]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[AppendOutcome] = loop.create_future()
        for append in appends:
            try:
                check_subject(append.subject)
            except ValueError as error:
                future.set_result(Refused(conflict=False, code=400, reason=str(error)))
                return future
            size = len(append.payload) + encoded_headers_size(append_headers(append))
            if size > self.max_payload_bytes:
                reason = f"{size} bytes; the limit is {self.max_payload_bytes}"
                future.set_result(Refused(conflict=False, code=413, reason=reason))
                return future
        if not self._connected:
            future.set_result(Unknown(self._closed or "there is no connection to the server"))
            return future
        self._token += 1
        token = self._token
        connection = self.connection
        self._appends[token] = future

        def finish(outcome: AppendOutcome) -> None:
            self._appends.pop(token, None)
            timer.cancel()
            if not future.done():
                future.set_result(outcome)

        def arrive() -> None:
            # The connection may be gone by now; what is on its way lands all the same.
            fate = self.broker.store_fate
            outcome = (None if fate is None else fate(appends[0])) or store()
            if isinstance(outcome, Unknown):
                return
            hop = Hop("acknowledgement", "broker", self.name, subject, payload)
            self.broker.hop(hop, lambda: acknowledge(outcome), self.context)

        def acknowledge(outcome: AppendOutcome) -> None:
            if self._connected and self.connection == connection:
                finish(outcome)

        timer = loop.call_later(timeout, finish, Unknown("no answer in time"))
        future.add_done_callback(lambda _: timer.cancel())
        if self.attached:
            hop = Hop("append", self.name, "broker", subject, payload)
            self.broker.hop(hop, arrive, self.broker.context)
        return future

    # -- reads ----------------------------------------------------------------------

    def read(
        self, subject: str, *, start: int = 1, until: int | None = None
    ) -> AsyncIterator[Stored]:
        """See `Transport.read`."""
        check_filter(subject)
        return self._read(subject, start, until, endless=False)

    def follow(self, subject: str, *, start: int = 1) -> AsyncIterator[Stored]:
        """See `Transport.follow`."""
        check_filter(subject)
        return self._read(subject, start, None, endless=True)

    async def _read(
        self, pattern: str, start: int, until: int | None, *, endless: bool
    ) -> AsyncIterator[Stored]:
        arrival = asyncio.Event()
        self._arrivals.append(arrival)
        self.broker.watch_arrivals(pattern, arrival, on=True)
        try:
            end: int | None = until
            position = start
            while until is None or position <= until:
                await self._wait_connected()
                stream = self.broker.stream_for(pattern)
                if end is None and not endless:
                    end = stream.last_sequence
                await self._wait_delivery(pattern)
                arrival.clear()
                for stored in self.broker.stored_from(stream, pattern, position):
                    if end is not None and stored.sequence > end and until is None:
                        return
                    if not self._connected:
                        break
                    position = stored.sequence + 1
                    yield stored
                    if until is not None and stored.sequence >= until:
                        return
                else:
                    if not endless and (until is None or stream.last_sequence >= until):
                        return
                    await arrival.wait()
        finally:
            self.broker.watch_arrivals(pattern, arrival, on=False)
            self._arrivals.remove(arrival)

    async def _wait_delivery(self, pattern: str) -> None:
        hop = Hop("read", "broker", self.name, pattern, b"")
        while not (delays := self.broker.delays(hop)) or not self.attached:
            await asyncio.sleep(READ_AGAIN_SECONDS)
            await self._wait_connected()
        if delays[0] > 0:
            await asyncio.sleep(delays[0])

    async def _wait_connected(self) -> None:
        while not self._connected:
            if self._closed:
                raise ConnectionClosed(self._closed)
            await self._changed.wait()

    async def last_sequence(self, subject: str) -> int:
        """See `Transport.last_sequence`."""
        check_filter(subject)
        self._check_open()
        await self._round_trip(subject)
        stored = self.broker.stored_from(self.broker.stream_for(subject), subject, 1)
        return stored[-1].sequence if stored else 0

    async def purge(self, subject: str, *, below: int) -> int:
        """See `Transport.purge`."""
        check_subject(subject)
        self._check_open()
        await self._round_trip(subject)
        return self.broker.purge(subject, below)

    def denied(self, subject: str) -> int:
        """Everybody may do everything here."""
        return 0

    async def usage(self, stream: str) -> StreamUsage:
        """See `Transport.usage`."""
        self._check_open()
        await self._round_trip(stream)
        found = self.broker.streams.get(stream)
        if found is None:
            raise NotFound(f"there is no stream {stream}")
        first = next(iter(found.messages), found.last_sequence + 1)
        return StreamUsage(found.size_bytes, found.config.max_bytes, found.last_sequence, first)

    async def streams(self, subject: str) -> list[StreamFacts]:
        """See `Transport.streams`."""
        self._check_open()
        await self._round_trip(subject)
        return self.broker.facts_of(subject)

    async def ensure_stream(self, config: StreamConfig) -> None:
        """See `Transport.ensure_stream`."""
        self._check_open()
        await self._round_trip("")
        self.broker.ensure_stream(config)


def _guarded(callback: Callable[..., None], *arguments: str) -> None:
    try:
        callback(*arguments)
    except Exception:
        _log.exception("connection listener failed")
