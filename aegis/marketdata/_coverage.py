"""Coverage: which contracts tick as they should, and which do not.

A feed may be connected and deliver nothing, or all but one exchange. So what counts is
what arrives: each contract that is wanted is *covered* once its state of this trading day
was heard, *missing* until then, and *stalled* when it ticked and has been quiet for longer,
in hours of trading, than it ever is. One that has hardly ticked may be quiet all day.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any, Final

from attrs import define, field, frozen

from aegis.marketdata._calendar import Calendar, Phase
from aegis.marketdata._contract import Contract, Product
from aegis.marketdata._tick import Tick, TickFlag

__all__ = ["Coverage", "ExchangeCoverage", "Patience"]


RARE: Final = 5.0
"""So many times longer than between its ticks so far a contract is quiet for a reason."""

HISTORY: Final = 20
"""Ticks of a trading day from which on it is known how often a contract ticks. A far month
has its state, and maybe a few ticks at the opening: then its quiet says nothing."""


@frozen
class Patience:
    """How long a contract may be quiet in continuous trading, in seconds."""

    liquid: float = 10.0
    """A contract that has ticked more than once a second so far."""
    quiet: float = 300.0
    """Any other future of which `HISTORY` ticks came; one that ticks rarely may be so for
    `RARE` times as long as usual."""
    exchange: float = 5.0
    """A whole exchange: all its contracts together."""


@define
class ExchangeCoverage:
    """How an exchange is covered."""

    exchange: str
    phase: Phase
    wanted: int = 0
    covered: int = 0
    missing: list[str] = field(factory=list[str])
    stalled: list[str] = field(factory=list[str])
    quiet_seconds: float | None = None
    """Since the last tick of any of its contracts; None if there was none."""
    newest_ns: int = 0
    """When the exchange made that tick; 0 if there was none."""
    silent: bool = False
    """It is open and has been quiet for longer than `Patience.exchange`."""

    @property
    def ratio(self) -> float:
        """The share of the wanted contracts that are covered; 1 if none is wanted."""
        return self.covered / self.wanted if self.wanted else 1.0


_STALE: Final = int(TickFlag.STALE)


@define
class _Seen:
    first_ns: int
    last_ns: int
    count: int = 1


type _At = tuple[str, str]
"""A contract: its exchange and symbol."""


@define
class _Class:
    """What is wanted of one class of contracts, which trade at the same hours."""

    contracts: dict[_At, Contract] = field(factory=dict[_At, Contract])
    unheard: dict[_At, Contract] = field(factory=dict[_At, Contract])
    """Those of them without a tick on this trading day."""
    resting: frozenset[_At] = frozenset()
    """Those that were heard on the day before it: until their first session they owe nothing."""
    futures: dict[_At, Contract] = field(factory=dict[_At, Contract])

    def want(self, at: _At, contract: Contract, *, heard: bool) -> None:
        self.contracts[at] = contract
        if not heard:
            self.unheard[at] = contract
        if contract.product is Product.FUTURES:
            self.futures[at] = contract

    def turn(self) -> None:
        """Begin a trading day."""
        self.resting = frozenset(self.contracts.keys() - self.unheard.keys())
        self.unheard = dict(self.contracts)

    def missing(self, *, begun: bool) -> list[str]:
        """Return what has not been heard of, and should have been by now."""
        return [c.key for at, c in self.unheard.items() if begun or at not in self.resting]

    def drop(self, at: _At) -> None:
        for contracts in (self.contracts, self.unheard, self.futures):
            contracts.pop(at, None)


class Coverage:
    """Follows the ticks of what is wanted; tells how it stands when asked."""

    def __init__(self, calendar: Calendar, patience: Patience | None = None) -> None:
        self.patience = patience or Patience()
        self._calendar = calendar
        self._classes: defaultdict[str, _Class] = defaultdict(_Class)
        """By kind, as in ``SHFE.rb``."""
        self._kinds: dict[_At, str] = {}
        """Of what is wanted."""
        self._seen: dict[_At, _Seen] = {}
        self._trading_day = 0
        self._last: dict[str, Tick] = {}
        """By exchange, of ticks that are not stale."""

    def want(self, contracts: Iterable[Contract]) -> None:
        """Expect ticks of contracts."""
        for contract in contracts:
            at, kind = (contract.exchange, contract.symbol), _kind_of(contract)
            if self._kinds.get(at, kind) != kind:
                self.drop([contract.key])
            self._kinds[at] = kind
            self._classes[kind].want(at, contract, heard=at in self._seen)

    def drop(self, keys: Iterable[str]) -> None:
        """Expect them no more."""
        for key in keys:
            exchange, _, symbol = key.partition(".")
            at = (exchange, symbol)
            kind = self._kinds.pop(at, None)
            if kind is not None:
                self._classes[kind].drop(at)
            self._seen.pop(at, None)

    def on_tick(self, tick: Tick) -> None:
        """Take a tick. A stale one covers its contract, but proves no life of it."""
        if tick.trading_day > self._trading_day:
            # A new day: everything has to be heard again.
            self._trading_day = tick.trading_day
            self._seen.clear()
            for one in self._classes.values():
                one.turn()
        exchange, received_ns, stale = tick.exchange, tick.received_ns, tick.flags & _STALE
        at = (exchange, tick.symbol)
        seen = self._seen.get(at)
        if seen is None:
            self._seen[at] = _Seen(received_ns, received_ns)
            if at in self._kinds:
                self._classes[self._kinds[at]].unheard.pop(at, None)
        elif not stale:
            seen.last_ns = received_ns
            seen.count += 1
        if not stale:
            self._last[exchange] = tick

    def report(self, now_ns: int) -> list[ExchangeCoverage]:
        """Return how each exchange stands, in the order of their names.

        Raises:
            ConfigurationError: the calendar does not know today, or a class of contracts.
        """
        # Twice a second, between ticks that wait meanwhile: so what is the same for all of a
        # market is found once, and only what is quiet is looked at closely.
        now = datetime.fromtimestamp(now_ns / 1e9, UTC)
        trading_day = self._calendar.trading_day(now) if self._kinds else None
        quiet_ns = now_ns - int(self.patience.liquid * 1e9)
        phases: dict[str, Phase] = {}
        reports: dict[str, ExchangeCoverage] = {}
        for kind, wanted in self._classes.items():
            if not wanted.contracts:
                continue
            phase = phases[kind] = self._calendar.phase(kind, now, trading_day)
            exchange = kind.partition(".")[0]
            report = reports.get(exchange)
            if report is None:
                report = reports[exchange] = ExchangeCoverage(exchange, phase)
            elif phase is Phase.OPEN or (phase is Phase.BREAK and report.phase is Phase.CLOSED):
                report.phase = phase  # An exchange is as open as the first of its classes.
            report.wanted += len(wanted.contracts)
            # At night those without a night session have nothing to say, though the day is new.
            begun = phase is not Phase.CLOSED or self._has_begun(kind, now, trading_day)
            missing = wanted.missing(begun=begun)
            report.covered += len(wanted.contracts) - len(missing)
            report.missing += missing
            if phase is Phase.OPEN:
                # Most options are quiet for hours; only their exchange tells.
                report.stalled += [
                    contract.key
                    for at, contract in wanted.futures.items()
                    if (seen := self._seen.get(at)) is not None
                    and seen.count >= HISTORY
                    and seen.last_ns < quiet_ns
                    and self._is_stalled(kind, seen, now)
                ]
        for exchange, report in reports.items():
            self._judge_exchange(exchange, report, now, phases)
        return [reports[exchange] for exchange in sorted(reports)]

    def _has_begun(self, kind: str, now: datetime, trading_day: date | None) -> bool:
        day = trading_day or self._calendar.trading_day(now)
        return any(session.begin <= now for session in self._calendar.sessions(kind, day))

    def _is_stalled(self, kind: str, seen: _Seen, now: datetime) -> bool:
        quiet = now.timestamp() - seen.last_ns / 1e9
        since = datetime.fromtimestamp(seen.last_ns / 1e9, UTC)
        begun = datetime.fromtimestamp(seen.first_ns / 1e9, UTC)
        ticking = self._calendar.open_seconds(kind, begun, since)
        liquid = seen.count > ticking > 0
        quiet_limit = max(self.patience.quiet, RARE * ticking / (seen.count - 1))
        limit = self.patience.liquid if liquid else quiet_limit
        return quiet > limit and self._calendar.open_seconds(kind, since, now) > limit

    def _judge_exchange(
        self, exchange: str, report: ExchangeCoverage, now: datetime, phases: Mapping[str, Phase]
    ) -> None:
        last = self._last.get(exchange)
        last_ns = 0
        if last is not None:
            last_ns, report.newest_ns = last.received_ns, last.time_ns
            report.quiet_seconds = max(0.0, now.timestamp() - last_ns / 1e9)
        if report.phase is not Phase.OPEN:
            return
        since = datetime.fromtimestamp(last_ns / 1e9, UTC)
        limit = self.patience.exchange
        if (now - since).total_seconds() <= limit:
            return
        day = self._calendar.trading_day(now)
        kinds = [
            k for k, phase in phases.items() if phase is Phase.OPEN and k.startswith(f"{exchange}.")
        ]
        begun = min(
            max(s.begin for s in self._calendar.sessions(kind, day) if s.begin <= now)
            for kind in kinds
        )
        # The quiet of a break does not count, nor that before the opening.
        report.silent = (now - max(since, begun)).total_seconds() > limit

    def statistics(self, now_ns: int) -> dict[str, Any]:
        """Return the figures of all exchanges together."""
        totals: Counter[str] = Counter()
        for report in self.report(now_ns):
            totals["wanted"] += report.wanted
            totals["covered"] += report.covered
            totals["missing"] += len(report.missing)
            totals["stalled"] += len(report.stalled)
        return dict(totals)


def _kind_of(contract: Contract) -> str:
    return f"{contract.exchange}.{contract.product_class}"
