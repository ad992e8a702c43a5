"""When the active feed gives way: tables of cases, and random ones in a made-up market."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from attrs import define, evolve, field

from aegis.marketdata._failover import (
    Cause,
    ExchangeStanding,
    Failover,
    FailoverLimits,
    GivingWay,
    Standing,
)

LIMITS = FailoverLimits()
STEP = 0.5
BEGUN = 1_000.0

type Change = Callable[[float, Standing], Standing]
"""How a feed stands, by the seconds since all was well with both."""


def standing(feed: str, now: float) -> Standing:
    """A feed that hears everything, of two exchanges that tick all the time."""
    exchange = ExchangeStanding(True, 0.3, int((now - 0.3) * 1e9), 100)
    return Standing(feed, now, lag=0.1, exchanges={"SHFE": exchange, "DCE": exchange})


def hears(name: str, **changes: Any) -> Change:
    """Another standing of one exchange."""

    def change(_: float, well: Standing) -> Standing:
        exchanges = {**well.exchanges, name: evolve(well.exchanges[name], **changes)}
        return evolve(well, exchanges=exchanges)

    return change


def silent(*names: str, since: float = 0.0) -> Change:
    """Nothing of these exchanges was heard from a moment on."""

    def change(seconds: float, well: Standing) -> Standing:
        quiet = max(0.3, seconds - since)
        for name in names:
            newest_ns = int((well.at - quiet) * 1e9)
            well = hears(name, quiet=quiet, newest_ns=newest_ns)(seconds, well)
        return well

    return change


def repeats(name: str) -> Change:
    """Of an exchange only what was said before the beginning comes again and again."""
    return hears(name, newest_ns=int((BEGUN - 0.3) * 1e9))


def closed(_: float, well: Standing) -> Standing:
    """No exchange is in continuous trading."""
    exchanges = {n: evolve(e, trading=False) for n, e in well.exchanges.items()}
    return evolve(well, exchanges=exchanges)


def is_(**changes: Any) -> Change:
    """Other facts of the feed itself."""
    return lambda _, well: evolve(well, **changes)


def hangs(seconds: float, well: Standing) -> Standing:
    """It has told nothing since the beginning."""
    return evolve(well, at=well.at - seconds)


def first(limit: float, change: Change) -> Change:
    """One condition for so many seconds, then all is well."""
    return lambda seconds, well: change(seconds, well) if seconds < limit else well


def both(one: Change, other: Change) -> Change:
    """Two conditions at once."""
    return lambda seconds, well: other(seconds, one(seconds, well))


def play(
    active: Change, standby: Change, *, settled: float = 60.0, seconds: float = 60.0
) -> tuple[float, GivingWay] | None:
    """Return the first decision, and how long after the beginning it is made.

    All was well with both, and the active feed was it, for ``settled`` seconds before.
    """
    failover = Failover(LIMITS, BEGUN - settled)
    moment = -settled
    while moment < seconds:
        now = BEGUN + moment
        a, b = standing("a", now), standing("b", now)
        if moment >= 0:
            a, b = active(moment, a), standby(moment, b)
        decision = failover.judge(now, a, [b])
        if decision is not None:
            return moment, decision
        moment += STEP
    return None


WELL = is_()

GIVES_WAY: list[tuple[str, Change, Change, Cause, float]] = [
    ("its process is lost", is_(alive=False, at=BEGUN, exchanges={}), WELL, Cause.PROCESS, 3.0),
    ("its process hangs", hangs, WELL, Cause.PROCESS, 3.0),
    ("the front is gone", is_(ready=False), WELL, Cause.DISCONNECTED, 3.0),
    ("its login was refused", is_(alive=False, given_up=True), WELL, Cause.DISCONNECTED, 0.0),
    ("an exchange is silent", silent("SHFE"), WELL, Cause.SILENCE, 7.0),
    ("all exchanges are silent", silent("SHFE", "DCE"), WELL, Cause.SILENCE, 7.0),
    ("its ticks are late", is_(lag=3.5), WELL, Cause.LAG, 5.0),
    (
        "the standby has one of its two faults",
        both(silent("SHFE"), is_(lag=3.5)),
        is_(lag=3.5),
        Cause.SILENCE,
        7.0,
    ),
    (
        "all is lost, and the standby is silent here and there",
        is_(ready=False),
        silent("SHFE"),
        Cause.DISCONNECTED,
        3.0,
    ),
    (
        "it never heard of an exchange",
        hears("SHFE", quiet=None, newest_ns=0),
        WELL,
        Cause.SILENCE,
        5.0,
    ),
]


@pytest.mark.parametrize(
    ("active", "standby", "cause", "after"),
    [case[1:] for case in GIVES_WAY],
    ids=[case[0] for case in GIVES_WAY],
)
def test_a_feed_gives_way(active: Change, standby: Change, cause: Cause, after: float) -> None:
    found = play(active, standby)
    assert found is not None
    moment, decision = found
    assert (moment, decision.to, decision.cause) == (after, "b", cause)
    assert decision.reason


GONE = is_(alive=False, at=BEGUN, exchanges={})
CLOSED_GIVES_WAY: list[tuple[str, Change, Cause, float]] = [
    ("it was refused", is_(given_up=True, alive=False, exchanges={}), Cause.DISCONNECTED, 0.0),
    ("refused, long before", is_(given_up=True, due=False), Cause.DISCONNECTED, 0.0),
    ("its process is lost before a session", GONE, Cause.PROCESS, 3.0),
    ("its process hangs before a session", both(closed, hangs), Cause.PROCESS, 3.0),
]


@pytest.mark.parametrize(
    ("active", "cause", "after"),
    [case[1:] for case in CLOSED_GIVES_WAY],
    ids=[case[0] for case in CLOSED_GIVES_WAY],
)
def test_outside_of_trading_what_does_not_come_back_by_itself_gives_way(
    active: Change, cause: Cause, after: float
) -> None:
    found = play(active, closed)
    assert found is not None
    moment, decision = found
    assert (moment, decision.to, decision.cause) == (after, "b", cause)


BREAK = hears("SHFE", trading=False)

STAYS: list[tuple[str, Change, Change]] = [
    ("all is well", WELL, WELL),
    ("the market pauses", silent("SHFE", "DCE"), silent("SHFE", "DCE")),
    ("one exchange pauses", silent("SHFE"), silent("SHFE")),
    ("the standby is silent", WELL, silent("SHFE")),
    ("each is silent where the other is not", silent("SHFE"), silent("DCE")),
    ("the front is back in time", first(2.9, is_(ready=False)), WELL),
    ("the process is back in time", first(2.9, is_(alive=False, at=BEGUN, exchanges={})), WELL),
    ("an exchange is back in time", first(6.4, silent("SHFE")), WELL),
    ("the lag is over in time", first(4.9, is_(lag=10.0)), WELL),
    ("both are late", is_(lag=3.5), is_(lag=3.5)),
    ("the standby is nearly as late", is_(lag=3.5), is_(lag=1.6)),
    ("the lag is within the limit", is_(lag=3.0), WELL),
    ("the standby is lost, too", is_(ready=False), is_(ready=False)),
    ("the standby hangs", is_(ready=False), hangs),
    ("the standby is late", silent("SHFE"), is_(lag=2.0)),
    ("the standby has no ticks to tell its lag by", silent("SHFE"), is_(lag=None)),
    ("the standby knows fewer contracts", is_(lag=3.5), hears("DCE", covered=80)),
    ("there is a break, and the front is gone", both(is_(ready=False), closed), closed),
    ("there is a break, and it is silent", both(silent("SHFE"), closed), closed),
    ("there is a break, and it is late", both(is_(lag=10.0), closed), closed),
    ("it is night, and the process is gone", is_(alive=False, due=False, exchanges={}), closed),
    ("it was refused, and so is nobody else there", is_(given_up=True), is_(ready=False)),
    ("the standby hears again what was said before", silent("SHFE"), repeats("SHFE")),
    ("one exchange has a break", both(silent("SHFE"), BREAK), BREAK),
    ("after a break the standby is first", first(1.0, silent("SHFE", since=-900.0)), WELL),
]


@pytest.mark.parametrize(
    ("active", "standby"), [case[1:] for case in STAYS], ids=[case[0] for case in STAYS]
)
def test_a_feed_stays(active: Change, standby: Change) -> None:
    assert play(active, standby) is None


def test_a_feed_that_delivers_is_not_replaced_soon_after_a_change() -> None:
    found = play(silent("SHFE"), WELL, settled=1.0)
    assert found is not None
    assert found[0] == LIMITS.holding - 1.0


def test_a_standby_must_have_been_ready_for_some_time() -> None:
    found = play(is_(ready=False), first(20.0, is_(ready=False)))
    assert found is not None
    assert found[0] == 20.0 + LIMITS.settled


def test_of_two_standbys_that_are_better_the_best_is_chosen() -> None:
    failover = Failover(LIMITS, 0.0)
    decision: GivingWay | None = None
    now = 0.0
    while decision is None:
        now += STEP
        active = evolve(standing("a", now), ready=False)
        worse = hears("SHFE", quiet=20.0, newest_ns=0)(0.0, standing("b", now))
        active = evolve(active, exchanges=standing("a", now).exchanges)
        decision = failover.judge(now, active, [worse, standing("c", now)])
    assert decision.to == "c"


# -- at random ---------------------------------------------------------------------------

EXCHANGES = ("SHFE", "DCE", "CZCE")


@define
class Feed:
    """One feed's condition, and what it has heard."""

    name: str
    alive: bool = True
    ready: bool = True
    deaf: set[str] = field(factory=set[str])
    lag: float = 0.1
    told_at: float = 0.0
    heard: dict[str, float] = field(factory=dict[str, float])
    since: dict[str, float] = field(factory=dict[str, float])
    """Since when it has each of its faults."""

    def faults(self) -> set[str]:
        if not (self.alive and self.ready):
            return {"lost", "lag", *EXCHANGES}
        return self.deaf | ({"lag"} if self.lag > LIMITS.lag / 2 else set())

    def note(self, now: float) -> None:
        self.since = {fault: self.since.get(fault, now) for fault in self.faults()}

    def standing(self, now: float, trading: bool) -> Standing:
        if self.alive:
            self.told_at = now
        exchanges = {
            name: ExchangeStanding(
                trading,
                now - self.heard[name] if name in self.heard else None,
                int((self.heard.get(name, 0.0) - self.lag) * 1e9),
                100,
            )
            for name in EXCHANGES
        }
        return Standing(
            self.name,
            self.told_at,
            alive=self.alive,
            ready=self.ready,
            lag=self.lag,
            exchanges=exchanges if self.alive else {},
        )


