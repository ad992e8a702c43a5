"""When the active feed gives way to a standby: a decision of what both have told.

The node that owns the market decides for itself, and only ever to give it up. It
compares what ails the active feed with what ails each standby, and gives way to one that
suffers from *less of the same*: its faults are among those of the active one, and fewer.
So two feeds with a fault each stay as they are, and of two in unchanged condition none
hands the market back to the other. What no feed hears is a pause of the market. Nothing
here touches a clock or does any I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, Self

from attrs import define, field, frozen

from aegis.marketdata._calendar import Phase
from aegis.marketdata._ports import GatewayState

__all__ = [
    "Cause",
    "ExchangeStanding",
    "Failover",
    "FailoverLimits",
    "GivingWay",
    "Standing",
    "told_to_others",
]

FRESH_SECONDS: Final = 2.0
"""So old may be what a gateway told last, four times what passes between two of it."""

BEHIND_SECONDS: Final = 1.5
"""A feed whose newest tick of an exchange is so much older than another's misses ticks:
both tell how they stand twice a second, and an exchange speaks as often."""

BEHIND_NS: Final = int(BEHIND_SECONDS * 1e9)

THIN_SHARE: Final = 0.95
"""A standby that has heard of fewer of the contracts, compared with the active feed, is worse."""

TOLD_OF_EXCHANGES: Final = ("exchange", "phase", "quiet_seconds", "newest_ns", "covered")


def told_to_others(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a gateway's status what the other feeds of the market are to know."""
    told = {name: status[name] for name in ("feed", "state", "connected", "lag_p99")}
    told["exchanges"] = [
        {name: report[name] for name in TOLD_OF_EXCHANGES} for report in status["exchanges"]
    ]
    return told


class Cause(StrEnum):
    """Why a feed became the active one."""

    START = "start"
    """There was none before, or it is the one that was."""
    NODE = "node"
    """The node of the one before was lost, ended, or evicted."""
    PROCESS = "process"
    """Its gateway's process was lost, or hangs, and did not come back in time."""
    DISCONNECTED = "disconnected"
    """Its gateway lost the front, or the server that it publishes to."""
    SILENCE = "silence"
    """It heard nothing of an exchange of which the other heard."""
    LAG = "lag"
    """Its ticks came late, those of the other did not."""
    OPERATOR = "operator"
    """Somebody said so."""


@frozen
class FailoverLimits:
    """When the active feed gives way; all in seconds."""

    disconnected: float = 3.0
    """It may be without a gateway that is connected for so long."""
    silent: float = 5.0
    """It may hear nothing of an open exchange for so long while the standby does."""
    lag: float = 3.0
    """Its ticks may be so late (p99 of the newest)."""
    lag_for: float = 5.0
    """They may be later than that for so long."""
    settled: float = 10.0
    """A standby must have been ready for so long, and an active feed have been it."""
    holding: float = 30.0
    """For so long after a change a feed that still delivers stays the active one."""


@frozen
class ExchangeStanding:
    """How a feed hears one exchange."""

    trading: bool
    """Whether there is continuous trading by the calendar."""
    quiet: float | None
    """Seconds since the last tick that was no stale one; None if there was none."""
    newest_ns: int
    """When the exchange made that, by its own clock; 0 if there was none."""
    covered: int
    """Contracts heard of on this trading day."""


@frozen
class Standing:
    """How a feed stood when it was told."""

    feed: str
    at: float
    """When that was, on the clock of whoever decides."""
    alive: bool = True
    """Whether its gateway has a process."""
    given_up: bool = False
    """Whether it will have none: its login was refused, for example."""
    ready: bool = True
    """Whether its gateway is connected, to the front and to the server."""
    due: bool = True
    """Whether it should be: a session is near or under way."""
    lag: float | None = None
    """p99 of the newest ticks."""
    exchanges: Mapping[str, ExchangeStanding] = field(factory=dict[str, ExchangeStanding])

    @classmethod
    def of(
        cls,
        told: Mapping[str, Any],
        at: float,
        *,
        feed: str = "",
        alive: bool = True,
        given_up: bool = False,
        due: bool = True,
    ) -> Self:
        """Return how a feed stands by what its gateway told, which may be nothing."""
        return cls(
            feed or told["feed"],
            at,
            alive,
            given_up,
            told.get("state") == GatewayState.READY and told["connected"],
            due,
            told.get("lag_p99"),
            {
                report["exchange"]: ExchangeStanding(
                    report["phase"] == Phase.OPEN,
                    report["quiet_seconds"],
                    report["newest_ns"],
                    report["covered"],
                )
                for report in told.get("exchanges", ())
            },
        )

    @property
    def trading(self) -> bool:
        """Whether any exchange is open."""
        return any(exchange.trading for exchange in self.exchanges.values())

    def is_fresh(self, now: float) -> bool:
        """Whether it can be relied on."""
        return now - self.at <= FRESH_SECONDS

    def is_gone(self, now: float) -> bool:
        """Whether its gateway has no process, or one that hangs."""
        return not self.alive or not self.is_fresh(now)

    def misses(self, name: str, other: Standing) -> bool:
        """Whether another feed has heard of an open exchange what this one has not."""
        here, there = self.exchanges.get(name), other.exchanges.get(name)
        if there is None or not there.trading or there.quiet is None:
            return False
        if here is None or here.quiet is None:
            return True
        return here.quiet > BEHIND_SECONDS and there.newest_ns - here.newest_ns > BEHIND_NS


