"""Launching a node: from options to a process that ends well on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import structlog

from aegis._collection import uncollected_start
from aegis._config import RunOptions
from aegis._connection import open_connection
from aegis._node import Node, new_node_id
from aegis.actors._obituary import connection_name
from aegis.transport._nats import NatsTransport
from aegis.transport._server import ServerOptions

__all__ = ["run_node"]

_log = structlog.get_logger("aegis.launch")


class _Ending:
    """Why the process ends: a signal (exit code 0), or a connection lost for good (1)."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.exit_code = 0

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


async def run_node(options: RunOptions) -> int:
    """Run a node until a signal or a closed connection ends it; return the exit code.

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
    async with await open_connection(options.connect, name=name, start=start) as connection:
        connection.transport.listen(ending)
        connection.given_up.add_done_callback(lambda reason: ending.on_closed(reason.result()))
        system: NatsTransport | None = None
        if not options.no_supervisor:
            system = await connection.open_system(f"aegis-system-{node_id}")
        node = Node(options, connection.transport, node_id=node_id, system=system)
        starting = asyncio.ensure_future(node.start())
        stopping = asyncio.ensure_future(ending.event.wait())
        try:
            with uncollected_start():
                await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                _log.info("node_started", node_id=node.node_id, server=connection.url)
                await stopping
            else:
                starting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await starting
        finally:
            stopping.cancel()
            await node.stop()
            if system is not None:
                await system.close()
    _log.info("node_stopped", node_id=node.node_id)
    return ending.exit_code
