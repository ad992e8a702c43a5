"""Every rule for turning what vendors send into ticks, as tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from aegis.marketdata._calendar import Calendar
from aegis.marketdata._normalizer import Normalizer
from aegis.marketdata._tick import Level, Tick
from tests.support.marketdata import NO_PRICE, ns, raw_tick


def normalized(calendar: Calendar, **changes: Any) -> Tick:
    result = Normalizer(calendar, "a").normalize(raw_tick(**changes))
    assert result is not None
    return result


PRICE_FIELDS = [
    "last_price",
    "open_price",
    "high_price",
    "low_price",
    "close_price",
    "settlement_price",
    "previous_close",
    "previous_settlement",
    "limit_up",
    "limit_down",
]


@pytest.mark.parametrize("field", PRICE_FIELDS)
@pytest.mark.parametrize("value", [NO_PRICE, float("nan"), float("inf"), None])
def test_no_price_is_none_in_every_field(
    calendar: Calendar, field: str, value: float | None
) -> None:
    result = normalized(calendar, **{field: value})
    assert getattr(result, field) is None
    assert {f for f in PRICE_FIELDS if getattr(result, f) is None} == {
        field,
        "close_price",
        "settlement_price",
    }


@pytest.mark.parametrize("field", PRICE_FIELDS)
def test_a_price_stays_in_its_own_field(calendar: Calendar, field: str) -> None:
    assert getattr(normalized(calendar, **{field: 1234.5}), field) == 1234.5


@pytest.mark.parametrize("field", ["turnover", "open_interest"])
def test_an_amount_that_does_not_exist_is_zero(calendar: Calendar, field: str) -> None:
    assert getattr(normalized(calendar, **{field: NO_PRICE}), field) == 0.0
    assert getattr(normalized(calendar, **{field: 17.0}), field) == 17.0


def test_a_side_of_the_book_that_is_empty_has_no_price(calendar: Calendar) -> None:
    result = normalized(calendar, levels=(Level(3099.0, 0, NO_PRICE, 7),))
    assert result.levels == (Level(None, 0, None, 7),)


def test_levels_that_say_nothing_are_left_out_but_for_the_first(calendar: Calendar) -> None:
    nothing = Level(NO_PRICE, 0, NO_PRICE, 0)
    best, second = Level(10.0, 1, 11.0, 2), Level(9.0, 3, NO_PRICE, 0)
    assert normalized(calendar, levels=(best, second, nothing, nothing)).levels == (
        best,
        Level(9.0, 3, None, 0),
    )
    assert normalized(calendar, levels=(nothing,)).levels == (Level(None, 0, None, 0),)


@pytest.mark.parametrize(("millisecond", "shown"), [(0, 0), (5, 5), (50, 50), (500, 500)])
def test_milliseconds_are_taken_as_the_number_that_they_are(
    calendar: Calendar, millisecond: int, shown: int
) -> None:
    result = normalized(calendar, millisecond=millisecond)
    assert result.time_ns == ns("2026-11-23 10:00:00") + shown * 1_000_000


DATES = [
    # exchange, told, received, meant, trading day, stale
    ("SHFE", "10:00:00", "2026-11-23 10:00:01", "2026-11-23 10:00:00", 20261123, False),
    # At night the date is that of the arrival, whatever the exchange says of it.
    ("SHFE", "21:00:00", "2026-11-23 21:00:01", "2026-11-23 21:00:00", 20261124, False),
    ("DCE", "21:00:00", "2026-11-23 21:00:01", "2026-11-23 21:00:00", 20261124, False),
    ("CZCE", "21:00:00", "2026-11-23 21:00:01", "2026-11-23 21:00:00", 20261124, False),
    ("INE", "02:29:59", "2026-11-24 02:30:00", "2026-11-24 02:29:59", 20261124, False),
    # Around midnight the clocks of both sides may be on different days.
    ("SHFE", "23:59:59", "2026-11-24 00:00:01", "2026-11-23 23:59:59", 20261124, False),
    ("SHFE", "00:00:01", "2026-11-23 23:59:59", "2026-11-24 00:00:01", 20261124, False),
    # Friday's night is Monday's, on both sides of midnight.
    ("SHFE", "21:30:00", "2026-11-20 21:30:00", "2026-11-20 21:30:00", 20261123, False),
    ("SHFE", "01:30:00", "2026-11-21 01:30:00", "2026-11-21 01:30:00", 20261123, False),
    # The last tick of the night, sent again in the morning, is last night's.
    ("CZCE", "23:29:59", "2026-11-24 07:40:00", "2026-11-23 23:29:59", 20261124, True),
    # The close of the day, sent again in the evening.
    ("DCE", "15:00:00", "2026-11-23 20:30:00", "2026-11-23 15:00:00", 20261124, True),
    # Three minutes are the limit.
    ("SHFE", "10:00:00", "2026-11-23 10:03:00", "2026-11-23 10:00:00", 20261123, False),
    ("SHFE", "10:00:00", "2026-11-23 10:03:01", "2026-11-23 10:00:00", 20261123, True),
    ("SHFE", "10:03:01", "2026-11-23 10:00:00", "2026-11-23 10:03:01", 20261123, True),
    # The day before a holiday of seven days has no night: what comes then is for after it.
    ("SHFE", "15:00:00", "2026-09-30 15:00:00", "2026-09-30 15:00:00", 20260930, False),
    ("SHFE", "20:55:00", "2026-10-07 20:55:00", "2026-10-07 20:55:00", 20261008, False),
]


@pytest.mark.parametrize(("exchange", "told", "received", "meant", "day", "stale"), DATES)
def test_times_get_the_date_that_is_nearest_to_their_arrival(
    calendar: Calendar,
    exchange: str,
    told: str,
    received: str,
    meant: str,
    day: int,
    stale: bool,
) -> None:
    result = normalized(
        calendar, exchange=exchange, time_of_day=told, millisecond=0, received_ns=ns(received)
    )
    shown = datetime.fromtimestamp(result.time_ns / 1e9, UTC).astimezone(calendar.zone)
    assert shown.strftime("%Y-%m-%d %H:%M:%S") == meant
    assert result.trading_day == day
    assert result.stale is stale


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exchange": "NYSE"}, "unknown exchange"),
        ({"exchange": "shfe"}, "unknown exchange"),
        ({"symbol": ""}, "no symbol"),
        ({"volume": -1}, "negative volume"),
        ({"millisecond": 1000}, "unreadable time"),
        ({"millisecond": -1}, "unreadable time"),
        ({"time_of_day": ""}, "unreadable time"),
        ({"time_of_day": "24:00:00"}, "unreadable time"),
        ({"time_of_day": "10:60:00"}, "unreadable time"),
        ({"time_of_day": "1:00:000"}, "unreadable time"),
        ({"time_of_day": "10-00-00"}, "unreadable time"),
    ],
)
def test_a_tick_that_makes_no_sense_is_counted_by_its_reason(
    calendar: Calendar, changes: dict[str, Any], reason: str
) -> None:
    normalizer = Normalizer(calendar, "a")
    assert normalizer.normalize(raw_tick(**changes)) is None
    assert normalizer.statistics() == {reason: 1}


def test_a_tick_names_its_feed_and_leaves_its_number_to_the_publisher(calendar: Calendar) -> None:
    result = normalized(calendar)
    assert (result.feed, result.epoch, result.sequence) == ("a", 0, 0)
    assert result.received_ns == raw_tick().received_ns
