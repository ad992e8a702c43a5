"""From a feed's configuration to its gateway; adapters are imported only when wanted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from aegis.marketdata._calendar import Calendar
from aegis.marketdata._config import MarketConfig, SimulatedSource
from aegis.marketdata._ports import MarketDataGatewayPort

__all__ = ["make_gateway"]


def make_gateway(
    config: MarketConfig, feed: str, calendar: Calendar, wall_ns: Callable[[], int]
) -> MarketDataGatewayPort:
    """Return the gateway of a feed, not started.

    Raises:
        ConfigurationError: there is no such feed, or a package that it needs is missing.
    """
    source = config.feed(feed).source
    if isinstance(source, SimulatedSource):
        from aegis.marketdata._simulated_universe import SimulatedUniverse
        from aegis.marketdata.adapters._simulated import SimulatedGateway

        today = datetime.fromtimestamp(wall_ns() / 1e9, calendar.zone).date()
        return SimulatedGateway(
            feed,
            SimulatedUniverse(today, source.futures, source.options).contracts(),
            zone=calendar.zone,
            seed=source.seed,
            rate=source.rate,
            even=source.even,
            wall_ns=wall_ns,
        )
    raise NotImplementedError(feed)
