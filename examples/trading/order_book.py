"""Order books: one resource a symbol, event-sourced, price-time priority.

    aegis run examples/trading/order_book.py:OrderBook --instance-id book-1 --resource ALPHA

The journal holds what happened (accepted, matched, cancelled), so a book that starts
anew goes through its history instead of reading a copy of its state. Who may buy what is
for the accounts to say: reserve there first, submit here, settle there what traded.
"""

from __future__ import annotations

from itertools import islice

from attrs import define, field, frozen

from aegis import AegisActor, Rejected, applies, command, query
from examples.trading.matching import Book, Level, Order, Side

MAX_PRICE = 10_000_000
"""In ticks. A limit finds typing errors before they trade."""

MAX_QUANTITY = 1_000_000

MAX_RESTING = 20_000
"""How many orders one book holds; more are refused, so that its size has a bound."""

MAX_DEPTH = 100
MAX_LISTED = 1_000


# -- what happened ----------------------------------------------------------------------


@frozen
class OrderAccepted:
    order_id: int
    account: str
    side: Side
    price: int
    quantity: int


@frozen
class OrderMatched:
    """The order ``taker`` met ``maker``, which rested on the book and set the price."""

    trade_id: int
    maker: int
    taker: int
    price: int
    quantity: int


@frozen
class OrderCancelled:
    """The rest of an order left the book; ``sequence`` numbers the command that asked."""

    sequence: int
    order_id: int
    quantity: int


# -- what callers get -------------------------------------------------------------------


@frozen
class Trade:
    trade_id: int
    price: int
    quantity: int
    maker: int
    taker: int
    buyer: str
    seller: str


@frozen
class Submitted:
    """``resting`` is on the book now; ``cancelled`` is what an immediate order left."""

    order_id: int
    trades: list[Trade]
    resting: int
    cancelled: int


@frozen
class Cancelled:
    sequence: int
    order_id: int
    quantity: int


@frozen
class Best:
    bid: Level | None
    ask: Level | None


@frozen
class Depth:
    bids: list[Level]
    asks: list[Level]


@define
class BookState:
    """``sequence`` counts the commands that had an effect; an order's number is one."""

    sequence: int = 0
    trades: int = 0
    book: Book = field(factory=Book)


class OrderBook(AegisActor):
    service = "order-book"
    state: BookState

    @command
    async def submit(
        self, account: str, side: Side, price: int, quantity: int, immediate: bool = False
    ) -> Submitted:
        """Trade what can be traded; the rest waits on the book, or goes if ``immediate``."""
        if not 0 < price <= MAX_PRICE:
            raise Rejected(f"the price must be from 1 to {MAX_PRICE} ticks", price=price)
        if not 0 < quantity <= MAX_QUANTITY:
            raise Rejected(f"the quantity must be from 1 to {MAX_QUANTITY}", quantity=quantity)
        if not account:
            raise Rejected("an order needs an account")
        book = self.state.book
        if len(book.orders) >= MAX_RESTING and not immediate:
            raise Rejected(f"the book holds its {MAX_RESTING} orders; try again later")

        order_id = self.state.sequence + 1
        fills = book.match(side, price, quantity)
        counterparties = [book.orders[fill.maker].account for fill in fills]
        self.emit(OrderAccepted(order_id, account, side, price, quantity))
        trades: list[Trade] = []
        for fill, other in zip(fills, counterparties, strict=True):
            matched = OrderMatched(
                self.state.trades + 1, fill.maker, order_id, fill.price, fill.quantity
            )
            self.emit(matched)
            buyer, seller = (account, other) if side is Side.BUY else (other, account)
            trades.append(
                Trade(
                    matched.trade_id,
                    fill.price,
                    fill.quantity,
                    fill.maker,
                    order_id,
                    buyer,
                    seller,
                )
            )
        left = quantity - sum(fill.quantity for fill in fills)
        if left and immediate:
            self.emit(OrderCancelled(order_id, order_id, left))
            return Submitted(order_id, trades, resting=0, cancelled=left)
        return Submitted(order_id, trades, resting=left, cancelled=0)

    @command
    async def cancel(self, account: str, order_id: int) -> Cancelled:
        """Take what is left of an order off the book; only its account may."""
        order = self.state.book.orders.get(order_id)
        if order is None or order.account != account:
            raise Rejected(f"{account} has no open order {order_id}", order_id=order_id)
        event = OrderCancelled(self.state.sequence + 1, order_id, order.quantity)
        self.emit(event)
        return Cancelled(event.sequence, order_id, event.quantity)

    @query
    async def best(self) -> Best:
        book = self.state.book
        return Best(bid=book.best(Side.BUY), ask=book.best(Side.SELL))

    @query
    async def depth(self, levels: int = 5) -> Depth:
        """The best prices of both sides, at most 100."""
        levels = max(0, min(levels, MAX_DEPTH))
        book = self.state.book
        return Depth(bids=book.depth(Side.BUY, levels), asks=book.depth(Side.SELL, levels))

    @query
    async def open_orders(self, account: str | None = None, after: int = 0) -> list[Order]:
        """The open orders (of one account), oldest first, at most 1000 from ``after`` on."""
        orders = self.state.book.orders
        wanted = (
            orders[order_id]
            for order_id in sorted(orders)
            if order_id > after and account in (None, orders[order_id].account)
        )
        return list(islice(wanted, MAX_LISTED))

    @query
    async def statistics(self) -> dict[str, int]:
        state = self.state
        return {
            "sequence": state.sequence,
            "trades": state.trades,
            "open_orders": len(state.book.orders),
        }

    # Only these change the state: at the command, and again at each recovery.

    @applies(OrderAccepted)
    def on_accepted(self, event: OrderAccepted) -> None:
        self.state.sequence = event.order_id
        self.state.book.rest(
            Order(event.order_id, event.account, event.side, event.price, event.quantity)
        )

    @applies(OrderMatched)
    def on_matched(self, event: OrderMatched) -> None:
        self.state.trades = event.trade_id
        self.state.book.fill(event.maker, event.quantity)
        self.state.book.fill(event.taker, event.quantity)

    @applies(OrderCancelled)
    def on_cancelled(self, event: OrderCancelled) -> None:
        self.state.sequence = event.sequence
        self.state.book.cancel(event.order_id)
