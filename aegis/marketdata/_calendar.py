"""The trading calendar: which days are traded, when, and which day a night belongs to.

It is a file, since the exchanges' holidays are announced year by year. A day beyond what
the file knows is an error, never a guess.
"""

from __future__ import annotations

import tomllib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any, Final, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from attrs import define, evolve, field, frozen

from aegis import ConfigurationError

__all__ = ["BUILT_IN", "Calendar", "Phase", "Session"]

BUILT_IN: Final = ("china", "always")

NIGHT_BEGINS: Final = time(18)
"""From this hour on an evening counts to the next trading day; no exchange trades then."""

NIGHT_ENDS: Final = time(6)
"""Before this hour a morning is still the night of the day before."""


class Phase(StrEnum):
    """What a contract's market does at one moment."""

    OPEN = "open"
    BREAK = "break"
    """Between two sessions of the same trading day, the hours from night to day too."""
    CLOSED = "closed"


@frozen
class Session:
    """One stretch of continuous trading: ``begin`` inclusive, ``end`` exclusive, aware."""

    begin: datetime
    end: datetime


@frozen
class _Hours:
    contracts: tuple[str, ...]
    day: tuple[tuple[time, time], ...]
    night: tuple[time, time] | None


@define(eq=False)
class Calendar:
    """Trading days, and the sessions of each class of contracts."""

    zone: ZoneInfo
    _holidays: frozenset[date]
    _years: frozenset[int]
    _hours: tuple[_Hours, ...]
    _every_day: bool = False
    _traded: frozenset[date] = frozenset()
    """Days on which there was trading, whatever the rest says."""
    _sessions: dict[tuple[str, date], tuple[Session, ...]] = field(
        factory=dict[tuple[str, date], tuple[Session, ...]], init=False
    )

    # -- from a file --------------------------------------------------------------------

    @classmethod
    def load(cls, name: str | Path = "china") -> Self:
        """Read a calendar: one that comes with Aegis by its name, or a file.

        ``china`` has the exchanges of mainland China; ``always`` is open around the clock.

        Raises:
            ConfigurationError: there is none, or it says something that cannot be.
        """
        source = Path(name)
        if name in BUILT_IN:
            source = Path(str(resources.files("aegis.marketdata"))) / "calendars" / f"{name}.toml"
        try:
            tables = tomllib.loads(source.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(
                f"calendar: {source} cannot be read: {error.strerror or error}"
            ) from error
        except ValueError as error:
            raise ConfigurationError(f"calendar: {source} is no TOML: {error}") from error
        try:
            return cls.from_tables(tables)
        except ConfigurationError as error:
            raise ConfigurationError(f"calendar: {source}: {error}") from error

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any]) -> Self:
        """Make a calendar of what its file says.

        Raises:
            ConfigurationError: it says something that cannot be.
        """
        try:
            zone = ZoneInfo(tables["timezone"])
            holidays = {
                day
                for spans in tables["holidays"].values()
                for span in spans
                for day in _days_of(span)
            }
            years = frozenset(int(year) for year in tables["holidays"])
            hours = tuple(_hours_of(table) for table in tables["sessions"])
        except KeyError as error:
            raise ConfigurationError(f"{error} is missing") from error
        except (ValueError, TypeError, AttributeError, ZoneInfoNotFoundError) as error:
            raise ConfigurationError(str(error)) from error
        if strays := sorted(day for day in holidays if day.year not in years):
            raise ConfigurationError(f"{strays[0]} stands below another year")
        return cls(zone, frozenset(holidays), years, hours, bool(tables.get("every_day", False)))

    # -- days ---------------------------------------------------------------------------

    def is_trading_day(self, day: date) -> bool:
        """Whether the exchanges trade on a day.

        Raises:
            ConfigurationError: the calendar does not know the day's year.
        """
        if self._every_day or day in self._traded:
            return True
        if day.year not in self._years:
            known = ", ".join(map(str, sorted(self._years)))
            raise ConfigurationError(
                f"the calendar does not know {day} (it knows {known}); "
                "add the holidays of that year to its file"
            )
        return day.weekday() < 5 and day not in self._holidays

    def with_days(self, days: Iterable[date]) -> Self:
        """Return this calendar for a recording of these days.

        They were traded. Of their years that the file does not know, the weekdays are taken
        for trading days: a recording tells itself which day each of its ticks belongs to.
        """
        traded = frozenset(days)
        years = frozenset(day.year for day in traded)
        return evolve(self, years=self._years | years, traded=self._traded | traded)

    def days_left(self, moment: datetime) -> int | None:
        """Return how many trading days it knows from the one at hand on, which counts.

        0 if it does not know that one; None if it knows all days.
        """
        if self._every_day:
            return None
        try:
            day = self.trading_day(moment)
        except ConfigurationError:
            return 0
        count = 0
        while day.year in self._years:
            count += self.is_trading_day(day)
            day += timedelta(days=1)
        return count

    def next_trading_day(self, day: date) -> date:
        """Return the first trading day after ``day``."""
        return next(day for day in _onward(day, 1) if self.is_trading_day(day))

    def previous_trading_day(self, day: date) -> date:
        """Return the last trading day before ``day``."""
        return next(day for day in _onward(day, -1) if self.is_trading_day(day))

    def trading_day(self, moment: datetime) -> date:
        """Return which trading day a moment belongs to, in a session or not.

        An evening belongs to the next trading day, and so do the hours up to the next
        opening: Friday's night is Monday's.
        """
        local = moment.astimezone(self.zone)
        day = local.date()
        if local.time() >= NIGHT_BEGINS:
            return self.next_trading_day(day)
        if local.time() < NIGHT_ENDS:
            return self.next_trading_day(day - timedelta(days=1))
        return day if self.is_trading_day(day) else self.next_trading_day(day)

    def has_night(self, trading_day: date) -> bool:
        """Whether a trading day begins the evening before: not after a holiday."""
        before = self.previous_trading_day(trading_day)
        between = (before + timedelta(days=n) for n in range(1, (trading_day - before).days))
        return all(day.weekday() >= 5 for day in between)

    # -- sessions -----------------------------------------------------------------------

    def sessions(self, kind: str, trading_day: date) -> tuple[Session, ...]:
        """Return the sessions of ``EXCHANGE.class`` that make up a trading day, in order.

        Raises:
            ConfigurationError: the calendar has no hours for it, or does not know the day.
        """
        found = self._sessions.get((kind, trading_day))
        if found is None:
            found = self._sessions[kind, trading_day] = self._make_sessions(kind, trading_day)
        return found

    def _make_sessions(self, kind: str, trading_day: date) -> tuple[Session, ...]:
        return self._sessions_of(self._hours_for(kind), trading_day)

    def _sessions_of(self, hours: _Hours, trading_day: date) -> tuple[Session, ...]:
        if not self.is_trading_day(trading_day):
            return ()
        sessions: list[Session] = []
        if hours.night is not None and self.has_night(trading_day):
            evening = self.previous_trading_day(trading_day)
            sessions.append(self._session(evening, *hours.night))
        sessions += [self._session(trading_day, begin, end) for begin, end in hours.day]
        return tuple(sessions)

    def _hours_for(self, kind: str) -> _Hours:
        for hours in self._hours:
            if any(fnmatchcase(kind, pattern) for pattern in hours.contracts):
                return hours
        raise ConfigurationError(f"the calendar has no sessions for {kind}")

    def _session(self, day: date, begin: time, end: time) -> Session:
        later = day + timedelta(days=1) if end <= begin else day
        return Session(
            datetime.combine(day, begin, self.zone), datetime.combine(later, end, self.zone)
        )

    def phase(self, kind: str, moment: datetime, trading_day: date | None = None) -> Phase:
        """Return what the market of ``EXCHANGE.class`` does at a moment.

        ``trading_day`` is that of the moment, for who asks about many classes.
        """
        sessions = self.sessions(kind, trading_day or self.trading_day(moment))
        at = bisect_right(sessions, moment, key=lambda session: session.begin)
        if at and moment < sessions[at - 1].end:
            return Phase.OPEN
        return Phase.BREAK if 0 < at < len(sessions) else Phase.CLOSED

    def is_near_trading(self, moment: datetime, lead: timedelta) -> bool:
        """Whether anything trades at a moment, or will within ``lead``.

        Raises:
            ConfigurationError: the calendar does not know the day.
        """
        until = moment + lead
        days = {self.trading_day(moment), self.trading_day(until)}
        return any(
            session.begin <= until and moment < session.end
            for day in days
            for hours in self._hours
            for session in self._sessions_of(hours, day)
        )

    def open_seconds(self, kind: str, since: datetime, until: datetime) -> float:
        """Return how much of a stretch of time was trading: breaks and nights do not count."""
        day, last, total = self.trading_day(since), self.trading_day(until), 0.0
        while day <= last:
            for session in self.sessions(kind, day):
                begin, end = max(since, session.begin), min(until, session.end)
                total += max(0.0, (end - begin).total_seconds())
            day = self.next_trading_day(day)
        return total


def _onward(day: date, step: int) -> Iterator[date]:
    while True:
        day += timedelta(days=step)
        yield day


def _days_of(span: str) -> Iterator[date]:
    """Yield the days of ``2026-10-01..2026-10-07`` or of a single day."""
    first, _, last = span.partition("..")
    day, end = date.fromisoformat(first), date.fromisoformat(last or first)
    if end < day:
        raise ValueError(f"{span!r} ends before it begins")
    while day <= end:
        yield day
        day += timedelta(days=1)


def _hours_of(table: Mapping[str, Any]) -> _Hours:
    night = table.get("night")
    return _Hours(
        tuple(table["contracts"]),
        tuple(map(_span_of, table["day"])),
        None if night is None else _span_of(night),
    )


def _span_of(text: str) -> tuple[time, time]:
    begin, _, end = text.partition("-")
    return time.fromisoformat(begin), time.fromisoformat(end)
