"""The feed as an actor: one resource, held by one feed at a time, with others ready.

Each feed of a market runs in a node of its own: an instance whose id is the feed's name.
Active or standby, it keeps its gateway connected and subscribed. The one that owns the
resource lets its gateway publish, for a moment at a time, as long as a query to the
resource is answered by itself: such an answer needs the lease, which no two have at once.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from attrs import asdict, define, field

from aegis import (
    AegisActor,
    AegisError,
    ConfigurationError,
    Rejected,
    Role,
    command,
    query,
    subscribes,
)
from aegis.marketdata._config import MarketConfig, ReplaySource
from aegis.marketdata._contract import Contract, UniverseFilter
from aegis.marketdata._failover import Cause, Failover, Standing
from aegis.marketdata._gateway_host import GatewayHost
from aegis.marketdata._page_view import MARKET_PAGE, page_view, status_view

__all__ = ["CONFIG_VARIABLE", "Feed", "FeedState"]

CONFIG_VARIABLE: Final = "AEGIS_FEED_CONFIG"
"""Environment variable with the path of the market's configuration."""

RENEW_INTERVAL: Final = 0.4
PUBLISH_SECONDS: Final = 1.5
"""So long a gateway publishes after its feed was last asked whether it owns the market, and
did. The lease held at the moment of that answer, and may have ended right after it: so a
node that is cut off can publish beside the next owner, for this long at most. A feed that
gives way is muted first. Consumers leave out what comes under an older epoch than they know."""

JUDGE_INTERVAL: Final = 0.25
FOLLOW_INTERVAL: Final = 1.0
"""Seconds between two looks of a standby at what is wanted of the market."""

LEAVING_SECONDS: Final = 30
"""Why a feed gives way is the cause of a change that follows so soon."""

CHANGES_KEPT: Final = 20

PAGE: Final = 2_000
"""Contracts in one answer: as tuples they take some 200 KB."""


@define
class ActiveChange:
    """One feed became the active one."""

    feed: str
    epoch: int
    cause: Cause
    at: datetime


@define
class FeedState:
    """What is journaled: the universe, where it was changed, and who was active when."""

    include: list[str] = field(factory=list[str])
    exclude: list[str] = field(factory=list[str])
    leaving: Cause | None = None
    """Why the active feed gives way, once it has begun to."""
    leaving_at: datetime | None = None
    changes: list[ActiveChange] = field(factory=list[ActiveChange])
    """The newest last."""


