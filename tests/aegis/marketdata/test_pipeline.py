"""One feed from what its gateway tells to what is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from aegis import Unavailable
from aegis.marketdata import _pipeline
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._contract import Contract, UniverseFilter
from aegis.marketdata._pipeline import FeedPipeline
from aegis.marketdata._ports import GatewayFailure, GatewayListener, GatewayState
from aegis.marketdata._tick import Tick, TickFlag
from tests.support.marketdata import ns, raw_tick

RB = Contract("SHFE", "rb2701", "rb")
CU = Contract("SHFE", "cu2701", "cu")
M = Contract("DCE", "m2701", "m")


class Gateway:
    """Keeps what it is asked for."""

    name = "a"

    def __init__(self) -> None:
        self.subscribed: list[list[str]] = []
        self.unsubscribed: list[str] = []
        self.trading_day = 0

    def start(self, listener: GatewayListener) -> None:
        """Nothing: the test tells the listener."""

    def stop(self) -> None:
        """Nothing."""

    def subscribe(self, contracts: Sequence[Contract]) -> None:
        self.subscribed.append([contract.key for contract in contracts])

    def unsubscribe(self, contracts: Sequence[Contract]) -> None:
        self.unsubscribed += [contract.key for contract in contracts]


class Publisher:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.ticks: list[Tick] = []
        self.full = False

    def publish(self, ticks: Sequence[Tick]) -> None:
        if self.full:
            raise Unavailable("too much waits")
        self.ticks += ticks

    def statistics(self) -> Mapping[str, int]:
        return {}


class Feed:
    """A pipeline with everything around it in the test's hands."""

    def __init__(self, calendar: Calendar, *include: str) -> None:
        self.now = 100.0
        self.seconds_per_look = 0.0
        self.wall = ns("2026-11-23 10:00:01")
        self.gateway = Gateway()
        self.publisher = Publisher()
        self.pipeline = FeedPipeline(
            self.gateway,
            self.publisher,
            calendar,
            UniverseFilter(include or ("*",)),
            now=self.look,
            wall_ns=lambda: self.wall,
        )

    def look(self) -> float:
        """Look at the clock, which may go on with every look."""
        self.now += self.seconds_per_look
        return self.now

    def connect(self, *contracts: Contract) -> None:
        self.pipeline.on_state(GatewayState.CONNECTING, None)
        self.pipeline.on_state(GatewayState.LOADING_CONTRACTS, None)
        for contract in contracts or (RB, CU, M):
            self.pipeline.on_contract(contract)
        self.pipeline.on_state(GatewayState.READY, None)
        assert self.pipeline.work() is None

    def tick(self, conflated: bool = False, **changes: Any) -> None:
        self.pipeline.on_ticks([raw_tick(**changes)], conflated)

    @property
    def published(self) -> list[tuple[str, int, int]]:
        return [(tick.symbol, tick.epoch, tick.sequence) for tick in self.publisher.ticks]


@pytest.fixture
def feed(calendar: Calendar) -> Feed:
    return Feed(calendar)


def test_it_subscribes_to_what_is_wanted_once_all_contracts_are_known(calendar: Calendar) -> None:
    feed = Feed(calendar, "SHFE.*")
    feed.pipeline.on_state(GatewayState.LOADING_CONTRACTS, None)
    feed.pipeline.on_contract(RB)
    feed.pipeline.work()
    assert feed.gateway.subscribed == []
    feed.connect()
    assert feed.gateway.subscribed == [[RB.key, CU.key]]


def test_a_standby_publishes_nothing(feed: Feed) -> None:
    feed.connect()
    feed.tick()
    assert feed.published == []
    assert feed.pipeline.status()["ticks"] == {"withheld": 1}


def test_a_feed_delivers_once_it_publishes_and_has_subscribed_to_all(feed: Feed) -> None:
    pipeline = feed.pipeline
    pipeline.activate(7, 1.5)
    # Nothing is wanted yet, so nothing waits for an answer.
    told = [pipeline.delivering]
    feed.connect(RB, CU)
    told.append(pipeline.delivering)
    for key in (RB.key, CU.key):
        pipeline.on_subscribed(key, None)
    told.append(pipeline.delivering)
    feed.now += 2
    told.append(pipeline.delivering)
    assert told == [False, False, True, False]


