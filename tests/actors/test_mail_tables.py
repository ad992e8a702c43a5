"""The tables of mail, outgoing messages and reminders, and the order in which mail runs."""

from __future__ import annotations

from collections.abc import Callable

import msgpack
import pytest

from aegis.actors._inbox import INBOX_CAPACITY, Inbox, Letter
from aegis.actors._mail import Hopeless, MailTable, Seen
from aegis.actors._outbox import MAX_UNSENT, Outbox
from aegis.actors._owner import Owner, OwnerLimits
from aegis.actors._record import (
    CommandEntry,
    Forwarded,
    MailSkipped,
    MailStashed,
    Outgoing,
    Record,
    Reminder,
    ReminderOver,
)
from aegis.actors._reminders import Reminders, following
from aegis.actors._sessions import Fresh

ACTOR = "account/ACC-1"


def serving(**limits: int) -> Owner:
    owner = Owner(epoch=1, snapshot_state=True, limits=OwnerLimits(**limits))
    owner.fenced_at(1, is_first=True)
    return owner


def mail(sequence: int, session: str = "5-a", n: int = 0, **fields: object) -> CommandEntry:
    entry = CommandEntry(session, n or sequence, n or sequence, 200, b"\xc0", mail=sequence)
    for name, value in fields.items():
        setattr(entry, name, value)
    return entry


def outgoing(n: int, size: int = 1) -> Outgoing:
    return Outgoing(n, "account", "ACC-2", b"x" * size)


def append(owner: Owner, sequence: int) -> Record:
    plan = owner.append_next()
    assert plan is not None
    owner.appended(sequence)
    return plan.record


# -- the table ----------------------------------------------------------------------------


def test_a_message_is_seen_again_or_was_closed_or_is_new() -> None:
    table = MailTable()
    table.record("5-a", 3, 3)
    assert table.look_up("5-a", 3, 3) == Seen()
    assert table.look_up("5-a", 2, 2) == Seen()
    assert table.look_up("5-a", 4, 3) == Fresh()


def test_the_longest_idle_client_makes_room_and_no_actor_ever_does() -> None:
    table = MailTable(max_sessions=2)
    for number in range(10):
        table.record(f"service/{number}", 1, 1)
    table.record("5-a", 1, 1)
    table.record("7-b", 1, 1)
    table.record("5-a", 2, 2)
    assert table.look_up("9-c", 1, 1) == Fresh(drops="7-b")
    table.drop("7-b")
    table.record("9-c", 1, 1)
    assert table.floor == 7
    assert isinstance(table.look_up("7-d", 1, 1), Hopeless)
    assert table.look_up("8-e", 1, 1) == Fresh(drops="5-a")
    assert table.look_up("service/11", 1, 1) == Fresh()
    assert table.look_up("service/3", 1, 1) == Seen()


def test_a_session_with_too_many_open_messages_is_hopeless() -> None:
    table = MailTable(window=4)
    assert isinstance(table.look_up("5-a", 5, 1), Hopeless)
    assert table.look_up("5-a", 5, 2) == Fresh()


def test_a_message_that_nobody_repeats_leaves_no_trace() -> None:
    table = MailTable()
    before = table.to_wire()
    table.record("5-a-7", 1, 1)
    assert table.to_wire() == before
    assert table.look_up("5-a-7", 1, 1) == Fresh()


def test_the_last_replies_are_kept_as_far_as_there_is_room() -> None:
    table = MailTable(max_replies=3, max_kept_reply_bytes=10, max_kept_bytes=25)
    table.keep("large", 200, b"x" * 11)
    assert table.reply_to("large") == (200, None)
    for name in "abcd":
        table.keep(name, 200, name.encode() * 10)
    assert table.reply_to("b") is None
    assert table.reply_to("d") == (200, b"d" * 10)
    assert table.kept_bytes == 20


