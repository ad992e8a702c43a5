"""Faults planted into the core, to show that the checker can fail."""

from __future__ import annotations

from typing import Any

from aegis.actors._caller import Call, Done
from aegis.actors._claims import Claim, ClaimStep
from aegis.actors._mail import Stashed
from aegis.actors._owner import AppendPlan, Owner, OwnerLimits
from aegis.actors._record import CommandEntry, MailStashed, Reminder
from aegis.actors._sessions import Fresh, Known, Refusal, SessionTable

__all__ = ["MAIL_PLANTS", "PLANTS", "make_call", "make_claim", "make_owner", "spoil_entry"]

PLANTS = {
    "dedup-off": "every message is taken for new",
    "early-answer": "answers leave before the append is acknowledged",
    "no-fence": "a new owner reads the journal and writes no epoch record",
    "cut-state": "a group that is cut goes out without its state",
    "no-tables": "snapshots leave the session table out",
    "no-floor": "dropping a session does not raise the floor",
    "new-expectation": "an append of unknown outcome is repeated with a new expectation",
    "any-refusal-final": "a refusal ends a call although several attempts were sent",
    "moved-is-proof": "421 counts as proof that the command did not run",
    "late-acknowledgement": "the acknowledgement of one append is taken for the next one's",
    "no-clock-check": "claims are made however old the message is",
    "no-lease": "queries are answered without a lease",
    "no-cursor": "the journal does not say which mail is dealt with",
    "early-cursor": "the cursor moves with the record before the one with the effect",
    "early-forward": "outgoing messages leave before the append is acknowledged",
    "no-mail-table": "snapshots leave the table of mail out",
    "no-outbox": "snapshots leave the unsent messages out",
    "no-reminders": "snapshots leave the reminders out",
    "no-stash": "snapshots leave out what was put aside",
    "stash-unnoted": "the table of mail does not note what was put aside",
    "no-tries": "tries of messages at which owners die are not counted",
    "reminder-stays": "the effect of a reminder is committed, and its end is not",
    "early-subscription-cursor": "a subscription's cursor is committed before the effect",
    "no-subscription-cursor": "snapshots leave the cursors of subscriptions out",
    "no-durable-name": "the name of the subscription is no part of a message's session",
    "withdrawn-unjournaled": "a command is resolved as not run, and no record says so",
    "group-sends-apart": "what a command to a service group sends is no part of its claim",
    "silent-gap": "what the stream of a subscription let go of is not told",
}
"""The name of each plant, and what it does. ``no-fence``, ``new-expectation``,
``no-lease``, ``early-forward`` and the last six but ``no-subscription-cursor`` are carried
out by the drivers."""


MAIL_PLANTS = {
    "no-cursor",
    "early-cursor",
    "early-forward",
    "no-mail-table",
    "no-outbox",
    "no-reminders",
    "no-stash",
    "no-tries",
    "stash-unnoted",
    "reminder-stays",
    "early-subscription-cursor",
    "no-subscription-cursor",
    "no-durable-name",
    "silent-gap",
    "group-sends-apart",
}
"""Those that only mail, transfers and reminders can show."""


def make_owner(plant: str, *, epoch: int, snapshot_state: bool, limits: OwnerLimits) -> Owner:
    """Return an owner, with the planted fault if it is one of the owner's."""
    kind = {
        "dedup-off": _NoDedup,
        "early-answer": _EarlyAnswer,
        "cut-state": _CutState,
        "no-tables": _NoTables,
        "late-acknowledgement": _LateAcknowledgement,
        "no-cursor": _NoCursor,
        "early-cursor": _EarlyCursor,
        "no-mail-table": _NoMailTable,
        "no-outbox": _NoOutbox,
        "no-reminders": _NoReminders,
        "no-tries": _NoTries,
        "no-stash": _NoStash,
        "stash-unnoted": _StashUnnoted,
        "no-subscription-cursor": _NoSubscriptionCursor,
    }.get(plant, Owner)
    owner = kind(epoch=epoch, snapshot_state=snapshot_state, limits=limits)
    if plant == "no-floor":
        owner.sessions = _NoFloor(max_sessions=limits.max_sessions, window=limits.window)
    return owner


def make_call(plant: str, deadline: float, *, exact: bool) -> Call:
    """Return a call, with the planted fault if it is one of the caller's."""
    if plant == "any-refusal-final":
        return _AnyRefusalFinal(deadline, exact)
    if plant == "moved-is-proof":
        return _MovedIsProof(deadline, exact)
    return Call(deadline, exact)


