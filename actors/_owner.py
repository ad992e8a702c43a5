"""The owner of one resource (sans-I/O): journal, group commit, fence, answers.

This is the heart of exactly-once. A shell (or the simulator) feeds it and carries
out what it asks for; it touches no socket, clock or event loop.

The life of an owner::

    FOLLOWING   a standby: it is shown each record as it is stored, to `follow`
    FENCING     its epoch record is on the way: `fence`, then `fenced_at`
    REPLAYING   the journal is read from `read_from` through `read_until`: `replay`
    SERVING     requests are admitted, run and committed
    STOPPED     a newer owner exists, or the journal cannot be read: memory is void

A standby begins with FOLLOWING and goes on with FENCING when it is promoted; any other
owner begins with FENCING.

While SERVING, for each request in turn: `admit` (known already?), run the handler,
`commit` its entry, `hold` the answer. At most one append is under way; whatever
commits meanwhile goes out together in the next one. An answer is handed out when every
append that it could have seen is acknowledged.

Mail, the durable sends to the resource, is run in the order of its mailbox: `admit_mail`,
the handler, `commit`. The record that commits its effect moves the cursor behind it. A
message whose handler puts it aside has no effect yet: `put_aside` keeps it in the journal,
and the cursor moves on. The next owner runs all that was put aside again, before any other
mail.

What a durable subscription reads is mail from another stream: its ``source`` is the
subscription's name, empty for the mailbox. Each has a cursor of its own, which is where
the last entry of its kind says; all share the table by which repeats are known.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Any, Final

from attrs import define, evolve

from aegis.actors._mail import MAIL_AHEAD, MAX_MAIL_REPLIES, Hopeless, MailTable, Seen, Stashed
from aegis.actors._outbox import Outbox
from aegis.actors._record import (
    CommandEntry,
    Entry,
    Forwarded,
    MailSessionDropped,
    MailSkipped,
    MailStashed,
    MailTried,
    Record,
    SessionDropped,
    Subscribed,
)
from aegis.actors._reminders import Reminders
from aegis.actors._sessions import (
    MAX_KEPT_BYTES,
    MAX_KEPT_REPLY_BYTES,
    MAX_SESSIONS,
    WINDOW,
    Fresh,
    Known,
    Refusal,
    SessionTable,
)
from aegis.errors import JournalUnreadable

__all__ = ["GROUP_BYTES", "AppendPlan", "Owner", "OwnerLimits", "Phase"]

GROUP_BYTES: Final = 256 * 1024
"""A group of entries is cut here; what is left goes into the next record."""

RECORD_BYTES: Final = 8 * 1024 * 1024 - 4 * 1024
"""No record is larger, unless a single entry with its state is: a server that refuses a
record for its size would refuse it for ever. The embedded server takes 8 MiB."""

_RECORD_OVERHEAD_BYTES: Final = 80
_SUBSCRIPTION_BYTES: Final = 32
"""Upper bounds of what a record, and in a snapshot a subscription, takes besides."""

SNAPSHOT_EVERY_RECORDS: Final = 512
"""A snapshot replaces the journal at the latest after so many records."""

SNAPSHOT_GROWTH: Final = 4
"""... or when the records since the last snapshot exceed it so many times."""

SNAPSHOT_MIN_BYTES: Final = 128 * 1024
"""... but not before they hold so many bytes."""


@define(slots=True, frozen=True)
class OwnerLimits:
    """The bounds of one resource's journal and tables; tests make them small."""

    group_bytes: int = GROUP_BYTES
    record_bytes: int = RECORD_BYTES
    snapshot_every_records: int = SNAPSHOT_EVERY_RECORDS
    snapshot_growth: int = SNAPSHOT_GROWTH
    snapshot_min_bytes: int = SNAPSHOT_MIN_BYTES
    max_sessions: int = MAX_SESSIONS
    max_kept_reply_bytes: int = MAX_KEPT_REPLY_BYTES
    max_kept_bytes: int = MAX_KEPT_BYTES
    window: int = WINDOW
    max_mail_replies: int = MAX_MAIL_REPLIES
    max_stash_bytes: int = MAX_KEPT_BYTES
    """How many bytes of mail may be put aside: a snapshot holds them."""
    mail_ahead: int = MAIL_AHEAD

    def mail_table(self) -> MailTable:
        """Return an empty table of mail with these bounds."""
        return MailTable(
            max_sessions=self.max_sessions,
            max_replies=self.max_mail_replies,
            max_kept_reply_bytes=self.max_kept_reply_bytes,
            max_kept_bytes=self.max_kept_bytes,
            window=self.window,
        )

    def session_table(self) -> SessionTable:
        """Return an empty table with these bounds."""
        return SessionTable(
            max_sessions=self.max_sessions,
            max_kept_reply_bytes=self.max_kept_reply_bytes,
            max_kept_bytes=self.max_kept_bytes,
            window=self.window,
        )


