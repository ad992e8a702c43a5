"""Recordings as CSV, compressed with gzip or not.

A comma parts the cells and a line the rows, whatever a cell holds: so a row that is
damaged never takes the next one with it.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, TextIO

from attrs import frozen

from aegis import ConfigurationError
from aegis.marketdata._recorded_rows import column_name

__all__ = ["CsvRecording", "OnDamage", "Summary"]

type OnDamage = Callable[[int, str], None]
"""Is told the line, from 1, and what is wrong with it."""


@frozen
class Summary:
    """What a file of one exchange and trading day holds."""

    exchange: str
    symbols: tuple[str, ...]
    day: date
    first_ns: int
    last_ns: int


class CsvRecording:
    """One CSV file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _readable(path), self._open() as lines:
            self.columns = [column_name(cell) for cell in lines.readline().split(",")]
        if self.columns == [""]:
            raise ConfigurationError(f"{path}: it is empty; a recording begins with its columns")

    def summary(self) -> Summary | None:
        """Nothing: it has to be read through."""
        return None

    def rows(
        self, on_damage: OnDamage, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[int, Sequence[Any]]]:
        """Yield each row with the number of its line; all cells, whatever ``columns`` says."""
        number = 1
        try:
            with self._open() as lines:
                lines.readline()
                for number, line in enumerate(lines, 2):
                    row = line.rstrip("\r\n").split(",")
                    if row != [""]:
                        yield number, [cell.strip('"') for cell in row] if '"' in line else row
        except (EOFError, zlib.error, OSError) as error:
            on_damage(number + 1, f"nothing behind it can be read: {error}")

    def _open(self) -> TextIO:
        if self.path.suffix == ".gz":
            return gzip.open(self.path, "rt", encoding="utf-8-sig", errors="replace")
        return self.path.open(encoding="utf-8-sig", errors="replace")


@contextmanager
def _readable(path: Path) -> Generator[None]:
    try:
        yield
    except (EOFError, zlib.error, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"{path} cannot be read: {reason}") from error
