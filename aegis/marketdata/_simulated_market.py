"""A made-up market: two bursts a second, in which each contract may say how it stands.

What is said in one phase follows from the seed, the contract and the phase alone. So two
gateways to the same market see the same one, whenever each of them came, and a market can
be asked for any moment again. (Chance is the hash of two numbers, which Python does not
salt: of all that mixes them it is by far the fastest.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, tzinfo
from typing import Any, Final

from attrs import frozen

from aegis.marketdata._contract import Contract, Product
from aegis.marketdata._ports import RawTick
from aegis.marketdata._tick import Level

__all__ = ["PHASE_NS", "MarketFaults", "SimulatedMarket"]

PHASE_NS: Final = 500_000_000
"""The exchanges tell at most two states of a contract a second."""

NO_PRICE: Final = 1.7976931348623157e308
"""What the vendor sends for a price that does not exist."""

SWING: Final = 40
"""Steps that a price is away from its opening at most."""

_LIQUID: Final = 100
_ACTIVE: Final = 900
_DAY_PHASES: Final = 2 * 86_400
_EVENING_PHASES: Final = 2 * 6 * 3600
_MASK: Final = (1 << 64) - 1
_WHOLE: Final = float(1 << 64)
_HALF: Final = 1 << 63
"""Hashes of Python are from minus this to below it."""


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


@frozen
class _Book:
    """What of a contract does not change."""

    contract: Contract
    exchange: str
    symbol: str
    number: int
    limit: int
    """It speaks in a phase whose number is below this."""
    lots: float
    """Traded in a phase, on average."""
    opened: float
    step: float
    value: float
    """Of one lot, as the turnover counts it."""
    day: tuple[float, ...]
    """How it opened, its highest and its lowest price, its close, settlement, those of the
    day before, and its limits."""
    quiet_day: tuple[float, ...]
    """The same of a day on which nothing was traded yet."""


type Roster = Sequence[tuple[_Book, int, int]]
"""Who may speak, each with its number and its limit."""


class Burst:
    """Who speaks in one phase; what they say is made when it is asked for."""

    def __init__(
        self, speakers: list[tuple[_Book, int]], clock: tuple[str, int, int], empty_share: float
    ) -> None:
        self._speakers = speakers
        self._clock = clock
        self._empty = empty_share * 10_000

    def __len__(self) -> int:
        return len(self._speakers)

    def ticks(self, begin: int, end: int, wall_ns: Callable[[], int]) -> Iterator[RawTick]:
        """Yield what the speakers of these numbers say, received at that moment."""
        # What this costs is taken from what is measured with it: so all in one place.
        clock, millisecond, of_day = self._clock
        empty = self._empty
        make_tick, make_level = RawTick._make, Level._make
        for book, chance in self._speakers[begin:end]:
            exchange, step = book.exchange, book.step
            volume = int(of_day * book.lots)
            mid = book.opened + step * (chance % _PRICES - SWING)
            asked = 1 + (chance >> 32) % 50
            best: tuple[Any, ...] = (mid - step, 1 + (chance >> 8) % 50, mid + step, asked)
            if (chance >> 16) % 10_000 < empty:
                best = (NO_PRICE, 0, mid + step, asked)
            yield make_tick(
                (
                    exchange,
                    book.symbol,
                    clock,
                    (
                        _millisecond(exchange, millisecond, chance)
                        if exchange in _OWN_CLOCKS
                        else millisecond
                    ),
                    wall_ns(),
                    mid if volume else NO_PRICE,
                    volume,
                    volume * book.value,
                    10_000.0 + (chance >> 40) % 100,
                    *(book.day if volume else book.quiet_day),
                    (make_level(best),),
                    0,
                    0,
                )
            )


class SimulatedMarket:
    """The contracts of a market and what they say.

    ``rate`` scales how often contracts tick: with 1 some 5,000 ticks a second come of
    900 futures and 20,000 options. ``zone`` is that of the exchanges' clocks.
    """

    def __init__(
        self, contracts: Sequence[Contract], *, seed: int, zone: tzinfo, rate: float = 1.0
    ) -> None:
        self.faults = MarketFaults()
        self._zone = zone
        self._books: dict[str, _Book] = {}
        for rank, contract in enumerate(contracts):
            number = _mix(seed, rank, 0)
            share = min(1.0, _per_second(number, rank, contract) * rate / 2)
            step = contract.price_tick or 1.0
            steps = 2 * SWING + number % (400 if contract.product is Product.OPTION else 5_000)
            opened = steps * step
            fixed = (NO_PRICE, NO_PRICE, opened, opened, opened * 1.1, opened * 0.9)
            self._books[contract.key] = _Book(
                contract,
                contract.exchange,
                contract.symbol,
                number,
                int(share * _WHOLE) - _HALF,
                4.0 * share,
                opened,
                step,
                opened * contract.multiplier,
                (opened, opened + SWING * step, opened - SWING * step, *fixed),
                (*_NEVER_TRADED, *fixed),
            )

    def speak(self, wanted: Iterable[str], at_ns: int, received_ns: int) -> list[RawTick]:
        """Return what the contracts among ``wanted`` say in the phase of a moment."""
        burst = self.burst(self.roster(wanted), at_ns)
        return list(burst.ticks(0, len(burst), lambda: received_ns))

    def roster(self, wanted: Iterable[str]) -> Roster:
        """Return the contracts of these names, as `burst` takes them; others are left out."""
        books = (book for key in wanted if (book := self._books.get(key)) is not None)
        return [(book, book.number, book.limit) for book in books]

    def burst(self, roster: Roster, at_ns: int) -> Burst:
        """Return who of a roster speaks in the phase of a moment."""
        phase = at_ns // PHASE_NS
        speakers = [
            (book, chance)
            for book, number, limit in roster
            if (chance := hash((number, phase))) < limit
        ]
        faults = self.faults
        if faults.silent_exchanges or faults.stalled:
            speakers = [
                (book, chance)
                for book, chance in speakers
                if book.contract.exchange not in faults.silent_exchanges
                and book.contract.key not in faults.stalled
            ]
        if faults.repeat_share:
            limit = faults.repeat_share * _WHOLE
            speakers = [
                speaker
                for speaker in speakers
                for _ in range(2 if _mix(speaker[1], phase, 2) < limit else 1)
            ]
        return Burst(speakers, self._clock(phase), faults.empty_share)

    def snapshot(self, key: str, at_ns: int, received_ns: int) -> RawTick | None:
        """Return how a contract stands, as a front says it at once after a subscription.

        Its time is that of the last phase in which the contract spoke.
        """
        book = self._books.get(key)
        faults = self.faults
        if (
            book is None
            or key in faults.stalled
            or book.contract.exchange in faults.silent_exchanges
        ):
            return None
        phase = last = at_ns // PHASE_NS
        while (chance := hash((book.number, phase))) >= book.limit and last - phase < _LOOK_BACK:
            phase -= 1
        burst = Burst([(book, chance)], self._clock(phase), faults.empty_share)
        return next(burst.ticks(0, 1, lambda: received_ns))

    def _clock(self, phase: int) -> tuple[str, int, int]:
        """Return a phase's time as text, its milliseconds, and how many came since evening."""
        local = datetime.fromtimestamp(phase * PHASE_NS // 1_000_000_000, self._zone)
        half = phase % 2
        second = (local.hour * 60 + local.minute) * 60 + local.second
        of_day = (2 * second + half + _EVENING_PHASES) % _DAY_PHASES
        return local.strftime("%H:%M:%S"), 500 * half, of_day


_NEVER_TRADED: Final = (NO_PRICE, NO_PRICE, NO_PRICE)

_PRICES: Final = 2 * SWING + 1

_OWN_CLOCKS: Final = frozenset(("CZCE", "DCE"))
"""Exchanges whose milliseconds are not those of the phase."""

_LOOK_BACK: Final = 7_200
"""Phases: an hour. A contract that said nothing for longer says what it would now."""


def _mix(first: int, second: int, third: int) -> int:
    """Return a number below 2**64 that looks drawn by chance (the mixing of splitmix64)."""
    mixed = first + second * 0x9E3779B97F4A7C15 + third * 0xD1B54A32D192ED03 & _MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
    return mixed ^ mixed >> 31


def _per_second(number: int, rank: int, contract: Contract) -> float:
    """Return how often a contract ticks: few do all the time, most are quiet for long."""
    chance = number / _WHOLE
    if contract.product is Product.OPTION:
        return 0.01 + 0.49 * chance
    if rank < _LIQUID:
        return 1.5 + 0.5 * chance
    return 0.2 + 0.8 * chance if rank < _ACTIVE else 0.01 + 0.19 * chance


def _millisecond(exchange: str, phase: int, chance: int) -> int:
    """Return the milliseconds as those of `_OWN_CLOCKS` tell them."""
    if exchange == "CZCE":
        return 0  # Whole seconds: two ticks of one second carry the same time.
    return phase + (chance >> 48) % 400
