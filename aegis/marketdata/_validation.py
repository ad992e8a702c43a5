"""What can be checked before a market's feeds are started, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from attrs import frozen

from aegis import ConfigurationError
from aegis.marketdata._config import MarketConfig, ReplaySource, SimulatedSource
from aegis.marketdata._contract import UniverseFilter
from aegis.marketdata._gateways import check_source
from aegis.marketdata._host_clock import clock_error
from aegis.marketdata._vendor_checks import unreachable
from aegis.marketdata._vendor_sources import CtpSource

__all__ = ["Problem", "check"]

MAX_CLOCK_ERROR: Final = 0.1
SOME_OPTIONS: Final = 1_000

NEXT_SESSION: Final = timedelta(hours=3)
"""So long after the close at 15:00 the next trading day begins by the calendar."""

LOWER_CASE: Final = ("SHFE", "INE", "DCE", "GFEX")
UPPER_CASE: Final = ("CZCE", "CFFEX")
"""How exchanges write the families of their futures and of the options on them."""


@frozen
class Problem:
    """One thing that keeps a feed from working."""

    feed: str
    text: str


def check(
    config: MarketConfig,
    now: datetime,
    *,
    connect: bool = False,
    clock_error: Callable[[], float | None] = clock_error,
) -> list[Problem]:
    """Return all problems of a configuration; nothing is started, and nobody logs in.

    ``now`` is aware of its zone: the calendar has to know the trading day, after the close
    that of the next session. With ``connect``
    the fronts of accounts are connected to, and left at once. ``clock_error`` tells by how
    many seconds this host's clock may be off, or None if nobody knows.
    """
    problems = [*_clock(clock_error()), *_spelling(config.universe)]
    try:
        calendar = config.load_calendar()
        for moment in (now, now + NEXT_SESSION):
            calendar.trading_day(moment)
    except ConfigurationError as error:
        problems.append(Problem("calendar", str(error).removeprefix("calendar: ")))
    for name, feed in config.feeds.items():
        texts = check_source(feed)
        if connect and not texts and isinstance(feed.source, CtpSource):
            texts = [f"{feed.kind}: {text}" for text in unreachable(feed.source)]
        if not texts and isinstance(feed.source, SimulatedSource):
            texts = _matches_nothing(config.universe, feed.source, now)
        problems += [Problem(name, text) for text in texts]
    return problems + _shared_folders(config)


def _clock(error: float | None) -> list[Problem]:
    if error is None or error <= MAX_CLOCK_ERROR:
        return []
    return [
        Problem(
            "clock",
            f"this host's clock may be {error:.1f} s off, and dates and lags of ticks are told by "
            "it; see to chrony, or whatever keeps it",
        )
    ]


def _spelling(universe: UniverseFilter) -> list[Problem]:
    """Find patterns that nothing can match: the case of letters counts at every exchange."""
    problems: list[Problem] = []
    for pattern in (*universe.include, *universe.exclude):
        exchange, _, symbol = pattern.partition(".")
        family = symbol[: next((i for i, c in enumerate(symbol) if not c.isalpha()), len(symbol))]
        upper = exchange in UPPER_CASE
        right = family.upper() if upper else family.lower()
        if exchange in (*UPPER_CASE, *LOWER_CASE) and family != right:
            case = "capital" if upper else "small"
            text = f"{pattern!r} matches nothing: {exchange} writes its contracts in {case} letters"
            problems.append(Problem("universe", f"{text}, as in {exchange}.{right}*"))
    return problems


def _matches_nothing(universe: UniverseFilter, source: SimulatedSource, now: datetime) -> list[str]:
    from aegis.marketdata._simulated_universe import SimulatedUniverse

    # Some of its options are enough to tell.
    options = min(source.options, SOME_OPTIONS)
    contracts = SimulatedUniverse(now.date(), source.futures, options).contracts()
    try:
        universe.select(contracts)
    except ConfigurationError as error:
        return [str(error)]
    return []


def _shared_folders(config: MarketConfig) -> list[Problem]:
    """Two accounts that keep their session files in one folder get each other's."""
    users: dict[Path, str] = {}
    problems: list[Problem] = []
    for name, feed in config.feeds.items():
        if isinstance(feed.source, SimulatedSource | ReplaySource):
            continue
        folder = Path(feed.source.folder).resolve()
        if folder in users:
            text = f"folder: {folder} is also that of {users[folder]}; give each feed its own"
            problems.append(Problem(name, text))
        users.setdefault(folder, name)
    return problems
