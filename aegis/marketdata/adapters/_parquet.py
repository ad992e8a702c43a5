"""Recordings as Parquet files, written and read by pyarrow (the extra ``recorder``).

A folder holds ``<trading day>/<exchange>/<time>-<epoch>-<number>.parquet``. A file is there
whole or not at all, and says itself what it holds and what is missing before and in it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator, Iterator, Sequence
from datetime import date, datetime, tzinfo
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import structlog

from aegis import ConfigurationError
from aegis.marketdata._recorded_rows import LEVEL_PARTS, LEVELS, column_name
from aegis.marketdata._recorder import Part, PartFacts, RecordedGap
from aegis.marketdata._tick import Tick
from aegis.marketdata.adapters._csv_recording import OnDamage, Summary

__all__ = ["ParquetRecording", "ParquetSink", "facts_of", "recorded_files"]

FACTS: Final = b"aegis.recording"
"""Under which a file's own facts stand in its metadata, as JSON."""

ROWS_READ: Final = 8_192

_log = structlog.get_logger("aegis.recorder")


@cache
def _arrow() -> Any:
    """Return pyarrow, which has no types.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "Parquet needs the package pyarrow; install aegis-actors[recorder]"
        ) from error
    return import_module("pyarrow")


# -- one file -------------------------------------------------------------------------------

_PLAIN: Final = Tick._fields[1:-1]
"""The fields of a tick that are columns as they stand: all but its version and its levels."""

_TEXTS: Final = ("feed", "exchange", "symbol")
_WHOLES: Final = ("epoch", "sequence", "time_ns", "received_ns", "volume")


@cache
def _schema() -> Any:
    arrow = _arrow()
    fields: list[tuple[str, Any]] = []
    for name in _PLAIN:
        if name in _TEXTS:
            kind = arrow.dictionary(arrow.int32(), arrow.string())
        elif name in _WHOLES:
            kind = arrow.int64()
        elif name in ("trading_day", "flags"):
            kind = arrow.int32()
        else:
            kind = arrow.float64()
        fields.append((name, kind))
    for level in range(1, LEVELS + 1):
        for part in LEVEL_PARTS:
            kind = arrow.int64() if part.endswith("volume") else arrow.float64()
            fields.append((f"{part}_{level}", kind))
    return arrow.schema(fields)


def _pack(ticks: Sequence[Tick]) -> Any:
    """Return ticks as a batch of columns."""
    arrow, schema = _arrow(), _schema()
    columns: list[Any] = list(zip(*ticks, strict=True))[1:-1]
    books = [tick.levels for tick in ticks]
    deepest = max(map(len, books))
    for level in range(LEVELS):
        if level < deepest:
            columns += zip(
                *(book[level] if level < len(book) else _NO_LEVEL for book in books), strict=True
            )
        else:
            columns += [None] * len(LEVEL_PARTS)
    arrays = [
        arrow.nulls(len(ticks), kind.type) if cells is None else arrow.array(cells, kind.type)
        for cells, kind in zip(columns, schema, strict=True)
    ]
    return arrow.record_batch(arrays, schema=schema)


_NO_LEVEL: Final = (None,) * len(LEVEL_PARTS)


class ParquetRecording:
    """One Parquet file, to be replayed: one of the recorder, or of anybody else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _open(path) as file:
            self._names: list[str] = list(file.schema_arrow.names)
        self.columns = [column_name(name) for name in self._names]

    def summary(self) -> Summary | None:
        """Return what a file of the recorder holds; None for any other."""
        facts = facts_of(self.path)
        if facts is None:
            return None
        with _open(self.path) as file:
            symbols: list[str] = file.read(columns=["symbol"]).column(0).unique().to_pylist()
        day = date.fromisoformat(str(facts.trading_day))
        return Summary(facts.exchange, tuple(symbols), day, facts.first_ns, facts.last_ns)

    def rows(
        self, on_damage: OnDamage, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[int, Sequence[Any]]]:
        """Yield each row with its number, from 1."""
        wanted = [
            name
            for name, known in zip(self._names, self.columns, strict=True)
            if columns is None or known in columns
        ]
        number = 1
        with _open(self.path) as file:
            try:
                for batch in file.iter_batches(batch_size=ROWS_READ, columns=wanted):
                    read = {name: batch.column(name).to_pylist() for name in wanted}
                    nothing = [None] * batch.num_rows
                    cells = [read.get(name, nothing) for name in self._names]
                    for row in zip(*cells, strict=True):
                        yield number, row
                        number += 1
            except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
                on_damage(number, f"nothing behind it can be read: {error}")


