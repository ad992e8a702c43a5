"""NATS as an `aegis.transport.Transport`.

Appends and requests are published with a reply subject below one inbox, one number
each; one subscription takes all answers. Their timeouts are kept by one timer for all.
When the connection is lost every open append is `Unknown` and every open request
fails at once, and nothing is kept to be sent later.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import structlog
from attrs import define

from aegis.errors import (
    AccessDenied,
    AegisError,
    ConfigurationError,
    ConnectionClosed,
    Disconnected,
    NoResponders,
    NotFound,
    TooLarge,
    Unavailable,
)
from aegis.transport._base import (
    ACCESS_DENIED,
    Append,
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
from aegis.transport._denials import PUBLISH, SUBSCRIBE, Denial, Denials, denied
from aegis.transport._jetstream import (
    API,
    STREAM_NAME_IN_USE,
    STREAM_NOT_FOUND,
    ApiError,
    api_reply,
    check_server,
    create_problem,
    facts_of,
    outcome_of,
    stream_differences,
    stream_request,
)
from aegis.transport._nats_client import FastClient
from aegis.transport._nats_errors import translated
from aegis.transport._nats_options import NatsOptions
from aegis.transport._nats_socket import RawHandler
from aegis.transport._ordered import ordered_read
from aegis.transport._subject import MAX_SUBJECT_BYTES, check_filter, check_subject, matches
from aegis.transport._wire import (
    RawHeaders,
    append_head,
    append_headers,
    encode_headers,
    status_of,
)

__all__ = ["NatsTransport", "connect_nats"]

API_TIMEOUT_SECONDS: Final = 5.0
MAX_BATCH: Final = 1000
"""The most messages that the server takes in one atomic batch."""

MAX_UNSENT_BYTES: Final = 64 * 1024 * 1024
"""How much may wait for a server that does not read, before sends are refused."""

KNOWN_SUBJECTS: Final = 65_536
"""Subjects of `NatsTransport.publish_all` that are remembered as bytes."""

SWEEP_SECONDS: Final = 0.02
"""Timeouts are noticed up to so much late; one timer serves all of them."""

CLOSE_TIMEOUT_SECONDS: Final = 1.0

READY_TIMEOUT_SECONDS: Final = 10.0
"""How long JetStream may need after its server has started to answer: an election."""

READY_PAUSE_SECONDS: Final = 0.2

_NO_CONNECTION: Final = "there is no connection to the server"

_log = structlog.get_logger("aegis.transport")


@define(eq=False, slots=True)
class _Open:
    """An append or a request that has no answer yet, with the subjects it was sent to."""

    subjects: tuple[str, ...]
    future: asyncio.Future[Any]
    deadline: float
    expire: Callable[[asyncio.Future[Any]], None]


@define(eq=False)
class _Subscription:
    transport: NatsTransport
    sid: int

    async def unsubscribe(self) -> None:
        self.transport.client.drop_subscription(self.sid)


async def connect_nats(options: NatsOptions | None = None) -> NatsTransport:
    """Connect to a NATS server.

    Raises:
        ConfigurationError: an option is wrong, or the server refuses who we are; the
            message names the option.
        Unavailable: no server answered within ``options.connect_timeout``.
    """
    transport = NatsTransport(options or NatsOptions())
    await transport.open()
    return transport


class NatsTransport:
    """One connection to NATS; made by `connect_nats`."""

    def __init__(self, options: NatsOptions) -> None:
        self._options = options
        self._loop = asyncio.get_running_loop()
        self.client = FastClient(
            self._on_lost, self._on_error_line, require_tls=options.require_tls
        )
        self._connected = False
        self._closing = False
        self._closed = ""
        self._listeners: list[ConnectionListener] = []
        self._changed: asyncio.Future[None] = self._loop.create_future()
        self._prefix = f"{options.inbox_prefix}.{secrets.token_hex(8)}"
        self._append_prefix = f"{self._prefix}._a.".encode()
        self._batch_prefix = f"{self._prefix}._b.".encode()
        self._request_prefix = f"{self._prefix}._r.".encode()
        self._token = 0
        self._appends: dict[bytes, _Open] = {}
        self._batches: dict[bytes, _Open] = {}
        self._requests: dict[bytes, _Open] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._sweep_at = 0.0
        self._streams: dict[str, list[str]] = {}
        self._denials = Denials(self._loop.time)
        self._known = _Known()
        self._first_error: Exception | None = None
        self._fatal: asyncio.Future[ConfigurationError] | None = None
        self.consumers: set[Any] = set()

    # -- the connection ---------------------------------------------------------------

    async def open(self) -> None:
        """Connect for the first time; see `connect_nats`."""
        arguments = self._options.connect_arguments()
        self._fatal = self._loop.create_future()
        connecting = asyncio.ensure_future(
            self.client.connect(
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnected,
                reconnected_cb=self._on_reconnected,
                closed_cb=self._on_closed,
                **arguments,
            )
        )
        try:
            waiting: set[asyncio.Future[Any]] = {connecting, self._fatal}
            await asyncio.wait(
                waiting,
                timeout=self._options.connect_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if self._fatal.done():
                raise self._fatal.result()
            if not connecting.done():
                raise self._nobody_there()
            with translated():
                await connecting
        except BaseException:
            self._closing = True
            connecting.cancel()
            await asyncio.wait({connecting})
            if not connecting.cancelled():
                connecting.exception()
            await self._close_client()
            raise
        finally:
            self._fatal = None
        client = self.client
        client.add_subscription(f"{self._prefix}._a.*", "", self._on_acknowledgement)
        client.add_subscription(f"{self._prefix}._b.*", "", self._on_batch_acknowledgement)
        client.add_subscription(f"{self._prefix}._r.*", "", self._on_reply)
        self._set_connected(True)
        await self.flush()
        if self._denials.of_subscription(f"{self._prefix}._r.*"):
            await self.close()
            raise AccessDenied(
                f"inbox_prefix: the NATS server does not let this user listen below "
                f"{self._options.inbox_prefix}, where answers come to; give the prefix that its "
                "permissions name",
                permission=SUBSCRIBE,
                subject=f"{self._options.inbox_prefix}.>",
            )

    def _nobody_there(self) -> Unavailable:
        reason = f" ({self._first_error})" if self._first_error is not None else ""
        return Unavailable(
            f"no NATS server answers at {self._options.shown_servers}{reason}; "
            "start one there, or name another"
        )

    @property
    def connected(self) -> bool:
        """Whether a server is connected at this moment."""
        return self._connected

    @property
    def max_payload_bytes(self) -> int:
        """The server's limit for payload and headers together."""
        return self.client.max_payload

    @property
    def inbox_prefix(self) -> str:
        """A subject prefix that is this connection's alone."""
        return self._prefix

    @property
    def client_id(self) -> int:
        """The number that the server gave this connection; another after a reconnect."""
        return self.client.client_id or 0

    @property
    def server_info(self) -> dict[str, Any]:
        """What the server told of itself: ``server_id``, ``version``, ..."""
        return self.client.server_info

    def listen(self, listener: ConnectionListener) -> None:
        """Tell ``listener`` of every change from now on."""
        self._listeners.append(listener)

    def _set_connected(self, connected: bool) -> None:
        self._connected = connected
        changed, self._changed = self._changed, self._loop.create_future()
        changed.set_result(None)

    async def wait_connected(self) -> None:
        """Wait until a server is connected.

        Raises:
            ConnectionClosed: there will be none.
        """
        while not self._connected:
            if self._closed:
                raise ConnectionClosed(self._closed)
            await asyncio.shield(self._changed)

    def _on_lost(self) -> None:
        if not self._connected:
            return
        self._set_connected(False)
        for opened in (*self._appends.values(), *self._batches.values()):
            if not opened.future.done():
                opened.future.set_result(Unknown("the connection was lost"))
        for opened in self._requests.values():
            if not opened.future.done():
                opened.future.set_exception(Disconnected("the connection was lost"))
        self._appends.clear()
        self._batches.clear()
        self._requests.clear()
        for consumer in list(self.consumers):
            consumer.fail("the connection was lost")
        if self._closing:
            return
        _log.warning("connection lost", servers=self._options.shown_servers)
        for listener in list(self._listeners):
            _guarded(listener.on_disconnected)

    async def _on_disconnected(self) -> None:
        self._on_lost()

    async def _on_reconnected(self) -> None:
        _log.info("connected again", server=self.client.server_info.get("server_name", ""))
        self._set_connected(True)
        for listener in list(self._listeners):
            _guarded(listener.on_reconnected)

    async def _on_closed(self) -> None:
        self._on_lost()
        if self._closing or self._closed:
            return
        error = self.client.last_error
        self._closed = str(error).removeprefix("nats: ") if error else "the server closed it"
        self._set_connected(False)
        _log.error("connection closed for good", reason=self._closed)
        for listener in list(self._listeners):
            _guarded(listener.on_closed, self._closed)

    async def _on_error(self, error: Exception) -> None:
        # Runs inside nats-py's read loop, which an exception would end.
        try:
            text = str(error)
            lowered = text.lower()
            if "permissions violation" in lowered:
                return  # See `_on_error_line`.
            _log.debug("connection trouble", reason=text or type(error).__name__)
            if self._fatal is None:
                return
            self._first_error = error
            problem = _fatal_problem(error, lowered)
            if problem is not None and not self._fatal.done():
                self._fatal.set_result(problem)
        except Exception:
            _log.exception("error callback failed")

    def _on_error_line(self, line: bytes) -> None:
        denial = self._denials.heard(line)
        if denial is None:
            return
        _log.error(
            "access_denied",
            permission=denial.permission,
            subject=denial.subject,
            action="allow that in the permissions of this NATS user, or take another user",
        )
        if denial.permission == PUBLISH:
            self._fail_denied(denial)

    def _fail_denied(self, denial: Denial) -> None:
        """End what waits for an answer to something that was not let through."""
        error = denied(denial.permission, denial.subject)
        for opened in (*self._appends.values(), *self._batches.values()):
            if denial.subject in opened.subjects and not opened.future.done():
                refused = Refused(conflict=False, code=ACCESS_DENIED, reason=error.message)
                opened.future.set_result(refused)
        for opened in self._requests.values():
            if denial.subject in opened.subjects and not opened.future.done():
                opened.future.set_exception(error)

    def denied(self, subject: str) -> int:
        """See `Transport.denied`."""
        return self._denials.of_publish(subject)

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionClosed(self._closed)
        if not self._connected:
            raise Disconnected(_NO_CONNECTION)

    async def flush(self, *, timeout: float = 5.0) -> None:
        """Return when the server has taken all that was published so far."""
        self._check_open()
        changed = self._changed
        flushing = asyncio.ensure_future(self._flush(timeout))
        try:
            await asyncio.wait({flushing, changed}, return_when=asyncio.FIRST_COMPLETED)
            self._check_open()
            await flushing
        finally:
            flushing.cancel()

    async def _flush(self, timeout: float) -> None:
        with translated():
            await self.client.flush(timeout)  # type: ignore[arg-type]

    async def close(self) -> None:
        """Close the connection after what was published has left; idempotent."""
        if self._closing:
            return
        self._closing = True
        if self._connected:
            try:
                await self.flush(timeout=CLOSE_TIMEOUT_SECONDS)
            except AegisError as error:
                _log.debug("not flushed at close", reason=error.message)
        self._closed = self._closed or "the transport was closed"
        await self._close_client()
        self._on_lost()
        self._set_connected(False)
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()

    async def _close_client(self) -> None:
        # First the socket: a server that is frozen would keep nats-py's close waiting.
        self.client.socket.shut()
        with translated():
            await self.client.close()
        self.client.socket.close()

    # -- messages ---------------------------------------------------------------------

    def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        reply_to: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """See `Transport.publish`."""
        if not self._connected:
            self._check_open()
        target = self._known[subject]
        if reply_to:
            target += b" " + _plain(reply_to)
        self._send(target, encode_headers(headers) if headers else b"", payload)

    def publish_all(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """See `Transport.publish_all`."""
        if not self._connected:
            self._check_open()
        limit, known = self.client.max_payload, self._known
        pieces: list[bytes] = []
        for subject, payload in messages:
            size = len(payload)
            if size > limit:
                raise _too_large(known[subject], size, limit)
            pieces.append(b"PUB %b %d\r\n%b\r\n" % (known[subject], size, payload))
        connection = self.client.socket.connection
        _check_unsent(connection.unsent_bytes())
        if pieces:
            connection.push(*pieces)

    def _send(self, target: bytes, head: bytes, payload: bytes) -> None:
        """Write one message; ``target`` is its subject and, if any, reply subject."""
        size = len(head) + len(payload)
        # The client's own check forgets the headers; the server does not, and drops
        # the connection.
        if size > self.client.max_payload:
            raise _too_large(target, size, self.client.max_payload)
        connection = self.client.socket.connection
        if connection.paused:
            _check_unsent(connection.unsent_bytes())
        if head:
            connection.push(
                b"HPUB %b %d %d\r\n%b" % (target, len(head), size, head), payload, b"\r\n"
            )
        else:
            connection.push(b"PUB %b %d\r\n" % (target, size), payload, b"\r\n")

    async def subscribe(
        self, subject: str, handler: MessageHandler, *, queue: str = ""
    ) -> _Subscription:
        """See `Transport.subscribe`.

        Raises:
            ConfigurationError: the server denies this user the subject.
        """
        check_filter(subject)
        if queue:
            check_subject(queue)
        self._check_open()
        self._denials.subscribing(subject)
        sid = self.client.add_subscription(subject, queue, _decoded(handler))
        try:
            await self.flush()
        except BaseException:
            self.client.drop_subscription(sid)
            raise
        if self._denials.of_subscription(subject):
            self.client.drop_subscription(sid)
            raise denied(SUBSCRIBE, subject)
        return _Subscription(self, sid)

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """See `Transport.request`."""
        if not self._connected:
            self._check_open()
        target = _plain(subject)
        head = encode_headers(headers) if headers else b""
        token = self._next_token()
        future: asyncio.Future[Message] = self._loop.create_future()
        self._send(target + b" " + self._request_prefix + token, head, payload)
        self._open(self._requests, token, (subject,), future, timeout, _time_out)
        try:
            reply = await future
        finally:
            self._requests.pop(token, None)
        if reply.no_responders:
            raise NoResponders(f"nobody listens to {subject}")
        return reply

    def _on_reply(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        # First: what cannot be read must not keep the request from its timeout.
        message = _message(subject, reply, headers, payload)
        opened = self._requests.pop(subject[len(self._request_prefix) :], None)
        if opened is not None and not opened.future.done():
            opened.future.set_result(message)

    # -- what has no answer yet ---------------------------------------------------------

    def next_token(self) -> int:
        """Return a number that was not used on this connection."""
        self._token += 1
        return self._token

    def _next_token(self) -> bytes:
        self._token += 1
        return b"%d" % self._token

    def _open(
        self,
        table: dict[bytes, _Open],
        token: bytes,
        subjects: tuple[str, ...],
        future: asyncio.Future[Any],
        timeout: float,
        expire: Callable[[asyncio.Future[Any]], None],
    ) -> None:
        deadline = self._loop.time() + timeout
        table[token] = _Open(subjects, future, deadline, expire)
        if self._sweep_timer is None:
            self._sweep_at = deadline
            self._sweep_timer = self._loop.call_at(deadline, self._sweep)
        elif deadline < self._sweep_at:
            self._sweep_timer.cancel()
            self._sweep_at = deadline
            self._sweep_timer = self._loop.call_at(deadline, self._sweep)

    def _sweep(self) -> None:
        now = self._loop.time()
        earliest: float | None = None
        for table in (self._appends, self._batches, self._requests):
            expired: list[bytes] = []
            for token, opened in table.items():
                if opened.deadline <= now or opened.future.done():
                    expired.append(token)
                elif earliest is None or opened.deadline < earliest:
                    earliest = opened.deadline
            for token in expired:
                opened = table.pop(token)
                if not opened.future.done():
                    opened.expire(opened.future)
        self._sweep_timer = None
        if earliest is not None:
            self._sweep_at = max(earliest, now + SWEEP_SECONDS)
            self._sweep_timer = self._loop.call_at(self._sweep_at, self._sweep)

    # -- appends ------------------------------------------------------------------------

    def append(self, append: Append, *, timeout: float) -> Awaitable[AppendOutcome]:
        """See `Transport.append`."""
        future: asyncio.Future[AppendOutcome] = self._loop.create_future()
        if not self._connected:
            future.set_result(Unknown(self._closed or _NO_CONNECTION))
            return future
        token = self._next_token()
        try:
            target = check_subject(append.subject) + b" " + self._append_prefix + token
            self._send(target, append_head(append), append.payload)
        except (AegisError, ValueError, OSError) as error:
            future.set_result(_not_sent(error))
            return future
        self._open(self._appends, token, (append.subject,), future, timeout, _not_answered)
        return future

    def _on_acknowledgement(
        self, subject: bytes, _reply: bytes, headers: bytes, payload: bytes
    ) -> None:
        opened = self._appends.pop(subject[len(self._append_prefix) :], None)
        if opened is not None and not opened.future.done():
            opened.future.set_result(_outcome(headers, payload))

    async def append_batch(self, appends: Sequence[Append], *, timeout: float) -> AppendOutcome:
        """See `Transport.append_batch`."""
        if not appends:
            raise ValueError("a batch needs at least one append")
        if len(appends) > MAX_BATCH:
            return Refused(conflict=False, code=413, reason=f"a batch holds at most {MAX_BATCH}")
        if not self._connected:
            return Unknown(self._closed or _NO_CONNECTION)
        token = self._next_token()
        batch = f"{self._prefix.rpartition('.')[2]}-{token.decode()}"
        try:
            messages = [
                (
                    check_subject(append.subject),
                    self._batch_head(append, batch, index, len(appends)),
                )
                for index, append in enumerate(appends, 1)
            ]
            for (_, head), append in zip(messages, appends, strict=True):
                size = len(head) + len(append.payload)
                if size > self.client.max_payload:
                    raise TooLarge(f"{size} bytes; the limit is {self.client.max_payload}")
            for (target, head), append in zip(messages, appends, strict=True):
                reply_to = b" " + self._batch_prefix + token
                self._send(target + reply_to, head, append.payload)
        except (AegisError, ValueError, OSError) as error:
            return _not_sent(error)
        future: asyncio.Future[AppendOutcome] = self._loop.create_future()
        subjects = tuple(append.subject for append in appends)
        self._open(self._batches, token, subjects, future, timeout, _not_answered)
        try:
            return await future
        finally:
            self._batches.pop(token, None)

    @staticmethod
    def _batch_head(append: Append, batch: str, index: int, size: int) -> bytes:
        headers = {
            **(append_headers(append) or {}),
            "Nats-Batch-Id": batch,
            "Nats-Batch-Sequence": str(index),
        }
        if index == size:
            headers["Nats-Batch-Commit"] = "1"
        return encode_headers(headers)

    def _on_batch_acknowledgement(
        self, subject: bytes, _reply: bytes, headers: bytes, payload: bytes
    ) -> None:
        if not payload and not headers:
            return  # A message of the batch was staged; only the last one commits.
        opened = self._batches.pop(subject[len(self._batch_prefix) :], None)
        if opened is not None and not opened.future.done():
            opened.future.set_result(_outcome(headers, payload))

    # -- reads --------------------------------------------------------------------------

    def read(
        self, subject: str, *, start: int = 1, until: int | None = None
    ) -> AsyncIterator[Stored]:
        """See `Transport.read`."""
        check_filter(subject)
        return ordered_read(self, subject, start, until, endless=False)

    def follow(self, subject: str, *, start: int = 1) -> AsyncIterator[Stored]:
        """See `Transport.follow`."""
        check_filter(subject)
        return ordered_read(self, subject, start, None, endless=True)

    # -- JetStream's API ------------------------------------------------------------------

    async def api(
        self, endpoint: str, body: object = None, *, timeout: float = API_TIMEOUT_SECONDS
    ) -> dict[str, Any]:
        """Call JetStream's API.

        Raises:
            ApiError: JetStream said no.
            NoResponders: there is no JetStream, or not yet.
            TimeoutError, Disconnected: there was no answer.
        """
        payload = b"" if body is None else json.dumps(body).encode()
        reply = await self.request(f"{API}.{endpoint}", payload, timeout=timeout)
        return api_reply(reply.payload)

    async def stream_of(self, subject: str) -> str:
        """Return the name of the stream that keeps ``subject`` (wildcards allowed).

        Raises:
            NotFound: there is none.
        """
        for known, kept in self._streams.items():
            if any(matches(pattern, subject) for pattern in kept):
                return known
        reply = await self.api("STREAM.NAMES", {"subject": subject})
        names: list[str] = reply.get("streams") or []
        if len(names) != 1:
            found = f"several streams keep {subject}" if names else f"no stream keeps {subject}"
            raise NotFound(found)
        name = names[0]
        info = await self.api(f"STREAM.INFO.{name}")
        patterns: list[str] = info["config"].get("subjects") or []
        self._streams[name] = patterns
        return name

    def forget_stream(self, name: str) -> None:
        """Ask anew which stream keeps the subjects of one that is gone."""
        self._streams.pop(name, None)

    async def last_sequence(self, subject: str) -> int:
        """See `Transport.last_sequence`."""
        check_filter(subject)
        try:
            with _unavailable(f"the last message of {subject}"):
                stream = await self.stream_of(subject)
                # Of several servers only the leader of the stream answers.
                last = await self.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
                return int(last["message"]["seq"])
        except ApiError as error:
            if error.code == 404 and error.error_code != STREAM_NOT_FOUND:
                return 0
            raise Unavailable(f"the last message of {subject}: {error}") from error

    async def purge(self, subject: str, *, below: int) -> int:
        """See `Transport.purge`."""
        check_subject(subject)
        try:
            with _unavailable(f"purge of {subject}"):
                stream = await self.stream_of(subject)
                last = await self.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
                bound = min(below, int(last["message"]["seq"]))
                if bound <= 1:
                    return 0
                purged = await self.api(f"STREAM.PURGE.{stream}", {"filter": subject, "seq": bound})
                return int(purged.get("purged", 0))
        except ApiError as error:
            if error.code == 404 and error.error_code != STREAM_NOT_FOUND:
                return 0  # The subject has no message.
            raise Unavailable(f"purge of {subject}: {error}") from error

    async def usage(self, stream: str) -> StreamUsage:
        """See `Transport.usage`."""
        try:
            with _unavailable(f"stream {stream}"):
                info = await self.api(f"STREAM.INFO.{stream}")
        except ApiError as error:
            if error.error_code == STREAM_NOT_FOUND:
                raise NotFound(f"there is no stream {stream}") from error
            raise Unavailable(f"stream {stream}: {error}") from error
        state = info["state"]
        return StreamUsage(
            int(state["bytes"]),
            int(info["config"]["max_bytes"]),
            int(state["last_seq"]),
            # Of a stream that was never written to the server says 0.
            max(1, int(state["first_seq"])),
        )

    async def streams(self, subject: str) -> list[StreamFacts]:
        """See `Transport.streams`."""
        found: list[StreamFacts] = []
        try:
            with _unavailable(f"the streams of {subject}"):
                while True:
                    wanted = {"subject": subject, "offset": len(found)}
                    reply = await self.api("STREAM.LIST", wanted)
                    page: list[dict[str, Any]] = reply.get("streams") or []
                    found += map(facts_of, page)
                    if not page or len(found) >= int(reply.get("total", 0)):
                        return sorted(found, key=lambda one: one.name)
        except ApiError as error:
            raise Unavailable(f"the streams of {subject}: {error}") from error

    async def ensure_stream(self, config: StreamConfig) -> None:
        """See `Transport.ensure_stream`."""
        self._check_open()
        check_server(self.client.server_info)
        give_up = self._loop.time() + READY_TIMEOUT_SECONDS
        try:
            with _unavailable(f"stream {config.name}"):
                found = await self._found_or_created(config, give_up)
        except ApiError as error:
            raise create_problem(config, error) from error
        except NoResponders as error:
            raise ConfigurationError(
                "JetStream does not answer; is it enabled for this account?"
            ) from error
        differences = stream_differences(found["config"], config)
        if differences:
            raise ConfigurationError(f"stream {config.name}: {'; '.join(differences)}")
        self._streams[config.name] = list(config.subjects)

    async def _found_or_created(self, config: StreamConfig, give_up: float) -> dict[str, Any]:
        while True:
            try:
                return await self._find_or_create(config)
            except (NoResponders, TimeoutError, ApiError) as error:
                # Servers that have just started, or elect a leader, need a moment.
                if isinstance(error, ApiError) and not error.may_pass:
                    raise
                if self._loop.time() >= give_up:
                    raise
            await asyncio.sleep(READY_PAUSE_SECONDS)

    async def _find_or_create(self, config: StreamConfig) -> dict[str, Any]:
        try:
            return await self.api(f"STREAM.INFO.{config.name}")
        except ApiError as error:
            if error.error_code != STREAM_NOT_FOUND:
                raise
        try:
            return await self.api(f"STREAM.CREATE.{config.name}", stream_request(config))
        except AccessDenied as error:
            raise AccessDenied(
                f"there is no stream {config.name}, and {error}; a node that may create it has "
                "to be started first",
                **error.facts,
            ) from error
        except ApiError as error:
            if error.error_code != STREAM_NAME_IN_USE:
                raise
        # Another node created it at the same moment.
        return await self.api(f"STREAM.INFO.{config.name}")


class _unavailable:
    """Turns a timeout inside into `Unavailable`."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, TimeoutError):
            raise Unavailable(f"{self._what}: the server did not answer in time") from error


def _plain(subject: str) -> bytes:
    """Return ``subject`` as bytes, if it cannot break out of its place in the protocol."""
    if (
        not subject
        or " " in subject
        or not subject.isprintable()
        or len(subject) > MAX_SUBJECT_BYTES
    ):
        check_subject(subject)
        raise ValueError(f"not a valid subject: {subject[:80]!r}")
    return subject.encode()


class _Known(dict[str, bytes]):
    """`_plain` of subjects that come again and again, at the price of one look-up.

    When it is full it begins anew: to know the oldest would cost more than it saves.
    """

    def __missing__(self, subject: str) -> bytes:
        if len(self) >= KNOWN_SUBJECTS:
            self.clear()
        plain = self[subject] = _plain(subject)
        return plain


def _check_unsent(size: int) -> None:
    if size > MAX_UNSENT_BYTES:
        raise Disconnected("the server does not read what is sent to it")


def _too_large(target: bytes, size: int, limit: int) -> TooLarge:
    return TooLarge(
        f"the message to {target.split()[0].decode()} has {size} bytes; the limit is {limit}",
        size_bytes=size,
        limit_bytes=limit,
    )


def _message(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> Message:
    if not headers:
        return Message(subject.decode(), payload, reply.decode())
    no_responders = not payload and status_of(headers) == 503
    return Message(subject.decode(), payload, reply.decode(), RawHeaders(headers), no_responders)


def _decoded(handler: MessageHandler) -> RawHandler:
    def handle(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        if headers:
            handler(_message(subject, reply, headers, payload))
        else:
            handler(Message(subject.decode(), payload, reply.decode()))

    return handle


def _outcome(headers: bytes, payload: bytes) -> AppendOutcome:
    if headers and not payload and status_of(headers) == 503:
        # Nobody took it, so nothing is stored: JetStream is away for a moment, or the
        # stream does not exist.
        return Refused(conflict=False, again=True, code=503, reason="no stream listens")
    return outcome_of(payload)


def _not_sent(error: Exception) -> AppendOutcome:
    if isinstance(error, TooLarge):
        return Refused(conflict=False, code=413, reason=error.message)
    if isinstance(error, ValueError):
        return Refused(conflict=False, code=400, reason=str(error))
    return Unknown(str(error))


def _not_answered(future: asyncio.Future[Any]) -> None:
    future.set_result(Unknown("no answer in time"))


def _time_out(future: asyncio.Future[Any]) -> None:
    future.set_exception(TimeoutError("no answer in time"))


def _fatal_problem(error: Exception, text: str) -> ConfigurationError | None:
    """Return why the first connect cannot succeed, if trying again will not help."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConfigurationError(
            f"tls_ca: the server's certificate is not trusted ({error.verify_message}); "
            "name the file of the authority that signed it"
        )
    if isinstance(error, ssl.SSLError) and "ALERT" in str(error.reason):
        asked = "CERTIFICATE_REQUIRED" in str(error.reason)
        return ConfigurationError(
            "tls_cert: the server wants a certificate of this client; name one with its tls_key"
            if asked
            else f"tls_cert: the server refuses this client ({error.reason}); is its certificate "
            "of an authority that the server trusts?"
        )
    if isinstance(error, ssl.SSLError):
        return ConfigurationError(f"tls: the handshake failed ({error.reason or error})")
    if "secure connection" in text:
        return ConfigurationError("tls: is asked for, but the server does not speak TLS")
    if "authorization" in text or "authentication" in text:
        return ConfigurationError(
            "the server does not let us in; check user and password, or creds"
        )
    return None


def _guarded(callback: Callable[..., None], *arguments: str) -> None:
    try:
        callback(*arguments)
    except Exception:
        _log.exception("connection listener failed")