@frozen
class GivingWay:
    """A decision: to which feed, and why."""

    to: str
    cause: Cause
    reason: str
    """For people."""


_LAG: Final = "lag"
_THIN: Final = "thin"


@define(eq=False)
class Failover:
    """Decides for one feed, from when it became the active one until it is not."""

    limits: FailoverLimits
    since: float
    """When it became it."""
    _unready_since: float | None = field(default=None, init=False)
    _ready_since: dict[str, float] = field(factory=dict[str, float], init=False)
    _faulty_since: dict[tuple[str, str], float] = field(
        factory=dict[tuple[str, str], float], init=False
    )
    """By standby and fault: what ails the active feed in comparison with that one."""

    def judge(self, now: float, active: Standing, standbys: Iterable[Standing]) -> GivingWay | None:
        """Return whether to give way, and to whom; to be asked a few times a second."""
        self._follow(now, active, standbys := list(standbys))
        lost = self._why_lost(now, active)
        found: list[tuple[int, GivingWay]] = []
        for standby in standbys:
            if not self._is_fit(now, standby):
                continue
            if not standby.trading and (lost is None or not self._stays_lost(now, active)):
                continue
            worse = self._faults_of_standby(standby, active)
            why = lost or self._why_worse(now, standby, worse)
            if why is not None:
                found.append((len(worse), GivingWay(standby.feed, *why)))
        return min(found, key=lambda pair: pair[0])[1] if found else None

    def _follow(self, now: float, active: Standing, standbys: Iterable[Standing]) -> None:
        """Note since when what is the case has been so."""
        if active.ready:
            self._unready_since = None
        elif self._unready_since is None:
            self._unready_since = now
        ready_since: dict[str, float] = {}
        faulty_since: dict[tuple[str, str], float] = {}
        for standby in standbys:
            if not standby.ready or standby.is_gone(now):
                continue
            name = standby.feed
            ready_since[name] = self._ready_since.get(name, now)
            for fault in self._faults_of_active(active, standby):
                faulty_since[name, fault] = self._faulty_since.get((name, fault), now)
        self._ready_since, self._faulty_since = ready_since, faulty_since

    def _is_fit(self, now: float, standby: Standing) -> bool:
        since = self._ready_since.get(standby.feed)
        return since is not None and now - since >= self.limits.settled

    def _stays_lost(self, now: float, active: Standing) -> bool:
        """Whether even outside of trading nobody should wait for it.

        Fronts come and go then, and while one is away the process that asks for it ends and
        starts again. But before an auction it should be there; and one whose login was
        refused never comes back by itself.
        """
        return active.given_up or (active.due and active.is_gone(now))

    def _why_lost(self, now: float, active: Standing) -> tuple[Cause, str] | None:
        """Return why nothing comes of the active feed at all, if that is for long enough."""
        if active.given_up:
            return Cause.DISCONNECTED, "its gateway has failed for good"
        if active.is_gone(now):
            cause, since = Cause.PROCESS, active.at
            reason = "its gateway's process " + ("hangs" if active.alive else "is lost")
        elif self._unready_since is not None:
            cause, since = Cause.DISCONNECTED, self._unready_since
            reason = "its gateway is not connected"
        else:
            return None
        seconds = now - max(since, self.since)
        if seconds < self.limits.disconnected:
            return None
        return cause, f"{reason}, for {seconds:.1f} s"

    def _why_worse(
        self, now: float, standby: Standing, worse: Collection[str]
    ) -> tuple[Cause, str] | None:
        """Return what ails the active feed and not this standby, which has no other fault."""
        if now - self.since < self.limits.holding:
            return None
        limits = self.limits
        faults = {
            fault
            for (name, fault), since in self._faulty_since.items()
            if name == standby.feed
            and now - since >= (limits.lag_for if fault == _LAG else limits.silent)
        }
        if not faults > set(worse):
            return None
        silent = sorted(faults - {_LAG} - set(worse))
        if silent:
            return Cause.SILENCE, f"it hears nothing of {', '.join(silent)}, {standby.feed} does"
        return (
            Cause.LAG,
            f"its ticks are more than {limits.lag:g} s late, those of {standby.feed} not",
        )

    def _faults_of_active(self, active: Standing, standby: Standing) -> Iterator[str]:
        for name, there in standby.exchanges.items():
            ticks = there.quiet is not None and there.quiet <= self.limits.silent
            if ticks and active.misses(name, standby):
                yield name
        if active.lag is not None and active.lag > self.limits.lag:
            yield _LAG

    def _faults_of_standby(self, standby: Standing, active: Standing) -> set[str]:
        """Return more than would count of an active one: what is doubtful is against it."""
        faults = {name for name in active.exchanges if standby.misses(name, active)}
        if standby.lag is None or standby.lag > self.limits.lag / 2:
            faults.add(_LAG)
        heard = sum(exchange.covered for exchange in standby.exchanges.values())
        if heard < THIN_SHARE * sum(exchange.covered for exchange in active.exchanges.values()):
            faults.add(_THIN)
        return faults
