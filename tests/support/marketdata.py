"""Ticks as vendors send them, for tests."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from aegis.marketdata._ports import RawTick
from aegis.marketdata._tick import VERSION, Level, Tick

__all__ = ["NO_PRICE", "SHANGHAI", "ns", "raw_tick", "tick"]

NO_PRICE: Final = 1.7976931348623157e308
"""DBL_MAX: what the vendor sends where there is no price."""

SHANGHAI: Final = ZoneInfo("Asia/Shanghai")


def ns(text: str) -> int:
    """Return ``2026-11-23 10:00:00.5`` of Shanghai as nanoseconds since 1970."""
    return round(datetime.fromisoformat(text).replace(tzinfo=SHANGHAI).timestamp() * 1000) * 10**6


def raw_tick(**changes: Any) -> RawTick:
    """Return a tick of SHFE.rb2701 at ten in the morning, with changes."""
    plain = RawTick(
        exchange="SHFE",
        symbol="rb2701",
        time_of_day="10:00:00",
        millisecond=500,
        received_ns=ns("2026-11-23 10:00:00.520"),
        last_price=3100.0,
        volume=100,
        turnover=3_100_000.0,
        open_interest=20_000.0,
        open_price=3090.0,
        high_price=3110.0,
        low_price=3080.0,
        close_price=NO_PRICE,
        settlement_price=NO_PRICE,
        previous_close=3095.0,
        previous_settlement=3096.0,
        limit_up=3300.0,
        limit_down=2900.0,
        levels=(Level(3099.0, 5, 3101.0, 7),),
    )
    return plain._replace(**changes)


def tick(**changes: Any) -> Tick:
    """Return a tick as it is published, with changes."""
    raw = raw_tick(close_price=None, settlement_price=None)
    time_ns = ns("2026-11-23 10:00:00.5")
    plain = Tick(
        VERSION,
        "a",
        7,
        1,
        raw.exchange,
        raw.symbol,
        20261123,
        time_ns,
        raw.received_ns,
        0,
        *raw[5:19],
    )
    return plain._replace(**changes)
