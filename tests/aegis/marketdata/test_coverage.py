"""Which contracts are covered, missing and stalled."""

from __future__ import annotations

from attrs import frozen

from aegis.marketdata._calendar import Calendar, Phase
from aegis.marketdata._contract import Contract, Product
from aegis.marketdata._coverage import Coverage, ExchangeCoverage
from aegis.marketdata._tick import TickFlag
from tests.support.marketdata import ns, tick

RB = Contract("SHFE", "rb2701", "rb")
CU = Contract("SHFE", "cu2701", "cu")
WR = Contract("SHFE", "wr2701", "wr")
NEVER = Contract("SHFE", "wr2702", "wr")
OPTION = Contract("SHFE", "rb2701C3000", "rb", Product.OPTION)
IF = Contract("CFFEX", "IF2612", "IF")


@frozen
class Market:
    """A coverage that is fed by the second."""

    coverage: Coverage

    def ticks(self, contract: Contract, begin: str, count: int, every: float = 0.5) -> None:
        for number in range(count):
            received = ns(begin) + round(number * every * 1e9)
            self.coverage.on_tick(
                tick(
                    exchange=contract.exchange,
                    symbol=contract.symbol,
                    received_ns=received,
                    time_ns=received,
                )
            )

    def at(self, moment: str) -> dict[str, ExchangeCoverage]:
        return {report.exchange: report for report in self.coverage.report(ns(moment))}


def market(calendar: Calendar, *contracts: Contract) -> Market:
    coverage = Coverage(calendar)
    coverage.want(contracts)
    return Market(coverage)


def test_a_contract_is_missing_until_its_first_tick(calendar: Calendar) -> None:
    feed = market(calendar, RB, CU, IF)
    assert feed.at("2026-11-23 10:00:00")["SHFE"].missing == [RB.key, CU.key]
    feed.ticks(RB, "2026-11-23 10:00:00", 1)
    report = feed.at("2026-11-23 10:00:01")
    assert report["SHFE"].missing == [CU.key]
    assert report["SHFE"].ratio == 0.5
    assert report["CFFEX"].missing == [IF.key]


def test_a_stale_tick_covers_a_contract_but_is_no_sign_of_life(calendar: Calendar) -> None:
    feed = market(calendar, RB)
    stale = tick(received_ns=ns("2026-11-23 10:00:00"), flags=int(TickFlag.STALE))
    feed.coverage.on_tick(stale)
    report = feed.at("2026-11-23 10:00:01")["SHFE"]
    assert report.covered == 1
    assert report.quiet_seconds is None


def test_a_new_trading_day_has_to_be_heard_of_anew(calendar: Calendar) -> None:
    feed = market(calendar, RB, CU)
    feed.ticks(RB, "2026-11-23 14:59:00", 1)
    feed.ticks(CU, "2026-11-23 14:59:00", 1)
    feed.coverage.on_tick(tick(trading_day=20261124, received_ns=ns("2026-11-23 21:00:00")))
    assert feed.at("2026-11-23 21:00:01")["SHFE"].missing == [CU.key]


def test_what_has_no_night_session_is_not_missed_at_night_when_the_day_turns(
    calendar: Calendar,
) -> None:
    feed = market(calendar, RB, WR, NEVER)
    feed.ticks(RB, "2026-11-23 14:59:00", 1)
    feed.ticks(WR, "2026-11-23 14:59:00", 1)
    feed.coverage.on_tick(tick(trading_day=20261124, received_ns=ns("2026-11-23 21:00:00")))
    night = feed.at("2026-11-23 21:30:00")["SHFE"]
    assert (night.missing, night.covered) == ([NEVER.key], 2)
    assert feed.at("2026-11-24 08:59:59")["SHFE"].missing == [NEVER.key]
    assert feed.at("2026-11-24 09:00:00")["SHFE"].missing == [WR.key, NEVER.key]


def test_a_liquid_contract_stalls_after_ten_seconds_of_trading(calendar: Calendar) -> None:
    feed = market(calendar, RB, CU)
    feed.ticks(RB, "2026-11-23 10:00:00", 100)
    feed.ticks(CU, "2026-11-23 10:00:00", 180)
    assert feed.at("2026-11-23 10:00:59")["SHFE"].stalled == []
    assert feed.at("2026-11-23 10:01:01")["SHFE"].stalled == [RB.key]