class Feed(AegisActor):
    """The market's feed, whichever holds it."""

    service = "feed"
    admin_page = MARKET_PAGE
    state: FeedState

    _host: GatewayHost
    _market: MarketConfig
    _tasks: list[asyncio.Task[None]]
    _standings: dict[str, Standing]
    """How the others stood when they told it last, by name; only the active feed hears it."""

    async def on_start(self) -> None:
        """Have the gateway connected, whatever the role."""
        self._host = host_of(self.instance_id)
        if self.resource_id is None:
            return  # It only tells how its feed stands, active or not.
        self._tasks = []
        self._standings = {}
        self._market = _load_market()[1]
        self._host.start()
        if self.role is Role.STANDBY:
            self._start(self._follow())

    async def on_promote(self, epoch: int) -> None:
        """Let the gateway publish what the journal says is wanted."""
        self._end_tasks()
        self._host.set_universe(self.state.include, self.state.exclude)
        self._host.role, self._host.epoch = Role.ACTIVE, epoch
        self._start(self._renew(epoch))
        self._start(self._lead(epoch))

    async def on_demote(self) -> None:
        """Let it stand by; what it said has left before another feed is asked."""
        await self._cease()

    async def on_stop(self) -> None:
        """Let it stand by; what runs the node ends it."""
        if self.resource_id is not None:
            await self._cease()

    async def _cease(self) -> None:
        self._end_tasks()
        self._host.role, self._host.epoch = Role.STANDBY, 0
        await self._host.mute()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work))

    def _end_tasks(self) -> None:
        while self._tasks:
            self._tasks.pop().cancel()

    # -- as a standby -----------------------------------------------------------------------

    async def _follow(self) -> None:
        """Want what the active feed is to want, before anybody asks this one."""
        while True:
            try:
                include, exclude = await self.actor(Feed, self.resource_id).universe()
            except AegisError:
                pass  # Nobody is active at this moment; then this one may soon be.
            else:
                self._host.set_universe(include, exclude)
            await asyncio.sleep(FOLLOW_INTERVAL)

    # -- as the active one ------------------------------------------------------------------

    async def _renew(self, epoch: int) -> None:
        """Let the gateway publish as long as this feed owns the market."""
        while True:
            asked = time.monotonic()
            try:
                # The first answer comes when no earlier owner can answer any more.
                owner = await self.actor(Feed, self.resource_id).owner()
            except AegisError as error:
                self.log.warning("feed_not_renewed", reason=str(error))
            else:
                if owner == [self.instance_id, epoch]:
                    self._host.activate(epoch, asked + PUBLISH_SECONDS)
            await asyncio.sleep(RENEW_INTERVAL)

    async def _lead(self, epoch: int) -> None:
        """Note the change, then judge again and again whether this feed should go on.

        Beside `_renew`: a journal that takes no record for seconds must not end the ticks.
        """
        market = self.actor(Feed, self.resource_id)
        failover = Failover(self._market.failover, time.monotonic())
        begun = False
        while True:
            try:
                if not begun:
                    self._tell_lead(epoch, await market.took_over(epoch))
                    begun = True
                await self._judge(failover, epoch)
            except AegisError as error:
                self.log.warning("feed_not_judged", reason=str(error))
            await asyncio.sleep(JUDGE_INTERVAL)

    def _tell_lead(self, epoch: int, cause: Cause) -> None:
        self._host.promotions[cause.value] += 1
        self.log.info("feed_leads", epoch=epoch, cause=cause.value)
        self._announce("feed_leads", epoch=epoch, cause=cause.value)

    async def _judge(self, failover: Failover, epoch: int) -> None:
        now = time.monotonic()
        decision = failover.judge(now, self._host.standing(), self._standings.values())
        if decision is None:
            return
        facts = {"to": decision.to, "cause": decision.cause.value, "reason": decision.reason}
        self.log.warning("feed_gives_way", epoch=epoch, **facts)
        self._announce("feed_gives_way", epoch=epoch, **facts)
        # What follows takes a moment, or does not come about: then it is judged anew.
        failover.since = now
        await self.actor(Feed, self.resource_id).give_way(decision.to, decision.cause, epoch)

    def _announce(self, event: str, **facts: Any) -> None:
        self._host.announce(
            event,
            {"instance_id": self.instance_id, "resource_ids": [self.resource_id], **facts},
        )

    @subscribes("feed.standing.{resource_id}")
    async def on_standing(self, told: dict[str, Any]) -> None:
        """Take how a feed of this market stands, which each gateway tells twice a second."""
        if told["feed"] != self.instance_id and told["feed"] in self._market.feeds:
            self._standings[told["feed"]] = Standing.of(told, time.monotonic())

    @command
    async def took_over(self, epoch: int) -> Cause:
        """Note that this feed is the active one, and return why; said by itself."""
        state = self.state
        if epoch != self.epoch:
            raise Rejected(f"epoch {epoch} is not the present one, {self.epoch}")
        last = state.changes[-1] if state.changes else None
        if last is not None and last.epoch == epoch:
            return last.cause
        now = datetime.now(UTC)
        cause = Cause.START if last is None or last.feed == self.instance_id else Cause.NODE
        if state.leaving is not None and state.leaving_at is not None:
            if abs((now - state.leaving_at).total_seconds()) <= LEAVING_SECONDS:
                cause = state.leaving
            state.leaving = state.leaving_at = None
        change = ActiveChange(self.instance_id, epoch, cause, now)
        state.changes = [*state.changes, change][-CHANGES_KEPT:]
        return cause

    @command
    async def give_way(
        self, to: str = "", cause: Cause = Cause.OPERATOR, epoch: int | None = None
    ) -> str:
        """Let a standby be the active feed, ``to`` if one is named; return which gives way.

        With ``epoch`` only if that is the present one. Without a healthy standby nothing
        changes.
        """
        if epoch is not None and epoch != self.epoch:
            raise Rejected(f"epoch {epoch} is not the present one, {self.epoch}")
        if to and (to == self.instance_id or to not in self._market.feeds):
            others = [name for name in self._market.feeds if name != self.instance_id]
            raise Rejected(f"to: {to!r} is no other feed of the market; it has {others}")
        self.state.leaving, self.state.leaving_at = cause, datetime.now(UTC)
        self.hand_over(to or None)
        return self.instance_id

    # -- who --------------------------------------------------------------------------------

    @query
    async def owner(self) -> list[Any]:
        """Return which feed publishes, and under which epoch."""
        return [self.instance_id, self.epoch]

    @query
    async def status(self) -> dict[str, Any]:
        """Return how the active feed stands; asked of an instance, how that one does."""
        told = status_view(self._host)
        if self.resource_id is None:
            return told
        return {
            **told,
            "standbys": [self._told(standing) for standing in self._standings.values()],
            "changes": [
                {**asdict(change), "at": change.at.isoformat()} for change in self.state.changes
            ],
        }

    @query
    async def market_page(self) -> dict[str, Any]:
        """Return what the market page shows of this feed."""
        return page_view(self._host)

    def _told(self, standing: Standing) -> dict[str, Any]:
        now = time.monotonic()
        return {
            "feed": standing.feed,
            "ready": standing.ready and standing.is_fresh(now),
            "age_seconds": now - standing.at,
            "lag_p99": standing.lag,
            "covered": sum(exchange.covered for exchange in standing.exchanges.values()),
        }

    # -- the universe -------------------------------------------------------------------------

    @query
    async def universe(self) -> tuple[list[str], list[str]]:
        """Return what is wanted and what is left out of that; nothing if as configured."""
        return self.state.include, self.state.exclude

    @query
    async def contracts(self, first: int = 0, pattern: str = "*") -> dict[str, Any]:
        """Return one page of the contracts that match, from number ``first`` on.

        ``version`` tells whether two pages are of the same list, ``total`` how many there
        are in all.
        """
        wanted = UniverseFilter.everything_like(pattern)
        found = [c for c in self._host.contracts if wanted.wants(c)]
        return {
            "version": self._host.contracts_version,
            "total": len(found),
            "first": first,
            "contracts": [asdict(c) for c in found[first : first + PAGE]],
        }

    @command
    async def subscribe(self, include: list[str], exclude: list[str] | None = None) -> int:
        """Want these contracts (patterns as in ``SHFE.rb*``); return how many that are."""
        matching = self._matching(include, exclude or [])
        self.state.include, self.state.exclude = include, exclude or []
        self._host.set_universe(include, exclude or [])
        return len(matching)

    def _matching(self, include: list[str], exclude: list[str]) -> list[Contract]:
        if not self._host.contracts:
            raise Rejected("the feed has not told its contracts yet; try again in a moment")
        try:
            return UniverseFilter(tuple(include), tuple(exclude)).select(self._host.contracts)
        except ConfigurationError as error:
            raise Rejected(str(error)) from error


_hosts: dict[str, GatewayHost] = {}
"""By feed: they outlive the lives of the actors, which end with each change of roles."""


def host_of(feed: str) -> GatewayHost:
    """Return the owner of a feed's gateway, made at the first call.

    Raises:
        ConfigurationError: there is no configuration, or the feed is not in it.
    """
    host = _hosts.get(feed)
    if host is None:
        path, market = _load_market()
        replayed = isinstance(market.feed(feed).source, ReplaySource)
        if not _hosts:
            # Not above: consumers of ticks import this package, too.
            from aegis.marketdata._metrics import FeedMetrics

            FeedMetrics.register(_hosts)
        host = _hosts[feed] = GatewayHost(
            path,
            feed,
            market=market.resource,
            # What is played back goes by its own days, not by the calendar's and today.
            calendar=None if replayed else market.load_calendar(),
        )
    return host


@cache
def _load_market() -> tuple[Path, MarketConfig]:
    path = os.environ.get(CONFIG_VARIABLE)
    if not path:
        raise ConfigurationError(f"{CONFIG_VARIABLE} must name the market's configuration")
    return Path(path), MarketConfig.load(Path(path))
