"""``aegis top``: the system at work, in the terminal."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from attrs import asdict, evolve

from aegis._config import ConnectOptions
from aegis._connection import open_connection
from aegis._subjects import Subjects
from aegis.errors import ConfigurationError
from aegis.ops._options import CommandContext
from aegis.ops._output import Output
from aegis.ops._session import CONNECT_TIMEOUT
from aegis.ops._top_sampler import TopSampler
from aegis.ops._top_state import TopState
from aegis.ops._top_tables import VIEWS, headline

if TYPE_CHECKING:
    from aegis.ops._top_app import TopApp

__all__ = ["document", "is_terminal", "top"]

MAX_PRINTED: Final = 50
"""Rows of a table that is printed once; ``--json`` has all."""

type MakeApp = Callable[[TopSampler], TopApp]


def top(context: CommandContext, every: float, once: bool) -> None:
    """Show the system until it is left; print it once where there is no terminal."""
    options, output = context.connect(), context.output
    once = once or output.json or not is_terminal()
    make_app = None if once else _make_app(every)
    sampler = asyncio.run(_run(options, make_app))
    if make_app is None:
        _print(output, sampler)


def is_terminal() -> bool:
    """Whether somebody sits there, who sees it and can press keys."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _make_app(every: float) -> MakeApp:
    try:
        from aegis.ops._top_app import TopApp
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise ConfigurationError(
            "the live view needs the package textual; install aegis-actors[top], or give --once"
        ) from error
    return lambda sampler: TopApp(sampler, every=every)


async def _run(options: ConnectOptions, make_app: MakeApp | None) -> TopSampler:
    soon = evolve(options, timeout=min(options.timeout, CONNECT_TIMEOUT))
    name = f"aegis-top-{secrets.token_hex(4)}"
    async with await open_connection(soon, name=name) as connection:
        sampler = TopSampler(connection.transport, Subjects(options.namespace))
        async with sampler.listening():
            await sampler.first_look(resources=make_app is None)
            if make_app is not None:
                await make_app(sampler).run_async()
        return sampler


def _print(output: Output, sampler: TopSampler) -> None:
    state = sampler.state
    if output.json:
        output.document(document(state, sampler.more_resources))
        return
    output.console().print(headline(state.totals()))
    for view in VIEWS:
        rows = view.sorted(view.rows(state), view.sorted_by, view.descending)
        if rows:
            output.line("")
            titles = [column.title for column in view.columns]
            output.table(titles, [view.cells(row) for row in rows[:MAX_PRINTED]])
        if len(rows) > MAX_PRINTED:
            output.line(f"... and {len(rows) - MAX_PRINTED} more")


def document(state: TopState, more_resources: bool) -> dict[str, Any]:
    """Return everything as plain values; ``more_resources`` says that some are left out."""
    tables = {view.name.lower(): [asdict(row) for row in view.rows(state)] for view in VIEWS}
    return {"totals": asdict(state.totals()), **tables, "more_resources": more_resources}
