"""The client: calls actors by address from outside, or from within a node."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from pathlib import PurePath
from types import TracebackType
from typing import Any, Self, cast, overload

import attrs

from aegis._clock import Clock, SystemClock
from aegis._config import ConnectOptions, connect_options
from aegis._config_sources import Sources
from aegis._connection import open_connection
from aegis._proxy import Address, RemoteProxy
from aegis._remote_ref import Background, RemoteRef
from aegis._subjects import Subjects
from aegis.actors._client import Client, ClientStatistics
from aegis.actors._directory import Directory
from aegis.actors._handlers import ActorSpec, describe
from aegis.actors._mailbox import current_envelope
from aegis.contracts import Kind, Request
from aegis.errors import AegisError, CommandInCommand, InvalidRequest
from aegis.transport._base import Transport
from aegis.transport._convert import to_plain

__all__ = [
    "BlockingCluster",
    "Cluster",
    "Connecting",
    "Opened",
    "connect",
    "connect_blocking",
    "open_over",
]

DEFAULT_TIMEOUT = 5.0
"""Seconds that a call may take, unless it or its connection says otherwise."""


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
    ) -> None:
        self.transport = transport
        self.subjects = subjects
        self.timeout = timeout
        self.background = Background(asyncio.get_running_loop())
        self._client = client

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
        service name or address. ``timeout`` is in seconds, for each call.
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

        Whatever ``timeout`` (seconds), a command takes effect at most once: retries
        repeat the same message.

        Raises:
            AegisError: the class that stands for the answer's status; `OutcomeUnknown`
                if the time was up and nobody can tell whether it took effect.
        """
        plain = {name: to_plain(value) for name, value in (params or {}).items()}
        address = Address(service, resource_id, instance_id)
        return await self.call_handler(address, method, plain, "command", timeout)

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
        limit = self.timeout if timeout is None else timeout
        if not limit > 0:
            raise InvalidRequest("timeout: must be more than 0 seconds", field="timeout")
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
            _refuse_in_command(address, method)


def _named(service: Any, resource_id: str | None) -> tuple[Address, ActorSpec | None]:
    """Return the address that a class or a name stands for, and what the class offers."""
    if isinstance(service, str):
        address = Address.parse(service)
        return (address if resource_id is None else Address(address.service, resource_id)), None
    spec = describe(service)
    return Address(spec.service, resource_id), spec


def _refuse_in_command(address: Address, method: str) -> None:
    envelope = current_envelope.get()
    if envelope is None or envelope.finished or not isinstance(envelope.message, Request):
        return
    if envelope.message.kind == Kind.COMMAND:
        raise CommandInCommand(
            f"{envelope.message.method} is a command and must not await another actor's command, "
            f"{address} {method}: after a crash its second run could ask for something else. "
            "Ask in a query, or before, or call a query through a typed proxy"
        )


class Connecting:
    """``async with aegis.connect() as cluster``, or ``cluster = await aegis.connect()``."""

    def __init__(self, options: ConnectOptions) -> None:
        self._options = options
        self._opened: Opened | None = None

    async def __aenter__(self) -> Cluster:
        self._opened = await _open(self._options)
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


async def _open(options: ConnectOptions) -> Opened:
    connection = await open_connection(options, name=f"aegis-client-{secrets.token_hex(4)}")
    try:
        opened = await open_over(connection.transport, options)
    except BaseException:
        await connection.close()
        raise

    async def close() -> None:
        await opened.close()
        await connection.close()

    return Opened(opened.cluster, close)


async def open_over(
    transport: Transport, options: ConnectOptions, clock: Clock | None = None
) -> Opened:
    """Return a cluster over a transport that is open; closing it leaves the transport."""
    subjects = Subjects(options.namespace)
    clock = clock or SystemClock()
    directory = Directory(transport, subjects, clock)
    await directory.start()
    client = Client(transport, subjects, clock, directory)
    await client.start()

    async def close() -> None:
        await client.close()
        await directory.stop()

    return Opened(Cluster(transport, client, subjects, timeout=options.timeout), close)


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
    return Connecting(_options(nats, options, settings))


def _options(
    nats: str | tuple[str, ...], options: ConnectOptions | None, settings: dict[str, Any]
) -> ConnectOptions:
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


class BlockingCluster:
    """A `Cluster` for threads and scripts: calls block. Made by `connect_blocking`.

    An event loop in a thread of its own does the work; any number of threads may call.
    """

    def __init__(self, options: ConnectOptions) -> None:
        self._options = options
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._opened: Opened | None = None

    def __enter__(self) -> Self:
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="aegis-client", daemon=True)
        self._thread.start()
        try:
            self._opened = self._run(_open(self._options))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        opened, self._opened = self._opened, None
        try:
            if opened is not None:
                self._run(_awaited(opened.close()))
        finally:
            self._end()

    @overload
    def actor[A](
        self, service: type[A], resource_id: str | None = None, *, timeout: float | None = None
    ) -> _BlockingProxy: ...
    @overload
    def actor(
        self, service: str, resource_id: str | None = None, *, timeout: float | None = None
    ) -> _BlockingProxy: ...
    def actor(
        self, service: Any, resource_id: str | None = None, *, timeout: float | None = None
    ) -> _BlockingProxy:
        """Return a proxy of an actor whose handlers, called, block for their result."""
        return _BlockingProxy(self, self._cluster.actor(service, resource_id, timeout=timeout))

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
        """Return a ref of an actor, whose ``ask`` may ``block``."""
        return self._cluster.ref(service, resource_id, timeout=timeout)

    def call(
        self,
        service: str,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        resource_id: str | None = None,
        instance_id: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Call a handler by name and return its plain result, as `Cluster.call` does."""
        return self._run(
            self._cluster.call(
                service,
                method,
                params,
                resource_id=resource_id,
                instance_id=instance_id,
                timeout=timeout,
            )
        )

    @property
    def _cluster(self) -> Cluster:
        if self._opened is None:
            raise AegisError("not connected: use it inside `with aegis.connect_blocking()`")
        return self._opened.cluster

    def _run[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _end(self) -> None:
        loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
        self._loop = self._thread = None


class _BlockingProxy:
    """Stands for one address; handlers block the calling thread."""

    def __init__(self, cluster: BlockingCluster, proxy: Any) -> None:
        self._cluster = cluster
        self._proxy = proxy

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = cast("Callable[..., Awaitable[Any]]", getattr(self._proxy, name))

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._cluster._run(_awaited(method(*args, **kwargs)))

        call.__name__ = name
        return call


async def _awaited[T](awaitable: Awaitable[T]) -> T:
    return await awaitable


def connect_blocking(
    nats: str | tuple[str, ...] = (),
    *,
    options: ConnectOptions | None = None,
    **settings: Any,
) -> BlockingCluster:
    """Return a connection for threads: ``with aegis.connect_blocking() as cluster``.

    Arguments and errors are those of `connect`.
    """
    return BlockingCluster(_options(nats, options, settings))
