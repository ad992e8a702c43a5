"""What commands print: results on stdout, errors as one line on stderr, or JSON for both."""

from __future__ import annotations

import json
import os
import sys
from base64 import b64encode
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import typer
from attrs import frozen

from aegis.errors import AccessDenied, AegisError, ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["DEBUG_VARIABLE", "EXIT_FAILED", "EXIT_USAGE", "Item", "Output", "guard", "to_json"]

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
"""128 and the number of SIGINT, as shells have it."""

DEBUG_VARIABLE: Final = "AEGIS_DEBUG"
"""Set to 1, it shows where an error comes from."""

TABLE_WIDTH: Final = 80
"""How wide tables are where no terminal tells its own width."""


MIN_TEXT_WIDTH: Final = 20
"""... and how wide a text below a row is at least."""


@frozen
class Item:
    """A row of a `Output.listing`: its cells, a text below them, a line above them."""

    cells: Sequence[str]
    text: str = ""
    heading: str = ""


@frozen
class Output:
    """Prints a command's result as JSON or for a person."""

    json: bool = False

    def value(self, value: Any) -> None:
        """Print a value: as it is if it is text, else as JSON; nothing for None."""
        if self.json:
            self.document(value)
        elif isinstance(value, str):
            self.line(value)
        elif value is not None:
            self.line(to_json(value, indent=2 if isinstance(value, dict | list) else None))

    def document(self, value: Any) -> None:
        """Print ``value`` as JSON, over several lines on a terminal."""
        self.line(to_json(value, indent=2 if sys.stdout.isatty() else None))

    def line(self, text: str) -> None:
        """Print one line."""
        sys.stdout.write(f"{text}\n")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table no wider than the terminal."""
        self.console().print(self.drawn_table(columns, rows))

    def drawn_table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
        """Return a table that can be printed on the console."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            # Names are data: markup in them means nothing.
            table.add_row(*(Text(cell, style=_STATE_STYLES.get(cell, "")) for cell in row))
        return table

    def listing(self, columns: Sequence[str], items: Sequence[Item]) -> None:
        """Print a table in which each row has a text below it, over the whole width."""
        from rich.text import Text

        console = self.console()
        rows = [columns, *(item.cells for item in items)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        indent = " " * (widths[0] + 2)
        for item in (Item(columns), *items):
            if item.heading:
                self.line(item.heading)
            cells = (
                Text(cell).plain.ljust(width)
                for cell, width in zip(item.cells, widths, strict=True)
            )
            self.line("  ".join(cells).rstrip())
            if item.text:
                width = max(MIN_TEXT_WIDTH, console.width - len(indent))
                for line in Text(item.text).wrap(console, width, overflow="fold"):
                    self.line(f"{indent}{line.plain.rstrip()}")

    def console(self) -> Console:
        """Return a Rich console on stdout: colour only on a terminal."""
        from rich.console import Console

        width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS") or TABLE_WIDTH)
        return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)

    def error(self, error: BaseException) -> None:
        """Print an error as one line on stderr."""
        code = getattr(error, "code", 0) if isinstance(error, AegisError) else 0
        message = " ".join(str(error).split()) or type(error).__name__
        if self.json:
            facts = error.facts if isinstance(error, AegisError) else {}
            line = to_json({"error": {**facts, "code": code, "message": message}})
        else:
            line = f"error {code}: {message}" if code else f"error: {message}"
        sys.stderr.write(f"{line}\n")


_STATE_STYLES: Final = {
    "healthy": "green",
    "ok": "green",
    "unhealthy": "red",
    "fail": "red",
    "warn": "yellow",
}


class guard:
    """Ends a command: an error becomes one line and an exit code, never a traceback.

    With ``AEGIS_DEBUG=1`` the traceback is shown before the line.
    """

    def __init__(self, output: Output) -> None:
        self._output = output

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, typer.Exit | SystemExit | GeneratorExit):
            try:
                # At the exit of the interpreter it would be too late to say anything.
                sys.stdout.flush()
                return
            except BrokenPipeError as broken:
                error = broken
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(EXIT_INTERRUPTED) from None
        if isinstance(error, BrokenPipeError):
            # Whoever read the output has seen enough. Python flushes stdout once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT_FAILED) from None
        if os.environ.get(DEBUG_VARIABLE) == "1":
            import traceback as formatter

            formatter.print_exception(error)
        if isinstance(error, AegisError):
            self._output.error(error)
            # Whoever starts the command can mend an option, wherever it was found wanting, but
            # not what the server allows.
            wrong_use = isinstance(error, ConfigurationError) and not isinstance(
                error, AccessDenied
            )
            raise typer.Exit(EXIT_USAGE if wrong_use else EXIT_FAILED) from None
        if isinstance(error, Exception):
            text = " ".join(str(error).split())
            self._output.error(
                AegisError(
                    f"{type(error).__name__}: {text} (unexpected; {DEBUG_VARIABLE}=1 shows where)"
                )
            )
            raise typer.Exit(EXIT_FAILED) from None


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return ``value`` as JSON; bytes as base64 text."""
    try:
        return json.dumps(_plain(value), ensure_ascii=False, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_plain(value), ensure_ascii=False, indent=indent, default=str)


def _plain(value: Any) -> Any:
    match value:
        case None | str() | int() | float():
            return value
        case bytes():
            return b64encode(value).decode()
        case Mapping():
            return {str(k): _plain(v) for k, v in value.items()}  # pyright: ignore
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]  # pyright: ignore
        case _:
            return str(value)