def test_the_active_feed_numbers_the_ticks_of_each_exchange(feed: Feed) -> None:
    feed.connect()
    feed.pipeline.activate(7, 1.5)
    feed.tick()
    feed.tick(symbol="cu2701")
    feed.tick(exchange="DCE", symbol="m2701")
    assert feed.published == [("rb2701", 7, 1), ("cu2701", 7, 2), ("m2701", 7, 1)]
    assert {tick.feed for tick in feed.publisher.ticks} == {"a"}


def test_it_publishes_no_longer_than_it_was_last_told_to(feed: Feed) -> None:
    feed.connect()
    feed.pipeline.activate(7, 1.5)
    feed.now += 1.4
    feed.pipeline.activate(7, 1.5)
    feed.now += 1.4
    feed.tick()
    feed.now += 0.1
    feed.tick(volume=200)
    assert feed.published == [("rb2701", 7, 1)]
    assert not feed.pipeline.publishing


def test_what_was_under_way_when_the_time_was_up_is_withheld(feed: Feed) -> None:
    feed.connect()
    feed.pipeline.activate(7, 1.5)
    feed.tick()
    feed.seconds_per_look = 1.0
    feed.tick(volume=200)
    assert feed.published == [("rb2701", 7, 1)]
    assert feed.pipeline.status()["ticks"] == {"published": 1, "withheld": 1}


def test_what_it_kept_back_is_seen_as_a_gap_and_followed_by_how_it_stands(feed: Feed) -> None:
    feed.connect()
    feed.pipeline.activate(7, 1.5)
    feed.tick(volume=1)
    feed.tick(symbol="cu2701")
    feed.now += 2.0
    feed.tick(volume=2)
    feed.tick(volume=3)
    feed.pipeline.activate(7, 1.5)
    feed.tick(volume=4)
    told = [(tick.symbol, tick.volume, tick.sequence) for tick in feed.publisher.ticks]
    assert told == [("rb2701", 1, 1), ("cu2701", 100, 2), ("rb2701", 3, 5), ("rb2701", 4, 6)]
    assert snapshots(feed) == [True, True, True, False]


def test_what_could_not_leave_is_followed_by_how_it_stands(feed: Feed) -> None:
    feed.connect()
    feed.pipeline.activate(7, 1.5)
    feed.publisher.full = True
    feed.tick(volume=1)
    feed.pipeline.activate(7, 1.5)
    feed.publisher.full = False
    feed.pipeline.activate(7, 1.5)
    feed.pipeline.activate(7, 1.5)
    assert [(tick.volume, tick.sequence) for tick in feed.publisher.ticks] == [(1, 3)]


def test_a_tick_that_leaves_stands_for_what_was_kept_back_of_its_contract(feed: Feed) -> None:
    feed.connect()
    feed.pipeline.activate(7, 1.5)
    feed.tick(volume=1)
    feed.publisher.full = True
    feed.tick(volume=2)
    feed.publisher.full = False
    feed.tick(volume=3)
    feed.pipeline.activate(7, 1.5)
    assert [(tick.volume, tick.sequence) for tick in feed.publisher.ticks] == [(1, 1), (3, 3)]
    assert snapshots(feed) == [True, True]


def test_the_states_of_many_are_told_bit_by_bit_with_new_ticks_between_them(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pipeline, "STATES_TOGETHER", 1)
    feed.connect()
    feed.tick(volume=1)
    feed.tick(symbol="cu2701", volume=1)
    feed.tick(exchange="DCE", symbol="m2701", volume=1)
    feed.pipeline.activate(9, 1.5)
    assert feed.published == [("rb2701", 9, 1)]
    feed.tick(symbol="cu2701", volume=2)
    feed.tick(volume=2)
    # The second needs no telling any more.
    assert not feed.pipeline.tell_states()
    assert not feed.pipeline.tell_states()
    told = [(tick.symbol, tick.volume, tick.sequence) for tick in feed.publisher.ticks[1:]]
    assert told == [("cu2701", 2, 2), ("rb2701", 2, 3), ("m2701", 1, 1)]
    assert snapshots(feed) == [True, True, False, True]


