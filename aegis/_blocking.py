"""The client for threads and scripts: what a `Cluster` does, with calls that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Self, cast, overload

from aegis._cluster import Cluster, Opened, connected_options, open_cluster
from aegis._config import ConnectOptions
from aegis._remote_ref import RemoteRef
from aegis.actors._reply_stream import ReplyStream
from aegis.contracts import Receipt
from aegis.errors import AegisError

if TYPE_CHECKING:
    from aegis.marketdata._follower import TickGap
    from aegis.marketdata._tick import Tick
    from aegis.marketdata._ticks import TickStream

__all__ = ["BlockingCluster", "connect_blocking"]


def _blocking[**P, R](
    method: Callable[Concatenate[Cluster, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[BlockingCluster, P], R]:
    """Return a method that does what one of `Cluster` does, and blocks for its result."""

    @wraps(method)
    def blocking(self: BlockingCluster, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._run(method(self._cluster, *args, **kwargs))

    return blocking


def _blocking_stream[**P, T](
    method: Callable[Concatenate[Cluster, P], ReplyStream[T]],
) -> Callable[Concatenate[BlockingCluster, P], Generator[T]]:
    """Return the same of one that gives items one by one."""

    @wraps(method)
    def blocking(self: BlockingCluster, /, *args: P.args, **kwargs: P.kwargs) -> Generator[T]:
        async def begin() -> ReplyStream[T]:
            return method(self._cluster, *args, **kwargs)

        return self._iterate(self._run(begin()))

    return blocking


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
            self._opened = self._run(open_cluster(self._options))
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

    call = _blocking(Cluster.call)
    stream = _blocking_stream(Cluster.stream)
    publish = _blocking(Cluster.publish)
    send = _blocking(Cluster.send)
    result = _blocking(Cluster.result)
    resolve = _blocking(Cluster.resolve)

    def actor(
        self, service: Any, resource_id: str | None = None, *, timeout: float | None = None
    ) -> _BlockingProxy:
        """Return a proxy of an actor whose handlers, called, block for their result.

        The arguments are those of `Cluster.actor`.
        """
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

    def ticks(self, *patterns: str, **options: Any) -> _BlockingTicks:
        """Iterate over the ticks of a market: ``for tick in cluster.ticks("SHFE.rb*")``.

        The arguments are those of `Cluster.ticks`; ``take_gaps()`` tells what was missed.
        """

        async def begin() -> TickStream:
            return self._cluster.ticks(*patterns, **options)

        return _BlockingTicks(self, self._run(begin()))

    def _iterate[T](self, stream: ReplyStream[T] | AsyncGenerator[T]) -> Generator[T]:
        try:
            while True:
                try:
                    item = self._run(_awaited(stream.__anext__()))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            if self._opened is not None:
                self._run(_awaited(stream.aclose()))

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


class _BlockingTicks:
    """A stream of ticks whose iteration blocks; it ends when it is left."""

    def __init__(self, cluster: BlockingCluster, stream: TickStream) -> None:
        self._cluster = cluster
        self._stream = stream

    def __iter__(self) -> Generator[Tick]:
        return self._cluster._iterate(aiter(self._stream))

    def take_gaps(self) -> list[TickGap]:
        """Return what was missed right before the tick at hand."""

        async def take() -> list[TickGap]:
            return self._stream.take_gaps()

        return self._cluster._run(take())


class _BlockingProxy:
    """Stands for one address; handlers block the calling thread."""

    def __init__(self, cluster: BlockingCluster, proxy: Any) -> None:
        self._cluster = cluster
        self._proxy = proxy

    def __getattr__(self, name: str) -> _BlockingMethod:
        return _BlockingMethod(self._cluster, getattr(self._proxy, name))


class _BlockingMethod:
    """One handler: call it, or ``send`` it for good; either blocks."""

    def __init__(self, cluster: BlockingCluster, method: Any) -> None:
        self._cluster = cluster
        self._method = method
        self.__name__: str = method.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the result, or iterate over what comes item by item."""

        async def begin() -> Any:
            made = self._method(*args, **kwargs)
            return cast("Any", made) if isinstance(made, ReplyStream) else await made

        result = self._cluster._run(begin())
        is_stream = isinstance(result, ReplyStream)
        return self._cluster._iterate(cast("Any", result)) if is_stream else result

    def send(self, *args: Any, **kwargs: Any) -> Receipt:
        """Put the command into the resource's mailbox, as `Cluster.send` does."""
        receipt: Receipt = self._cluster._run(self._method.send(*args, **kwargs))
        return receipt


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
    return BlockingCluster(connected_options(nats, options, settings))
