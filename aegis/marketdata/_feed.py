"""The feed as an actor: one resource, held by one feed at a time, with others ready.

Each feed of a market runs in a node of its own: an instance whose id is the feed's name.
Active or standby, it keeps its gateway connected and subscribed. The one that owns the
resource lets its gateway publish, for a moment at a time, as long as a query to the
resource is answered by itself: such an answer needs the lease, which no two have at once.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, Final

from attrs import asdict, define, field

from aegis import AegisActor, AegisError, ConfigurationError, Rejected, Role, command, query
from aegis.marketdata._config import MarketConfig
from aegis.marketdata._contract import Contract, UniverseFilter
from aegis.marketdata._gateway_host import GatewayHost

__all__ = ["CONFIG_VARIABLE", "Feed", "FeedState"]

CONFIG_VARIABLE: Final = "AEGIS_FEED_CONFIG"
"""Environment variable with the path of the market's configuration."""

RENEW_INTERVAL: Final = 0.4
PUBLISH_SECONDS: Final = 1.5
"""So long a gateway publishes after its feed was last seen to own the market. A lease
lasts 2 s at least, and was held at that moment, so no other feed publishes before."""

PAGE: Final = 2_000
"""Contracts in one answer: as tuples they take some 200 KB."""


@define
class FeedState:
    """What is journaled: the universe, where it was changed since the configuration."""

    include: list[str] = field(factory=list[str])
    exclude: list[str] = field(factory=list[str])


class Feed(AegisActor):
    """The market's feed, whichever holds it."""

    service = "feed"
    state: FeedState

    _host: GatewayHost
    _renewing: asyncio.Task[None] | None = None

    async def on_start(self) -> None:
        """Have the gateway connected, whatever the role."""
        if self.resource_id is None:
            return
        self._host = host_of(self.instance_id)
        self._host.start()

    async def on_promote(self, epoch: int) -> None:
        """Let the gateway publish what the journal says is wanted."""
        if self.state.include:
            self._host.set_universe(self.state.include, self.state.exclude)
        self._host.role, self._host.epoch = Role.ACTIVE, epoch
        self._renewing = asyncio.get_running_loop().create_task(self._renew(epoch))

    async def on_demote(self) -> None:
        """Let it stand by."""
        self._cease()

    async def on_stop(self) -> None:
        """Let it stand by; what runs the node ends it."""
        if self.resource_id is not None:
            self._cease()

    def _cease(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            self._renewing = None
        self._host.role, self._host.epoch = Role.STANDBY, 0
        self._host.mute()

    async def _renew(self, epoch: int) -> None:
        while True:
            try:
                # The first answer comes when no earlier owner can answer any more.
                owner = await self.actor(Feed, self.resource_id).owner()
            except AegisError as error:
                self.log.warning("feed_not_renewed", reason=str(error))
            else:
                if owner == [self.instance_id, epoch]:
                    self._host.activate(epoch, PUBLISH_SECONDS)
            await asyncio.sleep(RENEW_INTERVAL)

    # -- who --------------------------------------------------------------------------------

    @query
    async def owner(self) -> list[Any]:
        """Return which feed publishes, and under which epoch."""
        return [self.instance_id, self.epoch]

    @query
    async def status(self) -> dict[str, Any]:
        """Return how the active feed stands."""
        host = self._host
        return {
            **host.status,
            "feed": self.instance_id,
            "epoch": self.epoch,
            "process": {"pid": host.pid, "alive": host.alive, "restarts": host.restarts},
            "failure": host.status.get("failure") or host.failure,
        }

    # -- the universe -------------------------------------------------------------------------

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
        path = os.environ.get(CONFIG_VARIABLE)
        if not path:
            raise ConfigurationError(f"{CONFIG_VARIABLE} must name the market's configuration")
        MarketConfig.load(Path(path)).feed(feed)
        if not _hosts:
            # Not above: consumers of ticks import this package, too.
            from aegis.marketdata._metrics import FeedMetrics

            FeedMetrics.register(_hosts)
        host = _hosts[feed] = GatewayHost(Path(path), feed)
    return host