def test_states_that_cannot_leave_wait_until_it_is_activated_again(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pipeline, "STATES_TOGETHER", 1)
    feed.connect()
    feed.tick()
    feed.tick(symbol="cu2701")
    feed.publisher.full = True
    feed.pipeline.activate(9, 1.5)
    assert not feed.pipeline.tell_states()
    feed.publisher.full = False
    feed.now += 2.0
    assert not feed.pipeline.tell_states()
    feed.pipeline.activate(9, 1.5)
    assert not feed.pipeline.tell_states()
    assert {symbol for symbol, _, _ in feed.published} == {"rb2701", "cu2701"}
    feed.pipeline.mute()
    assert not feed.pipeline.tell_states()


def test_a_renewal_that_comes_too_late_lets_nothing_out(feed: Feed) -> None:
    feed.connect()
    feed.pipeline.activate(7, 1.5)
    feed.now += 1.6
    feed.tick()
    feed.pipeline.activate(7, -0.1)
    feed.pipeline.activate(9, 0.0)
    assert feed.published == []
    assert feed.pipeline.epoch == 7


def test_muted_it_is_silent_at_once(feed: Feed) -> None:
    feed.connect()
    feed.pipeline.activate(7, 1.5)
    feed.pipeline.mute()
    feed.tick()
    assert feed.published == []


def test_a_new_owner_publishes_the_state_of_all_first(feed: Feed) -> None:
    feed.connect()
    feed.tick()
    feed.tick(symbol="cu2701")
    feed.pipeline.activate(9, 1.5)
    feed.tick(volume=200)
    assert feed.published == [("rb2701", 9, 1), ("cu2701", 9, 2), ("rb2701", 9, 3)]
    assert snapshots(feed) == [True, True, False]


def test_the_first_tick_of_a_contract_says_how_it_stood_and_tells_no_lag(feed: Feed) -> None:
    feed.connect()
    feed.pipeline.activate(7, 1.5)
    feed.tick(time_of_day="09:59:00")
    assert feed.pipeline.status()["lag_p99"] is None
    feed.tick()
    assert snapshots(feed) == [True, False]
    assert feed.pipeline.status()["lag_p99"] == pytest.approx(0.02)


def snapshots(feed: Feed) -> list[bool]:
    return [bool(tick.flags & TickFlag.SNAPSHOT) for tick in feed.publisher.ticks]


def test_each_epoch_counts_from_one(feed: Feed) -> None:
    feed.connect()
    feed.pipeline.activate(7, 1.5)
    feed.tick(volume=100)
    feed.tick(volume=200)
    feed.pipeline.activate(9, 1.5)
    assert feed.published == [("rb2701", 7, 1), ("rb2701", 7, 2), ("rb2701", 9, 1)]


def test_an_older_epoch_changes_nothing(feed: Feed) -> None:
    feed.connect()
    feed.pipeline.activate(9, 1.5)
    feed.pipeline.activate(8, 100.0)
    feed.now += 2.0
    assert feed.pipeline.epoch == 9
    assert not feed.pipeline.publishing


def test_repeats_older_and_senseless_ticks_are_counted_and_not_published(feed: Feed) -> None:
    feed.connect()
    feed.pipeline.activate(7, 1.5)
    feed.tick(volume=100)
    feed.tick(volume=100)
    feed.tick(volume=90)
    feed.tick(exchange="NYSE")
    assert feed.published == [("rb2701", 7, 1)]
    status = feed.pipeline.status()
    assert status["ticks"] == {"published": 1, "duplicate": 1, "older": 1, "invalid": 1}
    assert status["invalid"] == {"unknown exchange": 1}


def test_ticks_that_cannot_leave_are_seen_as_a_gap(feed: Feed) -> None:
    feed.connect()
    feed.pipeline.activate(7, 1.5)
    feed.publisher.full = True
    feed.tick()
    feed.publisher.full = False
    feed.tick(volume=200)
    assert feed.published == [("rb2701", 7, 2)]
    assert feed.pipeline.status()["ticks"] == {"lost": 1, "published": 1}


