"""The client: calls actors by address from outside, or from within a node."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from pathlib import PurePath
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import attrs

from aegis._clock import Clock, SystemClock
from aegis._config import ConnectOptions, connect_options
from aegis._config_sources import Sources
from aegis._connection import open_connection
from aegis._opentelemetry import current_tracer
from aegis._proxy import Address, RemoteProxy, stream_of
from aegis._remote_ref import Background, RemoteRef
from aegis._subjects import Subjects
from aegis._trace import outgoing_traceparent
from aegis.actors._client import Client, ClientStatistics, Unresolved
from aegis.actors._deadline import time_left
from aegis.actors._directory import Directory
from aegis.actors._handlers import ActorSpec, describe
from aegis.actors._journal import RESERVED_BYTES
from aegis.actors._kept_topics import KeptTopics
from aegis.actors._mail_desk import RESULT_METHOD
from aegis.actors._mailbox import current_envelope
from aegis.actors._plain_command import plain_command, plain_named
from aegis.actors._publication import KeptPublication, Publication, plain_publication
from aegis.actors._reply_stream import DEFAULT_WINDOW, ReplyStream
from aegis.actors._sender import MailSender
from aegis.actors._topic import topic_problem
from aegis.actors._tracer import Tracer
from aegis.actors._withdrawal import WITHDRAW_METHOD
from aegis.contracts import Kind, Receipt, Request
from aegis.errors import (
    AegisError,
    CommandInCommand,
    DeadlineExpired,
    InvalidRequest,
    Moved,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from aegis.transport._base import StreamFacts, Transport

if TYPE_CHECKING:
    from aegis.marketdata._ticks import TickStream

__all__ = [
    "Cluster",
    "Connecting",
    "Opened",
    "connect",
    "connected_options",
    "open_cluster",
    "open_over",
]

DEFAULT_TIMEOUT = 5.0
"""Seconds that a call may take, unless it or its connection says otherwise."""

RESULT_RETRY_SECONDS = 0.2
"""How often an owner is looked for that is to tell the reply to a message."""


class Cluster:
    """One system of actors, as seen by a caller. Made by `connect`.

    Belongs to the event loop it was opened on.
    """

    def __init__(
        self,
        transport: Transport,
        client: Client,
        subjects: Subjects,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        clock: Clock | None = None,
        tracer: Tracer | None = None,
        kept_topics: KeptTopics | None = None,
    ) -> None:
        self.transport = transport
        self.subjects = subjects
        self.timeout = timeout
        self.tracer = tracer
        self.sender = MailSender(transport, subjects, clock or SystemClock(), tracer=tracer)
        """By which durable messages leave."""
        self.kept_topics = kept_topics or KeptTopics(transport, subjects)
        """What is published for these is stored."""
        self.background = Background(asyncio.get_running_loop())
        self._client = client
        self._loop = asyncio.get_running_loop()

    @overload
    def actor[A](
        self, service: type[A], resource_id: str | None = None, *, timeout: float | None = None
    ) -> A: ...
    @overload
    def actor(
        self, service: str, resource_id: str | None = None, *, timeout: float | None = None
    ) -> Any: ...
    def actor(
        self, service: Any, resource_id: str | None = None, *, timeout: float | None = None
    ) -> Any:
        """Return a proxy of an actor: each handler, called, gives an awaitable.

        ``service`` is the actor's class, and then the proxy is typed like it, or a
        service name or address. ``timeout`` is in seconds, for each call; by default the
        connection's.
        """
        return RemoteProxy(self, *_named(service, resource_id), timeout)

    @overload
    def ref[A](
        self, service: type[A], resource_id: str | None = None, *, timeout: float | None = None
    ) -> RemoteRef[A]: ...
    @overload
    def ref(
        self, service: str, resource_id: str | None = None, *, timeout: float | None = None
    ) -> RemoteRef[Any]: ...
    def ref(
        self, service: Any, resource_id: str | None = None, *, timeout: float | None = None
    ) -> RemoteRef[Any]:
        """Return a ref of an actor: ask, tell and proxy as with those of this process.

        The arguments are those of `actor`.
        """
        return RemoteRef(self, *_named(service, resource_id), timeout)

    async def call(
        self,
        service: str,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        resource_id: str | None = None,
        instance_id: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Call a handler by name and return its plain result.

        Whatever ``timeout`` (seconds, by default the connection's), a command takes effect
        at most once: retries repeat the same message.

        Raises:
            AegisError: the class that stands for the answer's status; `OutcomeUnknown`
                if the time was up and nobody can tell whether it took effect.
        """
        plain = plain_named(params or {})
        address = Address(service, resource_id, instance_id)
        return await self.call_handler(address, method, plain, "command", timeout)

    def stream(
        self,
        service: str,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        resource_id: str | None = None,
        instance_id: str | None = None,
        timeout: float | None = None,
        window: int = DEFAULT_WINDOW,
    ) -> ReplyStream[Any]:
        """Iterate over what a query yields, as plain values: ``async for item in ...``.

        ``timeout`` (seconds) is for each item. At most ``window`` items are produced
        ahead of what has been taken. See `ReplyStream` for how it ends.
        """
        plain = plain_named(params or {})
        address = Address(service, resource_id, instance_id)
        return stream_of(self, address, method, plain, _as_is, window=window, timeout=timeout)

    def ticks(self, *patterns: str, **options: Any) -> TickStream:
        """Iterate over the ticks of a market: ``async for tick in cluster.ticks("SHFE.rb*")``.

        First comes how each contract stands, then every change; what was missed is told. It
        is `aegis.marketdata.ticks`, which says more, and takes the same ``options``.
        """
        # The runtime knows no market: what serves one is loaded by who asks for it.
        stream: TickStream = import_module("aegis.marketdata").ticks(self, *patterns, **options)
        return stream

    async def publish(self, topic: str, value: Any) -> None:
        """Send ``value`` to whoever subscribes to ``topic`` now, at most once.

        If a stream keeps the topic, since somebody subscribes durably, it returns when
        the value is stored there, once, behind all that was published before it here.

        Raises:
            InvalidRequest: the topic has no legal form, or the value none on the wire.
            TooLarge: the value is larger than a message may be.
            Disconnected: there is no server; nothing is kept to be sent later.
            Overloaded: the stream takes no more, or too much waits here; it is not stored.
            Unavailable: the server could not be reached in time; it is not stored.
            OutcomeUnknown: the time was up and nobody can tell whether it is stored.
        """
        await self.kept_topics.load()
        await self.publication(topic, value).send(self.timeout)

    def is_kept(self, topic: str) -> bool:
        """Whether a stream keeps ``topic``, as far as is known here."""
        return self._stream_of(topic) is not None

    def _stream_of(self, topic: str) -> StreamFacts | None:
        return None if topic_problem(topic) is not None else self.kept_topics.find(topic)

    def publication(self, topic: str, value: Any) -> Publication | KeptPublication:
        """Return ``value`` as what leaves for ``topic``; raises as `publish` does."""
        stream = self._stream_of(topic)
        if stream is None:
            return Publication.of(self.transport, self.subjects, topic, value)
        return KeptPublication(
            self.sender,
            stream,
            self.subjects.topic(topic),
            topic,
            plain_publication(topic, value),
            outgoing_traceparent(),
            self.transport.max_payload_bytes - RESERVED_BYTES,
        )

    async def send(
        self,
        service: Any,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        resource_id: str | None = None,
        timeout: float | None = None,
    ) -> Receipt:
        """Send a command to a resource for good: it takes effect there exactly once.

        Returns as soon as the message is in the resource's mailbox, where it waits
        until an owner is there, whoever that will be: nobody need ever have registered
        the service. Messages of this connection to one resource take effect in the order
        in which they were sent. ``service`` is a name, an address ``service/resource``,
        or the actor's class, and then the parameters are checked. ``timeout`` (seconds, by
        default the connection's) is for the way into the mailbox. The reply can be had by
        `result`.

        Raises:
            InvalidRequest: a parameter or a name is wrong, or no resource is named.
            Overloaded: the stream is so full that sends are stopped; nothing was sent.
            Unavailable: the server could not be reached in time; nothing was sent.
            OutcomeUnknown: the time was up and nobody can tell whether it was sent.
            CommandInCommand: it was called inside a command; use ``self.send`` there.
        """
        if isinstance(service, str):
            address = Address.parse(service)
            service = address.service
            resource_id = address.resource_id if resource_id is None else resource_id
            if address.instance_id is not None:
                raise InvalidRequest(
                    "a durable message goes to a resource, not to an instance", field="instance_id"
                )
        name, command, plain = plain_command(service, method, dict(params or {}))
        if resource_id is None:
            raise InvalidRequest(
                f"{name}: a durable message goes to a resource; name one "
                "(resource_id, or an address service/resource)",
                field="resource_id",
            )
        what = f"send to {name}/{resource_id}"
        refuse_in_command(what, instead="use self.send, which leaves with it")
        limit = self._limit(timeout, what)
        return await self.sender.send(name, resource_id, command, plain, timeout=limit)

    async def result(self, receipt: Receipt, *, timeout: float | None = None) -> Any:
        """Return the plain result of a message that was sent, as soon as there is one.

        Waits for an owner too, if there is none, for ``timeout`` seconds (by default the
        connection's). Of each resource the last 1,000 replies are kept.

        Raises:
            AegisError: the class that stands for the answer's status, if the message was
                refused or failed.
            TooOld: it was dealt with, but its reply is not kept any more.
            OutcomeUnknown: the time was up; the message waits, and will take effect.
        """
        limit = self._limit(timeout, f"the result of {receipt.message_id}")
        deadline = self._loop.time() + limit
        params = {"message_id": receipt.message_id, "sequence": receipt.sequence}
        reason: AegisError | None = None
        while (left := deadline - self._loop.time()) > 0:
            try:
                return await self._client.call(
                    receipt.service,
                    RESULT_METHOD,
                    params,
                    resource=receipt.resource_id,
                    kind="query",
                    timeout=left,
                )
            except (NotFound, Unavailable, DeadlineExpired, Moved) as error:
                if not _is_about_the_address(error):
                    raise
                # No owner; it may come at any time.
                reason = error
                await asyncio.sleep(min(RESULT_RETRY_SECONDS, max(0.0, left)))
        text = f" ({reason.message})" if reason is not None else ""
        raise OutcomeUnknown(
            f"message {receipt.message_id} has no reply yet{text}: it waits in its mailbox",
            message_id=receipt.message_id,
        )

    async def resolve(self, unknown: OutcomeUnknown, *, timeout: float | None = None) -> Any:
        """Return the result of a call that ended in `OutcomeUnknown`, or end it for good.

        If the command took effect, this returns its result or raises its error, as the
        call would have. If it did not, it never will: that raises `DeadlineExpired`, and
        the command may be given anew. ``timeout`` is in seconds, by default the connection's.

        Raises:
            AegisError: what the command answered.
            DeadlineExpired: the command did not run, and never will.
            TooOld: it can run no more, but nobody can tell whether it did: its reply
                is not kept any more. At most 64 calls to an address can be resolved.
            OutcomeUnknown: nobody could be asked in time; try again.
            InvalidRequest: ``unknown`` is not of a call of this system.
        """
        facts = unknown.facts
        session, _, n = str(facts.get("message_id", "")).rpartition("-")
        if not n.isdecimal() or "service" not in facts:
            raise InvalidRequest(
                "only the OutcomeUnknown of a call can be resolved: it names the message",
                field="unknown",
            )
        refuse_in_command("resolve", instead="call it before, or in a query")
        return await self._client.call(
            facts["service"],
            WITHDRAW_METHOD,
            {},
            resource=facts["resource_id"],
            timeout=self._limit(timeout, f"resolve {facts['message_id']}"),
            again=Unresolved(session, int(n), int(facts["first_sent_ms"])),
        )

    @property
    def directory(self) -> Directory:
        """What is known here of who owns what."""
        return self._client.directory

    def statistics(self) -> ClientStatistics:
        """Return how many calls are open, and how many sessions are kept."""
        return self._client.statistics()

    async def call_handler(
        self,
        address: Address,
        method: str,
        params: dict[str, Any],
        kind: str,
        timeout: float | None,
    ) -> Any:
        """Call a handler with plain params; return its plain result."""
        self.check_allowed(address, method, kind)
        limit = self._limit(timeout, address, method)
        return await self._client.call(
            address.service,
            method,
            params,
            resource=address.resource_id,
            instance=address.instance_id,
            kind=kind,
            timeout=limit,
        )

    def check_allowed(self, address: Address, method: str, kind: str) -> None:
        """Refuse a call that the handler which makes it must not make.

        Raises:
            CommandInCommand: it is a command, and inside of a command.
        """
        if kind == Kind.COMMAND:
            refuse_in_command(
                "await another actor's command,",
                address,
                method,
                instead="ask in a query, or before, call a query through a typed proxy, or use "
                "self.send: after a crash the second run could ask for something else",
            )

    def _limit(self, timeout: float | None, *what: object) -> float:
        limit = self.timeout if timeout is None else timeout
        if not limit > 0:
            raise InvalidRequest("timeout: must be more than 0 seconds", field="timeout")
        # A handler has no more time for others than its own caller gave it.
        limit = min(limit, time_left())
        if limit <= 0:
            raise DeadlineExpired(
                f"{_text(what)}: the deadline of the call that it is made for has passed"
            )
        return limit


