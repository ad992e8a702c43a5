"""The services under `aegis chaos`: accounts in both forms of state, and registers.

A caller numbers what it wants decided at a resource: its *entries*. It asks for one by an
*attempt*, a command with a number of its own, and for the same entry again if it was not
told the outcome. The resource decides an entry once, keeps the outcome and gives it again;
so every attempt after the first only asks how the first one ended. A caller that does not
want an entry any more asks for it to be void: whatever comes first is what counts.

Repeats of an *entry* are the caller's business. A repeat of an *attempt* is not: each is
one message, and a message takes effect once. So a resource also keeps count of attempts,
and one that it meets twice is a broken promise of Aegis. All this is kept without bound by
the number of entries: as the highest number, and the holes below it.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field, frozen

from aegis.actors._actor import AegisActor
from aegis.actors._handlers import applies, command, query

__all__ = [
    "APPLIED",
    "CREDIT",
    "DEBIT",
    "FORGOTTEN",
    "OPENING_CASH",
    "REFUSED",
    "VOID",
    "WRITE",
    "Book",
    "Chest",
    "Numbers",
    "Outcome",
    "Purse",
    "Register",
    "Sheet",
    "Step",
]

OPENING_CASH: Final = 20_000
"""What every account has before its first entry."""

# What a step asks for.
DEBIT: Final = "debit"
CREDIT: Final = "credit"
WRITE: Final = "write"
VOID: Final = "void"

# How an entry was decided.
APPLIED: Final = "applied"
REFUSED: Final = "refused"
FORGOTTEN: Final = "forgotten"
"""Decided, and so long ago that the caller cannot want to know: a late attempt."""


@define
class Numbers:
    """A set of numbers: 1 to ``highest``, without ``holes``."""

    highest: int = 0
    holes: list[int] = field(factory=list[int])

    def note(self, number: int) -> bool:
        """Add a number; return whether it is new."""
        if number > self.highest:
            self.holes += range(self.highest + 1, number)
            self.highest = number
            return True
        if number in self.holes:
            self.holes.remove(number)
            return True
        return False


@frozen
class Step:
    """One attempt to have one entry decided; ``value`` is an amount or what to write."""

    caller: str
    attempt: int
    entry: int
    low: int
    """All entries of the caller below this one are decided, and it knows how."""
    what: str
    value: int


@frozen
class Outcome:
    """How an entry was decided: its place among all of the resource, and the value then."""

    took: str
    place: int = 0
    value: int = 0


@define
class Page:
    """What a resource knows of one caller."""

    attempts: Numbers = field(factory=Numbers)
    entries: Numbers = field(factory=Numbers)
    outcomes: dict[int, Outcome] = field(factory=dict[int, Outcome])


@define
class Sheet:
    """One number and all that was decided about it: the value of a register, of an account."""

    value: int = 0
    places: int = 0
    repeated: int = 0
    """Attempts that came twice."""
    pages: dict[str, Page] = field(factory=dict[str, Page])

    def take(self, step: Step) -> None:
        """Decide an entry, if it is not decided yet."""
        page = self.pages.setdefault(step.caller, Page())
        if not page.attempts.note(step.attempt):
            self.repeated += 1
        if not page.entries.note(step.entry):
            return
        took = APPLIED
        if step.what == VOID:
            took = VOID
        elif step.what == DEBIT and step.value > self.value:
            took = REFUSED
        elif step.what == WRITE:
            self.value = step.value
        else:
            self.value += step.value if step.what == CREDIT else -step.value
        self.places += 1
        page.outcomes[step.entry] = Outcome(took, self.places, self.value)
        for entry in [entry for entry in page.outcomes if entry < step.low]:
            del page.outcomes[entry]

    def outcome(self, step: Step) -> Outcome:
        """Return how the entry of a step was decided."""
        return self.pages[step.caller].outcomes.get(step.entry) or Outcome(FORGOTTEN)


@define
class Book(Sheet):
    """The sheet of an account."""

    value: int = OPENING_CASH


class Purse(AegisActor):
    """An account whose state is journaled as a snapshot."""

    service = "chaos-purse"
    state: Book

    @command
    async def step(self, step: Step) -> Outcome:
        """Decide an entry; return how it was decided."""
        self.state.take(step)
        return self.state.outcome(step)

    @query
    async def held(self) -> Book:
        """Return all that it holds."""
        return self.state


class Chest(AegisActor):
    """The same account, journaled as events."""

    service = "chaos-chest"
    state: Book

    @command
    async def step(self, step: Step) -> Outcome:
        """Decide an entry; return how it was decided."""
        self.emit(step)
        return self.state.outcome(step)

    @applies(Step)
    def _on_step(self, step: Step) -> None:
        self.state.take(step)

    @query
    async def held(self) -> Book:
        """Return all that it holds."""
        return self.state


class Register(AegisActor):
    """One value that is written and read."""

    service = "chaos-register"
    state: Sheet

    @command
    async def step(self, step: Step) -> Outcome:
        """Decide an entry; return how it was decided."""
        self.state.take(step)
        return self.state.outcome(step)

    @query
    async def read(self) -> int:
        """Return the value."""
        return self.state.value

    @query
    async def held(self) -> Sheet:
        """Return all that it holds."""
        return self.state