def test_conflated_ticks_say_so(feed: Feed) -> None:
    feed.connect()
    feed.pipeline.activate(7, 1.5)
    feed.tick(conflated=True)
    assert feed.publisher.ticks[0].flags & TickFlag.CONFLATED


def test_after_a_disconnect_all_is_subscribed_anew(feed: Feed) -> None:
    feed.connect()
    feed.pipeline.on_subscribed(RB.key, None)
    cut = GatewayFailure("the front is gone", 8193)
    feed.pipeline.on_state(GatewayState.CONNECTING, cut)
    assert feed.pipeline.status()["failure"]["code"] == 8193
    feed.connect()
    assert [sorted(batch) for batch in feed.gateway.subscribed] == [
        sorted([RB.key, CU.key, M.key])
    ] * 2
    assert feed.pipeline.status()["disconnects"] == 1
    assert feed.pipeline.status()["failure"] is None


def test_the_first_tick_after_a_disconnect_says_that_some_may_be_missing(feed: Feed) -> None:
    feed.connect()
    feed.pipeline.activate(7, 1.5)
    feed.tick(volume=1)
    feed.tick(volume=2)
    feed.pipeline.on_state(GatewayState.CONNECTING, GatewayFailure("the front is gone", 8193))
    feed.connect()
    feed.tick(volume=5)
    feed.tick(volume=6)
    assert snapshots(feed) == [True, False, True, False]


def test_a_phase_that_takes_too_long_fails_the_gateway(feed: Feed) -> None:
    feed.pipeline.on_state(GatewayState.CONNECTING, None)
    feed.now += 14.9
    assert feed.pipeline.work() is None
    feed.now += 0.1
    failure = feed.pipeline.work()
    assert failure is not None
    assert failure.reason == "connecting takes longer than 15 s"
    assert not failure.permanent


def test_a_front_that_tells_no_contract_is_asked_again(feed: Feed) -> None:
    feed.pipeline.on_state(GatewayState.LOADING_CONTRACTS, None)
    feed.pipeline.on_state(GatewayState.READY, None)
    failure = feed.pipeline.work()
    assert failure is not None
    assert (failure.reason, failure.permanent) == ("the front told no contract at all", False)


@pytest.mark.parametrize(
    ("at", "told", "trading_day"),
    [
        # After the close a front begins the next day, here before the calendar does.
        ("2026-11-27 17:30:00", 20261130, 20261130),
        ("2026-11-27 14:30:00", 20261127, 20261127),
        # It stayed connected since the morning.
        ("2026-11-27 21:30:00", 20261127, 20261130),
        # It plays an old day, or makes no sense.
        ("2026-11-27 17:30:00", 20250303, 20261127),
        ("2026-11-27 17:30:00", 20991231, 20261127),
        ("2026-11-27 17:30:00", 0, 20261127),
        # The first after the holidays.
        ("2026-09-30 17:30:00", 20261008, 20261008),
    ],
)
def test_the_trading_day_is_the_later_one_of_the_calendars_and_the_logins(
    calendar: Calendar, at: str, told: int, trading_day: int
) -> None:
    feed = Feed(calendar)
    feed.wall = ns(at)
    feed.gateway.trading_day = told
    feed.pipeline.activate(7, 1.5)
    feed.connect()
    feed.tick(received_ns=ns(at) + 1, time_of_day=at[-8:])
    assert [tick.trading_day for tick in feed.publisher.ticks] == [trading_day]


def test_a_trading_day_that_cannot_be_is_told(feed: Feed) -> None:
    feed.gateway.trading_day = 20991231
    with capture_logs() as logs:
        feed.connect()
    assert [log["front"] for log in logs if log["event"] == "trading_day_unlikely"] == [20991231]


def test_a_refused_login_is_told_and_stays(feed: Feed) -> None:
    refused = GatewayFailure("wrong password", 3, permanent=True)
    feed.pipeline.on_state(GatewayState.FAILED, refused)
    feed.pipeline.on_state(GatewayState.CONNECTING, None)
    assert feed.pipeline.work() == refused