@contextlib.contextmanager
def _open(path: Path) -> Generator[Any]:
    arrow = _arrow()
    try:
        file = arrow.parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} is no Parquet file that can be read: {error}") from error
    with file:
        yield file


def facts_of(path: Path) -> PartFacts | None:
    """Return what a file of the recorder says of itself; None for any other.

    Raises:
        ConfigurationError: it cannot be read.
    """
    with _open(path) as file:
        metadata: dict[bytes, bytes] = file.schema_arrow.metadata or {}
        told = metadata.get(FACTS)
    if told is None:
        return None
    try:
        facts: dict[str, Any] = json.loads(told)
        gaps = [RecordedGap(**gap) for gap in facts.pop("gaps")]
        return PartFacts(**facts, gaps=gaps)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(
            f"{path}: what it says of itself makes no sense: {error}"
        ) from error


def recorded_files(folder: Path, day: str = "*", exchange: str = "*") -> list[Path]:
    """Return the files of a recording, in the order of days, exchanges and times."""
    return sorted(folder.glob(f"{day}/{exchange}/[!.]*.parquet"))


# -- a folder of them -----------------------------------------------------------------------


class ParquetSink:
    """A `TickSink` that is a folder.

    Raises:
        ConfigurationError: pyarrow is missing, or the folder cannot be written to.
    """

    def __init__(self, folder: Path, zone: tzinfo) -> None:
        _arrow()
        self._folder = folder
        self._zone = zone
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{folder}: {error.strerror}; name another folder") from error
        if not os.access(folder, os.W_OK):
            raise ConfigurationError(f"{folder} cannot be written to; name another folder")
        for unfinished in folder.glob("*/*/.*.tmp"):
            _log.warning("recording_interrupted", file=str(unfinished), action="it is removed")
            unfinished.unlink(missing_ok=True)

    def pack(self, ticks: Sequence[Tick]) -> Any:
        """Return ticks as columns."""
        return _pack(ticks)

    def write(self, part: Part) -> None:
        """Write a part under another name, and give it its own once it is on the disk."""
        arrow = _arrow()
        path = self._path(part.facts)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {FACTS: json.dumps(part.facts.plain()).encode()}
        table = arrow.Table.from_batches(part.packed).replace_schema_metadata(metadata)
        unfinished = path.with_name(f".{path.name}.tmp")
        try:
            with unfinished.open("wb") as file:
                arrow.parquet.write_table(table, file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(path)
            _sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise

    def _path(self, facts: PartFacts) -> Path:
        begun = datetime.fromtimestamp(facts.first_ns / 1e9, self._zone)
        epoch, number = facts.first
        folder = self._folder / str(facts.trading_day) / facts.exchange
        # Names sort in the order in which parts were recorded.
        name = f"{begun:%Y%m%d-%H%M%S}-{epoch}-{number:010}"
        path, again = folder / f"{name}.parquet", 2
        while path.exists():
            path, again = folder / f"{name}_{again}.parquet", again + 1
        return path

    def last(self, exchange: str) -> tuple[int, int] | None:
        """Return what the newest file of an exchange ends with."""
        for path in reversed(recorded_files(self._folder, exchange=exchange)):
            try:
                facts = facts_of(path)
            except ConfigurationError as error:
                _log.error("recording_damaged", file=str(path), reason=str(error))
                continue
            if facts is not None:
                return facts.last[0], facts.last[1]
        return None


def _sync_folder(folder: Path) -> None:
    """Have the new name on the disk, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