@pytest.mark.parametrize("empty", [MailTable, Outbox, Reminders])
def test_a_table_is_read_as_it_was_written_and_no_larger_than_it_says(
    empty: Callable[[], MailTable | Outbox | Reminders],
) -> None:
    table = empty()
    for number in range(1, 300):
        if isinstance(table, MailTable):
            table.record(f"{number}-{'a' * (number % 40)}", number, number - number % 3)
            table.record("ä" * 50 + f"/{number}", number * 10**9, 1)
            table.keep(f"{number}-{'a' * number}", 200, b"x" * number)
        elif isinstance(table, Outbox):
            table.add(Outgoing(number, "ä" * number, "b" * number, b"x" * number))
        else:
            table.change(Reminder(f"ä{number}", "go", b"x" * number, 10**12, 10**9, True, "t" * 55))
    table_bytes = len(msgpack.packb(table.to_wire()))
    assert table_bytes <= table.size_bytes + 8
    again = empty()
    again.load(table.to_wire())
    assert again.to_wire() == table.to_wire()
    assert again.size_bytes == table.size_bytes


# -- the cursor ---------------------------------------------------------------------------


def test_a_group_that_is_cut_has_the_cursor_of_its_own_last_message() -> None:
    owner = serving(group_bytes=60)
    owner.commit(mail(10), b"s1")
    owner.commit(mail(11), b"s2")
    first, second = append(owner, 20), append(owner, 21)
    assert [(r.cursor, r.state) for r in (first, second)] == [(10, b"s1"), (11, b"s2")]
    assert owner.stored_cursor == 11


def test_what_is_passed_over_moves_the_cursor_with_the_next_record() -> None:
    owner = serving()
    owner.commit(mail(10), None)
    owner.pass_over(11)
    assert append(owner, 20).cursor == 11


def test_a_message_that_was_given_up_is_known_and_its_copies_do_not_run() -> None:
    owner = serving()
    assert owner.try_mail(10) == 0
    assert owner.try_mail(10) == 1
    owner.skip(MailSkipped(10, "they died", "5-a", 1, 1))
    record = append(owner, 20)
    assert record.cursor == 10
    reader = Owner(epoch=2, snapshot_state=True)
    reader.apply(Record.from_wire(record.to_wire()), 0)
    assert reader.admit_mail("5-a", 1, 1) == Seen()
    assert reader.cursor == 10


def test_tries_are_counted_by_every_reader_also_after_a_snapshot() -> None:
    owner = serving(snapshot_every_records=2)
    owner.try_mail(10)
    append(owner, 2)
    owner.try_mail(10)
    record = append(owner, 3)
    assert record.is_snapshot
    reader = Owner(epoch=2, snapshot_state=True)
    reader.apply(Record.from_wire(record.to_wire()), 0)
    assert (reader.tries(10), reader.tries(11)) == (2, 0)


def test_a_snapshot_of_a_release_without_mail_is_read() -> None:
    owner = Owner(epoch=2, snapshot_state=True)
    owner.apply(Record(1, [], 0, b"s", tables=[[7, [["9-a", 1, []]]]]), 0)
    assert (owner.sessions.floor, owner.state) == (7, b"s")


# -- durable subscriptions ------------------------------------------------------------------


def read_by_another(*records: Record) -> Owner:
    reader = Owner(epoch=2, snapshot_state=True)
    for record in records:
        reader.apply(Record.from_wire(msgpack.unpackb(msgpack.packb(record.to_wire()))), 0)
    return reader


def test_each_subscription_has_a_cursor_that_moves_with_the_effect() -> None:
    owner = serving()
    owner.subscribe("ledger", 3)
    owner.subscribe("audit", 0)
    assert (owner.cursor_of("ledger"), owner.cursor) == (3, 0)
    owner.commit(mail(7, "5-a|ledger", 1, source="ledger"), b"s")
    owner.commit(mail(5), None)
    owner.skip(MailSkipped(9, "gone", source="audit"))
    record = append(owner, 20)
    assert record.cursor == 5
    reader = read_by_another(record)
    assert reader.cursors == {"ledger": 7, "audit": 9}
    assert reader.cursor == 5
    assert reader.admit_mail("5-a|ledger", 1, 1) == Seen()
    assert reader.admit_mail("5-a|audit", 1, 1) == Fresh()


