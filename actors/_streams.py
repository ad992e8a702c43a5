"""Streaming replies, the owner's side: queries that yield their answer item by item.

A stream is a sequence of ordinary queries to one actor, so that routing, leases, held
answers and deadlines are theirs. Each *pull* has beside the parameters the entry
``$stream``, a map of

=========== ======================================================================
``id``      a name of the stream, chosen by the caller
``from``    how many items it has so far; 0 opens the stream
``credits`` how many more it has room for; 0 only says that it is still there
``close``   True ends the stream: the generator is closed
=========== ======================================================================

and is answered by ``[from, items, ended, error|nil, instance]``. The same pull again is
answered by the same items. The generator runs in the actor's turns alone, from ``yield``
to ``yield``: between two items other messages may be handled, and while it waits for
something the actor waits with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
from attrs import define, frozen

from aegis.actors._answers import error_bytes
from aegis.actors._execution import (
    encoded_error,
    handler_failed,
    take_back_cancellation,
    was_withdrawn,
)
from aegis.actors._handlers import HandlerSpec
from aegis.contracts import OK, Request
from aegis.errors import (
    ActorDead,
    AegisError,
    DeadlineExpired,
    HandlerFailed,
    InvalidRequest,
    Overloaded,
    Rejected,
    StreamBroken,
)
from aegis.transport._codec import encode_value, join_values

if TYPE_CHECKING:
    from aegis.actors._actor import AegisActor

__all__ = [
    "MAX_OPEN_STREAMS",
    "STREAM",
    "STREAM_IDLE_SECONDS",
    "OpenStreams",
    "Pull",
    "closed_stream",
    "not_streamed",
    "stream_name",
]

STREAM: Final = "$stream"
"""The entry of the parameters that makes a query a pull; no parameter can be named so."""

MAX_OPEN_STREAMS: Final = 64
"""How many streams of one actor may be under way; more are refused (429)."""

MAX_CREDITS: Final = 10_000
"""More items than so many are never sent in one answer."""

STREAM_IDLE_SECONDS: Final = 30.0
"""A caller from whom nothing comes for so long is gone; its generator is closed."""

BATCH_BYTES: Final = 64 * 1024
"""An answer is cut here; one item alone may be larger."""

BATCH_SECONDS: Final = 0.005
"""An answer leaves after so long, and the actor's other messages have their turn."""

_NIL: Final = encode_value(None)

_log = structlog.get_logger("aegis.streams")


@frozen
class Pull:
    """What a pull asks for."""

    id: str
    start: int
    credits: int
    close: bool = False

    def to_wire(self) -> dict[str, Any]:
        """Return the entry of the parameters."""
        wire: dict[str, Any] = {"id": self.id, "from": self.start, "credits": self.credits}
        return {**wire, "close": True} if self.close else wire

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Pull | None:
        """Return the pull among ``params``, or None if they are those of a plain call.

        Raises:
            InvalidRequest: the entry is not what a pull looks like.
        """
        if STREAM not in params:
            return None
        given: Any = params[STREAM]
        if not isinstance(given, dict):
            raise InvalidRequest(f"{STREAM}: must be a map", field=STREAM)
        wire = cast("dict[str, Any]", given)
        name, start, wanted = wire.get("id"), wire.get("from"), wire.get("credits")
        if not isinstance(name, str) or not 0 < len(name) <= 64:
            raise InvalidRequest(f"{STREAM}.id: must be text of 1 to 64 letters", field=STREAM)
        if type(start) is not int or start < 0:
            raise InvalidRequest(f"{STREAM}.from: must be a whole number from 0", field=STREAM)
        if type(wanted) is not int or not 0 <= wanted <= MAX_CREDITS:
            raise InvalidRequest(f"{STREAM}.credits: must be 0 to {MAX_CREDITS}", field=STREAM)
        return cls(name, start, wanted, bool(wire.get("close")))


def stream_name(params: Mapping[str, Any]) -> str | None:
    """Return the name of the stream that ``params`` are a pull of, if they are one."""
    try:
        pull = Pull.of(params)
    except InvalidRequest:
        return None
    return None if pull is None else pull.id


def closed_stream(params: Mapping[str, Any]) -> str | None:
    """Return the name of the stream that ``params`` close, if they do."""
    name = stream_name(params)
    return name if name is not None and params[STREAM].get("close") else None


