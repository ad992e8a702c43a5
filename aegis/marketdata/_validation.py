"""What can be checked before a market's feeds are started, and what to do about it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from attrs import frozen

from aegis import ConfigurationError
from aegis.marketdata._config import MarketConfig, ReplaySource, SimulatedSource
from aegis.marketdata._gateways import check_source
from aegis.marketdata._vendor_checks import unreachable
from aegis.marketdata._vendor_sources import CtpSource

__all__ = ["Problem", "check"]


@frozen
class Problem:
    """One thing that keeps a feed from working."""

    feed: str
    text: str


def check(config: MarketConfig, now: datetime, *, connect: bool = False) -> list[Problem]:
    """Return all problems of a configuration; nothing is started, and nobody logs in.

    ``now`` is aware of its zone: the calendar has to know the trading day. With ``connect``
    the fronts of accounts are connected to, and left at once.
    """
    problems: list[Problem] = []
    try:
        config.load_calendar().trading_day(now)
    except ConfigurationError as error:
        problems.append(Problem("calendar", str(error)))
    for name, feed in config.feeds.items():
        texts = check_source(feed)
        if connect and not texts and isinstance(feed.source, CtpSource):
            texts = [f"{feed.kind}: {text}" for text in unreachable(feed.source)]
        problems += [Problem(name, text) for text in texts]
    return problems + _shared_folders(config)


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
