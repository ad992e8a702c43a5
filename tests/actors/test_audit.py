"""An auditor's look at a journal: what it did, and the first record that breaks a rule."""

from __future__ import annotations

from typing import Any

import pytest

from aegis.actors._audit import EXPECTED, Audit, AuditedEntry
from aegis.actors._record import (
    CommandEntry,
    Entry,
    Event,
    Forwarded,
    MailSessionDropped,
    MailSkipped,
    MailStashed,
    MailTried,
    Outgoing,
    Record,
    Reminder,
    ReminderOver,
    SessionDropped,
)
from aegis.transport import Stored
from aegis.transport._codec import encode_value


def command(n: int, answer: Any = None, status: int = 200, session: str = "5-a") -> CommandEntry:
    return CommandEntry(session, n, 1, status, encode_value(answer))


def mailed(sequence: int, n: int = 1, session: str = "6-m", *sent: int) -> CommandEntry:
    outgoing = [Outgoing(number, "book", "B-1", b"message") for number in sent]
    return CommandEntry(
        session, n, 1, 200, encode_value(None), outgoing=outgoing or None, mail=sequence
    )


class Journal:
    """Makes the messages of a journal, sequence by sequence."""

    def __init__(self) -> None:
        self.audit = Audit("aegis.journal.a.b")
        self.last = 0

    def add(
        self,
        *entries: Entry,
        epoch: int = 1,
        state: Any = None,
        expect: int | None = -1,
        tables: list[Any] | None = None,
        cursor: int = 0,
    ) -> list[AuditedEntry]:
        encoded = None if state is None else encode_value(state)
        record = Record(epoch, list(entries), cursor, encoded, tables)
        return self.store(encode_value(record.to_wire()), expect)

    def fence(self, epoch: int = 1, expect: int | None = None) -> list[AuditedEntry]:
        return self.store(encode_value(Record(epoch, None).to_wire()), expect)

    def store(self, payload: bytes, expect: int | None) -> list[AuditedEntry]:
        sequence, before = self.last + 10, self.last
        headers = None if expect is None else {EXPECTED: str(before if expect == -1 else expect)}
        self.last = sequence
        return self.audit.add(Stored(self.audit.subject, sequence, payload, headers, 1_000))

    def problems(self) -> list[tuple[int, str]]:
        return [(finding.sequence, finding.problem) for finding in self.audit.findings]


def test_an_entry_tells_which_command_it_is_the_effect_of() -> None:
    journal = Journal()
    journal.fence(expect=0)
    named, unnamed = command(1), command(2)
    named.method = "deposit"
    found = [entry.method for entry in journal.add(named, unnamed, SessionDropped("4-z"))]
    assert found == ["deposit", "", ""]


def test_a_journal_that_keeps_the_rules_tells_what_each_message_did() -> None:
    journal = Journal()
    assert [e.kind for e in journal.fence(expect=0)] == ["fence"]
    (first,) = journal.add(command(1, "one"), state={"cash": 1, "name": "x"})
    assert (first.message_id, first.status, first.answer) == ("5-a-1", 200, "one")
    assert first.changed == {"cash": [None, 1], "name": [None, "x"]}
    event = CommandEntry(
        "5-a", 3, 1, 200, encode_value(3), [Event("Put", 2, encode_value({"n": 3}))]
    )
    group = journal.add(command(2, {"message": "no"}, 422), event, state={"cash": 2, "name": "x"})
    assert [(e.status, e.changed) for e in group] == [(422, {}), (200, {"cash": [1, 2]})]
    assert group[1].events == [{"event": "Put", "version": 2, "value": {"n": 3}}]
    (later,) = journal.add(command(5), state={"$version": 2, "state": {"cash": 3, "name": "x"}})
    assert later.changed == {"cash": [2, 3]}
    (dropped,) = journal.add(SessionDropped("4-z"))
    assert (dropped.kind, dropped.facts) == ("session dropped", {"session": "4-z"})
    journal.fence(epoch=7)
    journal.fence(epoch=5)  # An older owner's, that landed late.
    journal.add(command(4, status=500), epoch=7)
    audit = journal.audit
    assert audit.findings == []
    assert (audit.records, audit.fences, audit.commands, audit.rejected, audit.failed) == (
        8,
        3,
        5,
        1,
        1,
    )