def test_a_cut_between_two_messages_leaves_the_cursor_with_the_effect() -> None:
    owner = serving(group_bytes=60)
    owner.commit(mail(7, "5-a|ledger", 1, source="ledger"), b"s1")
    owner.commit(mail(8, "5-a|ledger", 2, source="ledger"), b"s2")
    first, second = append(owner, 20), append(owner, 21)
    assert (read_by_another(first).cursors, first.state) == ({"ledger": 7}, b"s1")
    assert (read_by_another(first, second).cursors, second.state) == ({"ledger": 8}, b"s2")


def test_a_snapshot_holds_the_cursors_and_tries_of_subscriptions() -> None:
    owner = serving(snapshot_every_records=2)
    owner.subscribe("ledger", 3)
    append(owner, 2)
    owner.commit(mail(7, "5-a|ledger", 1, source="ledger"), None)
    owner.try_mail(8, "ledger")
    owner.try_mail(8)
    snapshot = append(owner, 3)
    assert snapshot.is_snapshot
    reader = read_by_another(snapshot)
    assert reader.cursors == {"ledger": 7}
    assert (reader.tries(8, "ledger"), reader.tries(8), reader.tries(8, "audit")) == (1, 1, 0)
    assert reader.mail.reply_to("5-a|ledger-1") is None
    assert len(msgpack.packb(snapshot.tables)) <= owner.tables_bytes


def test_a_resource_without_subscriptions_writes_snapshots_as_before() -> None:
    owner = serving(snapshot_every_records=1)
    owner.commit(mail(7), None)
    tables = append(owner, 2).tables
    assert tables is not None
    assert len(tables) == 5


def test_a_client_that_publishes_makes_room_like_one_that_sends_and_an_actor_never_does() -> None:
    table = MailTable(max_sessions=1)
    table.record("5-a|ledger", 1, 1)
    table.record(f"{ACTOR}|ledger", 1, 1)
    assert table.look_up("6-a|ledger", 1, 1) == Fresh(drops="5-a|ledger")
    table.drop("5-a|ledger")
    assert isinstance(table.look_up("5-a|ledger", 1, 1), Hopeless)
    assert table.look_up(f"{ACTOR}|ledger", 1, 1) == Seen()


def test_what_a_stream_let_go_of_is_passed_in_its_turn() -> None:
    owner = serving(mail_ahead=8)
    owner.subscribe("ledger", 3)
    append(owner, 2)
    inbox = Inbox(owner, "ledger")
    inbox.kept(4)
    assert len(inbox) == 0
    assert inbox.offer(Letter(5, b"a"))
    inbox.kept(9)
    assert (inbox.read_to, inbox.offer(Letter(8, b"late")), len(inbox)) == (8, True, 2)
    first = inbox.next()
    assert first == Letter(5, b"a")
    inbox.ended()
    gap = inbox.next()
    assert gap is not None
    assert (gap.lost_from, gap.sequence) == (6, 8)


# -- outgoing messages ----------------------------------------------------------------------


def test_a_message_leaves_when_its_record_is_acknowledged() -> None:
    owner = serving()
    owner.commit(mail(10, outgoing=[outgoing(1), outgoing(2)]), None)
    assert not owner.outbox.due()
    plan = owner.append_next()
    owner.commit(mail(11, outgoing=[outgoing(3)]), None)
    assert plan is not None
    assert not owner.outbox.due()
    owner.appended(20)
    assert [message.n for message in owner.outbox.due(9)] == [1, 2]


def test_the_journal_hears_of_what_has_gone_with_the_next_record() -> None:
    owner = serving()
    owner.commit(mail(10, outgoing=[outgoing(1), outgoing(2)]), None)
    records = [append(owner, 20)]
    owner.outbox.sent(1)
    owner.commit(mail(11), None)
    records.append(append(owner, 21))
    assert records[1].entries is not None
    assert Forwarded(1) in records[1].entries
    reader = Owner.standby(snapshot_state=True)
    for sequence, record in enumerate(records, 20):
        reader.follow(sequence, Record.from_wire(record.to_wire()))
    assert [message.n for message in reader.outbox.due(9)] == [2]


def test_outgoing_messages_count_in_the_size_of_a_group() -> None:
    owner = serving(group_bytes=1000)
    for number in range(1, 5):
        owner.commit(mail(number, outgoing=[outgoing(number, 600)]), None)
    record = append(owner, 20)
    assert len(record.entries or ()) == 1
    assert mail(1, outgoing=[outgoing(1, 600)]).size_bytes > 600