def make_claim(
    plant: str, *, first_sent_ms: int, connection: int, status: int, reply: bytes
) -> Claim:
    """Return a claim, with the planted fault if it is one of the claim's."""
    kind = _NoClockCheck if plant == "no-clock-check" else Claim
    return kind(first_sent_ms, connection, status, reply)


def spoil_entry(plant: str, entry: CommandEntry) -> None:
    """Plant a fault into what a command has done, if it is one of that."""
    if plant == "reminder-stays" and entry.reminders:
        entry.reminders = [one for one in entry.reminders if isinstance(one, Reminder)] or None


class _NoDedup(Owner):
    def admit(self, session: str, n: int, low: int) -> Known | Fresh | Refusal:
        verdict = super().admit(session, n, low)
        return Fresh() if isinstance(verdict, Known) else verdict


class _EarlyAnswer(Owner):
    def hold(self, answer: Any) -> bool:
        return True


class _CutState(Owner):
    def append_next(self, *, whole_state: bytes | None = None) -> AppendPlan | None:
        plan = super().append_next(whole_state=whole_state)
        if plan is not None and not plan.rollup and self._pending:
            plan.record.state = None
        return plan


class _NoTables(Owner):
    def append_next(self, *, whole_state: bytes | None = None) -> AppendPlan | None:
        plan = super().append_next(whole_state=whole_state)
        if plan is not None and plan.rollup:
            assert plan.record.tables is not None
            plan.record.tables[0] = [0, []]
        return plan


class _NoCursor(Owner):
    def append_next(self, *, whole_state: bytes | None = None) -> AppendPlan | None:
        plan = super().append_next(whole_state=whole_state)
        if plan is not None:
            plan.record.cursor = 0
        return plan


class _EarlyCursor(Owner):
    def append_next(self, *, whole_state: bytes | None = None) -> AppendPlan | None:
        plan = super().append_next(whole_state=whole_state)
        if plan is not None:
            plan.record.cursor = self.cursor
        return plan


class _NoMailTable(Owner):
    def append_next(self, *, whole_state: bytes | None = None) -> AppendPlan | None:
        plan = super().append_next(whole_state=whole_state)
        if plan is not None and plan.record.tables is not None:
            plan.record.tables[1] = [0, [], []]
        return plan


class _NoOutbox(Owner):
    def append_next(self, *, whole_state: bytes | None = None) -> AppendPlan | None:
        plan = super().append_next(whole_state=whole_state)
        if plan is not None and plan.record.tables is not None:
            last_n, _, _ = plan.record.tables[2]
            plan.record.tables[2] = [last_n, last_n, []]
        return plan


class _NoReminders(Owner):
    def append_next(self, *, whole_state: bytes | None = None) -> AppendPlan | None:
        plan = super().append_next(whole_state=whole_state)
        if plan is not None and plan.record.tables is not None:
            plan.record.tables[3] = []
        return plan


class _NoStash(Owner):
    def append_next(self, *, whole_state: bytes | None = None) -> AppendPlan | None:
        plan = super().append_next(whole_state=whole_state)
        if plan is not None and plan.record.tables is not None:
            plan.record.tables[1] = plan.record.tables[1][:3]
        return plan


class _StashUnnoted(Owner):
    def _note_stashed(self, entry: MailStashed) -> None:
        self.mail.put_aside(entry.sequence, Stashed(entry.session, entry.n, entry.payload))


class _NoSubscriptionCursor(Owner):
    def append_next(self, *, whole_state: bytes | None = None) -> AppendPlan | None:
        plan = super().append_next(whole_state=whole_state)
        if plan is not None and plan.record.tables is not None:
            del plan.record.tables[5:]
        return plan


class _NoTries(Owner):
    def tries(self, sequence: int, source: str = "") -> int:
        # Those of a subscription count: else one that always fails would be run for ever.
        return super().tries(sequence, source) if source else 0


class _NoFloor(SessionTable):
    def drop(self, session: str) -> None:
        super().drop(session)
        self.floor = 0


class _LateAcknowledgement(Owner):
    def appended(self, sequence: int) -> list[Any]:
        self.last_sequence = min(self.last_sequence, sequence - 1)
        return super().appended(sequence)


class _AnyRefusalFinal(Call):
    def answered(self, status: int, value: Any) -> Done | None:
        sent, self.sent = self.sent, 1
        try:
            return super().answered(status, value)
        finally:
            self.sent = sent


class _MovedIsProof(Call):
    def answered(self, status: int, value: Any) -> Done | None:
        if status == 421:
            self._proofs += 1
        return super().answered(status, value)


class _NoClockCheck(Claim):
    def begin(self, *, wall_ms: int, connection: int) -> ClaimStep:
        return super().begin(wall_ms=self.first_sent_ms, connection=connection)
