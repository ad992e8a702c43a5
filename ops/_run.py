"""``aegis run``: one node with its services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import typer

from aegis._config import RunOptions, log_options, run_options
from aegis._loading import load_actor_class
from aegis.errors import ConfigurationError
from aegis.ops._options import CommandContext

if TYPE_CHECKING:
    from aegis._node import Node
    from aegis.actors._observer import Observer

__all__ = ["run"]

type Beside = Callable[[Node], AbstractAsyncContextManager[object]]


def run(
    context: CommandContext,
    services: Sequence[Mapping[str, object]],
    beside: Beside | None = None,
) -> None:
    """Run a node until it is told to stop; its exit code is the command's.

    ``beside`` is entered before the node joins the system, and left when it has gone.
    """
    sources = context.sources()
    logs = log_options(sources)
    options = run_options(sources, services)
    if not options.services and not options.supervisor_only:
        raise ConfigurationError(
            "there is no service to run; name one, as in accounts.py:Account, add [[service]] "
            "to aegis.toml, or give --supervisor-only"
        )
    for service in options.services:
        load_actor_class(service.target)
    from aegis.ops._logging import configure_logging

    configure_logging(logs.log_level, logs.log_format, cache=True)
    from aegis.actors._observers import combined
    from aegis.ops._trace_export import tracing

    with tracing() as spans:
        observer = combined(_message_log(options), spans)
        serve = _run_with_admin if options.admin_port else _run_alone
        code = serve(options, observer, beside)
    if code:
        raise typer.Exit(code)


def _run(options: RunOptions, observer: Observer, beside: Beside | None) -> int:
    from aegis._contained import run_contained
    from aegis._launch import run_node

    node = run_node(options, observer=observer, beside=beside)
    return run_contained(node, loop_factory=_loop_factory())


def _run_alone(options: RunOptions, observer: Observer, beside: Beside | None) -> int:
    from aegis._clock import SystemClock
    from aegis.actors._observers import combined
    from aegis.ops._timings import WatchedTimings

    return _run(options, combined(WatchedTimings(SystemClock()), observer), beside)


def _run_with_admin(options: RunOptions, observer: Observer, beside: Beside | None) -> int:
    try:
        from aegis.ops._admin_server import AdminServer
    except ModuleNotFoundError as error:
        if error.name not in ("litestar", "uvicorn"):
            raise
        raise ConfigurationError(
            f"admin_port: needs the package {error.name}; install aegis-actors[admin]",
            option="admin_port",
            usage=True,
        ) from error
    from aegis._clock import SystemClock
    from aegis.actors._observers import combined
    from aegis.ops._metrics import NodeMetrics

    missed = max(1, round(options.heartbeat_timeout / options.heartbeat_interval))
    metrics = NodeMetrics(SystemClock(), missed_beats=missed)
    server = AdminServer(options, metrics)
    try:
        both = server.serving if beside is None else _both(server.serving, beside)
        return _run(options, combined(metrics, observer), both)
    finally:
        server.close()


def _both(first: Beside, second: Beside) -> Beside:
    @asynccontextmanager
    async def beside(node: Node) -> AsyncGenerator[None]:
        async with first(node), second(node):
            yield

    return beside


def _message_log(options: RunOptions) -> Observer | None:
    if not options.log_messages:
        return None
    from aegis.ops._message_log import MessageLog

    return MessageLog(options.log_messages)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop where the platform has it: it doubles the throughput."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
