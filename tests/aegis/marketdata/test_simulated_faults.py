"""What goes wrong in a made-up market on request."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from attrs import define, field

from aegis import ConfigurationError
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._config import MarketConfig, read_faults
from aegis.marketdata._contract import Contract
from aegis.marketdata._normalizer import Normalizer
from aegis.marketdata._ports import GatewayFailure, GatewayState, RawTick
from aegis.marketdata._simulated_faults import FaultFile, SimulatedFaults
from aegis.marketdata._simulated_universe import SimulatedUniverse
from aegis.marketdata.adapters._simulated import SimulatedGateway
from tests.support.marketdata import SHANGHAI, ns
from tests.support.poll import wait_until

CONTRACTS = SimulatedUniverse(date(2026, 11, 23), 60, 0).contracts()
BEGIN = ns("2026-11-23 10:00:00")


@define
class Listener:
    """Keeps what a gateway tells."""

    ticks: list[RawTick] = field(factory=list[RawTick])
    states: list[tuple[GatewayState, GatewayFailure | None]] = field(
        factory=list[tuple[GatewayState, GatewayFailure | None]]
    )

    def on_state(self, state: GatewayState, failure: GatewayFailure | None = None) -> None:
        self.states.append((state, failure))

    def on_contract(self, contract: Contract) -> None:
        """Nothing: they are known."""

    def on_subscribed(self, key: str, failure: GatewayFailure | None = None) -> None:
        """Nothing: ticks tell."""

    def on_tick(self, tick: RawTick) -> None:
        self.ticks.append(tick)


class Clock:
    """A wall clock in the test's hand."""

    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> int:
        return self.now


def speak(faults: SimulatedFaults, *, phases: int = 1, at: int = BEGIN) -> list[RawTick]:
    """Return what a gateway with these faults tells after all was subscribed to."""
    clock, listener = Clock(), Listener()
    gateway = SimulatedGateway(
        "a", CONTRACTS, zone=SHANGHAI, rate=100.0, faults=faults, wall_ns=clock
    )
    gateway.subscribe(CONTRACTS)
    for phase in range(phases):
        clock.now = at + phase * 500_000_000
        gateway._speak(listener)
    return listener.ticks


WELL = speak(SimulatedFaults())


def test_without_faults_everybody_speaks() -> None:
    assert {(t.exchange, t.symbol) for t in WELL} == {(c.exchange, c.symbol) for c in CONTRACTS}


SAY_NOTHING: list[tuple[SimulatedFaults, Callable[[RawTick], bool]]] = [
    (SimulatedFaults(silent_exchanges=("SHFE",)), lambda tick: tick.exchange == "SHFE"),
    (SimulatedFaults(stalled=("DCE.m*",)), lambda tick: tick.symbol.startswith("m2")),
    (SimulatedFaults(unanswered=("*.c*",)), lambda tick: tick.symbol.startswith("c")),
]


@pytest.mark.parametrize(
    ("faults", "is_gone"), SAY_NOTHING, ids=["silent", "stalled", "unanswered"]
)
def test_some_say_nothing(faults: SimulatedFaults, is_gone: Callable[[RawTick], bool]) -> None:
    assert [tick for tick in WELL if not is_gone(tick)] == speak(faults)
    assert any(is_gone(tick) for tick in WELL)


def test_ticks_are_said_twice() -> None:
    spoken = speak(SimulatedFaults(repeat_share=1.0))
    # The state that answers a subscription is said once, each tick twice.
    assert len(spoken) == 3 * len(CONTRACTS)


def test_ticks_come_late_as_they_were() -> None:
    late = speak(SimulatedFaults(lag=7.0), at=BEGIN + 7_000_000_000)
    assert {tick.received_ns for tick in late} == {BEGIN + 7_000_000_000}
    assert [tick._replace(received_ns=0) for tick in late] == [
        tick._replace(received_ns=0) for tick in WELL
    ]


def test_a_tick_of_last_night_comes_first_and_is_known_as_such(calendar: Calendar) -> None:
    spoken = speak(SimulatedFaults(last_night=True))
    normalizer = Normalizer(calendar)
    first = [normalizer.normalize(tick) for tick in spoken if tick.symbol == CONTRACTS[0].symbol]
    assert [tick is not None and tick.stale for tick in first] == [True, False, False]


async def test_a_front_that_is_asked_for_too_much_at_once_cuts_the_session() -> None:
    listener = Listener()
    faults = SimulatedFaults(cut_at=len(CONTRACTS) - 1)
    gateway = SimulatedGateway("a", CONTRACTS, zone=SHANGHAI, faults=faults)
    gateway.subscribe(CONTRACTS)
    gateway.start(listener)
    try:
        await wait_until(lambda: bool(cuts(listener)), what="the front cuts the session")
    finally:
        gateway.stop()
    assert cuts(listener) == [8193]
    assert listener.ticks == []


def cuts(listener: Listener) -> list[int]:
    return [f.code for state, f in listener.states if f and state is GatewayState.CONNECTING]


@pytest.mark.parametrize(("code", "permanent"), [(3, True), (75, True), (7, False)])
async def test_a_login_is_refused_for_good_or_for_now(code: int, permanent: bool) -> None:
    listener = Listener()
    gateway = SimulatedGateway(
        "a", CONTRACTS, zone=SHANGHAI, faults=SimulatedFaults(login_code=code)
    )
    gateway.start(listener)
    await wait_until(
        lambda: listener.states[-1:] != [] and listener.states[-1][0] is GatewayState.FAILED,
        what="the login fails",
    )
    assert listener.states[-1][1] == GatewayFailure("the login was refused", code, permanent)


def test_a_file_says_what_goes_wrong_while_it_runs(tmp_path: Path) -> None:
    file = FaultFile(tmp_path / "a.toml", read_faults)
    assert file.look() is None
    write(tmp_path, 'silent_exchanges = ["SHFE"]')
    assert file.look() == SimulatedFaults(silent_exchanges=("SHFE",))
    assert file.look() is None
    # Half of a file, or a word that is none, changes nothing.
    for text in ("silent_exchanges = [", "sielnt = true", "lag = true"):
        write(tmp_path, text)
        assert file.look() is None
    write(tmp_path, "disconnected = true")
    assert file.look() == SimulatedFaults(disconnected=True)


def write(folder: Path, text: str) -> None:
    new = folder / "new"
    new.write_text(text)
    os.replace(new, folder / "a.toml")


def test_the_configuration_says_what_goes_wrong_from_the_start() -> None:
    tables = {"feeds": {"a": {"simulated": {"faults": {"login_code": 3, "stalled": ["DCE.*"]}}}}}
    config = MarketConfig.from_tables(tables, Path())
    source = config.feed("a").simulated
    assert source is not None
    assert source.faults == SimulatedFaults(login_code=3, stalled=("DCE.*",))
    with pytest.raises(ConfigurationError, match=r"faults: there is no setting 'lags'"):
        MarketConfig.from_tables({"feeds": {"a": {"simulated": {"faults": {"lags": 3.0}}}}}, Path())
