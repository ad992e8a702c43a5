"""A universe like that of the real exchanges: their classes, months, options and spellings."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Final

from attrs import frozen

from aegis.marketdata._contract import Contract, Product, canonical_symbol

__all__ = ["SimulatedUniverse"]


@frozen
class _Class:
    exchange: str
    letters: str
    price: float
    tick: float
    multiplier: float


_FUTURES: Final = """
SHFE cu:78000:10:5 al:20500:5:5 zn:23500:5:5 pb:17000:5:5 ni:125000:10:1 sn:260000:10:1
     ss:13500:5:5 ao:3000:1:20 au:780:0.02:1000 ag:9000:1:15 rb:3100:1:10 hc:3300:1:10
     bu:3300:1:10 ru:15000:5:10 fu:2900:1:10 sp:5500:2:10 br:12000:5:5 wr:3600:1:10
INE  sc:500:0.1:1000 lu:3500:1:10 nr:12500:5:10 bc:70000:10:5 ec:1700:0.1:50
DCE  a:4100:1:10 b:3600:1:10 m:3000:1:10 y:8200:2:10 p:8800:2:10 c:2300:1:10 cs:2700:1:10
     jd:3400:1:10 l:7200:1:5 v:4900:1:5 pp:7000:1:5 eg:4400:1:10 eb:7500:1:5 pg:4400:1:20
     i:780:0.5:100 j:1600:0.5:100 jm:1100:0.5:60 lh:13500:5:16 rr:3300:1:10 bb:300:0.05:500
     fb:1200:0.5:10 lg:800:0.5:90 bz:6000:1:30
CZCE CF:13500:5:5 SR:5600:1:10 TA:4800:2:5 OI:9500:1:10 MA:2400:1:10 FG:1100:1:20
     RM:2500:1:10 SA:1250:1:20 UR:1700:1:20 PF:6400:2:5 PK:8000:2:5 AP:8000:1:10
     CJ:9500:5:5 SF:5600:2:5 SM:5800:2:5 CY:20000:5:5 PX:6800:2:5 SH:2500:1:30 PR:5900:2:15
     RS:5800:1:10 JR:2800:1:20
CFFEX IF:4500:0.2:300 IH:2900:0.2:300 IC:7000:0.2:200 IM:7300:0.2:200 T:108:0.005:10000
     TF:106:0.005:10000 TS:102:0.002:20000 TL:116:0.01:10000
GFEX si:8500:5:5 lc:75000:20:1 ps:50000:5:3 pt:400:0.05:1000 pd:300:0.05:1000
"""
"""Classes with a price of about today's size, its step, and the units of one lot."""

_WITHOUT_OPTIONS: Final = frozenset(
    [
        "ss",
        "bu",
        "fu",
        "sp",
        "wr",
        "lu",
        "nr",
        "bc",
        "ec",
        "a",
        "b",
        "jd",
        "rr",
        "bb",
        "fb",
        "lg",
        "bz",
        "j",
        "CJ",
        "CY",
        "RS",
        "JR",
        "IF",
        "IC",
        "IM",
        "IH",
        "T",
        "TF",
        "TS",
        "TL",
    ]
)


@frozen
class SimulatedUniverse:
    """About 900 futures and 20,000 options over six exchanges, or fewer where asked for.

    ``futures`` and ``options`` bound their number; the first months and the strikes
    nearest to the price come first, so a small universe has the liquid ones.
    """

    day: date
    futures: int = 900
    options: int = 20_000

    def contracts(self) -> list[Contract]:
        """Return all contracts."""
        classes = list(_classes())
        futures = list(self._futures(classes))[: self.futures]
        return futures + list(self._options(futures, {c.letters: c for c in classes}))

    def _futures(self, classes: list[_Class]) -> Iterator[Contract]:
        # Month by month over all classes: what is left out are the farthest months.
        for ahead in range(1, 13):
            year, month = _month_after(self.day, ahead)
            for kind in classes:
                yield self._future(kind, year, month)

    def _future(self, kind: _Class, year: int, month: int) -> Contract:
        number = f"{year % 10}{month:02}" if kind.exchange == "CZCE" else f"{year % 100}{month:02}"
        symbol = kind.letters + number
        return Contract(
            kind.exchange,
            symbol,
            kind.letters,
            Product.FUTURES,
            kind.multiplier,
            kind.tick,
            canonical=canonical_symbol(kind.exchange, symbol, self.day.year),
        )

    def _options(self, futures: list[Contract], classes: dict[str, _Class]) -> Iterator[Contract]:
        underlyings = [c for c in futures if c.product_class not in _WITHOUT_OPTIONS]
        left, distance = self.options, 0
        while left > 0 and underlyings and distance < _MOST_STRIKES:
            for underlying in underlyings:
                for contract in self._pair(underlying, classes[underlying.product_class], distance):
                    if left > 0:
                        left -= 1
                        yield contract
            # 0, 1, -1, 2, -2: outward from the price.
            distance = 1 - distance if distance <= 0 else -distance

    def _pair(self, underlying: Contract, kind: _Class, distance: int) -> Iterator[Contract]:
        step = max(kind.tick, round(kind.price * 0.01 / kind.tick) * kind.tick)
        strike = round(kind.price / step) * step + distance * step
        if strike <= 0:
            return
        for side in "CP":
            dashed = kind.exchange in ("DCE", "CFFEX", "GFEX")
            middle = f"-{side}-" if dashed else side
            symbol = f"{underlying.symbol}{middle}{strike:g}"
            yield Contract(
                kind.exchange,
                symbol,
                kind.letters,
                Product.OPTION,
                kind.multiplier,
                kind.tick,
                underlying=underlying.symbol,
                strike=strike,
                canonical=canonical_symbol(kind.exchange, symbol, self.day.year),
            )


_MOST_STRIKES: Final = 60


def _classes() -> Iterator[_Class]:
    exchange = ""
    for word in _FUTURES.split():
        if ":" not in word:
            exchange = word
            continue
        letters, price, tick, multiplier = word.split(":")
        yield _Class(exchange, letters, float(price), float(tick), float(multiplier))


def _month_after(day: date, ahead: int) -> tuple[int, int]:
    index = day.year * 12 + day.month - 1 + ahead
    return index // 12, index % 12 + 1
