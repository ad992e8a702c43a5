# saga.py: an order is booked only if cash and stock are there; whatever crashes, nothing is
# lost and nothing doubles. Each step is a durable message; its answer comes back as a command.
from decimal import Decimal
from enum import StrEnum

from attrs import define, field

from aegis import AegisActor, Answer, Rejected, command, query


@define
class Holding:
    free: Decimal = Decimal(0)
    reserved: dict[str, Decimal] = field(factory=dict[str, Decimal])  # by order
    spent: Decimal = Decimal(0)

    @property
    def total(self) -> Decimal:
        return self.free + self.spent + sum(self.reserved.values(), Decimal(0))


class Stock(AegisActor):
    """Cash or shares of one owner: reserved for an order first, then taken or released."""

    service = "stock"
    state: Holding

    @command
    async def put_in(self, amount: Decimal) -> Decimal:
        self.state.free += amount
        return self.state.free

    @command
    async def reserve(self, order: str, amount: Decimal) -> Decimal:
        if self.state.free < amount:
            raise Rejected("not enough", free=str(self.state.free))
        self.state.free -= amount
        self.state.reserved[order] = amount
        return self.state.free

    @command
    async def take(self, order: str) -> None:
        self.state.spent += self.state.reserved.pop(order)

    @command
    async def release(self, order: str) -> None:
        self.state.free += self.state.reserved.pop(order)

    @query
    async def whole(self) -> Holding:
        return self.state


class Phase(StrEnum):
    NEW = "new"
    CASH = "reserving cash"
    SHARES = "reserving shares"
    BOOKED = "booked"
    REFUSED = "refused"


@define
class OrderState:
    phase: Phase = Phase.NEW
    buyer: str = ""
    seller: str = ""
    shares: Decimal = Decimal(0)
    price: Decimal = Decimal(0)
    reason: str = ""


class Order(AegisActor):
    """One purchase: the buyer's cash for the seller's shares, both or neither."""

    service = "order"
    state: OrderState

    @command
    async def place(self, buyer: str, seller: str, shares: Decimal, price: Decimal) -> None:
        if self.state.phase is not Phase.NEW:
            raise Rejected("this order was placed already")
        self.state = OrderState(Phase.CASH, buyer, seller, shares, price)
        self.send(
            Stock,
            f"{buyer}-cash",
            "reserve",
            order=self.resource_id,
            amount=shares * price,
            reply_to="cash_reserved",
        )

    @command
    async def cash_reserved(self, answer: Answer) -> None:
        if not answer.ok:
            self.refuse(answer)
            return
        self.state.phase = Phase.SHARES
        self.send(
            Stock,
            f"{self.state.seller}-shares",
            "reserve",
            order=self.resource_id,
            amount=self.state.shares,
            reply_to="shares_reserved",
        )

    @command
    async def shares_reserved(self, answer: Answer) -> None:
        if not answer.ok:
            self.refuse(answer)
            # What the step before has done is undone.
            self.send(Stock, f"{self.state.buyer}-cash", "release", order=self.resource_id)
            return
        self.state.phase = Phase.BOOKED
        self.send(Stock, f"{self.state.buyer}-cash", "take", order=self.resource_id)
        self.send(Stock, f"{self.state.seller}-shares", "take", order=self.resource_id)

    @query
    async def status(self) -> OrderState:
        return self.state

    def refuse(self, answer: Answer) -> None:
        self.state.phase = Phase.REFUSED
        self.state.reason = f"{answer.resource_id}: {answer.error}"
