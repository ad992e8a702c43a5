"""Market data: the ticks of whole markets on NATS, as a supervised actor with a standby.

::

    async with aegis.connect() as cluster:
        async for tick in cluster.ticks("SHFE.rb*"):
            print(tick.key, tick.last_price)
"""

from aegis.marketdata._contract import Contract, Product, UniverseFilter
from aegis.marketdata._feed import Feed
from aegis.marketdata._follower import TickGap
from aegis.marketdata._recorder_actor import Recorder
from aegis.marketdata._tick import Level, Tick, TickFlag, TickUnreadable
from aegis.marketdata._tick_source import ticks_of
from aegis.marketdata._ticks import TickStream, ticks

__all__ = [
    "Contract",
    "Feed",
    "Level",
    "Product",
    "Recorder",
    "Tick",
    "TickFlag",
    "TickGap",
    "TickStream",
    "TickUnreadable",
    "UniverseFilter",
    "ticks",
    "ticks_of",
]