class Market:
    """Feeds whose conditions change by chance, and who is the active one of them."""

    def __init__(self, seed: int, count: int) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self.trading = True
        self.pausing: set[str] = set()
        self.feeds = [Feed(name) for name in "abc"[:count]]
        self.active = self.feeds[0]
        self.failover = Failover(LIMITS, 0.0)
        self.changes: list[float] = []

    def disturb(self) -> None:
        """Change one thing."""
        feed = self.chance.choice(self.feeds)
        match self.chance.randrange(8):
            case 0:
                feed.alive = not feed.alive
            case 1:
                feed.ready = not feed.ready
            case 2:
                feed.deaf = set()
            case 3:
                feed.deaf = {name for name in EXCHANGES if self.chance.random() < 0.4}
            case 4:
                feed.lag = self.chance.choice([0.1, 0.1, 1.0, 2.0, 4.0])
            case 5:
                feed.alive, feed.ready, feed.deaf, feed.lag = True, True, set(), 0.1
            case 6:
                self.trading = not self.trading
            case _:
                self.pausing = {name for name in EXCHANGES if self.chance.random() < 0.3}

    def step(self) -> None:
        self.now += STEP
        for feed in self.feeds:
            feed.note(self.now)
            if feed.alive and feed.ready and self.trading:
                for name in set(EXCHANGES) - feed.deaf - self.pausing:
                    feed.heard[name] = self.now
        standings = {feed.name: feed.standing(self.now, self.trading) for feed in self.feeds}
        active = standings.pop(self.active.name)
        decision = self.failover.judge(self.now, active, standings.values())
        if decision is not None:
            self.change(decision)

    def change(self, decision: GivingWay) -> None:
        (heir,) = [feed for feed in self.feeds if feed.name == decision.to]
        lost = decision.cause is Cause.PROCESS
        assert self.trading or lost, "it changed in a break"
        assert "lost" not in heir.since, "it changed to a feed that is lost"
        # What befell it a moment ago cannot be known yet.
        lasting = {fault for fault, since in heir.since.items() if self.now - since > STEP}
        lasting -= self.pausing
        assert lasting < set(self.active.since), "it changed to a feed that is no better"
        if self.changes:
            assert self.now - self.changes[-1] >= LIMITS.settled, "it changes too often"
        if decision.cause in (Cause.SILENCE, Cause.LAG):
            assert self.now - self.failover.since >= LIMITS.holding, "it was not held"
        self.changes.append(self.now)
        self.active = heir
        self.failover = Failover(LIMITS, self.now)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_it_changes_to_the_better_and_then_stays(seed: int, count: int) -> None:
    market = Market(seed, count)
    for _ in range(300):
        if market.chance.random() < 0.15:
            market.disturb()
        market.step()
    # From now on nothing changes any more: the best is found, and kept.
    market.trading, market.pausing = True, set()
    before = len(market.changes)
    for _ in range(400):
        market.step()
    assert len(market.changes) - before < count
    faults: Mapping[str, set[str]] = {feed.name: feed.faults() for feed in market.feeds}
    strict = faults[market.active.name] - ({"lag"} if market.active.lag <= LIMITS.lag else set())
    better = [name for name, found in faults.items() if found < strict]
    assert not better, f"{better} would be better than {market.active.name}: {faults}"
