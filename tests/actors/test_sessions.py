"""The session table: what is known, what is new, what is too old to tell."""

from __future__ import annotations

from typing import Any

import msgpack
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aegis.actors._sessions import WINDOW, Fresh, Known, Refusal, SessionTable


def test_a_repeat_is_answered_as_recorded() -> None:
    table = SessionTable()
    table.record("100-a", 1, 1, 422, b"no")
    assert table.look_up("100-a", 1, 1) == Known(422, b"no")


def test_a_new_message_of_a_known_session_is_fresh() -> None:
    table = SessionTable()
    table.record("100-a", 2, 1, 200, b"")
    assert table.look_up("100-a", 1, 1) == Fresh()
    assert table.look_up("100-a", 3, 1) == Fresh()


def test_a_message_that_its_caller_has_closed_is_too_old() -> None:
    table = SessionTable()
    table.record("100-a", 5, 4, 200, b"")
    verdict = table.look_up("100-a", 3, 1)
    assert isinstance(verdict, Refusal)
    assert verdict.status == 410
    assert not verdict.facts


def test_a_message_beyond_the_window_has_to_wait() -> None:
    table = SessionTable()
    table.record("100-a", 1, 1, 200, b"")
    assert isinstance(table.look_up("100-a", WINDOW, 1), Fresh)
    verdict = table.look_up("100-a", WINDOW + 1, 1)
    assert isinstance(verdict, Refusal)
    assert verdict.status == 429
    newcomer = table.look_up("101-b", WINDOW + 1, 1)
    assert isinstance(newcomer, Refusal)
    assert newcomer.status == 429


def test_looking_up_changes_nothing() -> None:
    table = SessionTable(max_sessions=1)
    table.record("100-a", 1, 1, 200, b"x")
    before = table.to_wire()
    table.look_up("101-b", 1, 1)
    table.look_up("100-a", 2, 2)
    assert table.to_wire() == before


def test_the_longest_idle_session_makes_room() -> None:
    table = SessionTable(max_sessions=2)
    table.record("100-a", 1, 1, 200, b"")
    table.record("101-b", 1, 1, 200, b"")
    table.record("100-a", 2, 1, 200, b"")
    assert table.look_up("102-c", 1, 1) == Fresh(drops="101-b")


def test_a_dropped_session_is_refused_and_told_the_floor() -> None:
    table = SessionTable(max_sessions=1)
    table.record("100-a", 1, 1, 200, b"")
    table.drop("100-a")
    verdict = table.look_up("100-a", 1, 1)
    assert isinstance(verdict, Refusal)
    assert verdict.facts == {"floor": 100}


def test_no_session_from_before_the_floor_is_taken_in() -> None:
    table = SessionTable()
    table.record("100-a", 1, 1, 200, b"")
    table.drop("100-a")
    assert isinstance(table.look_up("100-other", 1, 1), Refusal)
    assert isinstance(table.look_up("99-old", 1, 1), Refusal)
    assert table.look_up("101-new", 1, 1) == Fresh()


def test_the_floor_does_not_touch_sessions_that_are_known() -> None:
    table = SessionTable()
    table.record("50-a", 1, 1, 200, b"kept")
    table.record("100-b", 1, 1, 200, b"")
    table.drop("100-b")
    assert table.look_up("50-a", 1, 1) == Known(200, b"kept")
    assert table.look_up("50-a", 2, 1) == Fresh()


def test_the_floor_never_falls() -> None:
    table = SessionTable()
    for session in ("100-a", "50-b"):
        table.record(session, 1, 1, 200, b"")
    table.drop("100-a")
    table.drop("50-b")
    assert table.floor == 100


def test_a_name_that_is_no_session_is_refused() -> None:
    assert isinstance(SessionTable().look_up("nonsense", 1, 1), Refusal)


def test_a_message_that_nobody_can_repeat_leaves_no_trace() -> None:
    table = SessionTable()
    assert table.look_up("", 0, 0) == Fresh()
    table.record("", 0, 0, 200, b"")
    assert len(table) == 0


def test_a_large_reply_is_not_kept_but_its_message_stays_done() -> None:
    table = SessionTable(max_kept_reply_bytes=4)
    table.record("100-a", 1, 1, 200, b"large")
    verdict = table.look_up("100-a", 1, 1)
    assert isinstance(verdict, Refusal)
    assert verdict.facts == {"done": True}


def test_replies_of_the_longest_idle_are_forgotten_first_and_the_newest_stays() -> None:
    table = SessionTable(max_kept_bytes=10)
    table.record("100-a", 1, 1, 200, b"aaaa")
    table.record("101-b", 1, 1, 200, b"bbbb")
    table.record("101-b", 2, 1, 200, b"cccc")
    assert isinstance(table.look_up("100-a", 1, 1), Refusal)
    assert isinstance(table.look_up("101-b", 1, 1), Refusal)
    assert table.look_up("101-b", 2, 1) == Known(200, b"cccc")


messages = st.tuples(
    st.sampled_from(["10-a", "11-b", "12-c", "12-d", "13-e"]),
    st.integers(1, 8),
    st.integers(0, 3),
    st.binary(max_size=12),
)


@given(st.lists(messages, max_size=60))
def test_a_table_read_from_a_snapshot_goes_on_like_the_one_that_was_written(
    stream: list[tuple[str, int, int, bytes]],
) -> None:
    written, read = small_table(), small_table()
    for session, n, back, reply in stream:
        read_again = small_table()
        read_again.load(msgpack.unpackb(msgpack.packb(read.to_wire())))
        read = read_again
        low = max(1, n - back)
        verdict = written.look_up(session, n, low)
        assert read.look_up(session, n, low) == verdict
        if isinstance(verdict, Fresh):
            for table in (written, read):
                if verdict.drops is not None:
                    table.drop(verdict.drops)
                table.record(session, n, low, 200, reply)
        assert read.to_wire() == written.to_wire()
        assert read.kept_bytes == written.kept_bytes
        assert read.size_bytes == written.size_bytes


def small_table() -> SessionTable:
    return SessionTable(max_sessions=2, max_kept_bytes=24, max_kept_reply_bytes=8, window=3)


class TableAgainstAPerfectMemory(RuleBasedStateMachine):
    """Whatever happens, nothing that took effect is ever taken for new."""

    def __init__(self) -> None:
        super().__init__()
        self.table = small_table()
        self.applied: dict[tuple[str, int], bytes] = {}

    @rule(message=messages)
    def take(self, message: tuple[str, int, int, bytes]) -> None:
        session, n, back, reply = message
        low = max(1, n - back)
        verdict = self.table.look_up(session, n, low)
        if isinstance(verdict, Fresh):
            assert (session, n) not in self.applied
            if verdict.drops is not None:
                self.table.drop(verdict.drops)
            self.table.record(session, n, low, 200, reply)
            self.applied[session, n] = reply
        elif isinstance(verdict, Known):
            assert self.applied[session, n] == verdict.reply
        elif verdict.done:
            assert (session, n) in self.applied

    @invariant()
    def every_bound_holds(self) -> None:
        wire: list[Any] = self.table.to_wire()
        assert len(wire[1]) <= 2
        assert self.table.kept_bytes <= 24
        assert len(msgpack.packb(wire)) <= self.table.size_bytes
        for _, low, replies in wire[1]:
            assert len(replies) <= 3
            assert all(n >= low for n, _, _ in replies)


TestTableAgainstAPerfectMemory = TableAgainstAPerfectMemory.TestCase
