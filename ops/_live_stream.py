"""The stream of server-sent events to one viewer of a page (ASGI).

The first event is everything, or, for a viewer that comes back (``Last-Event-ID``), what
has changed since. A viewer that takes nothing for a while is dropped; one that is slow gets
fewer events, each with more in it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

__all__ = ["LiveStream", "Sampler", "VersionedState"]

SEND_SECONDS: Final = 10.0
"""How long a viewer may take nothing."""

RETRY_MS: Final = 1_000
"""After how long a viewer that lost the stream should come again."""

_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),
)


class VersionedState(Protocol):
    """What a page shows, in versions."""

    version: int

    def since(self, version: int) -> bytes:
        """Return what has changed since, as JSON."""
        ...

    def version_of(self, event_id: str) -> int:
        """Return the version that an event had; 0 if it is none of these."""
        ...

    def event_id(self) -> str:
        """Return the name of the event that tells the version of now."""
        ...


class Sampler(Protocol):
    """What keeps such a state up to date for its viewers."""

    @property
    def state(self) -> VersionedState:
        """What they are told."""
        ...

    def watching(self) -> AbstractContextManager[None]:
        """Count a viewer as long as the block lasts."""
        ...

    async def wait_newer(self, version: int) -> bool:
        """Return when there is a newer version; False if there never will be."""
        ...


type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]


class LiveStream:
    """Tells one viewer of the system until it leaves, or the node does."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        last = next((v for name, v in scope["headers"] if name == b"last-event-id"), b"")
        version = self._sampler.state.version_of(last.decode("latin-1"))
        with self._sampler.watching():
            telling = asyncio.ensure_future(self._tell(version, send))
            leaving = asyncio.ensure_future(_left(receive))
            try:
                await asyncio.wait((telling, leaving), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (telling, leaving):
                    task.cancel()
                await asyncio.gather(telling, leaving, return_exceptions=True)
            if not telling.cancelled() and (error := telling.exception()) is not None:
                raise error

    async def _tell(self, version: int, send: Send) -> None:
        state = self._sampler.state
        head = {"type": "http.response.start", "status": 200, "headers": list(_HEADERS)}
        await send(head)
        part = b"retry: %d\n\n" % RETRY_MS
        # Nothing is told of before the first look at the system for this viewer.
        seen = state.version
        with contextlib.suppress(TimeoutError):
            while await self._send(send, part, more=True):
                if not await self._sampler.wait_newer(seen):
                    break
                part = b"id: %s\nevent: live\ndata: %s\n\n" % (
                    state.event_id().encode(),
                    state.since(version),
                )
                version = seen = state.version
            await self._send(send, b"", more=False)

    @staticmethod
    async def _send(send: Send, body: bytes, *, more: bool) -> bool:
        """Send a part. Raises TimeoutError if the viewer takes nothing."""
        async with asyncio.timeout(SEND_SECONDS):
            await send({"type": "http.response.body", "body": body, "more_body": more})
        return True


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
