"""The verdict of `aegis chaos`: what callers were told, against what the journals hold.

It shares nothing with the services but the shape of what they say at the end. It does the
sums again from the ledgers alone: every place of every resource must belong to one entry
that a caller asked for, and the values must follow from one another in that order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from attrs import define, field

from aegis.ops._chaos_ledger import Entry, Story, Transfer
from aegis.ops._chaos_services import (
    APPLIED,
    DEBIT,
    FORGOTTEN,
    OPENING_CASH,
    REFUSED,
    VOID,
    WRITE,
)
from aegis.ops._chaos_transfers import DEBITED, Ended, next_step
from aegis.ops._linearizability import Operation, Register, check

__all__ = ["Verdict", "judge"]

SEARCH_LIMIT: Final = 50_000_000

type Place = tuple[str, str]
"""Service and resource."""


@define
class Verdict:
    """What the books say."""

    transfers: dict[str, int] = field(factory=dict[str, int])
    """How many ended how."""
    entries: int = 0
    attempts: int = 0
    acknowledged: int = 0
    """Attempts that were told an outcome."""
    unknown: int = 0
    """Attempts that were not: their caller gave up, or was killed."""
    decided_later: int = 0
    """Entries whose outcome only a later attempt learned."""
    found_applied: int = 0
    """Those of them that the attempt of unknown outcome had applied."""
    register_reads: int = 0
    register_writes: int = 0
    longest_seconds: float = 0.0
    """How long an entry was open at most, the time included in which its caller was gone."""
    longest: str = ""
    """Which one that was."""
    longest_asked_at: float = 0.0
    errors: dict[str, int] = field(factory=dict[str, int])
    wrong: list[str] = field(factory=list[str])

    @property
    def operations(self) -> int:
        """Return how many operations had their end: entries and reads."""
        return self.entries + self.register_reads


def judge(
    stories: Iterable[Story], held: Mapping[Place, Mapping[str, Any]], registers: str
) -> Verdict:
    """Judge what callers wrote down by what each resource holds at the end.

    ``registers`` is the service whose resources are registers; the others are accounts.
    """
    stories = list(stories)
    verdict = Verdict()
    entries: dict[Place, list[tuple[str, Entry]]] = defaultdict(list)
    for story in stories:
        for entry in story.entries.values():
            entries[entry.service, entry.resource].append((story.caller, entry))
            _count(story.caller, entry, verdict)
        for name, count in story.errors.items():
            verdict.errors[name] = verdict.errors.get(name, 0) + count
        _judge_transfers(story, verdict)
    for place in sorted(entries.keys() - held.keys()):
        verdict.wrong.append(f"{'/'.join(place)}: does not say what it holds")
    for place, sheet in sorted(held.items()):
        opening = 0 if place[0] == registers else OPENING_CASH
        _Resource(place, opening, entries[place], sheet, verdict).judge()
    banks = {service for service, _ in held if service != registers}
    for bank in sorted(banks):
        _judge_money(bank, held, verdict)
    _judge_registers(stories, registers, verdict)
    return verdict


def _count(caller: str, entry: Entry, verdict: Verdict) -> None:
    verdict.entries += entry.outcome is not None
    verdict.attempts += len(entry.attempts)
    verdict.acknowledged += len(entry.told)
    verdict.unknown += len(entry.attempts) - len(entry.told)
    if entry.outcome is not None:
        seconds = entry.told_at - entry.asked_at
        if seconds > verdict.longest_seconds:
            verdict.longest_seconds, verdict.longest_asked_at = seconds, entry.asked_at
            verdict.longest = f"{entry.service}/{entry.resource} entry {entry.number} of {caller}"
        if len(entry.attempts) > 1:
            verdict.decided_later += 1
            last = max(entry.attempts)
            # Asked to make it void, it said what had been done before.
            if entry.attempts[last] == VOID and entry.outcome[0] == APPLIED:
                verdict.found_applied += 1


# -- one resource ----------------------------------------------------------------------------


@define
class _Resource:
    place: Place
    opening: int
    entries: list[tuple[str, Entry]]
    sheet: Mapping[str, Any]
    verdict: Verdict

    def judge(self) -> None:
        if self.sheet["repeated"]:
            self._wrong(f"{self.sheet['repeated']} messages took effect twice")
        for caller, entry in self.entries:
            self._judge_entry(caller, entry)
        self._judge_numbers()
        self._judge_order()

    def _wrong(self, text: str) -> None:
        self.verdict.wrong.append(f"{'/'.join(self.place)}: {text}")

    def _judge_entry(self, caller: str, entry: Entry) -> None:
        name = f"entry {entry.number} of {caller}"
        if entry.outcome is None:
            self._wrong(f"{name}: nobody knows how it ended")
        if len(set(entry.told.values())) > 1:
            self._wrong(f"{name}: was told different outcomes: {entry.told}")
        elif entry.outcome is not None and entry.outcome[0] == FORGOTTEN:
            self._wrong(f"{name}: its outcome was forgotten while it was asked for")

    def _judge_numbers(self) -> None:
        """What the resource has seen is what was asked, and all that it acknowledged."""
        pages: Mapping[str, Any] = self.sheet["pages"]
        callers = {caller for caller, _ in self.entries} | pages.keys()
        for caller in sorted(callers):
            mine = [entry for name, entry in self.entries if name == caller]
            page: Mapping[str, Any] = pages.get(caller, {})
            attempts, decided = _numbers(page.get("attempts")), _numbers(page.get("entries"))
            told = {attempt for entry in mine for attempt in entry.told}
            asked = {attempt for entry in mine for attempt in entry.attempts}
            numbers = {entry.number for entry in mine}
            known = {entry.number for entry in mine if entry.outcome is not None}
            for what, lost in (("message", told - attempts), ("entry", known - decided)):
                for number in sorted(lost):
                    self._wrong(f"{what} {number} of {caller} was acknowledged and is lost")
            for what, more in (("message", attempts - asked), ("entry", decided - numbers)):
                for number in sorted(more):
                    self._wrong(f"nobody asked for {what} {number} of {caller}")

    def _judge_order(self) -> None:
        """All places belong to one entry each, and each value follows from the one before."""
        decided = [
            (*entry.outcome, caller, entry) for caller, entry in self.entries if entry.outcome
        ]
        decided.sort(key=lambda one: one[1])
        value, called_at = self.opening, 0.0
        for expected, (took, place, told, caller, entry) in enumerate(decided, 1):
            name = f"entry {entry.number} of {caller}"
            if place != expected:
                self._wrong(f"{name}: was told place {place}, and {expected} is the next")
                return
            value = _after(value, took, entry)
            if told != value or (took == REFUSED and entry.value <= value):
                self._wrong(
                    f"{name}: {entry.what} {entry.value} was {took} at place {place} with "
                    f"{told}; what stood before makes it {value}"
                )
                return
            # Who was told before another asked has the earlier place.
            if entry.told_at < called_at:
                self._wrong(f"{name}: told before one at an earlier place than {place} was asked")
            called_at = max(called_at, entry.asked_at)
        if (self.sheet["places"], self.sheet["value"]) != (len(decided), value):
            self._wrong(
                f"holds {self.sheet['value']} after {self.sheet['places']} places; "
                f"the ledgers make it {value} after {len(decided)}"
            )


def _numbers(numbers: Mapping[str, Any] | None) -> set[int]:
    return set(range(1, numbers["highest"] + 1)) - set(numbers["holes"]) if numbers else set()


def _after(value: int, took: str, entry: Entry) -> int:
    if took != APPLIED:
        return value
    if entry.what == WRITE:
        return entry.value
    # The credit of a transfer may first have been asked for only to make it void.
    return value - entry.value if entry.what == DEBIT else value + entry.value


# -- all accounts, all transfers -------------------------------------------------------------


def _judge_transfers(story: Story, verdict: Verdict) -> None:
    entries: dict[int, dict[str, Entry]] = defaultdict(dict)
    for entry in story.entries.values():
        if entry.transfer:
            entries[entry.transfer][entry.role] = entry
    ends: Counter[str] = Counter()
    for transfer in story.transfers.values():
        ends[transfer.end or "open"] += 1
        problem = _transfer_problem(transfer, entries[transfer.number])
        if problem:
            verdict.wrong.append(f"transfer {transfer.number} of {story.caller}: {problem}")
    for how, count in ends.items():
        verdict.transfers[how] = verdict.transfers.get(how, 0) + count


def _transfer_problem(transfer: Transfer, entries: Mapping[str, Entry]) -> str:
    outcomes = {role: entry.outcome[0] for role, entry in entries.items() if entry.outcome}
    due = next_step(transfer, outcomes)
    if not isinstance(due, Ended):
        return f"is not at its end: {due.what} at {due.resource} is due, after {outcomes}"
    if due.how != transfer.end:
        return f"ended as {transfer.end or 'open'}, and {outcomes} makes it {due.how}"
    moved = 0
    for role, entry in entries.items():
        if outcomes[role] == APPLIED:
            moved += -entry.value if role == DEBITED else entry.value
    return f"made {moved} of nothing" if moved else ""


def _judge_money(bank: str, held: Mapping[Place, Mapping[str, Any]], verdict: Verdict) -> None:
    values = [sheet["value"] for (service, _), sheet in held.items() if service == bank]
    if sum(values) != OPENING_CASH * len(values):
        verdict.wrong.append(
            f"{bank}: {OPENING_CASH * len(values)} at the beginning, {sum(values)} at the end"
        )


# -- registers -------------------------------------------------------------------------------


def _judge_registers(stories: Iterable[Story], registers: str, verdict: Verdict) -> None:
    history: list[Operation] = []
    for story in stories:
        for entry in story.entries.values():
            if entry.service != registers or entry.outcome is None or entry.outcome[0] != APPLIED:
                continue  # what was made void never happened; what is open was told of before
            history.append(
                Operation(
                    entry.asked_at,
                    entry.told_at,
                    ("write", entry.value),
                    client=story.caller,
                    resource=f"{registers}/{entry.resource}",
                )
            )
            verdict.register_writes += 1
        for read in story.reads:
            history.append(
                Operation(
                    read.called_at,
                    read.told_at,
                    ("read",),
                    read.value,
                    client=story.caller,
                    resource=f"{registers}/{read.resource}",
                )
            )
            verdict.register_reads += 1
    violation = check(history, Register(0), limit=SEARCH_LIMIT)
    if violation is not None:
        verdict.wrong.append(str(violation))