def test_a_universe_that_matches_nothing_fails_for_good(calendar: Calendar) -> None:
    feed = Feed(calendar, "SHFE.zz*")
    feed.pipeline.on_contract(RB)
    feed.pipeline.on_state(GatewayState.READY, None)
    failure = feed.pipeline.work()
    assert failure is not None
    assert failure.permanent
    assert "none of 1 contracts matches SHFE.zz*" in failure.reason


def test_another_universe_drops_what_it_does_not_want(feed: Feed) -> None:
    feed.connect()
    feed.tick()
    feed.pipeline.set_universe(UniverseFilter(("DCE.*",)))
    assert sorted(feed.gateway.unsubscribed) == [CU.key, RB.key]
    assert feed.pipeline.status()["subscriptions"]["wanted"] == 1
    assert [e["exchange"] for e in feed.pipeline.status()["exchanges"]] == ["DCE"]


def test_what_is_wanted_no_more_is_not_published_though_its_ticks_go_on(feed: Feed) -> None:
    feed.connect()
    feed.pipeline.activate(7, 1.5)
    feed.tick()
    feed.pipeline.set_universe(UniverseFilter(("DCE.*",)))
    feed.tick(volume=200)
    feed.pipeline.activate(8, 1.5)
    assert feed.pipeline.last("SHFE", "rb2701") is None
    assert feed.published == [("rb2701", 7, 1)]
    assert feed.pipeline.status()["ticks"] == {"published": 1, "unwanted": 1}
    feed.pipeline.set_universe(UniverseFilter(("SHFE.*",)))
    feed.tick(volume=300)
    assert feed.published[1:] == [("rb2701", 8, 1)]


def test_what_is_missing_is_subscribed_again(feed: Feed) -> None:
    feed.connect()
    for key in (RB.key, CU.key, M.key):
        feed.pipeline.on_subscribed(key, None)
    feed.tick()
    assert feed.pipeline.resubscribe_missing() == 2
    feed.pipeline.work()
    assert sorted(feed.gateway.subscribed[-1]) == [M.key, CU.key]


def test_what_stays_missing_after_it_was_subscribed_again_is_told_and_counted(feed: Feed) -> None:
    feed.connect()
    for key in (RB.key, CU.key, M.key):
        feed.pipeline.on_subscribed(key, None)
    feed.tick()
    for _ in range(3):
        assert feed.pipeline.notices == []
        assert feed.pipeline.resubscribe_missing() == 2
        feed.pipeline.work()
        for key in (CU.key, M.key):
            feed.pipeline.on_subscribed(key, None)
    told = [(notice.event, notice.contracts) for notice in feed.pipeline.notices]
    assert told == [("feed_escalated", (M.key,)), ("feed_escalated", (CU.key,))]
    feed.pipeline.notices.clear()
    feed.tick(symbol="cu2701")
    assert feed.pipeline.resubscribe_missing() == 1
    told = [(notice.event, notice.contracts) for notice in feed.pipeline.notices]
    assert told == [("feed_recovered", (CU.key,))]
    # What is over was an escalation all the same, and no other.
    assert feed.pipeline.figures.plain()["escalations"] == {
        "DCE": {"missing": 1},
        "SHFE": {"missing": 1},
    }


def test_stale_ticks_are_published_as_such_and_left_out_of_lags(feed: Feed) -> None:
    feed.connect()
    feed.pipeline.activate(7, 1.5)
    feed.tick(time_of_day="02:29:59")
    assert feed.publisher.ticks[0].stale
    feed.tick()
    assert feed.pipeline.status()["lag_p99"] == pytest.approx(0.02)


def test_contracts_of_an_exchange_that_nobody_knows_are_listed_and_not_subscribed(
    feed: Feed,
) -> None:
    other = Contract("HKX", "xy2701", "xy")
    feed.connect(RB, other)
    assert feed.gateway.subscribed == [[RB.key]]
    assert other.key in feed.pipeline.contracts
    assert [e["exchange"] for e in feed.pipeline.status()["exchanges"]] == ["SHFE"]
