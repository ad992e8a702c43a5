"""Contracts: what can be traded, and which of them are wanted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final, Self

from attrs import frozen

from aegis import ConfigurationError

__all__ = [
    "EXCHANGES",
    "Contract",
    "Product",
    "UniverseFilter",
    "canonical_symbol",
    "family_of",
]

EXCHANGES: Final = ("CFFEX", "SHFE", "CZCE", "DCE", "INE", "GFEX", "SSE", "SZSE")
"""The exchanges whose rules are known here."""


NAMED: Final = 10
"""Patterns that an error names; a universe may have thousands."""


class Product(StrEnum):
    """What kind of contract it is."""

    FUTURES = "futures"
    OPTION = "option"
    COMBINATION = "combination"
    """Two legs under one symbol, with spaces and ``&`` in it."""
    OTHER = "other"


@frozen
class Contract:
    """One contract. Prices in its currency; ``multiplier`` is units of the goods for one lot."""

    exchange: str
    symbol: str
    product_class: str
    """The letters that its family shares, as in ``rb``."""
    product: Product = Product.FUTURES
    multiplier: float = 1.0
    price_tick: float = 0.0
    name: str = ""
    underlying: str = ""
    strike: float | None = None
    canonical: str = ""
    """The symbol with a year of two digits, where the exchange writes one (CZCE)."""

    @property
    def key(self) -> str:
        """Its name in the whole market, as in ``SHFE.rb2701``."""
        return f"{self.exchange}.{self.symbol}"


_CZCE: Final = re.compile(r"([A-Za-z]+)(\d)(\d\d)(.*)", re.DOTALL)


def canonical_symbol(exchange: str, symbol: str, year: int) -> str:
    """Return a symbol with its year in two digits, the form of all exchanges but CZCE.

    CZCE writes one digit, so SR701 may be of 2017, 2027 or 2037: it is taken for the year
    nearest to ``year``, and among two that are as near for the later one, since contracts
    end.
    """
    match = _CZCE.fullmatch(symbol)
    if exchange != "CZCE" or match is None or match[4][:1].isdigit():
        return symbol
    decade = year - year % 10
    years = (decade - 10 + int(match[2]), decade + int(match[2]), decade + 10 + int(match[2]))
    nearest = min(years, key=lambda at: (abs(at - year), -at))
    return f"{match[1]}{nearest % 100:02}{match[3]}{match[4]}"


_FAMILY: Final = re.compile(r"[A-Za-z]*")


def family_of(symbol: str) -> str:
    """Return the letters that a symbol begins with; of a combination, those of its first leg."""
    first_leg = symbol.partition("&")[0].rpartition(" ")[2]
    match = _FAMILY.match(first_leg)
    return match[0] if match else ""


@frozen
class UniverseFilter:
    """Which contracts are wanted: patterns over ``EXCHANGE.symbol``, ``*`` for any text.

    ``products`` left empty means futures and options; combinations are wanted only where
    they are named.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    products: tuple[Product, ...] = (Product.FUTURES, Product.OPTION)

    def __attrs_post_init__(self) -> None:
        for pattern in (*self.include, *self.exclude):
            exchange = pattern.partition(".")[0]
            begins, any_text, _ = exchange.partition("*")
            if exchange in EXCHANGES:
                continue
            if any_text and any(known.startswith(begins) for known in EXCHANGES):
                continue
            raise ConfigurationError(
                f"{pattern!r} names no exchange that is known ({', '.join(EXCHANGES)}); "
                "write it as in SHFE.rb*"
            )

    def wants(self, contract: Contract) -> bool:
        """Whether a contract is wanted."""
        return (
            contract.product in self.products
            and any(fnmatchcase(contract.key, pattern) for pattern in self.include)
            and not any(fnmatchcase(contract.key, pattern) for pattern in self.exclude)
        )

    def select(self, contracts: Iterable[Contract]) -> list[Contract]:
        """Return those that are wanted.

        Raises:
            ConfigurationError: none is, which nobody means.
        """
        contracts = list(contracts)
        chosen = [contract for contract in contracts if self.wants(contract)]
        if contracts and not chosen:
            named = ", ".join(self.include[:NAMED])
            more = len(self.include) - NAMED
            raise ConfigurationError(
                f"none of {len(contracts)} contracts matches "
                f"{named}{f' and {more} more' if more > 0 else ''}; look at `aegis feed contracts`"
            )
        return chosen

    @classmethod
    def everything_like(cls, pattern: str) -> Self:
        """Return a filter that wants all that match, combinations too."""
        return cls((pattern,), products=tuple(Product))
