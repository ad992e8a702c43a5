"""``aegis run``: one node with its services."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import typer

from aegis._config import RunOptions, log_options, run_options
from aegis._loading import load_actor_class
from aegis.errors import ConfigurationError
from aegis.ops._options import CommandContext

__all__ = ["run"]


def run(context: CommandContext, services: Sequence[Mapping[str, object]]) -> None:
    """Run a node until it is told to stop; its exit code is the command's."""
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
    code = _run(options)
    if code:
        raise typer.Exit(code)


def _run(options: RunOptions) -> int:
    from aegis._contained import run_contained
    from aegis._launch import run_node

    return run_contained(run_node(options), loop_factory=_loop_factory())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop where the platform has it: it doubles the throughput."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
