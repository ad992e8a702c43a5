"""What can be checked before a market's feeds are started, and what to do about it."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen

from aegis import ConfigurationError
from aegis.marketdata._config import MarketConfig
from aegis.marketdata._gateways import check_source

__all__ = ["Problem", "check"]


@frozen
class Problem:
    """One thing that keeps a feed from working."""

    feed: str
    text: str


def check(config: MarketConfig, now: datetime) -> list[Problem]:
    """Return all problems of a configuration; nothing is started and nobody is asked.

    ``now`` is aware of its zone: the calendar has to know the trading day.
    """
    problems: list[Problem] = []
    try:
        config.load_calendar().trading_day(now)
    except ConfigurationError as error:
        problems.append(Problem("calendar", str(error)))
    for name, feed in config.feeds.items():
        problems += [Problem(name, text) for text in check_source(feed.simulated)]
    return problems
