"""A made-up market: prices that move, volumes that rise, two bursts of ticks a second.

It takes the time and returns what is said then; the seed decides everything else.

"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Final

from attrs import define, frozen

from aegis.marketdata._contract import Contract, Product
from aegis.marketdata._ports import RawTick
from aegis.marketdata._tick import Level

__all__ = ["MarketFaults", "SimulatedMarket"]

PHASES: Final = 2
"""Bursts a second: the exchanges tell at most that many states of a contract."""

NO_PRICE: Final = 1.7976931348623157e308
"""What the vendor sends for a price that does not exist."""

_LIQUID: Final = 100
_ACTIVE: Final = 900


@frozen
class MarketFaults:
    """What goes wrong with what a market says; everything is off unless asked for."""

    silent_exchanges: frozenset[str] = frozenset()
    """These say nothing."""
    stalled: frozenset[str] = frozenset()
    """Contracts (``SHFE.rb2701``) that say nothing."""
    repeat_share: float = 0.0
    """This share of the ticks is said twice."""
    empty_share: float = 0.02
    """On this share one side of the book is empty; it happens on quiet options daily."""


@define
class _Book:
    """One contract's day so far."""

    contract: Contract
    share: float
    """How likely it says something in one phase."""
    mid: float
    step: float
    open_price: float
    high: float
    low: float
    volume: int = 0
    turnover: float = 0.0
    open_interest: float = 10_000.0


class SimulatedMarket:
    """The books of all contracts, and what they say when asked.

    ``rate`` scales how often contracts tick: with 1 some 5,000 ticks a second come of
    900 futures and 20,000 options.
    """

    def __init__(self, contracts: Sequence[Contract], *, seed: int, rate: float = 1.0) -> None:
        self.faults = MarketFaults()
        self._rng = random.Random(seed)
        self._books: dict[str, _Book] = {}
        for rank, contract in enumerate(contracts):
            per_second = _per_second(self._rng, rank, contract) * rate
            self._books[contract.key] = self._new_book(contract, min(1.0, per_second / PHASES))

    def _new_book(self, contract: Contract, share: float) -> _Book:
        rng = self._rng
        step = contract.price_tick or 1.0
        steps = rng.randint(500, 5_000)
        if contract.product is Product.OPTION:
            steps = rng.randint(2, 400)
        mid = steps * step
        return _Book(contract, share, mid, step, mid, mid, mid)

    def speak(
        self, wanted: Iterable[str], now_ns: int, clock: str, millisecond: int
    ) -> list[RawTick]:
        """Return what the contracts among ``wanted`` say in one phase.

        ``clock`` (``HH:MM:SS``) and ``millisecond`` are the exchange's time of this phase.
        """
        rng, faults, books = self._rng, self.faults, self._books
        draw = rng.random
        ticks: list[RawTick] = []
        for key in wanted:
            book = books.get(key)
            if book is None or draw() >= book.share:
                continue
            exchange = book.contract.exchange
            if exchange in faults.silent_exchanges or key in faults.stalled:
                continue
            self._move(book)
            tick = self._say(book, now_ns, clock, _millisecond(rng, exchange, millisecond))
            ticks.append(tick)
            if faults.repeat_share and draw() < faults.repeat_share:
                ticks.append(tick)
        return ticks

    def snapshot(self, key: str, now_ns: int, clock: str, millisecond: int) -> RawTick | None:
        """Return how a contract stands, as a front says it at once after a subscription."""
        book = self._books.get(key)
        if book is None or key in self.faults.stalled:
            return None
        return self._say(book, now_ns, clock, millisecond)

    def _move(self, book: _Book) -> None:
        rng = self._rng
        lots = 1 + int(rng.random() * 8)
        book.mid = max(book.step, book.mid + (int(rng.random() * 3) - 1) * book.step)
        book.volume += lots
        book.turnover += lots * book.mid * book.contract.multiplier
        book.open_interest += int(rng.random() * 5) - 2
        book.high = max(book.high, book.mid)
        book.low = min(book.low, book.mid)

    def _say(self, book: _Book, now_ns: int, clock: str, millisecond: int) -> RawTick:
        rng, contract, traded = self._rng, book.contract, book.volume > 0
        bid_volume, ask_volume = 1 + int(rng.random() * 50), 1 + int(rng.random() * 50)
        if rng.random() < self.faults.empty_share:
            bid_volume = 0
        level = Level(
            book.mid - book.step if bid_volume else NO_PRICE,
            bid_volume,
            book.mid + book.step,
            ask_volume,
        )
        return RawTick(
            contract.exchange,
            contract.symbol,
            clock,
            millisecond,
            now_ns,
            book.mid if traded else NO_PRICE,
            book.volume,
            book.turnover,
            book.open_interest,
            book.open_price if traded else NO_PRICE,
            book.high if traded else NO_PRICE,
            book.low if traded else NO_PRICE,
            NO_PRICE,
            NO_PRICE,
            book.open_price,
            book.open_price,
            book.open_price * 1.1,
            book.open_price * 0.9,
            (level,),
        )


def _per_second(rng: random.Random, rank: int, contract: Contract) -> float:
    """Return how often a contract ticks: few do all the time, most are quiet for long."""
    if contract.product is Product.OPTION:
        return rng.uniform(0.01, 0.5)
    if rank < _LIQUID:
        return rng.uniform(1.5, 2.0)
    return rng.uniform(0.2, 1.0) if rank < _ACTIVE else rng.uniform(0.01, 0.2)


def _millisecond(rng: random.Random, exchange: str, phase: int) -> int:
    """Return the milliseconds as each exchange tells them."""
    if exchange == "CZCE":
        return 0  # Whole seconds: two ticks of one second carry the same time.
    if exchange == "DCE":
        return min(999, phase + int(rng.random() * 400))
    return phase
