"""The admin HTTP inside a node: uvicorn on the node's own event loop.

Signals stay the node's, and so does the log. The port is taken before the node joins the
system, so that one in use stops the start while nothing has happened yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvicorn

from aegis._config import RunOptions
from aegis._loading import load_actor_class
from aegis.actors._handlers import describe
from aegis.errors import ConfigurationError
from aegis.ops._admin_api import admin_app
from aegis.ops._admin_guard import Guard
from aegis.ops._live_sampler import LiveSampler
from aegis.ops._metrics import NodeMetrics
from aegis.ops._page_sampler import PageSampler

if TYPE_CHECKING:
    from aegis._node import Node

__all__ = ["AdminServer"]

_log = structlog.get_logger("aegis.admin")

MAX_CONNECTIONS: Final = 256
STUCK_SECONDS: Final = 20
"""After so long the system closes a connection whose other side takes nothing: who only
reads slowly is not meant."""
TICK_SECONDS: Final = 1.0
STOP_SECONDS: Final = 1
"""How long requests under way may take once the node has gone."""


class AdminServer:
    """One node's admin HTTP; takes its port when it is made."""

    def __init__(self, options: RunOptions, metrics: NodeMetrics) -> None:
        self._host, self._token = options.admin_host, options.admin_token
        self._metrics = metrics
        self._socket = _listen(options.admin_host, options.admin_port)
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give the port back; idempotent."""
        self._socket.close()

    @contextlib.asynccontextmanager
    async def serving(self, node: Node) -> AsyncGenerator[None]:
        """Answer for ``node`` as long as the block lasts."""
        self._metrics.attach(node)
        live = LiveSampler(node, self._metrics)
        pages = _pages(node)
        app: Any = Guard(
            admin_app(node, self._metrics, live, pages),  # type: ignore[arg-type]
            host=self._host,
            token=self._token,
        )
        server = _Server(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
        serving = asyncio.get_running_loop().create_task(server.serve(sockets=[self._socket]))
        _log.info("admin_listens", host=self._host, port=self.port, token=self._token is not None)
        try:
            async with live.sampling(), contextlib.AsyncExitStack() as stack:
                for page in pages:
                    await stack.enter_async_context(page.sampling())
                yield
        finally:
            server.end()
            await asyncio.gather(serving, return_exceptions=True)
            self.close()


def _pages(node: Node) -> list[PageSampler]:
    """Return the pages of the services that a node is to run, of each name one."""
    found: dict[str, PageSampler] = {}
    for service in node.options.services:
        actor_class = load_actor_class(service.target)
        page = actor_class.admin_page
        if page is not None and page.name not in found:
            found[page.name] = PageSampler(node, describe(actor_class).service, page)
    return list(found.values())


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Let `serve` end."""
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Keep the date of answers up to date; uvicorn's own wakes up ten times as often."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._ending.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals to the node."""
        yield


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A port whose last connections are still dying away is free.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * STUCK_SECONDS)
        listening.bind((host, port))
        listening.listen(MAX_CONNECTIONS)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            why = "is in use; give another port, or end the process that has it"
        elif error.errno == errno.EADDRNOTAVAIL:
            why = "is no address of this host; give one as admin_host"
        elif error.errno == errno.EACCES:
            why = "is not allowed for this user; give a port from 1024"
        else:
            why = f"cannot be listened on: {error.strerror}"
        raise ConfigurationError(
            f"admin_port: {host}:{port} {why}", option="admin_port", usage=True
        ) from error
    listening.setblocking(False)
    return listening
