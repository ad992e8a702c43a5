"""Journal records survive the way to bytes and back."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from aegis.actors._record import (
    CommandEntry,
    Entry,
    Event,
    MailSkipped,
    MailStashed,
    MailTried,
    Record,
    ReminderOver,
    SessionDropped,
    Subscribed,
)
from aegis.errors import JournalUnreadable

EMPTY_TABLES: list[Any] = [[0, []]]

numbers = st.integers(0, 2**63)
sessions = st.from_regex(r"[0-9]{1,13}-[0-9a-z]{1,16}", fullmatch=True)
events = st.builds(Event, st.text(max_size=10), st.integers(1, 9), st.binary(max_size=20))
commands = st.builds(
    CommandEntry,
    session=sessions,
    n=numbers,
    low=numbers,
    status=st.sampled_from([200, 422, 500]),
    reply=st.binary(max_size=40),
    events=st.none() | st.lists(events, min_size=1, max_size=3),
    mail=numbers,
    source=st.sampled_from(["", "ledger"]),
    method=st.text(max_size=12),
)
entries: st.SearchStrategy[Entry] = st.one_of(
    commands,
    st.builds(SessionDropped, sessions),
    st.builds(MailTried, numbers, st.sampled_from(["", "ledger"])),
    st.builds(
        MailSkipped,
        numbers,
        st.text(max_size=20),
        sessions,
        numbers,
        numbers,
        st.sampled_from(["", "ledger"]),
    ),
    st.builds(Subscribed, st.just("ledger"), numbers),
    st.builds(MailStashed, numbers, sessions, numbers, numbers, st.binary(max_size=20)),
)
records = st.builds(
    Record,
    epoch=numbers,
    entries=st.none() | st.lists(entries, max_size=4),
    cursor=numbers,
    state=st.none() | st.binary(max_size=30),
    tables=st.none() | st.just(EMPTY_TABLES),
)


def there_and_back(record: Record) -> Record:
    return Record.from_wire(msgpack.unpackb(msgpack.packb(record.to_wire())))


@given(records)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert there_and_back(record) == record


@given(commands)
def test_the_size_of_an_entry_is_never_underrated(entry: CommandEntry) -> None:
    entry.events = None  # Names of events are identifiers, not any text.
    wire = Record(1, [entry]).to_wire()[2][0]
    assert len(msgpack.packb(wire)) <= entry.size_bytes


def test_no_events_and_an_empty_list_of_them_are_the_same_on_the_wire() -> None:
    without = CommandEntry("1-a", 1, 1, 200, b"")
    empty = CommandEntry("1-a", 1, 1, 200, b"", events=[], outgoing=[])
    assert Record(1, [without]).to_wire() == Record(1, [empty]).to_wire()


def test_entries_of_earlier_releases_are_read() -> None:
    bare: list[Any] = [0, "1-a", 1, 1, 200, b"", None, None, 0]
    reminded = [*bare, [["r"]]]
    of_mail: list[Any] = [*bare[:-1], 7, [], "ledger"]
    plain = CommandEntry("1-a", 1, 1, 200, b"")
    expected: list[Entry] = [
        plain,
        evolve(plain, reminders=[ReminderOver("r")]),
        evolve(plain, mail=7, source="ledger"),
    ]
    found = Record.from_wire([1, 1, [bare, reminded, of_mail], 0, None])
    assert found.entries == expected


def test_a_fence_is_no_empty_group() -> None:
    assert there_and_back(Record(3, entries=None)).is_fence
    assert not there_and_back(Record(3, entries=[])).is_fence


def test_a_record_with_tables_is_a_snapshot() -> None:
    assert there_and_back(Record(3, [], tables=[[0, []]])).is_snapshot
    assert not there_and_back(Record(3, [])).is_snapshot


def test_a_later_version_is_refused_by_name() -> None:
    wire = Record(3, []).to_wire()
    wire[0] = 2
    with pytest.raises(JournalUnreadable, match="version 2"):
        Record.from_wire(wire)


@pytest.mark.parametrize(
    "wire",
    [None, [], 7, b"", [1], [1, 2, 3], [1, 2, [[9]], 0, None], [1, 2, [[0, "a"]], 0, None], {}],
)
def test_what_is_no_record_is_told_so(wire: Any) -> None:
    with pytest.raises(JournalUnreadable):
        Record.from_wire(wire)