def test_an_outbox_is_full_at_its_limit() -> None:
    outbox = Outbox()
    for n in range(1, MAX_UNSENT + 1):
        assert not outbox.is_full
        outbox.add(Outgoing(n, "", "", b""))
    assert outbox.is_full
    outbox.sent(MAX_UNSENT)
    assert not outbox.is_full


# -- reminders ------------------------------------------------------------------------------


def test_the_reminder_that_is_due_first_is_next() -> None:
    reminders = Reminders()
    for name, due in (("b", 20), ("a", 10), ("c", 30)):
        reminders.change(Reminder(name, "go", b"\x80", due))
    reminders.change(Reminder("a", "go", b"\x80", 25))
    reminders.change(ReminderOver("b"))
    first = reminders.next()
    assert first is not None
    assert (first.name, first.due_ms) == ("a", 25)
    assert reminders.get("a", 10) is None


def test_the_times_of_a_reminder_that_were_missed_are_not_made_up_for() -> None:
    reminder = Reminder("a", "go", b"\x80", 1000, every_ms=100)
    for now_ms, due_ms in ((1000, 1100), (1050, 1100), (1099, 1100), (1100, 1200), (5555, 5600)):
        after = following(reminder, now_ms)
        assert isinstance(after, Reminder)
        assert after.due_ms == due_ms
    assert following(Reminder("a", "go", b"\x80", 1000), 2000) == ReminderOver("a")


# -- the order of mail ----------------------------------------------------------------------


def test_mail_behind_a_takeover_runs_alone_and_then_not_too_far_ahead() -> None:
    owner = serving(mail_ahead=2)
    owner.read_until = 20  # where its fence stands
    inbox = Inbox(owner)
    for sequence in range(1, 10):
        assert inbox.offer(Letter(sequence, b""))
    for sequence in (1, 2):
        assert inbox.is_careful
        assert inbox.next() == Letter(sequence, b"")
        assert inbox.next() is None
        owner.commit(mail(sequence), None)
        assert inbox.next() is None
        append(owner, 20 + sequence)
        inbox.ended()
    assert not inbox.is_careful
    assert [inbox.next(), inbox.next(), inbox.next()] == [Letter(3, b""), Letter(4, b""), None]
    for sequence in (3, 4):
        owner.commit(mail(sequence), None)
        inbox.ended()
    assert inbox.next() is None
    append(owner, 30)
    assert inbox.next() == Letter(5, b"")


def test_what_is_passed_over_uses_up_no_care() -> None:
    owner = serving(mail_ahead=1)
    owner.read_until = 20
    inbox = Inbox(owner)
    for sequence in (1, 2):
        inbox.offer(Letter(sequence, b""))
    inbox.next()
    owner.pass_over(1)
    inbox.ended(ran=False)
    assert inbox.is_careful


def test_what_came_after_the_takeover_needs_no_care() -> None:
    owner = serving(mail_ahead=3)
    owner.read_until = 20
    inbox = Inbox(owner)
    for sequence in (5, 21, 22):
        inbox.offer(Letter(sequence, b""))
    assert inbox.next() == Letter(5, b"")
    assert inbox.next() is None, "a message that needs care runs alone"
    assert inbox.is_careful
    inbox.ended()
    assert [inbox.next(), inbox.next()] == [Letter(21, b""), Letter(22, b"")]
    assert not inbox.is_careful


