"""Trading days, nights and sessions, as tables."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from aegis import ConfigurationError
from aegis.marketdata._calendar import Calendar, Phase
from tests.support.marketdata import SHANGHAI


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=SHANGHAI)


@pytest.mark.parametrize(
    ("day", "traded"),
    [
        ("2026-11-20", True),
        ("2026-11-21", False),
        ("2026-11-22", False),
        ("2026-10-01", False),
        ("2026-10-07", False),
        ("2026-10-08", True),
        ("2026-02-16", False),
        ("2026-02-24", True),
    ],
)
def test_weekends_and_holidays_are_not_traded(calendar: Calendar, day: str, traded: bool) -> None:
    assert calendar.is_trading_day(date.fromisoformat(day)) is traded


@pytest.mark.parametrize(
    ("moment", "day"),
    [
        ("2026-11-23T10:00", "2026-11-23"),
        ("2026-11-23T17:59", "2026-11-23"),
        ("2026-11-23T18:00", "2026-11-24"),
        ("2026-11-24T05:59", "2026-11-24"),
        ("2026-11-20T21:00", "2026-11-23"),
        ("2026-11-21T02:00", "2026-11-23"),
        ("2026-11-21T12:00", "2026-11-23"),
        ("2026-09-30T21:00", "2026-10-08"),
        ("2026-10-03T12:00", "2026-10-08"),
    ],
)
def test_a_moment_belongs_to_the_trading_day_that_it_opens(
    calendar: Calendar, moment: str, day: str
) -> None:
    assert calendar.trading_day(at(moment)) == date.fromisoformat(day)


@pytest.mark.parametrize(
    ("day", "night"),
    [("2026-11-24", True), ("2026-11-23", True), ("2026-10-08", False), ("2026-09-28", False)],
    ids=["a Tuesday", "a Monday", "after a week of holidays", "after one on a Friday"],
)
def test_the_first_day_after_a_holiday_has_no_night_before_it(
    calendar: Calendar, day: str, night: bool
) -> None:
    assert calendar.has_night(date.fromisoformat(day)) is night
    sessions = calendar.sessions("SHFE.au", date.fromisoformat(day))
    assert len(sessions) == (4 if night else 3)


@pytest.mark.parametrize(
    ("moment", "left"),
    [
        ("2026-12-25T10:00", 5),
        ("2026-12-30T17:59", 2),
        ("2026-12-30T18:00", 1),
        ("2026-12-31T15:30", 1),
        ("2026-12-31T18:00", 0),
        ("2027-01-04T10:00", 0),
    ],
)
def test_it_is_told_how_many_trading_days_the_calendar_still_knows(moment: str, left: int) -> None:
    tables: dict[str, Any] = {
        "timezone": "Asia/Shanghai",
        "holidays": {"2026": []},
        "sessions": [],
    }
    assert Calendar.from_tables(tables).days_left(at(moment)) == left


def test_a_calendar_of_every_day_has_no_end() -> None:
    assert Calendar.load("always").days_left(at("2026-12-31T18:00")) is None


PHASES = [
    ("SHFE.rb", "2026-11-23T08:59:59", Phase.BREAK),
    ("SHFE.rb", "2026-11-23T09:00:00", Phase.OPEN),
    ("SHFE.rb", "2026-11-23T10:14:59", Phase.OPEN),
    ("SHFE.rb", "2026-11-23T10:15:00", Phase.BREAK),
    ("SHFE.rb", "2026-11-23T10:30:00", Phase.OPEN),
    ("SHFE.rb", "2026-11-23T12:00:00", Phase.BREAK),
    ("SHFE.rb", "2026-11-23T15:00:00", Phase.CLOSED),
    ("SHFE.rb", "2026-11-23T20:59:59", Phase.CLOSED),
    ("SHFE.rb", "2026-11-23T21:00:00", Phase.OPEN),
    ("SHFE.rb", "2026-11-23T23:00:00", Phase.BREAK),
    ("SHFE.cu", "2026-11-24T00:30:00", Phase.OPEN),
    ("SHFE.cu", "2026-11-24T01:00:00", Phase.BREAK),
    ("SHFE.au", "2026-11-21T02:29:59", Phase.OPEN),
    ("SHFE.au", "2026-11-21T12:00:00", Phase.BREAK),
    ("CFFEX.IF", "2026-11-23T09:15:00", Phase.CLOSED),
    ("CFFEX.IF", "2026-11-23T09:30:00", Phase.OPEN),
    ("CFFEX.IF", "2026-11-23T15:00:00", Phase.CLOSED),
    ("CFFEX.T", "2026-11-23T15:14:59", Phase.OPEN),
    ("CFFEX.IF", "2026-11-23T21:00:00", Phase.CLOSED),
    ("GFEX.si", "2026-11-23T21:30:00", Phase.CLOSED),
    ("SHFE.rb", "2026-10-03T10:00:00", Phase.CLOSED),
    ("SHFE.rb", "2026-09-30T21:30:00", Phase.CLOSED),
]


@pytest.mark.parametrize(("kind", "moment", "phase"), PHASES)
def test_the_market_of_a_class_is_open_in_its_sessions(
    calendar: Calendar, kind: str, moment: str, phase: Phase
) -> None:
    assert calendar.phase(kind, at(moment)) is phase


def test_only_trading_counts_as_time_between_two_moments(calendar: Calendar) -> None:
    def seconds(kind: str, since: str, until: str) -> float:
        return calendar.open_seconds(kind, at(since), at(until))

    assert seconds("SHFE.rb", "2026-11-23T10:14:50", "2026-11-23T10:30:10") == 20
    assert seconds("SHFE.rb", "2026-11-23T14:59:50", "2026-11-23T21:00:10") == 20
    assert seconds("CFFEX.IF", "2026-11-20T14:59:50", "2026-11-23T09:30:10") == 20
    assert seconds("SHFE.rb", "2026-11-23T11:40:00", "2026-11-23T13:00:00") == 0


def test_a_year_that_the_calendar_does_not_know_is_an_error(calendar: Calendar) -> None:
    with pytest.raises(ConfigurationError, match=r"does not know 2031-01-06 .* add the holidays"):
        calendar.is_trading_day(date(2031, 1, 6))


def test_a_class_without_sessions_is_an_error(calendar: Calendar) -> None:
    with pytest.raises(ConfigurationError, match=r"no sessions for NYSE\.x"):
        calendar.sessions("NYSE.x", date(2026, 11, 23))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("timezone = [", "is no TOML"),
        ('timezone = "Asia/Shanghai"', "'holidays' is missing"),
        ('timezone = "Mars/Base"\nsessions = []\n[holidays]\n2026 = []', "Mars"),
        ('timezone = "UTC"\nsessions = []\n[holidays]\n2026 = ["2026-13-01"]', "month"),
        ('timezone = "UTC"\nsessions = []\n[holidays]\n2026 = ["2025-01-01"]', "another year"),
        (
            'timezone = "UTC"\nsessions = []\n[holidays]\n2026 = ["2026-01-03..2026-01-02"]',
            "ends before it begins",
        ),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "calendar.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=problem) as caught:
        Calendar.load(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml cannot be read"):
        Calendar.load(tmp_path / "none.toml")


def test_a_made_up_market_is_open_at_any_moment() -> None:
    always = Calendar.load("always")
    for moment in ("2031-01-04T00:00", "2031-01-04T05:59", "2031-01-04T18:00", "2031-10-01T12:00"):
        assert always.phase("SHFE.rb", at(moment)) is Phase.OPEN
    assert always.trading_day(at("2031-01-04T18:00")) == date(2031, 1, 5)
