"""From a feed's configuration to its gateway; adapters are imported only when wanted."""

from __future__ import annotations

import os
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Final

from aegis import ConfigurationError
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._config import (
    FeedConfig,
    MarketConfig,
    ReplaySource,
    SimulatedSource,
    read_faults,
)
from aegis.marketdata._contract import EXCHANGES
from aegis.marketdata._ports import MarketDataGatewayPort
from aegis.marketdata._simulated_faults import FAULTS_VARIABLE, FaultFile
from aegis.marketdata._vendor_checks import check_account, check_vnpy
from aegis.marketdata._vendor_library import import_class
from aegis.marketdata._vendor_sources import CtpSource, VnpySource

__all__ = ["check_source", "make_gateway"]

MAX_RATE: Final = 100.0


def check_source(feed: FeedConfig) -> list[str]:
    """Return what keeps a feed's source from being used; each text says what to do."""
    match feed.source:
        case SimulatedSource() as source:
            return _check_simulated(source)
        case ReplaySource() as source:
            return _check_replay(source)
        case VnpySource() as source:
            return check_vnpy(source)
        case CtpSource() as source:
            return check_account(feed.kind, source)


def _check_simulated(source: SimulatedSource) -> list[str]:
    problems: list[str] = []
    if source.futures < 1:
        problems.append("simulated.futures must be at least 1")
    if source.options < 0:
        problems.append("simulated.options must be 0 or more")
    if not 0 < source.rate <= MAX_RATE:
        problems.append(f"simulated.rate must be above 0 and at most {MAX_RATE:g}")
    return problems


def _check_replay(source: ReplaySource) -> list[str]:
    from aegis.marketdata.adapters._recordings import check_files

    problems: list[str] = []
    if not 0 <= source.speed < float("inf"):
        problems.append("replay.speed must be above 0, or 0 for as fast as it is taken")
    if not 0 <= source.max_pause < float("inf"):
        problems.append("replay.max_pause must be in seconds, or 0 to leave out no pause")
    if source.exchange and source.exchange not in EXCHANGES:
        problems.append(f"replay.exchange must be one of {', '.join(EXCHANGES)}")
    return problems or [f"replay.files: {text}" for text in check_files(source)]


def make_gateway(config: MarketConfig, feed: str, calendar: Calendar) -> MarketDataGatewayPort:
    """Return the gateway of a feed, not started.

    Raises:
        ConfigurationError: there is no such feed, or its source cannot be used.
    """
    found = config.feed(feed)
    if problems := check_source(found):
        raise ConfigurationError(f"feeds.{feed}: {'; '.join(problems)}")
    match found.source:
        case SimulatedSource() as source:
            return _simulated(feed, source, calendar)
        case ReplaySource() as source:
            return _replay(feed, source, calendar)
        case VnpySource() as source:
            return _vnpy(feed, source, calendar.zone)
        case CtpSource() as source:
            return _ctp(feed, found.kind, source, calendar.zone)


def _simulated(feed: str, source: SimulatedSource, calendar: Calendar) -> MarketDataGatewayPort:
    from aegis.marketdata._simulated_universe import SimulatedUniverse
    from aegis.marketdata.adapters._simulated import SimulatedGateway

    today = datetime.now(calendar.zone).date()
    folder = os.environ.get(FAULTS_VARIABLE)
    file = FaultFile(Path(folder or ".") / f"{feed}.toml", read_faults)
    return SimulatedGateway(
        feed,
        SimulatedUniverse(today, source.futures, source.options).contracts(),
        zone=calendar.zone,
        seed=source.seed,
        rate=source.rate,
        even=source.even,
        faults=source.faults,
        look=file.look if folder else None,
    )


def _replay(feed: str, source: ReplaySource, calendar: Calendar) -> MarketDataGatewayPort:
    from aegis.marketdata.adapters._recordings import Recordings
    from aegis.marketdata.adapters._replay import ReplayGateway

    recordings = Recordings.open(source, calendar)
    return ReplayGateway(feed, recordings, speed=source.speed, max_pause=source.max_pause)


def _vnpy(feed: str, source: VnpySource, zone: tzinfo) -> MarketDataGatewayPort:
    from aegis.marketdata.adapters._vnpy import VnpyGatewayAdapter

    gateway_class = import_class(source.gateway, Path(source.folder))
    return VnpyGatewayAdapter(feed, gateway_class, source, source.full_setting(), zone=zone)


def _ctp(feed: str, kind: str, source: CtpSource, zone: tzinfo) -> MarketDataGatewayPort:
    if kind == "openctp":
        from aegis.marketdata.adapters._openctp import OpenCTPGatewayAdapter

        return OpenCTPGatewayAdapter(feed, source, zone=zone)
    from aegis.marketdata.adapters._vnpy_ctp import CTP, SOPT, CTPGatewayAdapter

    return CTPGatewayAdapter(feed, SOPT if kind == "sopt" else CTP, source, zone=zone)
