"""Launching a node: from options to a process that ends well on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog

from aegis._collection import uncollected_start
from aegis._config import RunOptions
from aegis._connection import Connection, open_connection
from aegis._node import Node
from aegis._process_identity import new_node_id
from aegis.actors._obituary import connection_name
from aegis.actors._observer import Observer
from aegis.transport._nats import NatsTransport
from aegis.transport._server import ServerOptions

__all__ = ["run_node"]

_log = structlog.get_logger("aegis.launch")


class _Ending:
    """Why the process ends: a signal (exit code 0), or a connection lost for good (1)."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.exit_code = 0

    async def unless[T](self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what ``work`` comes to; None if it was given up since the process ends.

        What is done by then is returned, and has to be released.

        Raises:
            Exception: what ``work`` raised, unless the process ends.
        """
        loop = asyncio.get_running_loop()
        working, ending = loop.create_task(work), loop.create_task(self.event.wait())
        try:
            await asyncio.wait((working, ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
            if not working.done():
                working.cancel()
                await asyncio.wait((working,))
        if working.cancelled():
            return None
        error = working.exception()
        if error is not None and self.event.is_set():
            _log.info("start_given_up", error=str(error) or type(error).__name__)
            return None
        return working.result()

    def on_signal(self, name: str) -> None:
        _log.info("draining", cause=name)
        self.event.set()

    def on_disconnected(self) -> None:
        """Nothing: the transport looks for a server."""

    def on_reconnected(self) -> None:
        """Nothing."""

    def on_closed(self, reason: str) -> None:
        """The client will never reconnect: nothing can be served any more."""
        if not self.event.is_set():
            self.exit_code = 1
            _log.error(
                "connection_closed",
                reason=reason,
                action="the node ends; start it again once the cause is mended",
            )
            self.event.set()


type Beside = Callable[[Node], AbstractAsyncContextManager[object]]


async def run_node(
    options: RunOptions, *, observer: Observer | None = None, beside: Beside | None = None
) -> int:
    """Run a node until a signal or a closed connection ends it; return the exit code.

    ``beside`` is entered before the node joins the system, and left when it has gone.

    Raises:
        AegisError: the node could not start; nothing is left running.
    """
    ending = _Ending()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.on_signal, signal.Signals(number).name)
    start = ServerOptions(data_dir=options.connect.data_dir, sync=options.sync, keep=options.keep)
    node_id = new_node_id()
    name = connection_name(node_id)
    connection = await ending.unless(open_connection(options.connect, name=name, start=start))
    if connection is None:
        _log.info("node_stopped", node_id=node_id)
        return ending.exit_code
    async with connection:
        connection.transport.listen(ending)
        connection.given_up.add_done_callback(lambda reason: ending.on_closed(reason.result()))
        await _run_connected(options, connection, node_id, ending, observer, beside)
    _log.info("node_stopped", node_id=node_id)
    return ending.exit_code


async def _run_connected(
    options: RunOptions,
    connection: Connection,
    node_id: str,
    ending: _Ending,
    observer: Observer | None,
    beside: Beside | None,
) -> None:
    system: NatsTransport | None = None
    if not options.no_supervisor:
        system = await ending.unless(connection.open_system(f"aegis-system-{node_id}"))
    node = Node(options, connection.transport, node_id=node_id, system=system, observer=observer)
    async with contextlib.AsyncExitStack() as stack:
        if system is not None:
            stack.push_async_callback(system.close)
        if beside is not None:
            await stack.enter_async_context(beside(node))
        stack.push_async_callback(node.stop)
        if not ending.event.is_set():
            with uncollected_start():
                await ending.unless(node.start())
        if not ending.event.is_set():
            _log.info("node_started", node_id=node_id, server=connection.url)
            await ending.event.wait()
