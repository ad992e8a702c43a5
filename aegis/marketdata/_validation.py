"""What can be checked before a market's feeds are started, and what to do about it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

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


def check(config: MarketConfig) -> list[Problem]:
    """Return all problems of a configuration; nothing is started and nobody is asked."""
    problems: list[Problem] = []
    try:
        calendar = config.calendar()
        now_ns = time.time_ns() + config.clock_ahead_ns(calendar.zone)
        calendar.trading_day(datetime.fromtimestamp(now_ns / 1e9, UTC))
    except ConfigurationError as error:
        problems.append(Problem("calendar", str(error)))
    for name, feed in config.feeds.items():
        problems += [Problem(name, text) for text in check_source(feed.simulated)]
    return problems