def _as_is(value: Any) -> Any:
    return value


def _named(service: Any, resource_id: str | None) -> tuple[Address, ActorSpec | None]:
    """Return the address that a class or a name stands for, and what the class offers."""
    if isinstance(service, str):
        address = Address.parse(service)
        return (address if resource_id is None else Address(address.service, resource_id)), None
    spec = describe(service)
    return Address(spec.service, resource_id), spec


def _text(words: tuple[object, ...]) -> str:
    # Of an address only where somebody reads it: calls are too many to write it each time.
    return " ".join(map(str, words))


def refuse_in_command(*what: object, instead: str) -> None:
    """Refuse what a running command must not do, in words.

    Raises:
        CommandInCommand: one is running.
    """
    envelope = current_envelope.get()
    if envelope is None or envelope.finished or not isinstance(envelope.message, Request):
        return
    if envelope.message.kind == Kind.COMMAND:
        raise CommandInCommand(
            f"{envelope.message.method} is a command and must not {_text(what)}; {instead}"
        )


def _is_about_the_address(error: AegisError) -> bool:
    """Whether it says that nobody could be asked, and is no handler's own answer."""
    return not error.facts.get("withdrawn") and "method" not in error.facts


class Connecting:
    """``async with aegis.connect() as cluster``, or ``cluster = await aegis.connect()``."""

    def __init__(self, options: ConnectOptions) -> None:
        self._options = options
        self._opened: Opened | None = None

    async def __aenter__(self) -> Cluster:
        self._opened = await open_cluster(self._options)
        return self._opened.cluster

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._opened is not None:
            await self._opened.close()


