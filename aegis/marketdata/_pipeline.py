"""From a gateway to the publisher: what one feed does with everything it is told.

It runs in the gateway's process, on its loop. Active or standby, a feed does the same
work (it subscribes, normalises, judges, follows the coverage); only the active one
publishes, and only while whoever owns the feed says so again and again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final

import structlog
from attrs import asdict

from aegis import ConfigurationError, Unavailable
from aegis.marketdata._arbiter import Arbiter, Verdict
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._contract import EXCHANGES, Contract, UniverseFilter
from aegis.marketdata._coverage import Coverage, ExchangeCoverage, Patience
from aegis.marketdata._escalation import ESCALATED, Escalations, Notice
from aegis.marketdata._figures import Figures
from aegis.marketdata._lifecycle import Deadlines, Lifecycle
from aegis.marketdata._normalizer import Normalizer
from aegis.marketdata._ports import (
    DatedGateway,
    EventPublisherPort,
    GatewayFailure,
    GatewayState,
    MarketDataGatewayPort,
    RawTick,
)
from aegis.marketdata._subscriptions import Pace, Subscriptions
from aegis.marketdata._tick import Tick, TickFlag

__all__ = ["FeedPipeline"]

MAX_NAMED: Final = 1_000
"""Contracts of an exchange that a status names; their number is told whole."""

STATES_TOGETHER: Final = 1_000
"""Of a whole market the first states are to leave at once, and new ticks between them."""

OTHER: Final = "other"
"""Stands for any exchange that does not exist, where it is a label."""

_NEWS: Final = Verdict.NEWS
# Plain numbers: what comes of two flags takes a microsecond to be made.
_STALE: Final = int(TickFlag.STALE)
_SNAPSHOT: Final = int(TickFlag.SNAPSHOT)
_CONFLATED: Final = int(TickFlag.CONFLATED)

_log = structlog.get_logger("aegis.feed")


class FeedPipeline:
    """One feed: a `BridgeConsumer` that ends in a publisher.

    ``now`` is seconds on a clock that only rises, ``wall_ns`` nanoseconds since 1970.
    """

    def __init__(
        self,
        gateway: MarketDataGatewayPort,
        publisher: EventPublisherPort,
        calendar: Calendar,
        universe: UniverseFilter,
        *,
        now: Callable[[], float],
        wall_ns: Callable[[], int],
        pace: Pace | None = None,
        deadlines: Deadlines | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.contracts: dict[str, Contract] = {}
        """All that the gateway has told of, by key."""
        self.universe = universe
        self.lifecycle = Lifecycle(deadlines or Deadlines())
        self.subscriptions = Subscriptions(pace)
        self.coverage = Coverage(calendar, patience)
        self.arbiter = Arbiter()
        self.figures = Figures()
        self.epoch = 0
        """Under which it publishes; 0 while it stands by."""
        self.notices: list[Notice] = []
        """What whoever runs this is to tell of, and then to take from here."""
        self._escalations = Escalations()
        self._gateway = gateway
        self._publisher = publisher
        self._normalizer = Normalizer(calendar, gateway.name)
        self._now = now
        self._wall_ns = wall_ns
        self._publish_until = float("-inf")
        self._sequences: Counter[str] = Counter()
        self._kept_back: dict[tuple[str, str], None] = {}
        """Contracts of which consumers have not got the newest tick."""
        self._heard: set[tuple[str, str]] = set()
        """Contracts of which a tick has come since they were subscribed."""
        self._unwanted: set[tuple[str, str]] = set()
        """Contracts that were wanted and are no more: their ticks may go on for a while."""

    # -- who publishes --------------------------------------------------------------------

    def activate(self, epoch: int, seconds: float) -> None:
        """Publish under ``epoch`` for so many seconds from now on; renewed by repeating it.

        With a new epoch the state of every contract is published, so that whoever followed
        another feed has this one's view of all; with the same one the states of those whose
        ticks could not leave. `tell_states` goes on where there are many. What comes when
        its time is over already, since this process stood still meanwhile, changes nothing.
        """
        if epoch < self.epoch or seconds <= 0:
            return
        self._publish_until = self._now() + seconds
        if epoch != self.epoch:
            self.epoch = epoch
            self._sequences.clear()
            self._kept_back = dict.fromkeys(self.arbiter.last)
            count = len(self._kept_back)
            _log.info("feed_activated", feed=self._gateway.name, epoch=epoch, contracts=count)
        self.tell_states()

    def tell_states(self) -> bool:
        """Publish how some contracts stand of which consumers have not got the newest tick.

        Returns whether that can go on at once; ticks that come in between are as good.
        """
        if not self._kept_back or not self.publishing:
            return False
        snapshots: list[Tick] = []
        for key in [*islice(self._kept_back, STATES_TOGETHER)]:
            tick = self.arbiter.last.get(key)
            if tick is None:
                del self._kept_back[key]
                continue
            self._sequences[tick.exchange] += 1
            snapshots.append(self._stamped(tick, self._sequences[tick.exchange]))
        return self._publish(snapshots) and bool(self._kept_back)

    def mute(self) -> None:
        """Stand by: publish nothing until activated again."""
        if self.epoch:
            _log.info("feed_muted", feed=self._gateway.name, epoch=self.epoch)
        self.epoch = 0
        self._publish_until = float("-inf")
        self._kept_back.clear()

    @property
    def publishing(self) -> bool:
        """Whether ticks leave at this moment."""
        return self._now() < self._publish_until

    @property
    def delivering(self) -> bool:
        """Whether what is wanted would leave now: it publishes, and has subscribed to all."""
        ready = self.lifecycle.state is GatewayState.READY
        return ready and self.publishing and self.subscriptions.complete

    # -- what the gateway tells -----------------------------------------------------------

    def on_state(self, state: GatewayState, failure: GatewayFailure | None) -> None:
        """Take a change of the gateway's state."""
        was = self.lifecycle.state
        self.lifecycle.enter(state, self._now(), failure)
        self._count_failure(was, state, failure)
        _log.info(
            "feed_state",
            feed=self._gateway.name,
            state=state.value,
            reason=failure.reason if failure else "",
            code=failure.code if failure else 0,
        )
        if was is GatewayState.READY and state is not GatewayState.READY:
            self.subscriptions.lost()
            self._heard.clear()
        elif state is GatewayState.READY:
            self._enter_trading_day()
            self._want()

    def _enter_trading_day(self) -> None:
        day = self._gateway.trading_day if isinstance(self._gateway, DatedGateway) else 0
        if day and not self._normalizer.take_trading_day(day, self._wall_ns()):
            _log.error(
                "trading_day_unlikely",
                feed=self._gateway.name,
                front=day,
                action="ticks have the calendar's; see to its holidays and to this host's clock",
            )

    def _count_failure(
        self, was: GatewayState, state: GatewayState, failure: GatewayFailure | None
    ) -> None:
        code = str(failure.code if failure is not None else 0)
        if was is GatewayState.READY and state is not GatewayState.READY:
            self.figures.reconnects[code] += 1
        elif failure is not None and was in _LOGIN and state not in _LOGIN:
            self.figures.login_failures[code] += 1

    def on_contract(self, contract: Contract) -> None:
        """Take a contract."""
        self.contracts[contract.key] = contract

    def on_subscribed(self, key: str, failure: GatewayFailure | None) -> None:
        """Take what became of a subscription."""
        if failure is None:
            self.subscriptions.confirm(key)
        else:
            self.subscriptions.refuse(key, failure.reason)

    def on_ticks(self, ticks: Sequence[RawTick], conflated: bool) -> None:
        """Normalise ticks, judge them, and publish the news."""
        figures, sequences = self.figures, self._sequences
        normalize, judge, counts = self._normalizer.normalize, self.arbiter.judge, figures.ticks
        confirming, on_tick = not self.subscriptions.all_confirmed, self.coverage.on_tick
        lags, heard = figures.lags, self._heard
        publishing, epoch = self.publishing, self.epoch
        news: list[Tick] = []
        for raw in ticks:
            exchange = raw.exchange
            sequence = sequences[exchange] + 1 if epoch else 0
            tick = normalize(raw, epoch, sequence)
            if tick is None:
                known = exchange if exchange in EXCHANGES else OTHER
                counts[known, "invalid"] += 1
                continue
            key = (exchange, tick.symbol)
            first = key not in heard
            if first:
                if key in self._unwanted:
                    counts[exchange, "unwanted"] += 1
                    continue
                heard.add(key)
            if confirming:
                self.subscriptions.confirm(tick.key)
            on_tick(tick)
            verdict = judge(tick)
            if verdict is not _NEWS:
                counts[exchange, verdict.value] += 1
                continue
            if epoch:
                sequences[exchange] = sequence
            if tick.flags & _STALE:
                counts[exchange, "stale"] += 1
            elif not first:
                # The first is how it stood, maybe for long.
                lags[exchange].append((tick.received_ns - tick.time_ns) / 1e9)
            news.append(_flagged(tick, _SNAPSHOT) if first else tick)
        if conflated:
            news = [_flagged(tick, _CONFLATED) for tick in news]
        # Asked again: what was done since took its time.
        if publishing and self.publishing:
            self._publish(news)
            published_ns = self._wall_ns()
            figures.bridged += [(published_ns - tick.received_ns) / 1e9 for tick in news]
        else:
            figures.count("withheld", news)
            if epoch:
                # Not renewed in time. As with what cannot leave: whoever listens sees the gap.
                self._keep_back(news)

    def _publish(self, ticks: Sequence[Tick]) -> bool:
        """Publish ticks, and return whether they could leave."""
        if self._kept_back:
            ticks = [self._as_state(tick) for tick in ticks]
        try:
            self._publisher.publish(ticks)
        except Unavailable as error:
            # The sequence goes on: whoever listens sees the gap.
            self.figures.count("lost", ticks)
            self._keep_back(ticks)
            _log.warning("ticks_lost", feed=self._gateway.name, ticks=len(ticks), reason=str(error))
            return False
        self.figures.count("published", ticks)
        return True

    def _as_state(self, tick: Tick) -> Tick:
        """Return a tick as that with which consumers know the state of its contract again."""
        key = (tick.exchange, tick.symbol)
        if key not in self._kept_back:
            return tick
        del self._kept_back[key]
        return _flagged(tick, _SNAPSHOT)

    def _keep_back(self, ticks: Iterable[Tick]) -> None:
        """Have the states of their contracts published when ticks may leave again."""
        self._kept_back.update(((tick.exchange, tick.symbol), None) for tick in ticks)

    def last(self, exchange: str, symbol: str) -> Tick | None:
        """Return the last tick of a contract, as it was or would have been published."""
        tick = self.arbiter.last.get((exchange, symbol))
        if tick is None:
            return None
        return self._stamped(tick, self._sequences[exchange])

    def _stamped(self, tick: Tick, sequence: int) -> Tick:
        return tick._replace(feed=self._gateway.name, epoch=self.epoch, sequence=sequence)

    # -- what is wanted -------------------------------------------------------------------

    def set_universe(self, universe: UniverseFilter) -> None:
        """Want other contracts from now on.

        Raises:
            ConfigurationError: none matches.
        """
        if self.contracts:
            universe.select(self.contracts.values())
        self.universe = universe
        if self.lifecycle.state is GatewayState.READY:
            self._want()

    def _want(self) -> None:
        if not self.contracts:
            # A front that is not ready yet may say that it has none. Nobody would ask again.
            failure = GatewayFailure("the front told no contract at all")
            self.lifecycle.enter(GatewayState.FAILED, self._now(), failure)
            return
        try:
            selected = self.universe.select(self.contracts.values())
        except ConfigurationError as error:
            failure = GatewayFailure(str(error), permanent=True)
            self.lifecycle.enter(GatewayState.FAILED, self._now(), failure)
            return
        wanted = {c.key: c for c in self._of_known_exchanges(selected)}
        dropped = [key for key in self.subscriptions.wanted if key not in wanted]
        told = self.subscriptions.drop(dropped)
        self.coverage.drop(dropped)
        gone = {(c.exchange, c.symbol) for c in self._known(dropped)}
        self._heard -= gone
        for at in gone:
            # Nobody is to be told any more how it stood.
            self.arbiter.forget(*at)
        self._unwanted |= gone
        self._unwanted -= {(c.exchange, c.symbol) for c in wanted.values()}
        if told:
            self._gateway.unsubscribe(self._known(told))
        self.coverage.want(wanted.values())
        self.subscriptions.want(wanted)

    def _of_known_exchanges(self, contracts: Iterable[Contract]) -> Iterable[Contract]:
        """Leave out contracts whose sessions and times nobody here could tell."""
        unknown: Counter[str] = Counter()
        for contract in contracts:
            if contract.exchange in EXCHANGES:
                yield contract
            else:
                unknown[contract.exchange] += 1
        for exchange, count in unknown.items():
            _log.warning(
                "exchange_unknown",
                feed=self._gateway.name,
                exchange=exchange,
                contracts=count,
                action="they are listed and not subscribed to; exclude them from the universe",
            )

    def _known(self, keys: Iterable[str]) -> list[Contract]:
        return [self.contracts[key] for key in keys if key in self.contracts]

    # -- from time to time ----------------------------------------------------------------

    def work(self) -> GatewayFailure | None:
        """Do what is due: subscribe to more, ask again; return why the gateway has failed.

        To be called some ten times a second.
        """
        now = self._now()
        failure = self.lifecycle.check(now)
        if self.lifecycle.state is GatewayState.FAILED:
            return failure or self.lifecycle.failure
        if self.lifecycle.state is GatewayState.READY:
            batch = self.subscriptions.next_batch(now)
            if batch:
                self._gateway.subscribe(self._known(batch))
        return None

    def resubscribe_missing(self) -> int:
        """Ask again for what should be heard of and is not; return for how many contracts."""
        if not self.subscriptions.complete:
            return 0
        again: list[str] = []
        reports = self.coverage.report(self._wall_ns())
        for report in reports:
            again += report.missing
            again += report.stalled
        for notice in self._escalations.take(reports):
            self.notices.append(notice)
            if notice.event == ESCALATED:
                self.figures.escalations[notice.exchange, notice.kind] += len(notice.contracts)
        return self.subscriptions.retry(again)

    # -- how it stands --------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return how the feed stands, as plain values; to be called twice a second."""
        self.figures.fill()
        lag_p50, lag_p99 = self.figures.lag(0.5, 0.99)
        failure = self.lifecycle.failure
        return {
            "feed": self._gateway.name,
            "state": self.lifecycle.state.value,
            "failure": asdict(failure) if failure is not None else None,
            "publishing": self.publishing,
            "epoch": self.epoch,
            "contracts": len(self.contracts),
            "contracts_load_seconds": self.lifecycle.load_seconds,
            "disconnects": self.lifecycle.disconnects,
            "ticks": self.figures.outcomes(),
            "invalid": dict(self._normalizer.invalid),
            "subscriptions": dict(self.subscriptions.statistics()),
            "lag_p50": lag_p50,
            "lag_p99": lag_p99,
            "exchanges": [_plain(report) for report in self.coverage.report(self._wall_ns())],
            "figures": self.figures.plain(),
        }


_LOGIN: Final = (GatewayState.AUTHENTICATING, GatewayState.LOGGING_IN)


def _flagged(tick: Tick, flag: int) -> Tick:
    return tick._replace(flags=tick.flags | flag)


def _plain(report: ExchangeCoverage) -> dict[str, Any]:
    return {
        **asdict(report),
        "phase": report.phase.value,
        "ratio": report.ratio,
        "missing": report.missing[:MAX_NAMED],
        "missing_count": len(report.missing),
        "stalled": report.stalled[:MAX_NAMED],
        "stalled_count": len(report.stalled),
    }
