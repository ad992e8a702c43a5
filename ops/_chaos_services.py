"""The services under `aegis chaos`: accounts that keep count of what they were asked.

Each caller numbers its deposits at each account. An account remembers which numbers it
has applied, without bound by deposits: the highest, and the holes below it. So at the
end it can tell of *every* deposit whether it took effect, also of those whose caller
was killed before it heard; and a deposit that is applied twice is counted.
"""

from __future__ import annotations

from attrs import define, field, frozen

from aegis.actors._actor import AegisActor
from aegis.actors._handlers import applies, command, query

__all__ = ["Applied", "Chest", "Deposited", "Purse", "Sums"]


@define
class Applied:
    """Which of one caller's deposits were applied: 1 to ``highest``, without ``holes``."""

    highest: int = 0
    holes: list[int] = field(factory=list[int])

    def note(self, number: int) -> bool:
        """Note one; return whether it is new."""
        if number > self.highest:
            self.holes += range(self.highest + 1, number)
            self.highest = number
            return True
        if number in self.holes:
            self.holes.remove(number)
            return True
        return False


@define
class Sums:
    """What an account holds."""

    entries: int = 0
    cash: int = 0
    repeated: int = 0
    applied: dict[str, Applied] = field(factory=dict[str, Applied])

    def add(self, caller: str, number: int, amount: int) -> None:
        """Apply one deposit, a repeated one too: it would show in the sums."""
        if not self.applied.setdefault(caller, Applied()).note(number):
            self.repeated += 1
        self.entries += 1
        self.cash += amount


class Purse(AegisActor):
    """An account whose state is journaled as a snapshot."""

    service = "chaos-purse"
    state: Sums

    @command
    async def deposit(self, caller: str, number: int, amount: int) -> tuple[int, int]:
        """Return which entry this is, and what all come to."""
        self.state.add(caller, number, amount)
        return self.state.entries, self.state.cash

    @query
    async def sums(self) -> Sums:
        """Return all that it holds."""
        return self.state


@frozen
class Deposited:
    """One deposit."""

    caller: str
    number: int
    amount: int


class Chest(AegisActor):
    """The same account, journaled as events."""

    service = "chaos-chest"
    state: Sums

    @command
    async def deposit(self, caller: str, number: int, amount: int) -> tuple[int, int]:
        """Return which entry this is, and what all come to."""
        self.emit(Deposited(caller, number, amount))
        return self.state.entries, self.state.cash

    @applies(Deposited)
    def _on_deposited(self, event: Deposited) -> None:
        self.state.add(event.caller, event.number, event.amount)

    @query
    async def sums(self) -> Sums:
        """Return all that it holds."""
        return self.state