class Opened:
    """A cluster, and how to close it."""

    def __init__(self, cluster: Cluster, close: Callable[[], Awaitable[None]]) -> None:
        self.cluster = cluster
        self.close = close


async def open_cluster(options: ConnectOptions) -> Opened:
    """Connect to a server, and return a cluster over that."""
    connection = await open_connection(options, name=f"aegis-client-{secrets.token_hex(4)}")
    try:
        opened = await open_over(connection.transport, options, tracer=current_tracer())
    except BaseException:
        await connection.close()
        raise

    async def close() -> None:
        await opened.close()
        await connection.close()

    return Opened(opened.cluster, close)


async def open_over(
    transport: Transport,
    options: ConnectOptions,
    clock: Clock | None = None,
    tracer: Tracer | None = None,
) -> Opened:
    """Return a cluster over a transport that is open; closing it leaves the transport."""
    subjects = Subjects(options.namespace)
    clock = clock or SystemClock()
    directory = Directory(transport, subjects, clock)
    await directory.start()
    client = Client(transport, subjects, clock, directory, tracer=tracer)
    await client.start()
    cluster = Cluster(
        transport, client, subjects, timeout=options.timeout, clock=clock, tracer=tracer
    )

    async def close() -> None:
        cluster.kept_topics.close()
        await cluster.sender.close()
        await client.close()
        await directory.stop()

    return Opened(cluster, close)


