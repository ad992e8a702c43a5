"""Streaming replies, the caller's side: an iterator over what a query yields.

See `_streams` for how it looks on the wire. The caller pulls ahead, but for no more
items than its window has room for: that is all the back-pressure there is.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from aegis.actors._mailbox import current_envelope
from aegis.actors._streams import STREAM_IDLE_SECONDS, Pull
from aegis.errors import (
    AegisError,
    ConnectionClosed,
    InvalidRequest,
    Moved,
    NotFound,
    ProtocolError,
    StreamBroken,
    Unavailable,
    from_wire,
)

__all__ = ["DEFAULT_WINDOW", "PullItems", "ReplyStream"]

DEFAULT_WINDOW: Final = 64
"""How many items may be on their way or waiting for whoever iterates."""

KEEP_ALIVE_SECONDS: Final = STREAM_IDLE_SECONDS / 3
"""While the window is full the owner is told so often that the caller is there."""

CLOSE_SECONDS: Final = 2.0
"""How long the owner is told that the iteration has ended; after that it finds out."""

type PullItems = Callable[[Pull, str | None, float | None], Awaitable[Any]]
"""Sends one pull, to the instance named if there is one; the last is the timeout."""

_BROKEN: Final = (Unavailable, Moved, NotFound, ConnectionClosed)


class ReplyStream[T](AsyncIterator[T]):
    """Iterates over the items that a query yields: ``async for item in ...``.

    Nothing is asked for before the first item is. Leaving the loop, `aclose`, a
    cancellation in the middle of a wait: each closes the generator at the owner. An
    error ends the iteration, after the items before it: what the handler raised;
    `StreamBroken` if the owner was lost; `DeadlineExpired` if an item took longer than
    the timeout. Belongs to one event loop; for one iteration.
    """

    def __init__(
        self,
        pull: PullItems,
        structure: Callable[[Any], T],
        *,
        window: int = DEFAULT_WINDOW,
        timeout: float | None = None,
    ) -> None:
        if type(window) is not int or not 1 <= window <= 1000:
            raise InvalidRequest("window: must be a whole number from 1 to 1000", field="window")
        self._structure = structure
        self._puller = _Puller(pull, window, timeout)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        puller = self._puller
        try:
            plain = await puller.next()
        except asyncio.CancelledError:
            puller.close()
            raise
        try:
            return self._structure(plain)
        except BaseException:
            puller.close()
            raise

    async def aclose(self) -> None:
        """End the iteration: the generator at the owner is closed."""
        self._puller.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # The loop was left: nobody else has the iterator. Perhaps in another thread.
        puller: _Puller | None = getattr(self, "_puller", None)
        if puller is not None and puller.is_open:
            with suppress(RuntimeError):
                puller.loop.call_soon_threadsafe(puller.close)


class _Puller:
    """Fills the window; holds nothing that keeps its `ReplyStream` alive."""

    def __init__(self, pull: PullItems, window: int, timeout: float | None) -> None:
        self._pull = pull
        self._window = window
        self._timeout = timeout
        self._id = secrets.token_hex(8)
        self._instance: str | None = None
        self._received = 0
        self._items: deque[Any] = deque()
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        """There is an item, an end, or room for more."""
        self._ended = False
        self._error: AegisError | None = None
        self.loop = asyncio.get_running_loop()

    @property
    def is_open(self) -> bool:
        """Whether the owner may have a generator for it."""
        return self._task is not None and not self._ended

    async def next(self) -> Any:
        if self._task is None and not self._ended:
            self._task = self.loop.create_task(self._run())
        while not self._items:
            if self._ended:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        item = self._items.popleft()
        self._changed.set()
        return item

    def close(self) -> None:
        """Take nothing more, and tell the owner."""
        was_open, self._ended = self.is_open, True
        self._items.clear()
        self._changed.set()
        if self._task is not None:
            self._task.cancel()
        if was_open:
            self._close_at_owner()

    def _close_at_owner(self) -> None:
        closing = self.loop.create_task(self._tell_end())
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)

    async def _tell_end(self) -> None:
        current_envelope.set(None)  # Whose deadline may be what ended the iteration.
        with suppress(AegisError):
            await self._pull(
                Pull(self._id, self._received, 0, close=True), self._instance, CLOSE_SECONDS
            )

    async def _run(self) -> None:
        try:
            while not self._ended:
                await self._wait_room()
                await self._fill(self._window - len(self._items))
        except AegisError as error:
            self._fail(error)
        except Exception as error:  # an answer that nobody could have sent
            self._fail(ProtocolError(f"the answer to a pull is unreadable: {error}"))

    def _fail(self, error: AegisError) -> None:
        if not isinstance(error, StreamBroken | ConnectionClosed):
            self._close_at_owner()  # It may have been slow only.
        if self._received and isinstance(error, _BROKEN):
            broken = StreamBroken(
                f"the stream broke after {self._received} items: {error}", items=self._received
            )
            broken.__cause__ = error
            error = broken
        self._error = error
        self._ended = True
        self._changed.set()

    async def _wait_room(self) -> None:
        """Wait until half of the window is free; meanwhile say that the caller is there."""
        while self._window - len(self._items) < max(1, self._window // 2):
            self._changed.clear()
            try:
                async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                await self._fill(0)

    async def _fill(self, room: int) -> None:
        pull = Pull(self._id, self._received, room)
        start, items, ended, error, instance = await self._pull(pull, self._instance, self._timeout)
        if start != self._received or len(items) > room:
            raise ProtocolError("the answer to a pull has other items than were asked for")
        self._instance = instance
        self._items.extend(items)
        self._received += len(items)
        if ended:
            self._ended = True
            self._error = None if error is None else from_wire(error[0], error[1])
        self._changed.set()


_closing: Final[set[asyncio.Task[None]]] = set()
"""Notices of an end that are under way; a loop keeps weak references alone."""
