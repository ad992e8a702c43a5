"""Prices and fees: a service without state, so any of its instances answers alike.

    aegis run examples/trading/pricing.py:Pricing --instance-id pricing-1

Callers name only the service (a *service group*): Aegis spreads them over the instances.
"""

from __future__ import annotations

from decimal import ROUND_DOWN, Decimal

from attrs import frozen

from aegis import AegisActor, Rejected, command, query
from examples.trading.matching import Side

TICK = Decimal("0.01")
CENT = Decimal("0.01")

TAKER_RATE = Decimal("0.0005")
"""The part of a trade's value that the order pays which takes what rests on the book."""

MAKER_RATE = Decimal("0.0002")
"""The part that the resting order pays."""


@frozen
class Fees:
    taker: Decimal
    maker: Decimal


@frozen
class Quote:
    """A binding answer. ``reserve`` covers the order at its limit, the fee included."""

    quote_id: str
    value: Decimal
    reserve: Decimal
    unit_reserve: Decimal


class Pricing(AegisActor):
    service = "pricing"

    @command
    async def quote(self, side: Side, price: int, quantity: int) -> Quote:
        """Say what an order may cost, with a number to refer to.

        A command: a caller that repeats its message gets this quote again, not another.
        A seller reserves units, no cash; its fee comes off the proceeds.
        """
        if price <= 0 or quantity <= 0:
            raise Rejected("price and quantity must be positive")
        unit = price * TICK * (1 + TAKER_RATE) if side is Side.BUY else Decimal(0)
        return Quote(self.message_id, price * TICK * quantity, unit * quantity, unit)

    @query
    async def fees(self, value: Decimal) -> Fees:
        """The fees of a trade of this value, in whole cents, rounded in the client's favour."""
        if not value > 0:
            raise Rejected("the value must be positive")
        return Fees(
            taker=(value * TAKER_RATE).quantize(CENT, ROUND_DOWN),
            maker=(value * MAKER_RATE).quantize(CENT, ROUND_DOWN),
        )

    @query
    async def fair_value(self, bid: int, bid_quantity: int, ask: int, ask_quantity: int) -> Decimal:
        """The price between bid and ask, nearer to the side where less is waiting."""
        if not (0 < bid < ask and bid_quantity > 0 and ask_quantity > 0):
            raise Rejected("needs a bid below an ask, and quantities")
        weighted = bid * ask_quantity + ask * bid_quantity
        return weighted * TICK / (bid_quantity + ask_quantity)
