"""The made-up market: what makes it like a real one."""

from __future__ import annotations

from collections import Counter
from datetime import date

import pytest

from aegis.marketdata._arbiter import Arbiter, Verdict
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._contract import Product, canonical_symbol
from aegis.marketdata._normalizer import Normalizer
from aegis.marketdata._ports import RawTick
from aegis.marketdata._simulated_market import PHASE_NS, MarketFaults, SimulatedMarket
from aegis.marketdata._simulated_universe import SimulatedUniverse
from tests.support.marketdata import SHANGHAI, ns

DAY = date(2026, 11, 23)
BEGIN = ns("2026-11-23 10:00:00")


def test_the_whole_universe_is_as_large_as_the_real_one() -> None:
    contracts = SimulatedUniverse(DAY).contracts()
    products = Counter(contract.product for contract in contracts)
    assert products == {Product.FUTURES: 900, Product.OPTION: 20_000}
    assert len({contract.key for contract in contracts}) == len(contracts)
    exchanges = {contract.exchange for contract in contracts}
    assert exchanges == {"SHFE", "INE", "DCE", "CZCE", "CFFEX", "GFEX"}


def test_symbols_are_spelt_as_each_exchange_does() -> None:
    contracts = {c.key: c for c in SimulatedUniverse(DAY).contracts()}
    assert contracts["CZCE.SR701"].canonical == "SR2701"
    assert "SHFE.cu2701" in contracts
    options = {c.exchange: c for c in contracts.values() if c.product is Product.OPTION}
    assert "-C-" in options["DCE"].symbol or "-P-" in options["DCE"].symbol
    assert "-" not in options["SHFE"].symbol
    for option in options.values():
        assert f"{option.exchange}.{option.underlying}" in contracts


@pytest.mark.parametrize(
    ("symbol", "year", "canonical"),
    [
        ("SR701", 2026, "SR2701"),
        ("SR701", 2016, "SR1701"),
        ("SR612", 2026, "SR2612"),
        ("SR001", 2029, "SR3001"),
        ("SR701C5600", 2026, "SR2701C5600"),
    ],
)
def test_a_year_of_one_digit_is_the_nearest(symbol: str, year: int, canonical: str) -> None:
    assert canonical_symbol("CZCE", symbol, year) == canonical
    assert canonical_symbol("SHFE", "rb2701", year) == "rb2701"


def test_two_gateways_see_the_same_market() -> None:
    contracts = SimulatedUniverse(DAY, 50, 50).contracts()
    keys = [contract.key for contract in contracts]
    first, second = (SimulatedMarket(contracts, seed=3, zone=SHANGHAI) for _ in range(2))
    for phase in range(5):
        first.speak(keys, BEGIN - phase * PHASE_NS, 0)  # It was there before.
    said = first.speak(keys, BEGIN, BEGIN)
    assert said == second.speak(keys, BEGIN + 100, BEGIN)
    assert said != SimulatedMarket(contracts, seed=4, zone=SHANGHAI).speak(keys, BEGIN, BEGIN)
    assert len(said) > 10


def test_about_five_thousand_ticks_a_second_come_of_the_whole_market() -> None:
    contracts = SimulatedUniverse(DAY).contracts()
    market = SimulatedMarket(contracts, seed=1, zone=SHANGHAI)
    keys = [contract.key for contract in contracts]
    said = [len(market.speak(keys, BEGIN + n * PHASE_NS, BEGIN)) for n in range(4)]
    assert 4_500 < sum(said) / 2 < 6_500


def test_every_tick_is_news_to_a_consumer(calendar: Calendar) -> None:
    contracts = SimulatedUniverse(DAY, 100, 100).contracts()
    market = SimulatedMarket(contracts, seed=1, zone=SHANGHAI)
    normalizer, arbiter = Normalizer(calendar), Arbiter()
    keys = [contract.key for contract in contracts]
    for phase in range(200):
        at = BEGIN + phase * PHASE_NS
        for raw in market.speak(keys, at, at):
            tick = normalizer.normalize(raw)
            assert tick is not None
            assert arbiter.judge(tick) is Verdict.NEWS
    assert arbiter.judged[Verdict.NEWS] > 10_000


def test_a_snapshot_is_what_was_said_last(calendar: Calendar) -> None:
    contracts = SimulatedUniverse(DAY, 20, 20).contracts()
    market = SimulatedMarket(contracts, seed=1, zone=SHANGHAI)
    keys = [contract.key for contract in contracts]
    last: dict[str, RawTick] = {}
    for phase in range(400):
        at = BEGIN + phase * PHASE_NS
        last |= {f"{t.exchange}.{t.symbol}": t for t in market.speak(keys, at, 0)}
    assert len(last) > 20
    for key, tick in last.items():
        assert market.snapshot(key, BEGIN + 399 * PHASE_NS, 0) == tick
    assert market.snapshot("SHFE.none", BEGIN, 0) is None


def test_faults_show_in_what_is_said() -> None:
    contracts = SimulatedUniverse(DAY, 200, 0).contracts()
    market = SimulatedMarket(contracts, seed=1, zone=SHANGHAI)
    keys = [contract.key for contract in contracts]
    stalled = next(key for key in keys if key.startswith("DCE"))
    market.faults = MarketFaults(
        silent_exchanges=frozenset({"SHFE"}), stalled=frozenset({stalled}), repeat_share=1.0
    )
    said = [
        tick for phase in range(20) for tick in market.speak(keys, BEGIN + phase * PHASE_NS, BEGIN)
    ]
    assert {tick.exchange for tick in said} == {"INE", "DCE", "CZCE", "CFFEX", "GFEX"}
    assert stalled not in {f"{tick.exchange}.{tick.symbol}" for tick in said}
    assert said[::2] == said[1::2]
    assert market.snapshot(stalled, BEGIN, BEGIN) is None
