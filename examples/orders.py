# orders.py: an order is paid by card, and lapses if nobody pays in time.
from collections.abc import Awaitable
from enum import StrEnum
from typing import ClassVar, Protocol

from attrs import define

from aegis import AegisActor, Rejected, command, query


class Cards(Protocol):
    """What takes the money: a service outside of Aegis."""

    def charge(self, cents: int, *, key: str) -> Awaitable[str]: ...


class Phase(StrEnum):
    NEW = "new"
    OPEN = "open"
    PAID = "paid"
    LAPSED = "lapsed"


@define
class OrderState:
    phase: Phase = Phase.NEW
    cents: int = 0
    paid: int = 0
    receipt: str = ""


class Order(AegisActor):
    service = "card-order"
    state: OrderState
    cards: ClassVar[Cards]

    @command
    async def place(self, cents: int) -> None:
        if self.state.phase is not Phase.NEW:
            raise Rejected("placed already")
        self.state.phase, self.state.cents = Phase.OPEN, cents
        self.remind("lapse", "lapse", after=3600)

    @command
    async def pay(self) -> str:
        if self.state.phase is not Phase.OPEN:
            raise Rejected(f"cannot be paid: it is {self.state.phase}")
        # After a crash this runs again: the key tells the other side that it is the same.
        self.state.receipt = await self.cards.charge(self.state.cents, key=self.message_id)
        self.state.phase, self.state.paid = Phase.PAID, self.state.cents
        self.forget("lapse")
        self.publish("orders.paid", self.resource_id)
        return self.state.receipt

    @command
    async def lapse(self) -> None:
        if self.state.phase is Phase.OPEN:
            self.state.phase = Phase.LAPSED

    @query
    async def status(self) -> OrderState:
        return self.state
