"""From the vendor's fields to contracts and ticks: the rules of the exchanges, as tables."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from aegis.marketdata._calendar import Calendar
from aegis.marketdata._contract import Contract, Product
from aegis.marketdata._normalizer import Normalizer
from aegis.marketdata._tick import Level, Tick
from aegis.marketdata.adapters._ctp_fields import (
    CTP_PRODUCTS,
    SOPT_PRODUCTS,
    contract_of,
    raw_tick_of,
)
from tests.support.ctp import depth, instrument
from tests.support.ctp_rows import CONTRACTS, NIGHTS
from tests.support.marketdata import NO_PRICE, ns, tick


def made(calendar: Calendar, received: str, exchange: str = "SHFE", **changes: Any) -> Tick:
    raw = raw_tick_of(depth(**changes), exchange, ns(received))
    result = Normalizer(calendar, "a").normalize(raw)
    assert result is not None
    return result


def test_every_field_of_a_tick_is_taken_from_its_own(calendar: Calendar) -> None:
    result = made(calendar, "2026-11-23 10:00:00.520")
    assert result == tick(epoch=0, sequence=0)


@pytest.mark.parametrize(("exchange", "changes", "received", "meant", "day", "stale"), NIGHTS)
def test_at_night_times_and_trading_days_are_right_for_each_exchange(
    calendar: Calendar,
    exchange: str,
    changes: dict[str, Any],
    received: str,
    meant: str,
    day: int,
    stale: bool,
) -> None:
    result = made(calendar, received, exchange, **changes)
    shown = datetime.fromtimestamp(result.time_ns / 1e9, calendar.zone)
    assert shown.strftime("%Y-%m-%d %H:%M:%S") == meant
    assert (result.trading_day, result.stale) == (day, stale)


@pytest.mark.parametrize("millisecond", [0, 5, 50, 500, 999])
def test_milliseconds_are_the_number_that_the_vendor_sends(
    calendar: Calendar, millisecond: int
) -> None:
    result = made(calendar, "2026-11-23 10:00:01", UpdateMillisec=millisecond)
    assert result.time_ns == ns("2026-11-23 10:00:00") + millisecond * 1_000_000


def test_prices_and_limits_that_do_not_exist_are_none(calendar: Calendar) -> None:
    result = made(
        calendar,
        "2026-11-23 10:00:01",
        LastPrice=NO_PRICE,
        UpperLimitPrice=NO_PRICE,
        LowerLimitPrice=float("nan"),
        AskPrice1=NO_PRICE,
        AskVolume1=0,
    )
    assert (result.last_price, result.limit_up, result.limit_down) == (None, None, None)
    assert result.levels == (Level(3099.0, 5, None, 0),)


def test_deeper_levels_come_with_their_sizes(calendar: Calendar) -> None:
    result = made(
        calendar,
        "2026-11-23 10:00:01",
        BidPrice2=3098.0,
        BidVolume2=1,
        AskPrice3=3103.0,
        AskVolume3=9,
    )
    assert result.levels[1:] == (Level(3098.0, 1, None, 0), Level(None, 0, 3103.0, 9))


@pytest.mark.parametrize(("changes", "contract"), CONTRACTS)
def test_contracts_are_spelled_and_sorted_as_their_exchange_does(
    changes: dict[str, Any], contract: Contract
) -> None:
    assert contract_of(instrument(**changes), CTP_PRODUCTS, 2026) == contract


def test_an_option_on_shares_belongs_to_its_underlying() -> None:
    fields = instrument(
        InstrumentID="10004567",
        ExchangeID="SSE",
        InstrumentName="50ETF购12月2600",
        ProductClass="7",
        UnderlyingInstrID="510050",
        StrikePrice=2.6,
        VolumeMultiple=10_000,
        PriceTick=0.0001,
    )
    contract = contract_of(fields, SOPT_PRODUCTS, 2026)
    assert contract is not None
    assert (contract.product, contract.product_class) == (Product.OPTION, "510050")
    assert (contract.underlying, contract.strike) == ("510050", 2.6)


def test_an_instrument_without_a_symbol_is_none() -> None:
    assert contract_of(instrument(InstrumentID=""), CTP_PRODUCTS, 2026) is None
