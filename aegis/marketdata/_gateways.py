"""From a feed's configuration to its gateway; adapters are imported only when wanted."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from aegis import ConfigurationError
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._config import MarketConfig, SimulatedSource
from aegis.marketdata._ports import MarketDataGatewayPort

__all__ = ["check_source", "make_gateway"]


def check_source(source: SimulatedSource) -> list[str]:
    """Return what keeps a source from being used; each text says what to do."""
    problems: list[str] = []
    if source.futures < 1:
        problems.append("simulated.futures must be at least 1")
    if source.options < 0:
        problems.append("simulated.options must be 0 or more")
    if not 0 < source.rate <= MAX_RATE:
        problems.append(f"simulated.rate must be above 0 and at most {MAX_RATE:g}")
    return problems


MAX_RATE: Final = 100.0


def make_gateway(config: MarketConfig, feed: str, calendar: Calendar) -> MarketDataGatewayPort:
    """Return the gateway of a feed, not started.

    Raises:
        ConfigurationError: there is no such feed, or its source cannot be used.
    """
    from aegis.marketdata._simulated_universe import SimulatedUniverse
    from aegis.marketdata.adapters._simulated import SimulatedGateway

    source = config.feed(feed).simulated
    if problems := check_source(source):
        raise ConfigurationError(f"feeds.{feed}: {'; '.join(problems)}")
    today = datetime.now(calendar.zone).date()
    return SimulatedGateway(
        feed,
        SimulatedUniverse(today, source.futures, source.options).contracts(),
        zone=calendar.zone,
        seed=source.seed,
        rate=source.rate,
        even=source.even,
    )
