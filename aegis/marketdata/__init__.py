"""Market data: the ticks of whole markets on NATS, as a supervised actor with a standby.

::

    from aegis.marketdata import ticks

    async with aegis.connect() as cluster:
        async for tick in ticks(cluster, "SHFE.rb*"):
            print(tick.key, tick.last_price)
"""

from aegis.marketdata._contract import Contract, Product, UniverseFilter
from aegis.marketdata._feed import Feed
from aegis.marketdata._tick import Level, Tick, TickFlag, TickUnreadable
from aegis.marketdata._ticks import TickGap, ticks

__all__ = [
    "Contract",
    "Feed",
    "Level",
    "Product",
    "Tick",
    "TickFlag",
    "TickGap",
    "TickUnreadable",
    "UniverseFilter",
    "ticks",
]
