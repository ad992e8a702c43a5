"""What a journal holds (sans-I/O): command entries, fences and snapshots as records.

On the wire a record is ``[version, epoch, entries, cursor, state]``, a snapshot has a
sixth element, the tables, and a fence (epoch record) has nil for its entries. An
entry is an array whose first element is its kind:

====  ==========================================================================
kind  then
====  ==========================================================================
0     command: session, n, low, status, reply, events|nil, outgoing|nil, mail
1     session dropped: session. The floor rises to its start
2     mail tried: mailbox sequence. An owner is about to run it alone
3     mail skipped: mailbox sequence, reason. It went to the dead letters
====  ==========================================================================

``reply``, ``state`` and each event's body are encoded msgpack values, carried as
bytes: replaying, comparing and forwarding never decodes them. ``mail`` is the
mailbox sequence of a durable send and 0 for a call.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import define, field

from aegis.errors import JournalUnreadable

__all__ = [
    "RECORD_VERSION",
    "CommandEntry",
    "Entry",
    "Event",
    "MailSkipped",
    "MailTried",
    "Record",
    "SessionDropped",
]

RECORD_VERSION: Final = 1

_COMMAND, _DROPPED, _TRIED, _SKIPPED = range(4)

_ENTRY_OVERHEAD_BYTES: Final = 48
"""Upper bound of what an entry costs beside its session, reply and events."""


@define(slots=True, frozen=True)
class Event:
    """One event of an event-sourced actor: class name, schema version, body."""

    name: str
    version: int
    body: bytes


@define(slots=True)
class CommandEntry:
    """What one command did: its reply, and its events or outgoing messages.

    ``session`` is empty for a message that nobody can repeat: its sender lives in
    the owner's own process. Such an entry leaves no trace in the session table.
    """

    session: str
    n: int
    low: int
    status: int
    reply: bytes
    events: list[Event] | None = None
    outgoing: list[Any] | None = None
    mail: int = 0

    @property
    def size_bytes(self) -> int:
        """At least as many bytes as the entry takes in an encoded record."""
        size = _ENTRY_OVERHEAD_BYTES + len(self.session) + len(self.reply)
        if self.events:
            size += sum(16 + len(event.name) + len(event.body) for event in self.events)
        return size


@define(slots=True, frozen=True)
class SessionDropped:
    """The longest-idle session made room; its repeats are refused from now on."""

    session: str


@define(slots=True, frozen=True)
class MailTried:
    """The message at ``sequence`` of the mailbox is about to run again, alone."""

    sequence: int


@define(slots=True, frozen=True)
class MailSkipped:
    """The message at ``sequence`` of the mailbox was given up."""

    sequence: int
    reason: str


type Entry = CommandEntry | SessionDropped | MailTried | MailSkipped


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
            events = [[e.name, e.version, e.body] for e in entry.events or ()]
            return [
                _COMMAND,
                entry.session,
                entry.n,
                entry.low,
                entry.status,
                entry.reply,
                events or None,
                entry.outgoing or None,
                entry.mail,
            ]
        case SessionDropped():
            return [_DROPPED, entry.session]
        case MailTried():
            return [_TRIED, entry.sequence]
        case MailSkipped():
            return [_SKIPPED, entry.sequence, entry.reason]


def _entry_from_wire(wire: list[Any]) -> Entry:
    kind = wire[0]
    if kind == _COMMAND:
        _, session, n, low, status, reply, events, outgoing, mail = wire
        return CommandEntry(
            session=session,
            n=n,
            low=low,
            status=status,
            reply=reply,
            events=[Event(*event) for event in events] if events else None,
            outgoing=outgoing,
            mail=mail,
        )
    if kind == _DROPPED:
        return SessionDropped(wire[1])
    if kind == _TRIED:
        return MailTried(wire[1])
    if kind == _SKIPPED:
        return MailSkipped(wire[1], wire[2])
    raise ValueError(f"unknown kind of entry {kind!r}")
