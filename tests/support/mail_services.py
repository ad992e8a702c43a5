"""Services for tests of durable messages: a book that notes what it is told, and senders."""

from __future__ import annotations

from decimal import Decimal

from attrs import define, field

from aegis import AegisActor, Answer, Rejected, applies, command, query

__all__ = ["Book", "BookState", "Courier", "Diary", "Noted", "Purse", "PurseState"]


@define
class BookState:
    """What was noted, in order."""

    lines: list[str] = field(factory=list[str])


class Book(AegisActor):
    """Notes what it is told, and how each message was called."""

    service = "book"
    state: BookState

    @command
    async def note(self, line: str) -> int:
        if line.startswith("no"):
            raise Rejected("not that", line=line)
        self.state.lines.append(line)
        return len(self.state.lines)

    @command
    async def fail(self) -> None:
        self.state.lines.append("never kept")
        raise ValueError("cannot go on")

    @command
    async def tell_id(self) -> str:
        return self.message_id

    @query
    async def lines(self) -> list[str]:
        return self.state.lines


@define
class Noted:
    """Something was noted."""

    line: str


class Diary(AegisActor):
    """A book whose state is made of events."""

    service = "diary"
    state: BookState

    @command
    async def note(self, line: str) -> int:
        if line.startswith("no"):
            self.emit(Noted("never kept"))
            raise Rejected("not that", line=line)
        self.emit(Noted(line))
        return len(self.state.lines)

    @applies(Noted)
    def on_noted(self, event: Noted) -> None:
        self.state.lines.append(event.line)

    @query
    async def lines(self) -> list[str]:
        return self.state.lines


@define
class PurseState:
    """Money, and what became of what was sent."""

    cash: Decimal = Decimal(0)
    on_its_way: dict[str, Decimal] = field(factory=dict[str, Decimal])
    answers: list[Answer] = field(factory=list[Answer])


class Purse(AegisActor):
    """Sends money to other purses; takes back what is refused."""

    service = "purse"
    state: PurseState

    @command
    async def put_in(self, amount: Decimal) -> Decimal:
        self.state.cash += amount
        return self.state.cash

    @command
    async def take(self, amount: Decimal) -> Decimal:
        if amount > 100:
            raise Rejected("too much at once", most=100)
        self.state.cash += amount
        return self.state.cash

    @command
    async def pay(self, to: str, amount: Decimal, fail: bool = False) -> str:
        if self.state.cash < amount:
            raise Rejected("not enough cash")
        self.state.cash -= amount
        message_id = self.send(Purse, to, "take", amount=amount, reply_to="paid")
        self.state.on_its_way[message_id] = amount
        if fail:
            raise ValueError("changed its mind")
        return message_id

    @command
    async def paid(self, answer: Answer) -> None:
        amount = self.state.on_its_way.pop(answer.message_id)
        if not answer.ok:
            self.state.cash += amount
        self.state.answers.append(answer)

    @query
    async def whole(self) -> PurseState:
        return self.state


class Courier(AegisActor):
    """A service group: keeps nothing, and sends what it is told to."""

    service = "courier"

    @command
    async def carry(self, lines: list[str], fail: bool = False) -> list[str]:
        sent = [self.send(Book, "B-1", "note", line=line) for line in lines]
        if fail:
            raise Rejected("not today")
        return sent

    @command
    async def ask_back(self) -> str:
        return self.send(Book, "B-1", "note", line="x", reply_to="carry")
