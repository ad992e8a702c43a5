"""The matching engine against a reference that is too simple to be wrong."""

from __future__ import annotations

import pytest
from attrs import define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.trading.matching import Book, Fill, Level, Order, Side


@define
class NaiveBook:
    """All resting orders in one list, searched through for each match."""

    orders: list[Order] = field(factory=list[Order])

    def submit(self, taker: Order) -> list[Fill]:
        fills: list[Fill] = []
        while taker.quantity:
            candidates = [
                order
                for order in self.orders
                if order.side is not taker.side
                and (
                    order.price <= taker.price
                    if taker.side is Side.BUY
                    else order.price >= taker.price
                )
            ]
            if not candidates:
                break
            maker = min(
                candidates,
                key=lambda order: (
                    order.price if taker.side is Side.BUY else -order.price,
                    order.order_id,
                ),
            )
            taken = min(maker.quantity, taker.quantity)
            fills.append(Fill(maker.order_id, maker.price, taken))
            maker.quantity -= taken
            taker.quantity -= taken
            if not maker.quantity:
                self.orders.remove(maker)
        if taker.quantity:
            self.orders.append(taker)
        return fills

    def cancel(self, order_id: int) -> int | None:
        for order in self.orders:
            if order.order_id == order_id:
                self.orders.remove(order)
                return order.quantity
        return None

    def depth(self, side: Side) -> list[Level]:
        prices = sorted(
            {order.price for order in self.orders if order.side is side},
            reverse=side is Side.BUY,
        )
        return [
            Level(
                price,
                sum(o.quantity for o in self.orders if (o.side, o.price) == (side, price)),
                sum((o.side, o.price) == (side, price) for o in self.orders),
            )
            for price in prices
        ]


def submit(book: Book, taker: Order) -> list[Fill]:
    """Match and apply, as the order book's commands and events do."""
    fills = book.match(taker.side, taker.price, taker.quantity)
    book.rest(taker)
    for fill in fills:
        book.fill(fill.maker, fill.quantity)
        book.fill(taker.order_id, fill.quantity)
    return fills


@define
class Submit:
    side: Side
    price: int
    quantity: int


@define
class Cancel:
    order_id: int


SUBMITS = st.builds(
    Submit,
    side=st.sampled_from(Side),
    price=st.integers(95, 105),
    quantity=st.integers(1, 12),
)
STEPS = st.lists(st.one_of(SUBMITS, SUBMITS, st.builds(Cancel, st.integers(1, 60))), max_size=60)


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_every_fill_level_and_cancel_is_that_of_the_naive_book(
    steps: list[Submit | Cancel],
) -> None:
    book, naive = Book(), NaiveBook()
    for order_id, step in enumerate(steps, 1):
        match step:
            case Submit(side, price, quantity):
                order = Order(order_id, "A", side, price, quantity)
                assert submit(book, evolve(order)) == naive.submit(evolve(order))
            case Cancel(wanted):
                cancelled = book.cancel(wanted) if wanted in book else None
                assert cancelled == naive.cancel(wanted)
        for side in Side:
            levels = naive.depth(side)
            assert book.depth(side, 100) == levels
            assert book.best(side) == (levels[0] if levels else None)


@given(STEPS)
@settings(deadline=None)
def test_a_match_loses_no_quantity_and_leaves_no_crossed_book(steps: list[Submit | Cancel]) -> None:
    book = Book()
    for order_id, step in enumerate(steps, 1):
        if isinstance(step, Cancel):
            continue
        before = sum(order.quantity for order in book.orders.values())
        order = Order(order_id, "A", step.side, step.price, step.quantity)
        traded = sum(fill.quantity for fill in submit(book, order))
        after = sum(order.quantity for order in book.orders.values())
        assert before + step.quantity == after + 2 * traded
        bid, ask = book.best(Side.BUY), book.best(Side.SELL)
        assert bid is None or ask is None or bid.price < ask.price


@given(STEPS, SUBMITS)
@settings(deadline=None)
def test_a_book_made_anew_from_its_orders_matches_alike(
    steps: list[Submit | Cancel], probe: Submit
) -> None:
    book = Book()
    for order_id, step in enumerate(steps, 1):
        if isinstance(step, Submit):
            submit(book, Order(order_id, "A", step.side, step.price, step.quantity))
    shuffled = dict(reversed(book.orders.items()))
    anew = Book(orders={key: evolve(order) for key, order in shuffled.items()})
    wanted = (probe.side, probe.price, probe.quantity * 10)
    assert anew.match(*wanted) == book.match(*wanted)
    assert anew == book


@given(STEPS, SUBMITS)
@settings(deadline=None)
def test_looking_for_a_match_changes_nothing(steps: list[Submit | Cancel], probe: Submit) -> None:
    book = Book()
    for order_id, step in enumerate(steps, 1):
        if isinstance(step, Submit):
            submit(book, Order(order_id, "A", step.side, step.price, step.quantity))
    wanted = (probe.side, probe.price, probe.quantity)
    assert book.match(*wanted) == book.match(*wanted)


def test_an_older_order_trades_before_a_younger_one_of_the_same_price() -> None:
    book = Book()
    for order_id in (1, 2):
        book.rest(Order(order_id, "A", Side.SELL, 100, 5))
    assert book.match(Side.BUY, 100, 7) == [Fill(1, 100, 5), Fill(2, 100, 2)]


def test_a_better_price_trades_before_an_older_order() -> None:
    book = Book()
    book.rest(Order(1, "A", Side.SELL, 101, 5))
    book.rest(Order(2, "A", Side.SELL, 100, 5))
    assert book.match(Side.BUY, 101, 6) == [Fill(2, 100, 5), Fill(1, 101, 1)]


def test_a_partial_fill_keeps_the_place_in_the_queue() -> None:
    book = Book()
    for order_id in (1, 2):
        book.rest(Order(order_id, "A", Side.BUY, 100, 5))
    book.fill(1, 3)
    assert book.match(Side.SELL, 100, 4) == [Fill(1, 100, 2), Fill(2, 100, 2)]


def test_the_book_refuses_what_would_break_it() -> None:
    book = Book()
    book.rest(Order(1, "A", Side.BUY, 100, 5))
    with pytest.raises(ValueError, match="on the book already"):
        book.rest(Order(1, "A", Side.BUY, 100, 5))
    with pytest.raises(ValueError, match="empty"):
        book.rest(Order(2, "A", Side.BUY, 100, 0))
    with pytest.raises(ValueError, match="has 5 left"):
        book.fill(1, 6)
    with pytest.raises(KeyError):
        book.cancel(9)
