"""When reminders come: what their times amount to, by the second, the interval and the calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.actors._record import Reminder, ReminderOver, reminder_from_wire
from aegis.actors._reminders import following
from aegis.actors._schedule import Due, Schedule, next_by_cron
from aegis.errors import InvalidRequest

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)  # a Friday


def ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def times(text: str, zone: str, start: datetime, count: int) -> list[str]:
    """Return the local times that a cron text stands for, one after another."""
    found: list[str] = []
    now_ms = ms(start)
    for _ in range(count):
        now_ms = next_by_cron(text, zone, now_ms)
        found.append(datetime.fromtimestamp(now_ms / 1000, ZoneInfo(zone)).isoformat())
    return found


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        (Schedule(after=2.5), Due(ms(NOW) + 2500)),
        (Schedule(at=NOW - timedelta(days=1)), Due(ms(NOW) - 86_400_000)),
        (Schedule(every=timedelta(hours=1)), Due(ms(NOW) + 3_600_000, 3_600_000)),
        (Schedule(after=1, every=60), Due(ms(NOW) + 1000, 60_000)),
        (
            Schedule(every="0 9 * * 1-5"),
            Due(ms(NOW.replace(hour=9, minute=0)), cron=("0 9 * * 1-5", "UTC")),
        ),
        (
            Schedule(every="0 9 * * mon", tz="Asia/Shanghai", at=datetime(2027, 1, 1, tzinfo=UTC)),
            Due(ms(datetime(2027, 1, 4, 1, tzinfo=UTC)), cron=("0 9 * * mon", "Asia/Shanghai")),
        ),
        (
            Schedule(every="0 9 * * *", at=NOW.replace(hour=9, minute=0)),
            Due(ms(NOW.replace(hour=9, minute=0)), cron=("0 9 * * *", "UTC")),
        ),
    ],
)
def test_times_amount_to_when_it_comes_first_and_again(schedule: Schedule, due: Due) -> None:
    assert schedule.check(ms(NOW)) == due


def test_a_cron_text_is_read_in_its_time_zone() -> None:
    assert times("0 9 * * 1-5", "Asia/Shanghai", NOW, 2) == [
        "2026-11-23T09:00:00+08:00",
        "2026-11-24T09:00:00+08:00",
    ]


def test_where_clocks_go_forward_what_is_left_out_comes_right_after_once() -> None:
    assert times("15,30 2 * * *", "Europe/Berlin", datetime(2026, 3, 28, 12, tzinfo=BERLIN), 2) == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:15:00+02:00",
    ]


def test_where_clocks_go_back_a_certain_time_comes_once_and_an_interval_goes_on() -> None:
    evening = datetime(2026, 10, 24, 22, tzinfo=BERLIN)
    assert times("30 2 * * *", "Europe/Berlin", evening, 2) == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]
    second = datetime(2026, 10, 25, 2, 10, fold=1, tzinfo=BERLIN)
    assert times("30 2 * * *", "Europe/Berlin", second, 1) == ["2026-10-26T02:30:00+01:00"]
    before = datetime(2026, 10, 25, 1, 45, tzinfo=BERLIN)
    assert times("*/30 * * * *", "Europe/Berlin", before, 4) == [
        "2026-10-25T02:00:00+02:00",
        "2026-10-25T02:30:00+02:00",
        "2026-10-25T02:00:00+01:00",
        "2026-10-25T02:30:00+01:00",
    ]


@pytest.mark.parametrize(
    ("schedule", "field", "says"),
    [
        (Schedule(every="61 * * * *"), "every", "Bad minute"),
        (Schedule(every="0 9 * *"), "every", "Wrong number of fields"),
        (Schedule(every="0 9 * * 1-5 tomorrow never"), "every", "Wrong number of fields"),
        (Schedule(every=""), "every", '"0 9 \\* \\* 1-5" is 9:00 from Monday to Friday'),
        (Schedule(every="* * * * *" + " " * 200), "every", "more than 200 characters"),
        (Schedule(every="0 0 30 2 *"), "every", "Bad day-of-month"),
        (Schedule(every="* * */20 * 1L"), "every", "no such time comes"),
        (Schedule(every="0 9 * * *", tz="Mars/Olympus"), "tz", "Asia/Shanghai"),
        (Schedule(every="0 9 * * *", tz="America"), "tz", "no time zone 'America'"),
        (Schedule(every="0 9 * * *", tz="../../etc/passwd"), "tz", "no time zone"),
        (Schedule(every="0 9 * * *", tz=""), "tz", "no time zone ''"),
        (Schedule(every=60, tz="UTC"), "tz", "goes with a cron text"),
        (Schedule(every=0), "every", "more than 0"),
        (Schedule(every=True), "every", "seconds or a timedelta, or a cron text"),
        (Schedule(after=-1), "after", "negative"),
        (Schedule(after=1, at=NOW), "after", "give after"),
        (Schedule(), "after", "give after"),
        (Schedule(at=NOW.replace(tzinfo=None)), "at", "time zone"),
        (Schedule(after=10.0**12), "after", "out of range"),
    ],
)
def test_what_is_wrong_is_named_by_its_field(schedule: Schedule, field: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as refused:
        schedule.check(ms(NOW))
    assert refused.value.facts["field"] == field
    assert str(refused.value).startswith(f"{field}: ")


def test_missed_is_one_of_two_words() -> None:
    never: Any = "never"
    with pytest.raises(InvalidRequest, match="missed: must be 'run' or 'skip'"):
        Schedule(after=1, missed=never).check(ms(NOW))


def test_one_by_cron_comes_next_at_the_first_time_that_is_still_ahead() -> None:
    due = Schedule(every="0 * * * *").check(ms(NOW))
    reminder = Reminder("a", "m", b"", due.first_ms, cron=due.cron)
    late = following(reminder, due.first_ms + 5 * 3_600_000 + 1)
    assert isinstance(late, Reminder)
    assert late.due_ms == due.first_ms + 6 * 3_600_000
    early = following(reminder, due.first_ms - 5)
    assert isinstance(early, Reminder)
    assert early.due_ms == due.first_ms + 3_600_000
    assert following(Reminder("a", "m", b"", 5), 6) == ReminderOver("a")


@given(st.none() | st.tuples(st.text(max_size=20), st.text(max_size=20)), st.text(max_size=9))
def test_a_reminder_comes_back_from_the_wire_as_it_was(
    cron: tuple[str, str] | None, name: str
) -> None:
    reminder = Reminder(name, "m", b"x", 5, 0, True, "trace", cron)
    packed: bytes = msgpack.packb(reminder.to_wire(), unicode_errors="surrogatepass")
    assert len(packed) <= reminder.size_bytes
    assert reminder_from_wire(msgpack.unpackb(packed, unicode_errors="surrogatepass")) == reminder
