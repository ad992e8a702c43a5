from __future__ import annotations

from aegis.ops._demo_orders import SYMBOLS, Cancellation, NewOrder, generate_orders

ACCOUNTS = [f"ACC-{number}" for number in range(8)]


def test_a_seed_always_gives_the_same_orders() -> None:
    first = list(generate_orders(500, 7, ACCOUNTS))
    assert first == list(generate_orders(500, 7, ACCOUNTS))
    assert first != list(generate_orders(500, 8, ACCOUNTS))


def test_the_orders_cover_all_symbols_sides_and_kinds() -> None:
    intents = list(generate_orders(2_000, 1, ACCOUNTS))
    orders = [intent for intent in intents if isinstance(intent, NewOrder)]
    assert {order.symbol for order in orders} == set(SYMBOLS)
    assert {order.side for order in orders} == {"buy", "sell"}
    assert {order.immediate for order in orders} == {True, False}
    assert any(order.quantity == 0 for order in orders)
    assert any(isinstance(intent, Cancellation) for intent in intents)
    assert {intent.account for intent in intents} == set(ACCOUNTS)
