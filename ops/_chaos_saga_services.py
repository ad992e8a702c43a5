"""A saga under `aegis chaos`: deals over three actors that must book all or nothing.

A desk reserves the buyer's cash and then the seller's shares, both by durable messages whose
answers come back as commands. If both are there they change hands; if one is missing, or a
reminder says that it takes too long, what was reserved is given back. The desk counts a
deal as settled when every message of it has been answered.

Callers number their deals, and their attempts to place one, as they number `Step`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from attrs import define, field, frozen

from aegis.actors._actor import AegisActor
from aegis.actors._handlers import applies, command, query
from aegis.contracts import Answer
from aegis.errors import Rejected
from aegis.ops._chaos_services import Numbers

__all__ = ["OPENING_HOLDING", "Cash", "DealView", "Desk", "Holding", "Order", "Phase", "Shares"]

OPENING_HOLDING: Final = 20_000
"""What each holds of cash, and of shares, before the first deal."""

MAX_STRANGE: Final = 20


@define
class Holding:
    """Cash or shares of one owner: free, or reserved for a deal."""

    free: int = OPENING_HOLDING
    reserved: dict[str, int] = field(factory=dict[str, int])
    strange: list[str] = field(factory=list[str])
    """What cannot be if each message takes effect once and in its place."""

    def move(self, move: Move) -> None:
        """Do what a message asks for, if it makes sense."""
        if (move.what == RESERVE) is (move.deal in self.reserved) and move.what != PUT_IN:
            note_strange(self.strange, f"{move.what} for {move.deal}")
            return
        match move.what:
            case "reserve":
                self.free -= move.amount
                self.reserved[move.deal] = move.amount
            case "take":
                del self.reserved[move.deal]
            case "release":
                self.free += self.reserved.pop(move.deal)
            case _:
                self.free += move.amount


RESERVE: Final = "reserve"
TAKE: Final = "take"
RELEASE: Final = "release"
PUT_IN: Final = "put_in"


@frozen
class Move:
    """What a message asks of a holding."""

    what: str
    deal: str
    amount: int = 0


def note_strange(strange: list[str], text: str) -> None:
    """Keep the first few of what cannot be."""
    if len(strange) < MAX_STRANGE:
        strange.append(text)


class Cash(AegisActor):
    """Cash, journaled as a snapshot."""

    service = "chaos-cash"
    state: Holding

    @command
    async def reserve(self, deal: str, amount: int) -> None:
        """Set an amount aside for a deal."""
        check_free(self.state, amount)
        self.state.move(Move(RESERVE, deal, amount))

    @command
    async def settle(self, what: str, deal: str, amount: int) -> None:
        """Take or release what was set aside, or put in what another gave."""
        self.state.move(Move(what, deal, amount))

    @query
    async def held(self) -> Holding:
        """Return all that it holds."""
        return self.state


class Shares(AegisActor):
    """Shares, journaled as events."""

    service = "chaos-shares"
    state: Holding

    @command
    async def reserve(self, deal: str, amount: int) -> None:
        """Set an amount aside for a deal."""
        check_free(self.state, amount)
        self.emit(Move(RESERVE, deal, amount))

    @command
    async def settle(self, what: str, deal: str, amount: int) -> None:
        """Take or release what was set aside, or put in what another gave."""
        self.emit(Move(what, deal, amount))

    @applies(Move)
    def _on_move(self, move: Move) -> None:
        self.state.move(move)

    @query
    async def held(self) -> Holding:
        """Return all that it holds."""
        return self.state


def check_free(holding: Holding, amount: int) -> None:
    """Raise `Rejected` if so much is not there."""
    if holding.free < amount:
        raise Rejected("not enough", free=holding.free)


class Phase(StrEnum):
    """How far a deal is; the last four are ends."""

    CASH = "reserving cash"
    SHARES = "reserving shares"
    BOOKED = "booked"
    NO_CASH = "no cash"
    NO_SHARES = "no shares"
    EXPIRED = "expired"


_UNDER_WAY: Final = (Phase.CASH, Phase.SHARES)


@frozen
class Order:
    """One attempt to place one deal; see `Step`. It expires ``patience`` seconds later."""

    caller: str
    attempt: int
    number: int
    low: int
    buyer: str
    seller: str
    shares: int
    price: int
    patience: float


@define
class Deal:
    """One deal of a desk; ``open`` is how many of its messages are not answered yet."""

    order: Order
    phase: Phase = Phase.CASH
    open: int = 0


@define
class DealPage:
    """What a desk knows of one caller."""

    attempts: Numbers = field(factory=Numbers)
    numbers: Numbers = field(factory=Numbers)
    deals: dict[int, Deal] = field(factory=dict[int, Deal])


@define
class DeskState:
    """All deals of a desk that their callers may ask for."""

    pages: dict[str, DealPage] = field(factory=dict[str, DealPage])
    asked: dict[str, str] = field(factory=dict[str, str])
    """Messages that are not answered yet, and for which deal (``caller/number``)."""
    ends: dict[str, int] = field(factory=dict[str, int])
    repeated: int = 0
    strange: list[str] = field(factory=list[str])


@frozen
class DealView:
    """How far a deal is; ``phase`` is empty if the desk does not know it."""

    phase: str = ""
    open: int = 0


class Desk(AegisActor):
    """Books deals between the owners of cash and shares."""

    service = "chaos-desk"
    state: DeskState

    @command
    async def place(self, order: Order) -> None:
        """Begin a deal, unless an earlier attempt has."""
        page = self.state.pages.setdefault(order.caller, DealPage())
        if not page.attempts.note(order.attempt):
            self.state.repeated += 1
        if not page.numbers.note(order.number):
            return
        for number in [number for number in page.deals if number < order.low]:
            del page.deals[number]
        deal = page.deals[order.number] = Deal(order)
        name = _name(order)
        self.remind(name, "expire", after=order.patience, name=name)
        self._ask(deal, Cash, order.buyer, RESERVE, order.shares * order.price)

    @command
    async def answered(self, answer: Answer) -> None:
        """Go on with a deal."""
        deal = self._deal(self.state.asked.pop(answer.message_id, ""))
        if deal is None:
            note_strange(self.state.strange, f"an answer to {answer.message_id}")
            return
        deal.open -= 1
        order = deal.order
        if answer.method != RESERVE or answer.status not in (200, Rejected.code):
            if not answer.ok:
                note_strange(self.state.strange, f"{_name(order)}: {answer.error}")
        elif deal.phase is Phase.CASH:
            if answer.ok:
                deal.phase = Phase.SHARES
                self._ask(deal, Shares, order.seller, RESERVE, order.shares)
            else:
                self._end(deal, Phase.NO_CASH)
        elif deal.phase is Phase.SHARES:
            if answer.ok:
                self._book(deal)
            else:
                self._end(deal, Phase.NO_SHARES)
                self._ask(deal, Cash, order.buyer, RELEASE)
        elif answer.ok:
            # It expired while this was under way.
            held = Cash if answer.service == Cash.service else Shares
            self._ask(deal, held, answer.resource_id, RELEASE)

    @command
    async def expire(self, name: str) -> None:
        """End a deal that takes too long."""
        deal = self._deal(name)
        if deal is None or deal.phase not in _UNDER_WAY:
            note_strange(self.state.strange, f"a reminder that was forgotten, of {name}")
            return
        was = deal.phase
        self._end(deal, Phase.EXPIRED)
        if was is Phase.SHARES:
            self._ask(deal, Cash, deal.order.buyer, RELEASE)

    @query
    async def look(self, caller: str, number: int) -> DealView:
        """Return how far a deal is."""
        deal = self._deal(f"{caller}/{number}")
        return DealView() if deal is None else DealView(deal.phase, deal.open)

    @query
    async def held(self) -> DeskState:
        """Return all that it knows."""
        return self.state

    def _book(self, deal: Deal) -> None:
        order = deal.order
        self._end(deal, Phase.BOOKED)
        self._ask(deal, Cash, order.buyer, TAKE)
        self._ask(deal, Cash, order.seller, PUT_IN, order.shares * order.price)
        self._ask(deal, Shares, order.seller, TAKE)
        self._ask(deal, Shares, order.buyer, PUT_IN, order.shares)

    def _end(self, deal: Deal, phase: Phase) -> None:
        if phase is not Phase.EXPIRED:
            self.forget(_name(deal.order))
        deal.phase = phase
        self.state.ends[phase.value] = self.state.ends.get(phase.value, 0) + 1

    def _ask(
        self, deal: Deal, holder: type[AegisActor], resource: str, what: str, amount: int = 0
    ) -> None:
        params: dict[str, Any] = {"deal": self._mark(deal), "amount": amount}
        if what == RESERVE:
            message_id = self.send(holder, resource, RESERVE, reply_to="answered", **params)
        else:
            message_id = self.send(
                holder, resource, "settle", reply_to="answered", what=what, **params
            )
        self.state.asked[message_id] = _name(deal.order)
        deal.open += 1

    def _mark(self, deal: Deal) -> str:
        """Return the name of a deal among those of all desks."""
        return f"{self.resource_id}/{_name(deal.order)}"

    def _deal(self, name: str) -> Deal | None:
        caller, _, number = name.rpartition("/")
        page = self.state.pages.get(caller)
        return None if page is None else page.deals.get(int(number))


def _name(order: Order) -> str:
    return f"{order.caller}/{order.number}"
