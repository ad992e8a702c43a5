"""The trading services, run in this process through the actor kernel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import cast

import pytest

from aegis import AegisActor, Rejected
from aegis.actors._handlers import describe
from aegis.errors import InvalidRequest
from aegis.transport._codec import decode_value, encode_value
from examples.trading.accounts import Account
from examples.trading.matching import Fill, Level, Side
from examples.trading.order_book import MAX_PRICE, MAX_QUANTITY, BookState, OrderBook
from examples.trading.pricing import Pricing


async def served[A: AegisActor](actor_class: type[A]) -> AsyncIterator[A]:
    ref = actor_class.start()
    await ref.wait_started()
    yield ref.proxy()
    await ref.stop()


@pytest.fixture
async def account() -> AsyncIterator[Account]:
    async for actor in served(Account):
        yield actor


@pytest.fixture
async def book() -> AsyncIterator[OrderBook]:
    async for actor in served(OrderBook):
        yield actor


@pytest.fixture
async def pricing() -> AsyncIterator[Pricing]:
    async for actor in served(Pricing):
        yield actor


# -- accounts -----------------------------------------------------------------------------


async def test_reserved_cash_cannot_be_withdrawn_or_reserved_again(account: Account) -> None:
    await account.deposit(Decimal(100))
    await account.reserve(Decimal(80))
    with pytest.raises(Rejected, match="free cash"):
        await account.withdraw(Decimal(21))
    with pytest.raises(Rejected, match="free cash"):
        await account.reserve(Decimal(21))
    assert await account.buying_power() == 20
    await account.release(Decimal(80))
    assert (await account.withdraw(Decimal(100))).cash == 0


async def test_a_bought_trade_costs_its_price_and_frees_what_was_reserved_beyond(
    account: Account,
) -> None:
    await account.deposit(Decimal(1000))
    await account.reserve(Decimal(600))
    posting = await account.settle_buy(
        "ALPHA-1", "ALPHA", 5, cost=Decimal(500), fee=Decimal("0.25"), reserved=Decimal(600)
    )
    assert (posting.cash, posting.reserved) == (Decimal("499.75"), Decimal(0))
    assert posting.position == 5
    assert (await account.balance()).fees == Decimal("0.25")


async def test_a_sold_trade_delivers_reserved_units_for_the_proceeds_less_the_fee(
    account: Account,
) -> None:
    await account.deliver("ALPHA", 10)
    await account.reserve_position("ALPHA", 6)
    posting = await account.settle_sell(
        "ALPHA-1", "ALPHA", 4, proceeds=Decimal(400), fee=Decimal("0.08")
    )
    assert posting.cash == Decimal("399.92")
    assert (posting.position, posting.position_reserved) == (6, 2)
    await account.release_position("ALPHA", 2)
    assert (await account.position("ALPHA")).reserved == 0


async def test_units_that_are_not_there_or_promised_already_cannot_be_sold(
    account: Account,
) -> None:
    await account.deliver("ALPHA", 10)
    await account.reserve_position("ALPHA", 7)
    for symbol, quantity in (("ALPHA", 4), ("BRAVO", 1)):
        with pytest.raises(Rejected, match="are free"):
            await account.reserve_position(symbol, quantity)
        with pytest.raises(Rejected, match="are reserved"):
            await account.release_position(symbol, quantity + 4)


@pytest.mark.parametrize(
    ("amount", "error"),
    [("0", Rejected), ("-1", Rejected), ("1e16", Rejected), ("NaN", InvalidRequest)],
)
async def test_an_amount_that_cannot_be_is_refused(
    account: Account, amount: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await account.deposit(Decimal(amount))
    assert (await account.balance()).entries == 0


async def test_a_rejected_command_makes_no_entry(account: Account) -> None:
    assert (await account.deposit(Decimal(1))).entry == 1
    with pytest.raises(Rejected):
        await account.withdraw(Decimal(2))
    assert (await account.deposit(Decimal(1))).entry == 2


# -- order books --------------------------------------------------------------------------


async def test_an_order_trades_at_the_price_of_the_order_that_rested(book: OrderBook) -> None:
    await book.submit("A", Side.SELL, 100, 5)
    submitted = await book.submit("B", Side.BUY, 103, 8)
    [trade] = submitted.trades
    assert (trade.price, trade.quantity) == (100, 5)
    assert (trade.buyer, trade.seller) == ("B", "A")
    assert (submitted.resting, submitted.cancelled) == (3, 0)
    best = await book.best()
    assert best.bid == Level(103, 3, 1)
    assert best.ask is None


async def test_what_an_immediate_order_does_not_trade_goes(book: OrderBook) -> None:
    await book.submit("A", Side.SELL, 100, 5)
    submitted = await book.submit("B", Side.BUY, 100, 8, immediate=True)
    assert (submitted.resting, submitted.cancelled) == (0, 3)
    assert await book.open_orders() == []


async def test_an_order_is_cancelled_once_and_by_its_account_only(book: OrderBook) -> None:
    order_id = (await book.submit("A", Side.SELL, 100, 5)).order_id
    with pytest.raises(Rejected, match="B has no open order"):
        await book.cancel("B", order_id)
    assert (await book.cancel("A", order_id)).quantity == 5
    with pytest.raises(Rejected, match="no open order"):
        await book.cancel("A", order_id)


@pytest.mark.parametrize(
    ("price", "quantity"),
    [(0, 1), (-5, 1), (MAX_PRICE + 1, 1), (1, 0), (1, -1), (1, MAX_QUANTITY + 1)],
)
async def test_an_order_with_a_bad_price_or_quantity_is_rejected_and_leaves_nothing(
    book: OrderBook, price: int, quantity: int
) -> None:
    with pytest.raises(Rejected, match="must be from 1"):
        await book.submit("A", Side.BUY, price, quantity)
    assert await book.statistics() == {"sequence": 0, "trades": 0, "open_orders": 0}


async def test_depth_and_open_orders_show_what_rests(book: OrderBook) -> None:
    for account, price in (("A", 99), ("B", 98), ("A", 99)):
        await book.submit(account, Side.BUY, price, 10)
    await book.submit("C", Side.SELL, 101, 4)
    depth = await book.depth(levels=1)
    assert depth.bids == [Level(99, 20, 2)]
    assert depth.asks == [Level(101, 4, 1)]
    assert [order.order_id for order in await book.open_orders(account="A")] == [1, 3]
    assert [order.order_id for order in await book.open_orders(after=2)] == [3, 4]


async def test_a_book_read_back_from_its_snapshot_goes_on_as_before(book: OrderBook) -> None:
    for account, side, price in (("A", Side.BUY, 99), ("B", Side.SELL, 101), ("C", Side.BUY, 99)):
        await book.submit(account, side, price, 5)
    spec = describe(OrderBook)
    state = BookState(sequence=3, trades=0)
    for order in await book.open_orders():
        state.book.rest(order)
    stored = decode_value(encode_value(spec.unstructure_state(state)))
    restored = cast("BookState", spec.structure_state(stored))
    assert restored == state
    assert restored.book.match(Side.SELL, 99, 7) == [Fill(1, 99, 5), Fill(3, 99, 2)]
    assert restored.book.depth(Side.SELL, 5) == [Level(101, 5, 1)]


# -- pricing ------------------------------------------------------------------------------


async def test_a_quote_reserves_price_and_fee_for_a_buyer_and_nothing_for_a_seller(
    pricing: Pricing,
) -> None:
    quote = await pricing.quote(Side.BUY, price=10_000, quantity=3)
    assert (quote.value, quote.reserve) == (Decimal("300.00"), Decimal("300.15"))
    assert (await pricing.quote(Side.SELL, price=10_000, quantity=3)).reserve == 0


async def test_fees_are_whole_cents_within_what_was_reserved_for_them(pricing: Pricing) -> None:
    for price, quantity in ((10_007, 3), (1, 1), (333, 7)):
        quote = await pricing.quote(Side.BUY, price=price, quantity=quantity)
        fees = await pricing.fees(quote.value)
        assert fees.maker <= fees.taker <= quote.reserve - quote.value
        assert fees.taker == fees.taker.quantize(Decimal("0.01"))


async def test_the_fair_value_lies_nearer_to_the_side_where_less_is_waiting(
    pricing: Pricing,
) -> None:
    assert await pricing.fair_value(100, 10, 102, 10) == Decimal("1.01")
    assert await pricing.fair_value(100, 30, 102, 10) == Decimal("1.015")
    with pytest.raises(Rejected):
        await pricing.fair_value(102, 10, 100, 10)
