"""Asks all instances of a service for what its page shows, however many watch.

Once a second while somebody watches; every few seconds while nobody does, so that who
opens the page sees the minutes before, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Generator, Mapping
from typing import TYPE_CHECKING, Any, Final

import structlog

from aegis._inspect import Inspector
from aegis._proxy import Address
from aegis.contracts import AdminPage, Kind
from aegis.errors import AegisError, Unavailable
from aegis.ops._page_state import MAX_INSTANCES, PageInstance, PageState

if TYPE_CHECKING:
    from aegis._node import Node

__all__ = ["PageSampler"]

_log = structlog.get_logger("aegis.admin")

MAX_VIEWERS: Final = 64
TICK_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 0.8
"""For so long each version waits; an instance that is frozen keeps nobody from the others."""


class PageSampler:
    """One page of a service, as a node shows it."""

    def __init__(self, node: Node, service: str, page: AdminPage) -> None:
        self.page = page
        self.state = PageState(secrets.token_hex(4))
        self.viewers = 0
        self._node = node
        self._service = service
        self._inspector = Inspector(node.transport, node.subjects)
        self._known: list[Mapping[str, Any]] = []
        self._wake = asyncio.Event()
        self._advanced = asyncio.Event()
        self._ended = False

    @contextlib.asynccontextmanager
    async def sampling(self) -> AsyncGenerator[None]:
        """Ask as long as the block lasts; then viewers are sent away."""
        asking = asyncio.get_running_loop().create_task(self._ask_forever())
        try:
            yield
        finally:
            self._ended = True
            self._advanced.set()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    def check_room(self) -> None:
        """Refuse one more viewer if there are as many as there may be.

        Raises:
            Unavailable: so it is.
        """
        if self.viewers >= MAX_VIEWERS:
            raise Unavailable(
                f"{MAX_VIEWERS} viewers watch this page already; watch it at another node"
            )

    @contextlib.contextmanager
    def watching(self) -> Generator[None]:
        """Count a viewer as long as the block lasts."""
        self.viewers += 1
        self._wake.set()
        try:
            yield
        finally:
            self.viewers -= 1

    async def wait_newer(self, version: int) -> bool:
        """Return when there is a newer version; False if there never will be."""
        while not self._ended and self.state.version <= version:
            await self._advanced.wait()
        return not self._ended

    async def _ask_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            try:
                await self._ask()
            except Exception as error:  # The page must not end with one strange answer.
                _log.error("page_failed", page=self.page.name, exc_info=error)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                every = TICK_SECONDS if self.viewers else IDLE_SECONDS
                async with asyncio.timeout_at(begun + every):
                    await self._wake.wait()

    async def _ask(self) -> None:
        if self._node.state == "starting":
            return
        with contextlib.suppress(AegisError, TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                (found,) = await self._inspector.services(self._service)
                self._known = sorted(found["instances"], key=lambda one: str(one["instance_id"]))
        answers = await asyncio.gather(*map(self._ask_one, self._known[:MAX_INSTANCES]))
        self.state.advance(self._node.clock.wall_ms() / 1000, answers)
        advanced, self._advanced = self._advanced, asyncio.Event()
        advanced.set()

    async def _ask_one(self, known: Mapping[str, Any]) -> PageInstance:
        name = str(known["instance_id"])
        told: dict[str, Any] | None = None
        error = ""
        try:
            answer: Any = await self._node.cluster.call_handler(
                Address(self._service, None, name), self.page.query, {}, Kind.QUERY, ANSWER_SECONDS
            )
            told = answer if isinstance(answer, dict) else {"value": answer}  # pyright: ignore
        except AegisError as failure:
            error = str(failure)
        return PageInstance(
            name, str(known.get("node_id", "")), str(known.get("state", "")), told, error
        )