def test_stale_ticks_do_not_keep_a_contract_from_stalling(calendar: Calendar) -> None:
    feed = market(calendar, RB)
    feed.ticks(RB, "2026-11-23 10:00:00", 100)
    stale = tick(received_ns=ns("2026-11-23 10:00:59"), flags=int(TickFlag.STALE))
    feed.coverage.on_tick(stale)
    assert feed.at("2026-11-23 10:01:01")["SHFE"].stalled == [RB.key]


def test_a_quiet_contract_may_be_quiet_for_minutes(calendar: Calendar) -> None:
    feed = market(calendar, RB)
    feed.ticks(RB, "2026-11-23 09:00:00", 20, every=30.0)
    assert feed.at("2026-11-23 09:14:29")["SHFE"].stalled == []
    assert feed.at("2026-11-23 09:14:31")["SHFE"].stalled == [RB.key]


def test_a_contract_that_ticks_rarely_may_be_quiet_for_longer(calendar: Calendar) -> None:
    feed = market(calendar, RB)
    feed.ticks(RB, "2026-11-23 09:00:00", 20, every=100.0)
    assert feed.at("2026-11-23 09:39:59")["SHFE"].stalled == []
    assert feed.at("2026-11-23 09:40:01")["SHFE"].stalled == [RB.key]


def test_a_contract_that_has_hardly_ticked_may_be_quiet_all_day(calendar: Calendar) -> None:
    feed = market(calendar, RB, CU, IF)
    feed.ticks(RB, "2026-11-23 08:59:58", 1)
    feed.ticks(CU, "2026-11-23 08:59:58", 19)
    feed.ticks(IF, "2026-11-23 09:29:58", 20)
    at_noon = feed.at("2026-11-23 11:20:00")
    assert (at_noon["SHFE"].stalled, at_noon["SHFE"].missing) == ([], [])
    assert at_noon["CFFEX"].stalled == [IF.key]
    assert at_noon["SHFE"].silent


def test_an_option_never_stalls_by_itself(calendar: Calendar) -> None:
    feed = market(calendar, OPTION)
    feed.ticks(OPTION, "2026-11-23 09:00:00", 100)
    assert feed.at("2026-11-23 11:00:00")["SHFE"].stalled == []


def test_no_contract_stalls_in_a_break(calendar: Calendar) -> None:
    feed = market(calendar, RB)
    feed.ticks(RB, "2026-11-23 10:14:00", 120)
    during = feed.at("2026-11-23 10:29:59")["SHFE"]
    assert (during.phase, during.stalled, during.silent) == (Phase.BREAK, [], False)
    assert feed.at("2026-11-23 10:30:09")["SHFE"].stalled == []
    assert feed.at("2026-11-23 10:30:11")["SHFE"].stalled == [RB.key]


def test_an_exchange_is_silent_after_five_seconds_of_trading_without_any_tick(
    calendar: Calendar,
) -> None:
    feed = market(calendar, RB, CU, IF)
    feed.ticks(RB, "2026-11-23 10:00:00", 2)
    assert not feed.at("2026-11-23 10:00:05")["SHFE"].silent
    later = feed.at("2026-11-23 10:00:06")
    assert later["SHFE"].silent
    assert later["CFFEX"].silent  # It never said anything, and is open.


def test_an_exchange_is_not_silent_before_its_opening_and_in_its_breaks(
    calendar: Calendar,
) -> None:
    feed = market(calendar, IF, RB)
    feed.ticks(RB, "2026-11-23 10:14:50", 20)
    assert not feed.at("2026-11-23 10:29:59")["SHFE"].silent
    assert not feed.at("2026-11-23 10:30:04")["SHFE"].silent
    assert feed.at("2026-11-23 10:30:06")["SHFE"].silent
    assert not feed.at("2026-11-23 09:29:59")["CFFEX"].silent
    assert not feed.at("2026-11-23 21:30:00")["CFFEX"].silent


def test_an_exchange_is_open_while_any_of_its_classes_is(calendar: Calendar) -> None:
    feed = market(calendar, RB, CU)
    assert feed.at("2026-11-24 00:30:00")["SHFE"].phase is Phase.OPEN


def test_what_is_wanted_no_more_is_not_missed(calendar: Calendar) -> None:
    feed = market(calendar, RB, CU)
    feed.coverage.drop([CU.key])
    assert feed.at("2026-11-23 10:00:00")["SHFE"].missing == [RB.key]
    assert feed.coverage.statistics(ns("2026-11-23 10:00:00")) == {
        "wanted": 1,
        "covered": 0,
        "missing": 1,
        "stalled": 0,
    }
