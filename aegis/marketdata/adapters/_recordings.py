"""All that is to be replayed: which files, what is in them, and their ticks in order."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from glob import glob, has_magic
from pathlib import Path
from typing import Any, Final, Protocol, Self

import structlog
from attrs import define, field

from aegis import ConfigurationError
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._config import ReplaySource
from aegis.marketdata._contract import Contract
from aegis.marketdata._ports import RawTick
from aegis.marketdata._recorded_rows import RowReader, RowUnreadable, contract_of
from aegis.marketdata.adapters._csv_recording import CsvRecording, OnDamage, Summary

__all__ = ["Recordings", "check_files"]

SUFFIXES: Final = (".csv", ".csv.gz", ".parquet")

LINES_NAMED: Final = 100
"""Damaged lines of one file that are named one by one; all are counted."""

_log = structlog.get_logger("aegis.feed")


class Recording(Protocol):
    """One file."""

    path: Path
    columns: list[str]

    def summary(self) -> Summary | None:
        """Return what it holds, if it can tell without being read through."""
        ...

    def rows(
        self, on_damage: OnDamage, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[int, Sequence[Any]]]:
        """Yield each row with its number; with ``columns``, those cells are enough."""
        ...


def check_files(source: ReplaySource) -> list[str]:
    """Return what keeps files from being replayed, as far as their names and heads tell."""
    try:
        for recording in _open_all(source):
            _reader(recording, Calendar.load("always"), source.exchange)
    except ConfigurationError as error:
        return [str(error)]
    return []


@define
class _File:
    """One file, and what a first look at it told."""

    recording: Recording
    contracts: set[tuple[str, str]] = field(factory=set[tuple[str, str]])
    days: set[date] = field(factory=set[date])
    first_ns: int = 0
    last_ns: int = 0

    @classmethod
    def of(cls, recording: Recording) -> Self | None:
        """Return a file that tells what it holds."""
        told = recording.summary()
        if told is None:
            return None
        contracts = {(told.exchange, symbol) for symbol in told.symbols}
        return cls(recording, contracts, {told.day}, told.first_ns, told.last_ns)


class Recordings:
    """The ticks of some files, in the order in which they were received.

    What makes no tick is counted, and named in the log by its file and line.
    """

    def __init__(self, files: Sequence[_File], source: ReplaySource, calendar: Calendar) -> None:
        self._files = [file for file in files if file.contracts]
        self._source = source
        self._counts: Counter[str] = Counter()
        if not self._files:
            raise ConfigurationError(
                f"{', '.join(source.files)}: there is no row that makes a tick; the log says why"
            )
        self.calendar = calendar.with_days(day for file in self._files for day in file.days)
        self.begin_ns = min(file.first_ns for file in self._files)
        self.end_ns = max(file.last_ns for file in self._files)
        year = datetime.fromtimestamp(self.begin_ns / 1e9, calendar.zone).year
        keys = sorted({key for file in self._files for key in file.contracts})
        self.contracts: list[Contract] = [contract_of(*key, year) for key in keys]

    @classmethod
    def open(cls, source: ReplaySource, calendar: Calendar) -> Self:
        """Find out what is in the files.

        Raises:
            ConfigurationError: there are none, or one cannot be read at all.
        """
        files: list[_File] = []
        for recording in _open_all(source):
            reader = _reader(recording, calendar, source.exchange)
            file = _File.of(recording) or _look_at(recording, reader)
            files.append(file)
            _log.info(
                "recording_opened",
                file=str(recording.path),
                contracts=len(file.contracts),
                days=[str(day) for day in sorted(file.days)],
                ignored_columns=reader.ignored,
            )
        return cls(files, source, calendar)

    def statistics(self) -> Mapping[str, int]:
        """Return how many rows were read so far, and how many of them made no tick."""
        return {
            "files": len(self._files),
            "contracts": len(self.contracts),
            "rows": self._counts["rows"],
            "damaged": self._counts["damaged"],
            "begin_ns": self.begin_ns,
            "end_ns": self.end_ns,
        }

    def ticks(self) -> Iterator[RawTick]:
        """Yield all ticks."""
        lanes = [self._ticks_of(lane) for lane in _lanes(self._files)]
        return heapq.merge(*lanes, key=lambda tick: tick.received_ns)

    def _ticks_of(self, lane: Iterable[_File]) -> Iterator[RawTick]:
        for file in lane:
            yield from self._ticks_of_file(file.recording)

    def _ticks_of_file(self, recording: Recording) -> Iterator[RawTick]:
        reader = _reader(recording, self.calendar, self._source.exchange)
        damaged = 0

        def on_damage(line: int, reason: str) -> None:
            nonlocal damaged
            damaged += 1
            self._counts["damaged"] += 1
            if damaged <= LINES_NAMED:
                _log.warning(
                    "recorded_row_left_out", file=str(recording.path), line=line, reason=reason
                )

        for line, row in recording.rows(on_damage):
            try:
                tick = reader.read(row)
            except RowUnreadable as error:
                on_damage(line, str(error))
            else:
                self._counts["rows"] += 1
                yield tick
        if damaged:
            _log.warning(
                "recording_damaged",
                file=str(recording.path),
                rows_left_out=damaged,
                action="the rest was played; mend or record the file anew if those rows matter",
            )


# -- which files ----------------------------------------------------------------------------


def _open_all(source: ReplaySource) -> Iterator[Recording]:
    if not source.files:
        raise ConfigurationError("none is named")
    for path in _found(source.files):
        if path.suffix == ".parquet":
            from aegis.marketdata.adapters._parquet import ParquetRecording

            yield ParquetRecording(path)
        else:
            yield CsvRecording(path)


def _found(names: Iterable[str]) -> list[Path]:
    found: dict[Path, None] = {}
    for name in names:
        paths = [Path(path) for path in sorted(glob(name))] if has_magic(name) else [Path(name)]
        files = [file for path in paths for file in _files_in(path)]
        if not files:
            raise ConfigurationError(
                f"{name} is no file or folder with {', '.join(SUFFIXES)} files"
            )
        found |= dict.fromkeys(files)
    return list(found)


def _files_in(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if path.name.endswith(SUFFIXES) and path.exists() else []
    return sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES))


def _reader(recording: Recording, calendar: Calendar, exchange: str) -> RowReader:
    try:
        return RowReader(recording.columns, calendar.zone, exchange)
    except RowUnreadable as error:
        raise ConfigurationError(f"{recording.path}: {error}") from error


# -- a first look ---------------------------------------------------------------------------

_LOOKED_AT: Final = ("symbol", "exchange", "trading_day", "date", "time", "time_ns", "received_ns")


def _look_at(recording: Recording, reader: RowReader) -> _File:
    """Return what a file holds; rows that make no tick are told when they are played."""
    file = _File(recording)
    known: dict[tuple[Any, ...], None] = {}
    last: Sequence[Any] | None = None
    at = {name: recording.columns.index(name) for name in _LOOKED_AT if name in recording.columns}
    telling = [at[name] for name in ("symbol", "exchange", "trading_day", "date") if name in at]
    tells_days = "trading_day" in at or "date" in at
    for _, row in recording.rows(lambda line, reason: None, _LOOKED_AT):
        if len(row) != len(recording.columns):
            continue
        # Most rows are like one before, in all that is looked for.
        told = tuple(row[index] for index in telling)
        if told in known and tells_days:
            last = row
            continue
        try:
            moment, day = reader.moment(row)
            file.contracts.add(reader.key(row))
        except RowUnreadable:
            continue
        known[told] = None
        file.first_ns = file.first_ns or moment
        file.last_ns = max(file.last_ns, moment)
        file.days.add(day)
    if last is not None:
        try:
            file.last_ns = max(file.last_ns, reader.moment(last)[0])
        except RowUnreadable:
            file.last_ns = max(file.last_ns, file.first_ns)
    return file


def _lanes(files: Sequence[_File]) -> list[list[_File]]:
    """Return files in rows of such that follow one another, as few rows as there can be.

    A recording is cut into many files; only one of each row is open at a time.
    """
    lanes: list[list[_File]] = []
    for file in sorted(files, key=lambda file: file.first_ns):
        lane = next((lane for lane in lanes if lane[-1].last_ns <= file.first_ns), None)
        if lane is None:
            lanes.append([file])
        else:
            lane.append(file)
    return lanes
