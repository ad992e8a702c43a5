"""From the vendor's fields to contracts and ticks as this service has them.

CTP and its twins name their fields alike, whichever binding they come through. Nothing is
corrected here: prices that do not exist and times without a date are the normaliser's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aegis.marketdata._contract import Contract, Product, canonical_symbol, family_of
from aegis.marketdata._ports import RawTick
from aegis.marketdata._tick import Level, price

__all__ = ["CONTRACT_FIELDS", "CTP_PRODUCTS", "SOPT_PRODUCTS", "contract_of", "raw_tick_of"]

CTP_PRODUCTS: Final = {
    "1": Product.FUTURES,
    "2": Product.OPTION,
    "3": Product.COMBINATION,
    "6": Product.OPTION,  # on the goods themselves
}
"""Product classes by the vendor's letter. Any other is told of as `Product.OTHER`."""

SOPT_PRODUCTS: Final = {"3": Product.COMBINATION, "7": Product.OPTION}

CONTRACT_FIELDS: Final = (
    "InstrumentID",
    "ExchangeID",
    "InstrumentName",
    "ProductClass",
    "VolumeMultiple",
    "PriceTick",
    "DeliveryYear",
    "UnderlyingInstrID",
    "StrikePrice",
)
"""What is taken of an instrument."""


def contract_of(
    fields: Mapping[str, Any], products: Mapping[str, Product], year: int
) -> Contract | None:
    """Return a contract, or None where there is no symbol.

    ``year`` is today's, for a symbol whose instrument tells no year of its own.
    """
    symbol: str = fields["InstrumentID"]
    exchange: str = fields["ExchangeID"]
    if not symbol:
        return None
    product = products.get(fields["ProductClass"], Product.OTHER)
    is_option = product is Product.OPTION
    underlying: str = fields["UnderlyingInstrID"] if is_option else ""
    return Contract(
        exchange,
        symbol,
        family_of(symbol) or underlying,
        product,
        float(fields["VolumeMultiple"]),
        price(fields["PriceTick"]) or 0.0,
        fields["InstrumentName"],
        underlying,
        price(fields["StrikePrice"]) if is_option else None,
        canonical_symbol(exchange, symbol, fields["DeliveryYear"] or year),
    )


def raw_tick_of(fields: Mapping[str, Any], exchange: str, received_ns: int) -> RawTick:
    """Return a tick of a contract's exchange, which the vendor's own field often leaves out.

    ``TradingDay`` and ``ActionDay`` are left behind: at night each exchange means another
    day by them, and the trading day and the date follow from when the tick came.
    """
    best = Level(
        fields["BidPrice1"], fields["BidVolume1"], fields["AskPrice1"], fields["AskVolume1"]
    )
    levels: tuple[Level, ...] = (best,)
    if fields["BidVolume2"] or fields["AskVolume2"]:
        levels = (
            best,
            *(
                Level(fields[bid], fields[bid_volume], fields[ask], fields[ask_volume])
                for bid, bid_volume, ask, ask_volume in _DEEPER
            ),
        )
    return RawTick(
        exchange,
        fields["InstrumentID"],
        fields["UpdateTime"],
        fields["UpdateMillisec"],
        received_ns,
        fields["LastPrice"],
        fields["Volume"],
        fields["Turnover"],
        fields["OpenInterest"],
        fields["OpenPrice"],
        fields["HighestPrice"],
        fields["LowestPrice"],
        fields["ClosePrice"],
        fields["SettlementPrice"],
        fields["PreClosePrice"],
        fields["PreSettlementPrice"],
        fields["UpperLimitPrice"],
        fields["LowerLimitPrice"],
        levels,
    )


_DEEPER: Final = tuple(
    (f"BidPrice{n}", f"BidVolume{n}", f"AskPrice{n}", f"AskVolume{n}") for n in range(2, 6)
)