def connect(
    nats: str | tuple[str, ...] = (),
    *,
    options: ConnectOptions | None = None,
    **settings: Any,
) -> Connecting:
    """Return a connection to enter: ``async with aegis.connect() as cluster``.

    ``nats`` is a URL or several with commas between them; without, it is
    ``AEGIS_NATS_URL``, or else the server that ``aegis run`` started on this host.
    ``settings`` are those of `ConnectOptions` (``user``, ``password``, ``creds``,
    ``tls_ca``, ``namespace``, ``timeout``, ...); what is left out comes from ``AEGIS_*``
    variables or ``aegis.toml``. ``options`` has all of them at once.

    Raises:
        ConfigurationError: a setting is wrong.
        Unavailable: there is no server (both when it is entered).
    """
    return Connecting(connected_options(nats, options, settings))


def connected_options(
    nats: str | tuple[str, ...], options: ConnectOptions | None, settings: dict[str, Any]
) -> ConnectOptions:
    """Return the options that the arguments of `connect` stand for."""
    known = {field.name for field in attrs.fields(ConnectOptions)}
    for name in settings:
        if name not in known:
            names = ", ".join(sorted(known))
            raise TypeError(f"connect() has no setting {name!r}; there are: {names}")
    settings = {
        name: str(value) if isinstance(value, PurePath) else value
        for name, value in settings.items()
    }
    if nats:
        settings = {**settings, "nats": nats if isinstance(nats, str) else ",".join(nats)}
    if options is None:
        return connect_options(Sources.read(settings, flags=False))
    given = connect_options(Sources(settings, {}, flags=False))
    return attrs.evolve(options, **{name: getattr(given, name) for name in settings})
