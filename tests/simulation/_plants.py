"""Faults planted into the core, to show that the checker can fail."""

from __future__ import annotations

from typing import Any

from aegis.actors._caller import Call, Done
from aegis.actors._claims import Claim, ClaimStep
from aegis.actors._owner import AppendPlan, Owner, OwnerLimits
from aegis.actors._sessions import Fresh, Known, Refusal, SessionTable

__all__ = ["PLANTS", "make_call", "make_claim", "make_owner"]

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
}
"""The name of each plant, and what it does. ``no-fence``, ``new-expectation`` and
``no-lease`` are carried out by the driver of the owners."""


def make_owner(plant: str, *, epoch: int, snapshot_state: bool, limits: OwnerLimits) -> Owner:
    """Return an owner, with the planted fault if it is one of the owner's."""
    kind = {
        "dedup-off": _NoDedup,
        "early-answer": _EarlyAnswer,
        "cut-state": _CutState,
        "no-tables": _NoTables,
        "late-acknowledgement": _LateAcknowledgement,
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
            plan.record.tables = [[0, []]]
        return plan


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
