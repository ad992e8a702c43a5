"""What the demo's traders want: orders from a seeded generator, the same for each seed."""

from __future__ import annotations

import random
from collections.abc import Iterator

from attrs import frozen

__all__ = ["SYMBOLS", "Cancellation", "Intent", "NewOrder", "generate_orders"]

SYMBOLS = ("ALPHA", "BRAVO", "CRANE", "DELTA")

_FIRST_PRICE = 10_000
_STEP_TICKS = 6
_SPREAD_TICKS = 25.0
_MAX_QUANTITY = 60
_CANCEL_SHARE = 0.12
_IMMEDIATE_SHARE = 0.15
_FAULTY_SHARE = 0.01


@frozen
class NewOrder:
    """An order; ``price`` in ticks. An ``immediate`` one does not rest on the book."""

    account: str
    symbol: str
    side: str
    price: int
    quantity: int
    immediate: bool


@frozen
class Cancellation:
    """The wish to cancel one of the account's earlier orders: ``choice`` of the way back."""

    account: str
    choice: float


type Intent = NewOrder | Cancellation


def generate_orders(count: int, seed: int, accounts: list[str]) -> Iterator[Intent]:
    """Yield ``count`` intents. Fair prices wander; orders gather around them.

    A few are faulty or ask for more than an account can have, so that refusals
    happen too.
    """
    rng = random.Random(seed)
    fair = dict.fromkeys(SYMBOLS, _FIRST_PRICE)
    for _ in range(count):
        account = rng.choice(accounts)
        if rng.random() < _CANCEL_SHARE:
            yield Cancellation(account, rng.random())
            continue
        symbol = rng.choice(SYMBOLS)
        fair[symbol] = max(1_000, fair[symbol] + rng.randint(-_STEP_TICKS, _STEP_TICKS))
        side = rng.choice(("buy", "sell"))
        # Centred a little away from the fair price: most orders rest, many trade.
        away = rng.gauss(_SPREAD_TICKS / 4, _SPREAD_TICKS)
        price = fair[symbol] + round(-away if side == "buy" else away)
        quantity = rng.randint(1, _MAX_QUANTITY)
        if rng.random() < _FAULTY_SHARE:
            quantity = rng.choice((0, 2_000_000))
        yield NewOrder(account, symbol, side, price, quantity, rng.random() < _IMMEDIATE_SHARE)