def not_streamed(handler: HandlerSpec, service: str) -> InvalidRequest:
    """Return what a plain call of a streaming query is told."""
    return InvalidRequest(
        f"{service}.{handler.name} answers item by item: iterate over it, with a typed proxy "
        f"or with cluster.stream({service!r}, {handler.name!r}, ...)",
        field="",
    )


type _Respond = Callable[[int, bytes], None]


@define(eq=False)
class _Open:
    """One stream: its generator, and the last answer, in case it got lost."""

    items: AsyncGenerator[Any]
    used: float
    batch_start: int = 0
    batch: bytes = b""
    sent: int = 0
    """How many items have been answered so far, the last answer's included."""
    early: bytes | None = None
    """An item that was produced after its answer had left."""
    ended: bool = False
    error: AegisError | None = None


class OpenStreams:
    """The streams of one life of an actor. ``item_limit`` bounds an item, in bytes."""

    def __init__(self, actor: AegisActor, item_limit: int | None = None) -> None:
        self._actor = actor
        self._cell = actor.actor_cell
        self._loop = self._cell.runtime.loop
        self._item_limit = item_limit
        self._streams: dict[str, _Open] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return how many generators are open."""
        return sum(not stream.ended for stream in self._streams.values())

    async def handle(self, handler: HandlerSpec, request: Request, respond: _Respond) -> None:
        """Carry out one pull; ``respond`` is called once."""
        began = time.perf_counter()
        status = OK
        try:
            pull = Pull.of(request.params)
            if pull is None:
                raise not_streamed(handler, request.service)
            if pull.close:
                await self._close(pull.id)
                respond(OK, _NIL)
            else:
                await self._pull(pull, handler, request, respond)
        except AegisError as error:
            status = error.code
            respond(error.code, error_bytes(error))
        seconds = time.perf_counter() - began
        self._cell.runtime.observer.on_message_handled(self._cell, request.kind, status, seconds)

    async def close(self) -> None:
        """Close all generators: the actor's life ends."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for name in list(self._streams):
            await self._close(name)

    async def _pull(
        self, pull: Pull, handler: HandlerSpec, request: Request, respond: _Respond
    ) -> None:
        stream = self._streams.get(pull.id)
        if stream is None:
            if pull.start:
                raise StreamBroken(
                    f"{request.service}.{handler.name}: the stream is not known here; its owner "
                    "was replaced or started anew. Iterate again",
                    items=pull.start,
                )
            stream = self._open(pull.id, handler, request)
        stream.used = self._loop.time()
        if not pull.credits:
            respond(OK, self._answer(stream, pull.start, [], ended=False))
        elif stream.batch and pull.start == stream.batch_start:
            respond(OK, stream.batch)  # The answer to the same pull was lost, or is late.
        elif pull.start != stream.sent:
            raise StreamBroken(
                f"{request.service}.{handler.name}: item {pull.start} is not the next one",
                items=pull.start,
            )
        else:
            await self._produce(stream, pull, handler, request, respond)

    def _open(self, name: str, handler: HandlerSpec, request: Request) -> _Open:
        if len(self) >= MAX_OPEN_STREAMS:
            raise Overloaded(
                f"{self._cell.address}: {MAX_OPEN_STREAMS} streams are open already",
                limit=MAX_OPEN_STREAMS,
            )
        # Those that have ended are kept for a pull that comes again, and not for long.
        ended = [key for key, stream in self._streams.items() if stream.ended]
        for key in ended[: max(0, len(ended) - MAX_OPEN_STREAMS)]:
            del self._streams[key]
        params = {key: value for key, value in request.params.items() if key != STREAM}
        arguments = handler.bind(params)
        stream = _Open(handler.function(self._actor, **arguments), self._loop.time())
        self._streams[name] = stream
        self._start_sweep()
        return stream

    async def _produce(
        self,
        stream: _Open,
        pull: Pull,
        handler: HandlerSpec,
        request: Request,
        respond: _Respond,
    ) -> None:
        items: list[bytes] = []
        size = 0
        began = self._loop.time()
        if stream.early is not None:
            items.append(stream.early)
            stream.early = None
        answered = False
        while len(items) < pull.credits and not stream.ended:
            step = asyncio.Task(
                self._step(stream, handler, request), loop=self._loop, eager_start=True
            )
            if items and not step.done():
                # What is there must not wait for what may take long.
                self._respond(stream, items, respond)
                answered = True
            item = await step
            stream.used = self._loop.time()
            if answered:
                stream.early = item
                return
            if item is not None:
                items.append(item)
                size += len(item)
            if size >= BATCH_BYTES or self._loop.time() - began >= BATCH_SECONDS:
                break
        self._respond(stream, items, respond)

    async def _step(self, stream: _Open, handler: HandlerSpec, request: Request) -> bytes | None:
        """Return the next item, encoded; None if there is none any more."""
        cell, actor = self._cell, self._actor
        try:
            value = await anext(stream.items, _END)
            if value is not _END:
                return self._encode(handler, value)
        except Rejected as rejected:
            stream.error = rejected
        except GeneratorExit:
            raise
        except BaseException as raised:
            if isinstance(raised, asyncio.CancelledError) and cell.is_interrupted(actor):
                raise
            take_back_cancellation()
            if was_withdrawn(raised):
                stream.error = DeadlineExpired(f"{request.method}: no item came in time")
            else:
                stream.error = handler_failed(request, raised)
                if not cell.is_interrupted(actor):
                    cell.fail(raised)
            await _finish(stream.items, request.method)
        stream.ended = True
        return None

    def _encode(self, handler: HandlerSpec, value: Any) -> bytes:
        try:
            encoded = encode_value(handler.unstructure_result(value))
        except AegisError as error:
            raise TypeError(
                f"{handler.name} yielded {type(value).__name__}, which is not what its hint says: "
                f"{error.message}"
            ) from error
        if self._item_limit is not None and len(encoded) > self._item_limit:
            raise HandlerFailed(
                f"{handler.name} yielded an item of {len(encoded)} bytes, more than a message may "
                f"have ({self._item_limit}); yield smaller ones",
                size_bytes=len(encoded),
                limit_bytes=self._item_limit,
            )
        return encoded

    def _respond(self, stream: _Open, items: list[bytes], respond: _Respond) -> None:
        start = stream.sent
        stream.batch = self._answer(stream, start, items, ended=stream.ended)
        stream.batch_start = start
        stream.sent = start + len(items)
        respond(OK, stream.batch)

    def _answer(self, stream: _Open, start: int, items: list[bytes], *, ended: bool) -> bytes:
        error = stream.error if ended else None
        told = _NIL
        if error is not None:
            told = join_values([encode_value(error.code), encoded_error(error)])
        parts = (encode_value(start), join_values(items), encode_value(ended), told)
        return join_values([*parts, encode_value(self._actor.instance_id)])

    async def _close(self, name: str) -> None:
        stream = self._streams.pop(name, None)
        if stream is not None and not stream.ended:
            stream.ended = True
            await _finish(stream.items, name)

    def _start_sweep(self) -> None:
        if self._sweep is None:
            self._sweep = self._loop.call_later(STREAM_IDLE_SECONDS / 2, self._close_idle)

    def _close_idle(self) -> None:
        self._sweep = None
        idle = [name for name, stream in self._streams.items() if self._is_idle(stream)]
        for name in idle:
            self._cell.runtime.start_detached(self._expire(name))
        if len(idle) < len(self._streams):
            self._start_sweep()

    def _is_idle(self, stream: _Open) -> bool:
        return stream.used <= self._loop.time() - STREAM_IDLE_SECONDS

    async def _expire(self, name: str) -> None:
        async def close() -> None:
            # The actor may have been at an item of it until now.
            stream = self._streams.get(name)
            if stream is not None and not self._is_idle(stream):
                self._start_sweep()
                return
            await self._close(name)

        try:
            await self._cell.perform(close)  # A generator runs in the actor's turns alone.
        except ActorDead:
            return


_END: Final = object()


async def _finish(items: AsyncGenerator[Any], what: str) -> None:
    """Close a generator; what it raises meanwhile concerns nobody any more."""
    try:
        await items.aclose()
    except GeneratorExit:
        raise
    except Exception as error:
        _log.warning("stream_close_failed", stream=what, error=str(error) or type(error).__name__)
