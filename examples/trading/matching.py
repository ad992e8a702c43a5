"""Price-time priority: who trades with whom, at what price. Knows nothing of actors.

Prices are whole ticks and quantities whole units, so that no comparison and no sum ever
rounds. `Book.match` only looks; `Book.rest`, `Book.fill` and `Book.cancel` change the
book. An event-sourced actor needs the two apart: it decides, says what will happen, and
then lets the events do it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice

from attrs import define, field, frozen


class Side(StrEnum):
    BUY = "buy"
    SELL = "sell"

    @property
    def opposite(self) -> Side:
        return Side.SELL if self is Side.BUY else Side.BUY


@define
class Order:
    """An order that rests on the book; ``quantity`` is what is left of it.

    ``order_id`` counts upwards, so it is also the order's place in time.
    """

    order_id: int
    account: str
    side: Side
    price: int
    quantity: int


@frozen
class Fill:
    """One step of a match: this much from that resting order, at its price."""

    maker: int
    price: int
    quantity: int


@frozen
class Level:
    """All that rests at one price."""

    price: int
    quantity: int
    orders: int


@define
class _Queue:
    """The orders at one price, oldest first.

    An OrderedDict: the oldest order and any other are found and removed in constant
    time. (A deque must be searched for an order that is cancelled, and a plain dict
    looks slower and slower for its first key as the keys before it are removed.)
    """

    quantity: int = 0
    orders: OrderedDict[int, Order] = field(factory=lambda: OrderedDict[int, Order]())


@define
class _Ladder:
    """One side of the book: the prices in order, the best one last, and their queues.

    The best price is where most changes are, and a list changes cheaply at its end.
    Selling prices are kept negated to stand in that order.
    """

    sign: int
    keys: list[int] = field(factory=list[int])
    queues: dict[int, _Queue] = field(factory=dict[int, _Queue])

    def add(self, order: Order) -> None:
        queue = self.queues.get(order.price)
        if queue is None:
            queue = self.queues[order.price] = _Queue()
            insort(self.keys, self.sign * order.price)
        queue.orders[order.order_id] = order
        queue.quantity += order.quantity

    def take(self, order: Order, quantity: int) -> None:
        """Take ``quantity`` off the order; an order with nothing left goes, so does a price."""
        queue = self.queues[order.price]
        queue.quantity -= quantity
        order.quantity -= quantity
        if order.quantity:
            return
        del queue.orders[order.order_id]
        if not queue.orders:
            del self.queues[order.price]
            del self.keys[bisect_left(self.keys, self.sign * order.price)]

    def prices(self) -> Iterator[int]:
        """The prices, best first."""
        return (self.sign * key for key in reversed(self.keys))

    def best(self) -> int | None:
        return self.sign * self.keys[-1] if self.keys else None


@define
class Book:
    """The resting orders of one symbol.

    Only ``orders`` is kept and encoded; the ladders are found again from it.
    """

    orders: dict[int, Order] = field(factory=dict[int, Order])
    _bids: _Ladder = field(init=False, repr=False, eq=False)
    _asks: _Ladder = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        self._bids, self._asks = _Ladder(sign=1), _Ladder(sign=-1)
        for order_id in sorted(self.orders):
            order = self.orders[order_id]
            self._ladder(order.side).add(order)

    def __contains__(self, order_id: int) -> bool:
        return order_id in self.orders

    def match(self, side: Side, price: int, quantity: int) -> list[Fill]:
        """Return what an order of this side would trade now, in the order of priority."""
        fills: list[Fill] = []
        ladder = self._ladder(side.opposite)
        for level in ladder.prices():
            if quantity == 0 or (level > price if side is Side.BUY else level < price):
                break
            for maker in ladder.queues[level].orders.values():
                taken = min(quantity, maker.quantity)
                fills.append(Fill(maker.order_id, level, taken))
                quantity -= taken
                if quantity == 0:
                    break
        return fills

    def rest(self, order: Order) -> None:
        """Put the order at the end of its price's queue. The book keeps the object."""
        if order.quantity <= 0 or order.order_id in self.orders:
            raise ValueError(f"order {order.order_id} is empty or on the book already")
        self.orders[order.order_id] = order
        self._ladder(order.side).add(order)

    def fill(self, order_id: int, quantity: int) -> None:
        """Take ``quantity`` off a resting order; it leaves the book with its last unit."""
        order = self.orders[order_id]
        if not 0 < quantity <= order.quantity:
            raise ValueError(f"order {order_id} has {order.quantity} left, not {quantity}")
        self._ladder(order.side).take(order, quantity)
        if not order.quantity:
            del self.orders[order_id]

    def cancel(self, order_id: int) -> int:
        """Take the order off the book; return how much of it was left."""
        left = self.orders[order_id].quantity
        self.fill(order_id, left)
        return left

    def best(self, side: Side) -> Level | None:
        """The best price of a side with all that rests there."""
        ladder = self._ladder(side)
        price = ladder.best()
        return None if price is None else self._level(ladder, price)

    def depth(self, side: Side, levels: int) -> list[Level]:
        """The best ``levels`` prices of a side, best first."""
        ladder = self._ladder(side)
        return [self._level(ladder, price) for price in islice(ladder.prices(), levels)]

    def _level(self, ladder: _Ladder, price: int) -> Level:
        queue = ladder.queues[price]
        return Level(price, queue.quantity, len(queue.orders))

    def _ladder(self, side: Side) -> _Ladder:
        return self._bids if side is Side.BUY else self._asks
