"""A connection for one command that looks at the system."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import secrets
import sys
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve

from aegis._config import ConnectOptions
from aegis._connection import open_connection
from aegis._inspect import Inspector
from aegis._subjects import Subjects
from aegis.errors import AegisError, NotFound, Unavailable
from aegis.ops._options import CommandContext
from aegis.ops._output import Output, to_json

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

__all__ = ["CONNECT_TIMEOUT", "inspect", "near", "show"]

MAX_NEAR: Final = 3
"""How many names are told that are like one that is not there."""

CONNECT_TIMEOUT: Final = 2.0
"""Seconds to find the server; a call may take longer, a missing server is told soon."""


def inspect[T](options: ConnectOptions, ask: Callable[[Inspector], Awaitable[T]]) -> T:
    """Connect, ask, disconnect."""

    async def run() -> T:
        soon = evolve(options, timeout=min(options.timeout, CONNECT_TIMEOUT))
        name = f"aegis-cli-{secrets.token_hex(4)}"
        async with await open_connection(soon, name=name) as connection:
            return await ask(Inspector(connection.transport, Subjects(options.namespace)))

    return asyncio.run(run())


def show[T](
    context: CommandContext,
    ask: Callable[[Inspector], Awaitable[T]],
    *,
    document: Callable[[T], Any],
    draw: Callable[[T], RenderableType],
    every: float | None = None,
) -> None:
    """Ask and print; with ``every`` again and again, so many seconds apart.

    On a terminal what is there is drawn anew, elsewhere one print follows the other: with
    ``--json`` a document a line. What fails after the first time is told, and tried again.
    """
    options, output = context.connect(), context.output
    if every is None:
        found = inspect(options, ask)
        if output.json:
            output.document(document(found))
        else:
            output.console().print(draw(found))
        return
    with _screen(output) as screen:

        async def repeat(inspector: Inspector) -> None:
            found = await ask(inspector)
            while True:
                screen.show(partial(document, found), partial(draw, found))
                await asyncio.sleep(every)
                while True:
                    try:
                        found = await ask(inspector)
                        break
                    except Unavailable as error:
                        screen.fail(error)
                        await asyncio.sleep(every)

        inspect(options, repeat)


class _Prints:
    """Where there is no terminal: one print after the other."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def show(self, document: Callable[[], Any], draw: Callable[[], RenderableType]) -> None:
        if self._output.json:
            # A line each, so that programs can tell one from the next.
            self._output.line(to_json(document()))
        else:
            self._output.console().print(draw(), "")
        sys.stdout.flush()

    def fail(self, error: AegisError) -> None:
        self._output.error(error)


class _Live(_Prints):
    """On a terminal: the last state in place of the one before."""

    def __init__(self, output: Output, live: Live) -> None:
        super().__init__(output)
        self._live = live

    def show(self, document: Callable[[], Any], draw: Callable[[], RenderableType]) -> None:
        self._live.update(draw(), refresh=True)

    def fail(self, error: AegisError) -> None:
        from rich.text import Text

        self._live.update(Text(f"error {error.code}: {error}", style="red"), refresh=True)


@contextlib.contextmanager
def _screen(output: Output) -> Generator[_Prints]:
    if output.json or not sys.stdout.isatty():
        yield _Prints(output)
        return
    from rich.live import Live

    with Live(console=output.console(), auto_refresh=False, screen=True) as live:
        yield _Live(output, live)


def near(error: NotFound, word: str, known: list[Any]) -> NotFound:
    """Return ``error`` with the known names that are most like ``word``."""
    names = sorted({str(name) for name in known})
    found = difflib.get_close_matches(word, names, n=MAX_NEAR, cutoff=0.5)
    # Of those that are alike to the same degree it has the last first.
    found.sort(key=lambda name: (-difflib.SequenceMatcher(None, name, word).ratio(), name))
    if not found:
        return error
    hint = " or ".join(repr(name) for name in found)
    return NotFound(f"{error.message}; near it: {hint}", **error.facts, near=found)
