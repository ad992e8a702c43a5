"""Reading journals as an auditor does: what each entry did, and whether the rules were kept.

Nothing here trusts what owners remember: the records of the stream alone are looked at,
with the header by which each was appended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from attrs import asdict, define, field, frozen

from aegis.actors._record import (
    CommandEntry,
    Entry,
    Forwarded,
    MailSkipped,
    MailStashed,
    Record,
    Reminder,
    ReminderOver,
    Subscribed,
)
from aegis.actors._schema import plain_state
from aegis.contracts import OK
from aegis.errors import AegisError, Rejected
from aegis.transport._base import Stored
from aegis.transport._codec import decode_value

__all__ = ["Audit", "AuditedEntry", "Finding"]

EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
"""The header that made an append conditional; JetStream keeps it with the message."""


@frozen
class Finding:
    """One rule that a record breaks."""

    sequence: int
    problem: str


@frozen
class AuditedEntry:
    """One entry of a record, for people and programs.

    ``kind`` is ``command``, ``fence``, ``snapshot`` or the name of another entry. ``method``
    is empty where the release that wrote it kept none.
    ``changed`` are the fields of the state that the *record* changed, each with what it
    was and is; it stands with the last entry of the record.
    """

    sequence: int
    timestamp_ms: int
    epoch: int
    kind: str
    message_id: str = ""
    method: str = ""
    status: int = 0
    answer: Any = None
    events: list[dict[str, Any]] = field(factory=list[dict[str, Any]])
    changed: dict[str, list[Any]] = field(factory=dict[str, "list[Any]"])
    facts: dict[str, Any] = field(factory=dict[str, Any])


@define(eq=False)
class Audit:
    """One journal, from its first record on: give each to `add`, in order."""

    subject: str
    records: int = 0
    fences: int = 0
    snapshots: int = 0
    commands: int = 0
    rejected: int = 0
    failed: int = 0
    epoch: int = 0
    findings: list[Finding] = field(factory=list[Finding])
    _last_sequence: int = 0
    _fenced_epoch: int | None = None
    _cursor: int = 0
    _mail: dict[str, int] = field(factory=dict[str, int])
    _sent: int | None = None
    _state: Any = None
    _done: dict[str, set[int]] = field(factory=dict[str, "set[int]"])
    _stash: dict[int, tuple[str, int]] = field(factory=dict[int, "tuple[str, int]"])
    """What was put aside and has yet to take effect: session and number by its sequence."""

    def add(self, stored: Stored) -> list[AuditedEntry]:
        """Take the next record in; return its entries, as far as they can be read."""
        self.records += 1
        found = len(self.findings)
        entries: list[AuditedEntry] = []
        try:
            record = Record.from_wire(decode_value(stored.payload))
            self._check_append(stored, record)
            self._check_epoch(stored, record)
            entries = self._read(stored, record)
        except AegisError as error:
            self._find(stored, f"cannot be decoded: {error}")
        self._last_sequence = stored.sequence
        if not entries:
            problem = "; ".join(finding.problem for finding in self.findings[found:])
            facts = {"problem": problem} if problem else {}
            entries = [
                AuditedEntry(
                    stored.sequence, stored.timestamp_ms, self.epoch, "unreadable", facts=facts
                )
            ]
        return entries

    def _find(self, stored: Stored, problem: str) -> None:
        self.findings.append(Finding(stored.sequence, problem))

    def _check_append(self, stored: Stored, record: Record) -> None:
        headers: Mapping[str, str] = stored.headers or {}
        expected = headers.get(EXPECTED)
        if expected is None:
            if not record.is_fence:
                self._find(stored, "was appended without an expectation: anybody could have")
        elif self._last_sequence and expected != str(self._last_sequence):
            self._find(
                stored,
                f"expected sequence {expected} before it, and {self._last_sequence} is there: "
                "a record is missing or was removed",
            )

    def _check_epoch(self, stored: Stored, record: Record) -> None:
        fenced = self._fenced_epoch
        if record.is_fence:
            # An older owner's fence may land late: nobody heeds it.
            self._fenced_epoch = max(fenced or 0, record.epoch)
        elif fenced is None:
            # The first that is left: a snapshot has replaced what was before it.
            self._fenced_epoch = record.epoch
            if not record.is_snapshot:
                self._find(stored, f"no fence of its epoch {record.epoch} stands before it")
        elif record.epoch < fenced:
            self._find(
                stored, f"its epoch {record.epoch} is below {fenced}: its writer had been replaced"
            )
        elif record.epoch > fenced:
            self._find(stored, f"no fence of its epoch {record.epoch} stands before it")
            self._fenced_epoch = record.epoch
        self.epoch = max(self.epoch, record.epoch)
        if not record.is_fence:
            if record.cursor < self._cursor:
                self._find(stored, f"its cursor {record.cursor} is below {self._cursor}")
            self._cursor = max(self._cursor, record.cursor)

    def _read(self, stored: Stored, record: Record) -> list[AuditedEntry]:
        def entry(kind: str, **what: Any) -> AuditedEntry:
            return AuditedEntry(stored.sequence, stored.timestamp_ms, record.epoch, kind, **what)

        if record.entries is None:
            self.fences += 1
            return [entry("fence")]
        changed = self._changes(record)
        if record.tables is not None:
            self.snapshots += 1
            carried = self._load(stored, record.tables)
            self._mail[""] = max(self._mail.get("", 0), record.cursor)
            facts = {"sessions": len(self._done), "cursor": record.cursor, **carried}
            return [entry("snapshot", changed=changed, facts=facts)]
        read: list[AuditedEntry] = []
        last = len(record.entries) - 1
        for index, one in enumerate(record.entries):
            shown = changed if index == last else {}
            if isinstance(one, CommandEntry):
                self._count(stored, one)
                answer = decode_value(one.reply)
                events = [
                    {"event": e.name, "version": e.version, "value": decode_value(e.body)}
                    for e in one.events or ()
                ]
                name = f"{one.session}-{one.n}" if one.session else ""
                facts = _beside(one)
                read.append(
                    entry(
                        "command",
                        message_id=name,
                        method=one.method,
                        status=one.status,
                        answer=answer,
                        events=events,
                        changed=shown,
                        facts=facts,
                    )
                )
            else:
                self._check_mail(stored, one)
                facts = {name: value for name, value in asdict(one).items() if value != ""}
                facts.pop("payload", None)  # Of what was put aside; its effect comes later.
                read.append(entry(_spaced(type(one).__name__), changed=shown, facts=facts))
        latest = max(
            (_mail_of(one)[1] for one in record.entries if not _mail_of(one)[0]), default=0
        )
        if record.cursor < latest:
            self._find(stored, f"its cursor {record.cursor} is below its message {latest}")
        self._mail[""] = max(self._mail.get("", 0), record.cursor, latest)
        return read or [entry("empty")]

    def _changes(self, record: Record) -> dict[str, list[Any]]:
        if record.state is None:
            return {}
        before, after = self._state, plain_state(decode_value(record.state))
        self._state = after
        if before is None and isinstance(after, dict):
            before = {}
        if not isinstance(before, dict) or not isinstance(after, dict):
            return {} if before == after else {"state": [before, after]}
        old, new = cast("dict[str, Any]", before), cast("dict[str, Any]", after)
        return {
            str(name): [old.get(name), new.get(name)]
            for name in sorted({*old, *new}, key=str)
            if old.get(name) != new.get(name)
        }

    def _count(self, stored: Stored, one: CommandEntry) -> None:
        self.commands += 1
        if one.status == Rejected.code:
            self.rejected += 1
        elif one.status != OK:
            self.failed += 1
        self._check_mail(stored, one)
        if not one.session:
            return  # Its sender could not repeat it.
        done = self._done.setdefault(one.session, set())
        if one.n in done:
            self._find(stored, f"message {one.session}-{one.n} took effect before")
        elif (one.session, one.n) in self._stash.values():
            self._find(stored, f"message {one.session}-{one.n} took effect, and is put aside")
        done.add(one.n)

    def _check_mail(self, stored: Stored, one: Entry) -> None:
        """Check the order of what comes from the mailbox, and of what goes out."""
        source, mail = _mail_of(one)
        is_back = mail and not source and not isinstance(one, MailStashed)
        if is_back and self._stash.pop(mail, None) is not None:
            mail = 0  # It stands before the cursor, since it had been put aside.
        if isinstance(one, MailStashed):
            if one.payload and one.n in self._done.get(one.session, ()):
                self._find(stored, f"message {one.session}-{one.n} took effect, and is put aside")
            mail = mail if one.payload else 0
            self._stash[one.sequence] = (one.session, one.n)
        elif isinstance(one, MailSkipped) and one.session:
            # Noted: a copy of it that comes later must not run.
            self._done.setdefault(one.session, set()).add(one.n)
        elif isinstance(one, CommandEntry):
            for message in one.outgoing or ():
                if self._sent is not None and message.n != self._sent + 1:
                    self._find(
                        stored, f"outgoing message {message.n} comes after number {self._sent}"
                    )
                self._sent = message.n
        elif isinstance(one, Forwarded) and self._sent is not None and one.n > self._sent:
            self._find(stored, f"message {one.n} was forwarded, and {self._sent} is the last sent")
        if isinstance(one, Subscribed):
            self._mail[one.source] = one.sequence  # Of a stream made anew it may be lower.
            return
        before = self._mail.get(source, 0)
        if mail and mail <= before:
            where = f"subscription {source}" if source else "the mailbox"
            self._find(stored, f"message {mail} of {where} comes after {before}")
        self._mail[source] = max(before, mail)

    def _load(self, stored: Stored, tables: list[Any]) -> dict[str, Any]:
        """Take over what a snapshot says of all that was before it; return what it carries."""
        carried: dict[str, list[Any]] = {}
        try:
            _, sessions = tables[0]
            kept = {str(name): {int(r[0]) for r in replies} for name, _, replies in sessions}
            if len(tables) > 1:  # A release without mail wrote the first table alone.
                (_, senders, replies, *stash), (last_n, _, unsent), reminders = tables[1:4]
                kept |= {str(name): {int(n) for n in done} for name, _, done in senders}
                self._sent = int(last_n)
                stashed = cast("list[list[Any]]", stash[0] if stash else [])
                self._stash = {int(one[0]): (str(one[1]), int(one[2])) for one in stashed}
                for session, n in self._stash.values():
                    kept.get(session, set()).discard(n)  # Noted, and without effect so far.
                carried = {
                    "replies": replies,
                    "unsent": unsent,
                    "reminders": reminders,
                    "stashed": stashed,
                }
                if len(tables) > 5:
                    carried["subscriptions"] = tables[5]
                    self._mail |= {str(name): int(cursor) for name, cursor, *_ in tables[5]}
        except (TypeError, ValueError, IndexError, KeyError) as error:
            self._find(stored, f"its table of sessions is unreadable: {error}")
            return {}
        for name, numbers in kept.items():
            self._done.setdefault(name, set()).update(numbers)
        return {name: len(what) for name, what in carried.items() if what}


def _mail_of(entry: Entry) -> tuple[str, int]:
    """Return the source of the message that the entry is about, and its place; 0 if none."""
    if isinstance(entry, CommandEntry):
        return entry.source, entry.mail
    if isinstance(entry, MailSkipped):
        return entry.source, entry.sequence
    return ("", entry.sequence) if isinstance(entry, MailStashed) else ("", 0)


def _beside(entry: CommandEntry) -> dict[str, Any]:
    """Return what a command did beside its answer, its events and the state."""
    facts: dict[str, Any] = {"mail": entry.mail} if entry.mail else {}
    if entry.source:
        facts["source"] = entry.source
    if entry.outgoing:
        facts["sent"] = [
            (
                f"{one.n} to {one.service}/{one.resource}"
                if one.service
                else f"{one.n} to the topic {one.resource}"
            )
            for one in entry.outgoing
        ]
    if entry.reminders:
        facts["reminders"] = [_reminder(one) for one in entry.reminders]
    return facts


def _reminder(change: Reminder | ReminderOver) -> dict[str, Any]:
    if isinstance(change, ReminderOver):
        return {"name": change.name, "over": True}
    by_cron = {} if change.cron is None else {"cron": " in ".join(change.cron)}
    return {
        "name": change.name,
        "method": change.method,
        "params": decode_value(change.params),
        "due_ms": change.due_ms,
        "every_ms": change.every_ms,
        "skip_missed": change.skip_missed,
        **by_cron,
    }


def _spaced(name: str) -> str:
    """Return ``SessionDropped`` as ``session dropped``."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
