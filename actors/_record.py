"""What a journal holds (sans-I/O): command entries, fences and snapshots as records.

On the wire a record is ``[version, epoch, entries, cursor, state]``, a snapshot has a
sixth element, the tables, and a fence (epoch record) has nil for its entries. An
entry is an array whose first element is its kind:

====  ==========================================================================
kind  then
====  ==========================================================================
0     command: session, n, low, status, reply, events|nil, outgoing|nil, mail,
      reminders|nil, source, method. Earlier releases left out what is last of these
1     session dropped: session. The floor rises to its start
2     mail tried: sequence, source. An owner is about to run it alone
3     mail skipped: sequence, reason, session, n, low, source. It went to the dead
      letters; session is empty if no table is to note it
4     mail session dropped: session. The floor of mail rises to its start
5     forwarded: n. The outgoing messages up to it stand in their mailboxes
6     mail stashed: mailbox sequence, session, n, low, payload. Its handler put it aside:
      it has had no effect so far. A copy of it does not run
7     subscribed: source, sequence. A durable subscription begins behind it
====  ==========================================================================

``reply``, ``state`` and each event's body are encoded msgpack values, carried as
bytes: replaying, comparing and forwarding never decodes them. ``mail`` is the
sequence of a durable message and 0 for a call. ``source`` is the name of the durable
subscription whose stream that stands in, and empty for the mailbox: as the last of an entry
it is left out then. An outgoing message is ``[n, service, resource, payload]``, the
payload being what its mailbox will hold; with an empty service the resource is a topic. A
reminder that is set is ``[name, method, params, due_ms, every_ms, skip_missed,
trace]``, with ``[text, zone]`` behind it if a cron text says when it comes again, and one
that is over ``[name]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

from attrs import Factory, define, field

from aegis.errors import JournalUnreadable

__all__ = [
    "RECORD_VERSION",
    "CommandEntry",
    "Entry",
    "Event",
    "Forwarded",
    "MailSessionDropped",
    "MailSkipped",
    "MailStashed",
    "MailTried",
    "Outgoing",
    "Record",
    "Reminder",
    "ReminderOver",
    "SessionDropped",
    "Subscribed",
    "reminder_from_wire",
]

RECORD_VERSION: Final = 1

(
    _COMMAND,
    _DROPPED,
    _TRIED,
    _SKIPPED,
    _MAIL_DROPPED,
    _FORWARDED,
    _STASHED,
    _SUBSCRIBED,
) = range(8)

_ENTRY_OVERHEAD_BYTES: Final = 48
"""Upper bound of what an entry costs beside its session, reply and events."""


@define(slots=True, frozen=True)
class Event:
    """One event of an event-sourced actor: class name, schema version, body."""

    name: str
    version: int
    body: bytes


def _outgoing_size(message: Outgoing) -> int:
    return 32 + _text_bytes(message.service, message.resource) + len(message.payload)


def _reminder_size(reminder: Reminder) -> int:
    texts = reminder.name, reminder.method, reminder.trace, *(reminder.cron or ())
    return 64 + _text_bytes(*texts) + len(reminder.params)


@define(slots=True, frozen=True)
class Outgoing:
    """One message that a command sends: its number at the sender, and its address.

    ``payload`` is the message itself, as it will stand in the mailbox. Without a
    ``service`` it goes to the topic ``resource``, and the stream that keeps that.
    """

    n: int
    service: str
    resource: str
    payload: bytes
    size_bytes: int = field(
        default=Factory(_outgoing_size, takes_self=True), init=False, eq=False, repr=False
    )
    """At least as many bytes as it takes in an encoded record; asked for again and again."""

    def to_wire(self) -> list[Any]:
        """Return it as plain values."""
        return [self.n, self.service, self.resource, self.payload]


@define(slots=True, frozen=True)
class Reminder:
    """A command that the actor gives itself at a time: ``due_ms`` is Unix time.

    ``params`` is the encoded map of its parameters. ``every_ms`` is 0 for one that comes
    once, or by ``cron``, a text and its time zone; with ``skip_missed`` one that could not be given in time is left out.
    """

    name: str
    method: str
    params: bytes
    due_ms: int
    every_ms: int = 0
    skip_missed: bool = False
    trace: str = ""
    cron: tuple[str, str] | None = None
    size_bytes: int = field(
        default=Factory(_reminder_size, takes_self=True), init=False, eq=False, repr=False
    )
    """At least as many bytes as it takes in an encoded record; asked for again and again."""

    def to_wire(self) -> list[Any]:
        """Return it as plain values."""
        wire = [
            self.name,
            self.method,
            self.params,
            self.due_ms,
            self.every_ms,
            self.skip_missed,
            self.trace,
        ]
        return wire if self.cron is None else [*wire, list(self.cron)]


@define(slots=True, frozen=True)
class ReminderOver:
    """The reminder ``name`` was forgotten, or has come for the last time."""

    name: str

    @property
    def size_bytes(self) -> int:
        """At least as many bytes as it takes in an encoded record."""
        return 8 + _text_bytes(self.name)

    def to_wire(self) -> list[Any]:
        """Return it as plain values."""
        return [self.name]


@define(slots=True)
class CommandEntry:
    """What one command did: its reply, events, outgoing messages and reminders.

    ``session`` is empty for a message that nobody can repeat: its sender lives in
    the owner's own process. Such an entry leaves no trace in the session table.
    """

    session: str
    n: int
    low: int
    status: int
    reply: bytes
    events: list[Event] | None = None
    outgoing: list[Outgoing] | None = None
    mail: int = 0
    reminders: list[Reminder | ReminderOver] | None = None
    source: str = ""
    method: str = ""
    """What was called; nothing depends on it but whoever reads the journal later."""

    @property
    def size_bytes(self) -> int:
        """At least as many bytes as the entry takes in an encoded record."""
        size = (
            _ENTRY_OVERHEAD_BYTES
            + len(self.session)
            + len(self.reply)
            + len(self.source)
            + 4 * len(self.method)
        )
        if self.events:
            size += sum(16 + len(event.name) + len(event.body) for event in self.events)
        if self.outgoing:
            size += sum(message.size_bytes for message in self.outgoing)
        if self.reminders:
            size += sum(reminder.size_bytes for reminder in self.reminders)
        return size


@define(slots=True, frozen=True)
class SessionDropped:
    """The longest-idle session made room; its repeats are refused from now on."""

    session: str

    @property
    def size_bytes(self) -> int:
        """At least as many bytes as the entry takes in an encoded record."""
        return 16 + len(self.session)


@define(slots=True, frozen=True)
class MailSessionDropped(SessionDropped):
    """The same of a session of durable sends."""


@define(slots=True, frozen=True)
class MailTried:
    """The message at ``sequence`` of the mailbox, or of ``source``, is about to run, alone."""

    sequence: int
    source: str = ""

    @property
    def size_bytes(self) -> int:
        """At least as many bytes as the entry takes in an encoded record."""
        return 16 + len(self.source)


@define(slots=True, frozen=True)
class MailSkipped:
    """The message at ``sequence`` of the mailbox, or of ``source``, was given up.

    ``session``, ``n`` and ``low`` are its own, if the table of mail is to note it: then a
    copy of it that comes later does not run either.
    """

    sequence: int
    reason: str
    session: str = ""
    n: int = 0
    low: int = 0
    source: str = ""

    @property
    def size_bytes(self) -> int:
        """At least as many bytes as the entry takes in an encoded record."""
        return 48 + _text_bytes(self.reason, self.session, self.source)


@define(slots=True, frozen=True)
class MailStashed:
    """The message at ``sequence`` of the mailbox was put aside by its handler.

    The journal keeps it from now on, and the mailbox need not. Of one that the journal
    keeps already ``payload`` is empty: it was tried, and was put aside again.
    """

    sequence: int
    session: str
    n: int
    low: int
    payload: bytes

    @property
    def size_bytes(self) -> int:
        """At least as many bytes as the entry takes in an encoded record."""
        return 48 + _text_bytes(self.session) + len(self.payload)


@define(slots=True, frozen=True)
class Forwarded:
    """The outgoing messages up to number ``n`` stand in their mailboxes."""

    n: int
    size_bytes: ClassVar[int] = 16


@define(slots=True, frozen=True)
class Subscribed:
    """The durable subscription ``source`` begins behind ``sequence`` of its stream."""

    source: str
    sequence: int

    @property
    def size_bytes(self) -> int:
        """At least as many bytes as the entry takes in an encoded record."""
        return 16 + len(self.source)


type Entry = (
    CommandEntry | SessionDropped | MailTried | MailSkipped | MailStashed | Forwarded | Subscribed
)


def _text_bytes(*texts: str) -> int:
    size = 0
    for text in texts:
        # Asked for several times of each message; most text is ASCII.
        size += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return size


@define(slots=True)
class Record:
    """One message of a journal.

    ``entries`` is None for a fence. ``state`` is the encoded state after the
    entries, or None if they did not change it (or the class is event-sourced).
    ``tables`` is set for a snapshot: the wire form of everything else that the
    owner keeps, and then ``entries`` is empty, since their effect is in it.
    ``cursor`` is the mailbox sequence up to which mail has taken effect.
    """

    epoch: int
    entries: list[Entry] | None = field(factory=list[Entry])
    cursor: int = 0
    state: bytes | None = None
    tables: list[Any] | None = None

    @property
    def is_fence(self) -> bool:
        """Whether this is an epoch record, which only says who owns from now on."""
        return self.entries is None

    @property
    def is_snapshot(self) -> bool:
        """Whether this record replaces all before it."""
        return self.tables is not None

    def to_wire(self) -> list[Any]:
        """Return the record as plain values, ready for msgpack."""
        entries = None if self.entries is None else [_entry_to_wire(e) for e in self.entries]
        wire: list[Any] = [RECORD_VERSION, self.epoch, entries, self.cursor, self.state]
        if self.tables is not None:
            wire.append(self.tables)
        return wire

    @classmethod
    def from_wire(cls, wire: Any) -> Record:
        """Return the record that plain values stand for.

        Raises:
            JournalUnreadable: they are no record, or one of an unknown version.
        """
        try:
            if wire[0] != RECORD_VERSION:
                raise JournalUnreadable(
                    f"journal record of version {wire[0]!r}; this release reads "
                    f"version {RECORD_VERSION}: update it"
                )
            _, epoch, entries, cursor, state, *rest = wire
            return cls(
                epoch=epoch,
                entries=None if entries is None else [_entry_from_wire(e) for e in entries],
                cursor=cursor,
                state=state,
                tables=rest[0] if rest else None,
            )
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise JournalUnreadable(f"not a journal record: {error}") from error


def _entry_to_wire(entry: Entry) -> list[Any]:
    match entry:
        case CommandEntry():
            return [
                _COMMAND,
                entry.session,
                entry.n,
                entry.low,
                entry.status,
                entry.reply,
                [[e.name, e.version, e.body] for e in entry.events] if entry.events else None,
                [message.to_wire() for message in entry.outgoing] if entry.outgoing else None,
                entry.mail,
                [reminder.to_wire() for reminder in entry.reminders] if entry.reminders else None,
                entry.source,
                entry.method,
            ]
        case MailSessionDropped():
            return [_MAIL_DROPPED, entry.session]
        case SessionDropped():
            return [_DROPPED, entry.session]
        case MailTried():
            return [_TRIED, entry.sequence, *_source(entry)]
        case MailSkipped():
            skipped = [_SKIPPED, entry.sequence, entry.reason, entry.session, entry.n, entry.low]
            return [*skipped, *_source(entry)]
        case Subscribed():
            return [_SUBSCRIBED, entry.source, entry.sequence]
        case Forwarded():
            return [_FORWARDED, entry.n]
        case MailStashed():
            return [_STASHED, entry.sequence, entry.session, entry.n, entry.low, entry.payload]


def _source(entry: MailTried | MailSkipped) -> list[str]:
    return [entry.source] if entry.source else []


def _entry_from_wire(wire: list[Any]) -> Entry:
    kind = wire[0]
    if kind == _COMMAND:
        _, session, n, low, status, reply, events, outgoing, mail, *more = wire
        return CommandEntry(
            session=session,
            n=n,
            low=low,
            status=status,
            reply=reply,
            events=[Event(*event) for event in events] if events else None,
            outgoing=[Outgoing(*message) for message in outgoing] if outgoing else None,
            mail=mail,
            reminders=[reminder_from_wire(one) for one in more[0]] if more and more[0] else None,
            source=more[1] if len(more) > 1 else "",
            method=more[2] if len(more) > 2 else "",
        )
    if kind in _OTHERS:
        return _OTHERS[kind](*wire[1:])
    raise ValueError(f"unknown kind of entry {kind!r}")


_OTHERS: Final[dict[int, Callable[..., Entry]]] = {
    _DROPPED: SessionDropped,
    _TRIED: MailTried,
    _SKIPPED: MailSkipped,
    _MAIL_DROPPED: MailSessionDropped,
    _FORWARDED: Forwarded,
    _STASHED: MailStashed,
    _SUBSCRIBED: Subscribed,
}


def reminder_from_wire(wire: list[Any]) -> Reminder | ReminderOver:
    """Return what `Reminder.to_wire` or `ReminderOver.to_wire` gave."""
    if len(wire) == 1:
        return ReminderOver(*wire)
    if len(wire) < 8:
        return Reminder(*wire)
    name, method, params, due_ms, every_ms, skip_missed, trace, (text, zone) = wire
    return Reminder(name, method, params, due_ms, every_ms, skip_missed, trace, (text, zone))
