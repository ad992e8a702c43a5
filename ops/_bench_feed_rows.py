"""What `aegis bench feed` measures: ways from a gateway to a subscriber, and loads on them."""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec
from typing import Final

from attrs import frozen

from aegis.ops._bench_feed_subscriber import BATCHES, RPC, TICKS

__all__ = ["OFFERS", "QUICK", "RATE", "ROWS", "Goal", "Load", "Offer", "Row", "Way"]


class Way(StrEnum):
    """A way that ticks take."""

    SIMULATED = "simulated"
    LITERAL = "literal"
    PLAIN = "plain"
    VNPY = "vnpy"
    RPC = "rpc"

    @property
    def shown(self) -> str:
        """The way for a person."""
        return _TITLES[self]

    @property
    def problem(self) -> str:
        """Return what it needs and is not installed; empty if nothing."""
        wanted = {Way.VNPY: ("vnpy",), Way.RPC: ("vnpy", "zmq")}.get(self, ())
        missing = [name for name in wanted if not find_spec(name)]
        return f"{' and '.join(missing)} not installed" if missing else ""

    @property
    def may_fail(self) -> bool:
        """Whether it is known to fall behind for ever, or to drop what is not taken in time."""
        return self in (Way.LITERAL, Way.RPC)


_TITLES: Final = {
    Way.SIMULATED: "simulated gateway",
    Way.LITERAL: "coroutine per tick",
    Way.PLAIN: "plain nats-py",
    Way.VNPY: "vnpy's engine",
    Way.RPC: "vnpy's own RPC",
}


class Load(StrEnum):
    """How ticks come."""

    EVEN = "even"
    BURSTS = "bursts"
    """Two a second, as the exchanges send them."""
    MOST = "most"
    """Evenly, at the highest of `OFFERS` that is sustained."""


@frozen
class Offer:
    """What a made-up market offers: so many ticks a second, evenly or in two bursts."""

    rate: float
    even: bool

    @property
    def futures(self) -> int:
        """Contracts of this kind in the market."""
        return WHOLE_FUTURES if self._whole else min(WHOLE_FUTURES, self._liquid)

    @property
    def options(self) -> int:
        """Contracts of this kind in the market."""
        return WHOLE_OPTIONS if self._whole else self._liquid - self.futures

    @property
    def scale(self) -> float:
        """How often its contracts tick, beside those of a real market."""
        return self.rate / WHOLE_RATE if self._whole else ALWAYS

    @property
    def _whole(self) -> bool:
        return LEAST_WHOLE <= self.rate <= WHOLE_RATE * 1.1

    @property
    def _liquid(self) -> int:
        """Contracts that make up the rate if each ticks twice a second."""
        return max(1, round(self.rate / 2))


WHOLE_FUTURES: Final = 900
WHOLE_OPTIONS: Final = 20_000
WHOLE_RATE: Final = 5_750.0
"""Ticks a second of a whole made-up market."""

LEAST_WHOLE: Final = 3_000.0
ALWAYS: Final = 100.0
"""A scale with which every contract ticks twice a second."""


@frozen
class Goal:
    """What a row should reach: at most so many milliseconds, or at least so many a second."""

    p99_ms: float | None = None
    per_second: float | None = None


@frozen
class Row:
    """One way under one load, and how its ticks are taken."""

    way: Way
    load: Load
    form: str = TICKS
    goal: Goal | None = None

    @property
    def name(self) -> str:
        """As in ``simulated/even``."""
        return f"{self.way}/{self.load}"


ROWS: Final = (
    Row(Way.SIMULATED, Load.EVEN, goal=Goal(p99_ms=5.0)),
    Row(Way.LITERAL, Load.EVEN),
    Row(Way.PLAIN, Load.EVEN),
    Row(Way.VNPY, Load.EVEN, goal=Goal(p99_ms=5.0)),
    Row(Way.RPC, Load.EVEN, RPC),
    Row(Way.SIMULATED, Load.BURSTS, goal=Goal(p99_ms=30.0)),
    Row(Way.LITERAL, Load.BURSTS),
    Row(Way.PLAIN, Load.BURSTS),
    Row(Way.VNPY, Load.BURSTS, goal=Goal(p99_ms=150.0)),
    Row(Way.RPC, Load.BURSTS, RPC),
    Row(Way.SIMULATED, Load.MOST, BATCHES, Goal(per_second=100_000)),
    Row(Way.PLAIN, Load.MOST),
    Row(Way.VNPY, Load.MOST, BATCHES, Goal(per_second=20_000)),
    Row(Way.RPC, Load.MOST, RPC),
)

RATE: Final = 5_000.0
"""Ticks a second of the even load and of the bursts."""

OFFERS: Final = (100_000.0, 80_000.0, 60_000.0, 40_000.0, 30_000.0, 20_000.0, 10_000.0, 5_000.0)
"""What is tried for the highest rate, one after another until one is sustained."""

QUICK: Final = 400.0
"""Ticks a second of every load of a run that shall only show that it runs."""