def test_what_has_no_room_stays_in_the_stream_until_there_is_some() -> None:
    inbox = Inbox(serving(mail_ahead=INBOX_CAPACITY))
    inbox._careful = 0
    for sequence in range(1, INBOX_CAPACITY + 1):
        assert inbox.offer(Letter(sequence, b""))
    assert not inbox.offer(Letter(INBOX_CAPACITY + 1, b""))
    assert (inbox.read_to, inbox.behind, inbox.should_catch_up) == (INBOX_CAPACITY, True, False)
    for _ in range(INBOX_CAPACITY // 2):
        inbox.next()
    assert inbox.should_catch_up
    assert not inbox.offer(Letter(INBOX_CAPACITY + 1, b"")), "there would be a gap"
    inbox.behind = False
    assert inbox.offer(Letter(INBOX_CAPACITY + 1, b""))
    assert inbox.offer(Letter(5, b"")), "what is known is no lack of room"


# -- what is put aside --------------------------------------------------------------------


def stashed(sequence: int, n: int, payload: bytes = b"whole") -> MailStashed:
    return MailStashed(sequence, "5-a", n, n, payload)


def test_a_message_that_is_put_aside_is_noted_kept_and_passed() -> None:
    owner = serving()
    owner.put_aside(stashed(10, 1))
    assert owner.cursor == 10
    assert owner.admit_mail("5-a", 1, 1, 10) == Fresh()
    assert owner.admit_mail("5-a", 1, 1, 11) == Seen()  # A copy.
    owner.commit(mail(12, n=2), None)
    assert append(owner, 2).cursor == 12
    owner.commit(mail(10, n=1), b"state")
    assert owner.cursor == 12
    assert not owner.mail.stash
    assert owner.admit_mail("5-a", 1, 1, 10) == Seen()


def test_the_next_owner_begins_with_what_was_put_aside_and_with_care() -> None:
    owner = serving(mail_ahead=1)
    owner.put_aside(stashed(10, 1, b"first"))
    owner.commit(mail(11, n=2), None)
    record = append(owner, 2)
    for snapshot in (record, Record(1, [], 11, None, owner._tables_to_wire())):
        follower = serving(mail_ahead=1)
        follower.apply(snapshot, 0)
        follower.read_until = 20  # where its fence stands
        inbox = Inbox(follower)
        assert inbox.read_to == 11
        inbox.offer(Letter(12, b"newer"))
        first = inbox.next()
        assert first == Letter(10, b"first")
        assert inbox.is_careful
        inbox.ended()
        assert inbox.is_careful
        assert inbox.next() == Letter(12, b"newer")


def test_tries_at_which_a_message_was_put_aside_again_do_not_count() -> None:
    owner = serving()
    assert owner.try_mail(10) == 0
    owner.put_aside(stashed(10, 1))
    assert owner.tries(10) == 0
    for deaths in range(3):
        assert owner.try_mail(10) == deaths
        owner.put_aside(stashed(10, 1, b""))
        assert owner.tries(10) == deaths
        assert owner.try_mail(10) == deaths  # ... and here the owner dies.
    assert owner.mail.stash[10].payload == b"whole"
    owner.skip(MailSkipped(10, "tries", "5-a", 1, 1))
    assert not owner.mail.stash
    assert owner.mail.stash_bytes == 0


def test_what_is_put_aside_counts_into_the_size_of_a_snapshot() -> None:
    owner = serving(max_stash_bytes=1000)
    before = owner.tables_bytes
    for n in range(1, 4):
        assert owner.has_stash_room(250)
        owner.put_aside(stashed(10 + n, n, b"x" * 250))
    assert not owner.has_stash_room(250)
    assert len(msgpack.packb(owner._tables_to_wire())) <= owner.tables_bytes
    assert owner.tables_bytes > before + 750


def test_a_reminder_that_is_put_aside_is_next_no_more_until_it_changes() -> None:
    reminders = Reminders()
    first, second = Reminder("a", "m", b"", 10), Reminder("b", "m", b"", 20)
    reminders.change(first)
    reminders.change(second)
    reminders.put_aside(first)
    assert reminders.next() == second
    assert reminders.get("a", 10) == first
    reminders.change(Reminder("a", "m", b"", 15))
    reminders.put_aside(first)  # Late: it has changed.
    assert reminders.next() == Reminder("a", "m", b"", 15)


def test_replies_under_a_name_that_a_stranger_uses_again_take_the_room_of_one() -> None:
    table = MailTable()
    table.keep("stranger-1", 200, b"first")
    size = table.size_bytes
    for _ in range(10):
        table.keep("stranger-1", 422, b"later")
    assert (table.size_bytes, table.kept_bytes) == (size, len(b"later"))
    assert table.reply_to("stranger-1") == (422, b"later")