_LIMITS: Final = OwnerLimits()


class Phase(Enum):
    """Where an owner is in its life."""

    FOLLOWING = "following"
    FENCING = "fencing"
    REPLAYING = "replaying"
    SERVING = "serving"
    STOPPED = "stopped"


@define(slots=True)
class AppendPlan:
    """One append to make: ``expect`` is the last sequence of the journal, or None.

    ``payload`` is the shell's: the encoded record, kept so that a repeat is the
    same to the byte.
    """

    record: Record
    expect: int | None
    payload: bytes = b""

    @property
    def rollup(self) -> bool:
        """Whether the record replaces all before it."""
        return self.record.is_snapshot


@define(slots=True, eq=False)
class _Done:
    """An entry that waits for its record, with state and cursor right after it.

    A group may be cut anywhere: a record whose entries took effect without their state,
    or with the cursor of others, would lose messages.
    """

    entry: Entry
    state: bytes | None
    cursor: int


class Owner:
    """Everything an owner remembers of one resource beside its live state.

    ``snapshot_state`` is True where each record carries the whole state, and False
    where entries carry events. Answers are opaque tokens of the shell.
    """

    __slots__ = (
        "_committed",
        "_executed",
        "_held",
        "_in_flight",
        "_in_flight_count",
        "_in_flight_mail",
        "_in_flight_outgoing",
        "_journal_bytes",
        "_journal_records",
        "_pending",
        "_snapshot_bytes",
        "_snapshot_state",
        "_subscriptions_bytes",
        "cursor",
        "cursors",
        "epoch",
        "last_sequence",
        "limits",
        "mail",
        "newer_epoch",
        "outbox",
        "phase",
        "read_until",
        "reminders",
        "sessions",
        "state",
        "stored_cursor",
        "tried",
        "uncommitted_mail",
    )

    def __init__(self, *, epoch: int, snapshot_state: bool, limits: OwnerLimits = _LIMITS) -> None:
        self.epoch = epoch
        self.phase = Phase.FENCING
        self.newer_epoch = 0
        """After `Phase.STOPPED`: the epoch of the newer owner, or 0."""
        self.sessions = limits.session_table()
        self.mail = limits.mail_table()
        self.outbox = Outbox()
        self.reminders = Reminders()
        self.tried: dict[str, tuple[int, int]] = {}
        """Of each source a message, and how often it has been tried with a note of it."""
        self.state: bytes | None = None
        """The encoded state after the last command (snapshot form), or the state of
        the last snapshot record (event-sourced form); None for a new resource."""
        self.cursor = 0
        """The mail up to this sequence is dealt with, or will be with what is pending."""
        self.cursors: dict[str, int] = {}
        """... and so is what each durable subscription reads, by its name."""
        self._subscriptions_bytes = 0
        self.stored_cursor = 0
        """... and is by what the journal holds: nobody will read it again."""
        self.uncommitted_mail = 0
        """How many messages have run, of all sources, that the journal does not know of."""
        self.last_sequence = 0
        self.read_until = 0
        self._snapshot_state = snapshot_state
        self.limits = limits
        self._pending: list[_Done] = []
        self._in_flight: AppendPlan | None = None
        self._in_flight_count = 0
        self._in_flight_mail = 0
        self._in_flight_outgoing = 0
        self._executed = 0  # entries that handlers have finished, ever
        self._committed = 0  # ... that the journal has acknowledged
        self._held: deque[tuple[int, Any]] | None = None
        self._journal_bytes = 0
        self._journal_records = 0
        self._snapshot_bytes = 0

    # -- standing by ------------------------------------------------------------------

    @classmethod
    def standby(cls, *, snapshot_state: bool, limits: OwnerLimits = _LIMITS) -> Owner:
        """Return one that follows a journal; its epoch is the highest it has met."""
        owner = cls(epoch=0, snapshot_state=snapshot_state, limits=limits)
        owner.phase = Phase.FOLLOWING
        return owner

    def follow(self, sequence: int, record: Record, size_bytes: int = 0) -> bool:
        """Apply one record of another owner, in order; return whether it counts.

        One that does not count must not be shown to the actor either.
        """
        if self.phase is not Phase.FOLLOWING or sequence <= self.last_sequence:
            return False
        self.last_sequence = sequence
        self.epoch = max(self.epoch, record.epoch)
        if record.is_fence:
            self._journal_records += 1
            return False
        self.apply(record, size_bytes)
        return True

    def promote(self, epoch: int) -> bool:
        """Begin to own the resource that was followed until now.

        Returns False, and has stopped, if a newer owner has been met already.
        """
        met, self.epoch = self.epoch, epoch
        if met > epoch:
            self._stop(met)
            return False
        self.phase = Phase.FENCING
        return True

    # -- becoming the owner -----------------------------------------------------------

    def fence(self, *, expect_new: bool = False) -> AppendPlan:
        """Return the epoch record to append, which shuts every older owner out.

        With ``expect_new`` it is accepted only if nothing stands in the journal behind
        what this owner has followed of it, and then nothing has to be read. If that is
        refused or its outcome stays unknown, ask again without.
        """
        expect = self.last_sequence if expect_new else None
        return AppendPlan(Record(self.epoch, entries=None), expect)

    def fenced_at(self, sequence: int, *, is_first: bool = False) -> None:
        """Take note that the epoch record stands at ``sequence``.

        With ``is_first`` (it was accepted as the first record behind those known) the
        owner serves; else the journal must be read from ``read_from`` through
        ``sequence``, each record to `replay`.
        """
        if self.phase is not Phase.FENCING:
            return  # A newer owner was heard of meanwhile.
        self.read_until = sequence
        if is_first:
            self.last_sequence = sequence
            self._journal_records += 1
            self.phase = Phase.SERVING
        else:
            self.phase = Phase.REPLAYING

    @property
    def read_from(self) -> int:
        """The sequence behind what is known of the journal."""
        return self.last_sequence + 1

    def replay(self, sequence: int, record: Record, size_bytes: int = 0) -> bool:
        """Apply one record of the journal, in order; return whether it counts.

        A record that does not count (an older owner's late fence) must not be shown
        to the actor either. When ``sequence`` reaches ``read_until`` the owner
        serves; if a newer epoch turns up it is stopped.
        """
        self.last_sequence = sequence
        if record.epoch > self.epoch:
            self._stop(record.epoch)
            return False
        counts = not record.is_fence
        if counts:
            self.apply(record, size_bytes)
        else:
            self._journal_records += 1  # Fences too make a replay longer.
        if self.phase is Phase.REPLAYING and sequence >= self.read_until:
            self.phase = Phase.SERVING
        return counts

    def apply(self, record: Record, size_bytes: int) -> None:
        """Fold a record's effect into sessions, cursor and state; as a follower does."""
        self._journal_records += 1
        self._journal_bytes += size_bytes
        if record.tables is not None:
            self._load_tables(record.tables)
            self._journal_records, self._journal_bytes = 1, 0
            self._snapshot_bytes = size_bytes
        for entry in record.entries or ():
            self._note(entry)
        if record.state is not None:
            self.state = record.state
        self.cursor = self.stored_cursor = max(self.cursor, record.cursor)
        self.outbox.settle(self.outbox.last_n)

    # -- serving ----------------------------------------------------------------------

    def admit(self, session: str, n: int, low: int) -> Known | Fresh | Refusal:
        """Say what to do with a command: run it (`Fresh`), or answer without running."""
        return self.sessions.look_up(session, n, low)

    def admit_mail(
        self, session: str, n: int, low: int, sequence: int = 0
    ) -> Seen | Fresh | Hopeless:
        """Say what to do with a message of the mailbox: run it (`Fresh`), `pass_over` it,
        or `skip` it. One that was put aside is noted in the table, and has yet to run.
        """
        if sequence in self.mail.stash:
            return Fresh()
        return self.mail.look_up(session, n, low)

    def commit(self, entry: CommandEntry, state: bytes | None, *, drops: str | None = None) -> None:
        """Take in the effect of a handler that has finished.

        ``state`` is the encoded state if the handler changed it (snapshot form).
        ``drops`` is the session that `admit` or `admit_mail` said must make room.
        """
        if drops is not None:
            self._add(MailSessionDropped(drops) if entry.mail else SessionDropped(drops))
        if entry.mail:
            self._pass_mail(entry.mail, entry.source)
        self._note_command(entry)
        self._pending.append(_Done(entry, state, self.cursor))
        self._executed += 1
        if state is not None:
            self.state = state

    def cursor_of(self, source: str) -> int:
        """Return up to where messages of ``source`` are dealt with, or will be soon."""
        return self.cursors.get(source, 0) if source else self.cursor

    def subscribe(self, source: str, sequence: int) -> None:
        """Begin a durable subscription behind ``sequence`` of its stream."""
        self._add(Subscribed(source, sequence))

    def pass_over(self, sequence: int, source: str = "") -> None:
        """Leave out a message that is a repeat; of the mailbox the next record says so.

        Of a subscription the next of its messages says so; until then it is left out anew.
        """
        self._move(source, sequence)

    def skip(self, skipped: MailSkipped, *, drops: str | None = None) -> None:
        """Give up a message; the dead letters have it by now."""
        if drops is not None:
            self._add(MailSessionDropped(drops))
        self._pass_mail(skipped.sequence, skipped.source)
        self._add(skipped)

    def has_stash_room(self, size_bytes: int) -> bool:
        """Whether one more message of the mailbox may be put aside."""
        return self.mail.stash_bytes + size_bytes <= self.limits.max_stash_bytes

    def put_aside(self, stashed: MailStashed, *, drops: str | None = None) -> None:
        """Keep a message of the mailbox for later: it has had no effect."""
        if drops is not None:
            self._add(MailSessionDropped(drops))
        self._pass_mail(stashed.sequence)
        self._add(stashed)

    def _pass_mail(self, sequence: int, source: str = "") -> None:
        self._move(source, sequence)
        self.uncommitted_mail += 1

    def try_mail(self, sequence: int, source: str = "") -> int:
        """Note in the journal that a message is about to run, alone.

        Returns how often that has been noted before. Run it when all is `quiescent`.
        """
        tries = self.tries(sequence, source)
        self._add(MailTried(sequence, source))
        return tries

    def tries(self, sequence: int, source: str = "") -> int:
        """Return how often a message was tried with a note of it."""
        stashed = None if source else self.mail.stash.get(sequence)
        if stashed is not None:
            return stashed.tries
        last, tries = self.tried.get(source, (0, 0))
        return tries if last == sequence else 0

    def _move(self, source: str, sequence: int) -> None:
        if source:
            if source not in self.cursors:
                self._subscriptions_bytes += _SUBSCRIPTION_BYTES + len(source)
            self.cursors[source] = sequence
        else:
            # One that was put aside stands before the cursor.
            self.cursor = max(self.cursor, sequence)

    def _add(self, entry: Entry) -> None:
        self._note(entry)
        self._pending.append(_Done(entry, None, self.cursor))
        self._executed += 1

    def hold(self, answer: Any) -> bool:
        """Keep ``answer`` until all it could have seen is durable.

        Returns True when that is so already: then the shell sends it at once.
        """
        if self._executed == self._committed and not self._held:
            return True
        if self._held is None:
            self._held = deque()
        self._held.append((self._executed, answer))
        return False

    @property
    def serving(self) -> bool:
        """Whether requests may be admitted."""
        return self.phase is Phase.SERVING

    @property
    def stopped(self) -> bool:
        """Whether the memory is void."""
        return self.phase is Phase.STOPPED

    @property
    def quiescent(self) -> bool:
        """Whether everything executed is committed and no append is under way."""
        return self._executed == self._committed and self._in_flight is None

    @property
    def append_due(self) -> bool:
        """Whether `append_next` would return a plan."""
        return bool(self._pending) and self._in_flight is None and self.phase is Phase.SERVING

    @property
    def wants_state(self) -> bool:
        """Whether `append_next` would make a snapshot, if it got the whole state."""
        return not self._snapshot_state and self.snapshot_due and self.append_due

    @property
    def snapshot_due(self) -> bool:
        """Whether the next record should be a snapshot, to keep replays short."""
        limits = self.limits
        return self._journal_records >= limits.snapshot_every_records or (
            self._journal_bytes >= limits.snapshot_min_bytes
            and self._journal_bytes >= limits.snapshot_growth * self._snapshot_bytes
        )

    def append_next(self, *, whole_state: bytes | None = None) -> AppendPlan | None:
        """Return the next record to append, or None if there is nothing to.

        Pass ``whole_state``, the encoded state after all commits so far, to let the
        record be a snapshot if one is due; in snapshot form it is known already.
        """
        if not self.append_due:
            return None
        if self._snapshot_state:
            whole_state = self.state
        if (
            self.snapshot_due
            and (whole_state is not None or self._snapshot_state)
            and self._snapshot_fits(whole_state)
        ):
            record = Record(self.epoch, [], self.cursor, whole_state, tables=self._tables_to_wire())
            group, self._pending = self._pending, []
            self._in_flight_outgoing = self.outbox.last_n
            self.outbox.mark(self.outbox.forwarded)
        else:
            count = self._cut()
            group = self._pending[:count]
            del self._pending[:count]
            state: bytes | None = None
            entries: list[Entry] = []
            for done in group:
                entries.append(done.entry)
                if done.state is not None:
                    state = done.state
            self._in_flight_outgoing = 0 if self.outbox.is_empty else _last_outgoing(entries)
            if self.outbox.forwarded > self.outbox.marked:
                self.outbox.mark(self.outbox.forwarded)
                entries.append(Forwarded(self.outbox.forwarded))
            cursor = group[-1].cursor if self._pending else self.cursor
            record = Record(self.epoch, entries, cursor, state)
        self._in_flight = AppendPlan(record, self.last_sequence)
        self._in_flight_count = len(group)
        self._in_flight_mail = 0
        if self.uncommitted_mail:
            self._in_flight_mail = sum([_is_mail(done.entry) for done in group])
        return self._in_flight

    @property
    def in_flight(self) -> AppendPlan | None:
        """The append whose outcome is not known yet; to be repeated as it is."""
        return self._in_flight

    def appended(self, sequence: int) -> list[Any]:
        """Take note that the append under way is durable; return answers to send."""
        plan = self._in_flight
        if plan is None or sequence <= self.last_sequence:
            # The late acknowledgement of an append that the tail has told of before:
            # it says nothing of the one that is under way now.
            return []
        self._in_flight = None
        self.last_sequence = sequence
        self._committed += self._in_flight_count
        self.uncommitted_mail -= self._in_flight_mail
        if plan.record.cursor > self.stored_cursor:
            self.stored_cursor = plan.record.cursor
        if self._in_flight_outgoing:
            self.outbox.settle(self._in_flight_outgoing)
        if plan.record.tables is not None:
            self._journal_records, self._journal_bytes = 1, 0
            self._snapshot_bytes = len(plan.payload)
            if not self._snapshot_state:
                self.state = plan.record.state
        else:
            self._journal_records += 1
            self._journal_bytes += len(plan.payload)
        return self._release()

    def tail(self, sequence: int, record: Record) -> list[Any]:
        """Take in a record found behind ``last_sequence`` after a refusal.

        Feed all of them in order, then repeat `in_flight` if it is still set, with
        its new expectation. Returns answers to send: the record found may be the
        refused append itself, whose first copy came through.

        Raises:
            JournalUnreadable: somebody wrote with this owner's epoch.
        """
        if record.epoch > self.epoch:
            self._stop(record.epoch)
            return []
        plan = self._in_flight
        if plan is not None and record.to_wire() == plan.record.to_wire():
            return self.appended(sequence)
        if not record.is_fence:
            self._stop(0)
            raise JournalUnreadable(f"a second writer used epoch {record.epoch}", sequence=sequence)
        self.last_sequence = sequence  # An older owner's fence that landed late.
        if plan is not None:
            plan.expect = sequence
        return []

    def stop(self) -> list[Any]:
        """Void the memory; return the answers that must not be given (421 instead)."""
        if self.phase is not Phase.STOPPED:
            self._stop(0)
        held, self._held = self._held, None
        return [answer for _, answer in held or ()]

    # -- within -----------------------------------------------------------------------

    def _note(self, entry: Entry) -> None:
        match entry:
            case CommandEntry():
                self._note_command(entry)
            case MailSessionDropped():
                self.mail.drop(entry.session)
            case SessionDropped():
                self.sessions.drop(entry.session)
            case MailTried():
                self._note_try(entry.sequence, entry.source)
            case Subscribed():
                self._move(entry.source, entry.sequence)
            case MailSkipped(source=source) if source:
                self._move(source, entry.sequence)
                if entry.session:
                    self.mail.record(entry.session, entry.n, entry.low)
            case MailSkipped():
                if not self.mail.take_back(entry.sequence) and entry.session:
                    self.mail.record(entry.session, entry.n, entry.low)
            case MailStashed():
                self._note_stashed(entry)
            case Forwarded():
                self.outbox.mark(entry.n)

    def _note_try(self, sequence: int, source: str) -> None:
        tries = self.tries(sequence, source) + 1
        stashed = None if source else self.mail.stash.get(sequence)
        if stashed is None:
            self.tried[source] = (sequence, tries)
        else:
            self.mail.put_aside(sequence, evolve(stashed, tries=tries))

    def _note_stashed(self, entry: MailStashed) -> None:
        # It was put aside, so this time nobody died at it.
        tries = max(0, self.tries(entry.sequence) - 1)
        stashed = self.mail.stash.get(entry.sequence)
        if stashed is None:
            stashed = Stashed(entry.session, entry.n, entry.payload)
            self.mail.record(entry.session, entry.n, entry.low)
        self.mail.put_aside(entry.sequence, evolve(stashed, tries=tries))

    def _note_command(self, entry: CommandEntry) -> None:
        if entry.mail:
            if entry.source:
                self._move(entry.source, entry.mail)  # Nobody asks for the reply.
                self.mail.record(entry.session, entry.n, entry.low)
            else:
                if not self.mail.take_back(entry.mail):
                    self.mail.record(entry.session, entry.n, entry.low)
                self.mail.keep(f"{entry.session}-{entry.n}", entry.status, entry.reply)
        else:
            self.sessions.record(entry.session, entry.n, entry.low, entry.status, entry.reply)
        if entry.outgoing:
            for message in entry.outgoing:
                self.outbox.add(message)
        if entry.reminders:
            for change in entry.reminders:
                self.reminders.change(change)

    @property
    def tables_bytes(self) -> int:
        """At least as many bytes as all but the state takes in a snapshot."""
        return (
            _RECORD_OVERHEAD_BYTES
            + self.sessions.size_bytes
            + self.mail.size_bytes
            + self.outbox.size_bytes
            + self.reminders.size_bytes
            + self._subscriptions_bytes
        )

    def _snapshot_fits(self, state: bytes | None) -> bool:
        # If not, the journal grows on: replays take longer, but nothing stands still.
        return len(state or b"") + self.tables_bytes <= self.limits.record_bytes

    def _cut(self) -> int:
        if len(self._pending) == 1:
            return 1  # However large it is.
        limits = self.limits
        size = state_bytes = 0
        for count, done in enumerate(self._pending):
            size += done.entry.size_bytes
            if done.state is not None:
                state_bytes = len(done.state)
            whole = _RECORD_OVERHEAD_BYTES + size + state_bytes
            if count and (size > limits.group_bytes or whole > limits.record_bytes):
                return count
        return len(self._pending)

    def _release(self) -> list[Any]:
        held = self._held
        if not held:
            return []
        released: list[Any] = []
        while held and held[0][0] <= self._committed:
            released.append(held.popleft()[1])
        if not held:
            self._held = None
        return released

    def _tables_to_wire(self) -> list[Any]:
        return [
            self.sessions.to_wire(),
            self.mail.to_wire(),
            self.outbox.to_wire(),
            self.reminders.to_wire(),
            list(self.tried.get("", (0, 0))),
            *self._subscriptions_to_wire(),
        ]

    def _subscriptions_to_wire(self) -> list[Any]:
        """Return name, cursor and tries of each; nothing at all where there is none."""
        rows = [
            [source, cursor, *self.tried.get(source, (0, 0))]
            for source, cursor in self.cursors.items()
        ]
        return [rows] if rows else []

    def _load_tables(self, wire: list[Any]) -> None:
        self.sessions.load(wire[0])
        if len(wire) > 1:  # A release without mail wrote the first table alone.
            _, mail, outbox, reminders, tried, *subscriptions = wire
            self.mail.load(mail)
            self.outbox.load(outbox)
            self.reminders.load(reminders)
            self.cursors, self.tried = {}, {"": (tried[0], tried[1])}
            self._subscriptions_bytes = 0
            for source, cursor, sequence, tries in subscriptions[0] if subscriptions else ():
                self._move(source, cursor)
                self.tried[source] = (sequence, tries)

    def _stop(self, newer_epoch: int) -> None:
        self.phase = Phase.STOPPED
        self.newer_epoch = newer_epoch
        self._in_flight = None
        self._pending = []


def _last_outgoing(entries: list[Entry]) -> int:
    """Return the number of the last message that ``entries`` send, or 0."""
    for entry in reversed(entries):
        if isinstance(entry, CommandEntry) and entry.outgoing:
            return entry.outgoing[-1].n
    return 0


def _is_mail(entry: Entry) -> bool:
    if isinstance(entry, CommandEntry):
        return entry.mail > 0
    return isinstance(entry, MailSkipped | MailStashed)