def test_a_snapshot_stands_for_all_before_it() -> None:
    journal = Journal()
    tables = [[0, [["5-a", 1, [[1, 200, b"\xc0"], [2, 0, None]]]]]]
    (snapshot,) = journal.add(epoch=9, state={"cash": 1}, tables=tables, expect=3, cursor=4)
    assert (snapshot.kind, snapshot.facts) == ("snapshot", {"sessions": 1, "cursor": 4})
    journal.add(command(3), epoch=9, cursor=4)
    assert journal.problems() == []
    journal.add(command(2), epoch=9, cursor=4)
    assert journal.problems() == [(30, "message 5-a-2 took effect before")]


def test_mail_and_what_was_sent_and_reminders_are_told() -> None:
    journal = Journal()
    journal.fence(expect=0)
    (first,) = journal.add(mailed(5, 1, "6-m", 1, 2), cursor=5)
    assert first.facts == {"mail": 5, "sent": ["1 to book/B-1", "2 to book/B-1"]}
    tried, skipped, gone = journal.add(
        MailTried(7), MailSkipped(7, "owners died", "6-m", 2, 1), Forwarded(2), cursor=7
    )
    assert (tried.kind, tried.facts) == ("mail tried", {"sequence": 7})
    assert skipped.kind == "mail skipped"
    assert (skipped.facts["sequence"], skipped.facts["reason"]) == (7, "owners died")
    assert (gone.kind, gone.facts) == ("forwarded", {"n": 2})
    entry = command(1)
    entry.reminders = [
        Reminder("tea", "drink", encode_value({"cups": 2}), 9_000, 500, skip_missed=True),
        ReminderOver("walk"),
    ]
    dropped, reminded = journal.add(MailSessionDropped("4-z"), entry, cursor=8)
    assert (dropped.kind, dropped.facts) == ("mail session dropped", {"session": "4-z"})
    tea = {"method": "drink", "params": {"cups": 2}, "due_ms": 9_000, "every_ms": 500}
    assert reminded.facts == {
        "reminders": [
            {"name": "tea", **tea, "skip_missed": True},
            {"name": "walk", "over": True},
        ]
    }
    assert journal.problems() == []


def test_what_a_snapshot_says_of_mail_is_held_against_what_comes_later() -> None:
    journal = Journal()
    outbox = [3, 2, [[3, "book", "B-1", b"message"]]]
    mail = [0, [["6-m", 1, [1, 2]]], [["6-m-1", 200, b"\xc0"]]]
    reminders = [["tea", "drink", b"\x80", 9_000, 0, False, ""]]
    (snapshot,) = journal.add(tables=[[0, []], mail, outbox, reminders, [0, 0]], expect=3, cursor=5)
    carried = {"replies": 1, "unsent": 1, "reminders": 1}
    assert snapshot.facts == {"sessions": 1, "cursor": 5, **carried}
    journal.add(mailed(6, 3, "6-m", 4), cursor=6)
    assert journal.problems() == []
    journal.add(mailed(7, 2), cursor=7)
    assert journal.problems() == [(30, "message 6-m-2 took effect before")]
    journal.add(mailed(8, 5, "6-m", 9), cursor=8)
    assert journal.problems()[1:] == [(40, "outgoing message 9 comes after number 4")]


def broken_chain(journal: Journal) -> None:
    journal.add(command(2), expect=5)


def no_expectation(journal: Journal) -> None:
    journal.add(command(2), expect=None)


def replaced_writer(journal: Journal) -> None:
    journal.fence(epoch=4)
    journal.add(command(2), epoch=1)


def no_fence(journal: Journal) -> None:
    journal.add(command(2), epoch=3)


def repeated(journal: Journal) -> None:
    journal.add(command(1))


def falling_cursor(journal: Journal) -> None:
    journal.add(command(2), cursor=8)
    journal.add(command(3), cursor=7)


def mail_twice(journal: Journal) -> None:
    journal.add(mailed(6, 1), cursor=6)
    journal.add(mailed(6, 2), cursor=6)


