"""Rows of what CTP sends and what it means, for every way by which it comes."""

from __future__ import annotations

from typing import Any, Final

from aegis.marketdata._contract import Contract, Product

__all__ = ["CONTRACTS", "NIGHTS"]


def _told(trading_day: str, action_day: str, time_of_day: str) -> dict[str, Any]:
    return {"TradingDay": trading_day, "ActionDay": action_day, "UpdateTime": time_of_day}


NIGHTS: Final = [
    # exchange, told, received, meant, trading day, stale
    # SHFE and INE: the next trading day, and the day of the calendar.
    (
        *("SHFE", _told("20261124", "20261123", "21:00:00")),
        *("2026-11-23 21:00:01", "2026-11-23 21:00:00", 20261124, False),
    ),
    (
        *("INE", _told("20261124", "20261124", "02:29:59")),
        *("2026-11-24 02:30:00", "2026-11-24 02:29:59", 20261124, False),
    ),
    # DCE writes the next trading day into both: on Friday night that is Monday.
    (
        *("DCE", _told("20261123", "20261123", "21:30:00")),
        *("2026-11-20 21:30:00", "2026-11-20 21:30:00", 20261123, False),
    ),
    # CZCE writes the day of the calendar into both.
    (
        *("CZCE", _told("20261123", "20261123", "22:00:00")),
        *("2026-11-23 22:00:01", "2026-11-23 22:00:00", 20261124, False),
    ),
    # CZCE sends the last tick of the night again in the morning, with the new date.
    (
        *("CZCE", _told("20261124", "20261124", "22:59:59")),
        *("2026-11-24 08:40:00", "2026-11-23 22:59:59", 20261124, True),
    ),
    # At a login in the evening, DCE's close of the day comes with tomorrow's date.
    (
        *("DCE", _told("20261124", "20261124", "15:00:00")),
        *("2026-11-23 20:40:00", "2026-11-23 15:00:00", 20261124, True),
    ),
    # Around midnight the clocks of both sides may be on different days.
    (
        *("SHFE", _told("20261124", "20261123", "23:59:59")),
        *("2026-11-24 00:00:00", "2026-11-23 23:59:59", 20261124, False),
    ),
    (
        *("SHFE", _told("20261124", "20261124", "00:00:00")),
        *("2026-11-23 23:59:59", "2026-11-24 00:00:00", 20261124, False),
    ),
    # An action day that is left out does no harm.
    (
        *("CFFEX", _told("20261123", "", "14:59:59")),
        *("2026-11-23 15:00:00", "2026-11-23 14:59:59", 20261123, False),
    ),
    (
        *("GFEX", _told("20261123", "20261123", "09:00:00")),
        *("2026-11-23 09:00:00", "2026-11-23 09:00:00", 20261123, False),
    ),
]


CONTRACTS: Final[list[tuple[dict[str, Any], Contract]]] = [
    (
        {},
        Contract(
            "SHFE", "rb2701", "rb", Product.FUTURES, 10.0, 1.0, "螺纹钢2701", "", None, "rb2701"
        ),
    ),
    (
        {
            "InstrumentID": "SR701",
            "ExchangeID": "CZCE",
            "ProductID": "SR",
            "InstrumentName": "白糖",
        },
        Contract("CZCE", "SR701", "SR", Product.FUTURES, 10.0, 1.0, "白糖", "", None, "SR2701"),
    ),
    (
        {
            "InstrumentID": "SR701C5600",
            "ExchangeID": "CZCE",
            "ProductID": "SRC",
            "ProductClass": "2",
            "InstrumentName": "白糖购",
            "UnderlyingInstrID": "SR701",
            "StrikePrice": 5600.0,
        },
        Contract(
            *("CZCE", "SR701C5600", "SR", Product.OPTION, 10.0, 1.0, "白糖购"),
            *("SR701", 5600.0, "SR2701C5600"),
        ),
    ),
    (
        # Two legs under one symbol.
        {
            "InstrumentID": "SP a2701&a2705",
            "ExchangeID": "DCE",
            "ProductClass": "3",
            "InstrumentName": "",
        },
        Contract(
            *("DCE", "SP a2701&a2705", "a", Product.COMBINATION, 10.0, 1.0, "", "", None),
            "SP a2701&a2705",
        ),
    ),
    (
        # An exchange that nobody knew when this was written keeps its contract.
        {"InstrumentID": "xy2701", "ExchangeID": "HKX", "InstrumentName": ""},
        Contract("HKX", "xy2701", "xy", Product.FUTURES, 10.0, 1.0, "", "", None, "xy2701"),
    ),
    (
        # So does one of a class that nobody knew.
        {"ProductClass": "Z", "InstrumentName": ""},
        Contract("SHFE", "rb2701", "rb", Product.OTHER, 10.0, 1.0, "", "", None, "rb2701"),
    ),
]