def skipped_after_all(journal: Journal) -> None:
    journal.add(MailSkipped(6, "it cannot be read", "6-m", 1, 1), cursor=6)
    journal.add(mailed(7, 1), cursor=7)


def cursor_left_behind(journal: Journal) -> None:
    journal.add(mailed(6, 1), cursor=5)


def forwarded_too_far(journal: Journal) -> None:
    journal.add(mailed(6, 1, "6-m", 1), cursor=6)
    journal.add(Forwarded(2), cursor=6)


def broken_mail_tables(journal: Journal) -> None:
    journal.add(tables=[[0, []], ["nonsense"], [], [], [0, 0]])


def garbage(journal: Journal) -> None:
    journal.store(b"\xc1", -1)


def other_version(journal: Journal) -> None:
    journal.store(encode_value([99, 1, [], 0, None]), -1)


def broken_reply(journal: Journal) -> None:
    journal.add(CommandEntry("5-a", 2, 1, 200, b"\xc1"))


def broken_tables(journal: Journal) -> None:
    journal.add(tables=["nonsense"])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (broken_chain, "expected sequence 5 before it, and 20 is there"),
        (no_expectation, "without an expectation"),
        (replaced_writer, "below 4: its writer had been replaced"),
        (no_fence, "no fence of its epoch 3"),
        (repeated, "message 5-a-1 took effect before"),
        (falling_cursor, "its cursor 7 is below 8"),
        (mail_twice, "message 6 of the mailbox comes after 6"),
        (skipped_after_all, "message 6-m-1 took effect before"),
        (cursor_left_behind, "its cursor 5 is below its message 6"),
        (forwarded_too_far, "message 2 was forwarded, and 1 is the last sent"),
        (broken_mail_tables, "table of sessions is unreadable"),
        (garbage, "cannot be decoded"),
        (other_version, "version 99"),
        (broken_reply, "cannot be decoded"),
        (broken_tables, "table of sessions is unreadable"),
    ],
)
def test_the_first_record_that_breaks_a_rule_is_named(spoil: Any, told: str) -> None:
    journal = Journal()
    journal.fence(expect=0)
    journal.add(command(1))
    assert journal.problems() == []
    spoil(journal)
    ((sequence, problem),) = journal.problems()
    assert sequence == journal.last
    assert told in problem
    journal.add(command(50), epoch=journal.audit.epoch, cursor=9)
    assert len(journal.problems()) == 1


def test_a_journal_that_begins_with_neither_fence_nor_snapshot_has_lost_its_beginning() -> None:
    journal = Journal()
    journal.add(command(1), expect=4)
    assert journal.problems() == [(10, "no fence of its epoch 1 stands before it")]


def test_what_is_put_aside_may_take_effect_later_once() -> None:
    journal = Journal()
    journal.fence(expect=0)
    (aside,) = journal.add(MailStashed(5, "6-m", 1, 1, b"whole"), cursor=5)
    assert aside.kind == "mail stashed"
    assert aside.facts == {"sequence": 5, "session": "6-m", "n": 1, "low": 1}
    journal.add(mailed(6, 2), MailTried(5), MailStashed(5, "6-m", 1, 1, b""), cursor=6)
    mail: list[Any] = [0, [["6-m", 2, [1, 2]]], [], [[5, "6-m", 1, b"whole", 0]]]
    tables: list[Any] = [[0, []], mail, [0, 0, []], []]
    (snapshot,) = journal.add(tables=tables, cursor=6)
    assert snapshot.facts["stashed"] == 1
    journal.add(mailed(5, 1), mailed(7, 3), cursor=7)
    assert journal.problems() == []
    journal.add(mailed(8, 1), cursor=8)
    assert journal.problems() == [(60, "message 6-m-1 took effect before")]


def test_a_copy_of_what_is_put_aside_is_found() -> None:
    journal = Journal()
    journal.fence(expect=0)
    journal.add(MailStashed(5, "6-m", 1, 1, b"whole"), cursor=5)
    journal.add(mailed(6, 1), cursor=6)
    journal.add(mailed(7, 2), MailStashed(8, "6-m", 2, 2, b"whole"), cursor=8)
    assert journal.problems() == [
        (30, "message 6-m-1 took effect, and is put aside"),
        (40, "message 6-m-2 took effect, and is put aside"),
    ]
