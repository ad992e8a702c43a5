"""Feeds as real processes on a real server, and a consumer that checks what it gets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from attrs import define, field

from aegis import AegisError, Cluster
from aegis.marketdata import Tick, TickGap, TickStream, ticks
from aegis.transport import Message
from tests.support.nodes import Host, NodeProcess
from tests.support.poll import wait_until

__all__ = [
    "SOON",
    "TWO_FEEDS",
    "Consumer",
    "Market",
    "cause_of_the_change",
    "is_gone",
    "status",
    "wait_ready",
    "wait_standing_by",
]

SOON = """
[failover]
disconnected = 1.0
silent = 1.0
settled = 1.0
holding = 1.0
"""
"""A feed gives way as soon as a market can have it."""

TWO_FEEDS = f"""
calendar = "always"
[universe]
include = ["SHFE.*", "DCE.*"]
{SOON}
[feeds.a.simulated]
futures = 60
options = 0
rate = 4.0
[feeds.b.simulated]
futures = 60
options = 0
rate = 4.0
"""
"""A market's file: two feeds that tell the same."""


@define
class Consumer:
    """Follows the market; keeps what it got, and every message as it came."""

    cluster: Cluster
    stream: TickStream
    ticks: list[Tick] = field(factory=list[Tick])
    gaps: list[TickGap] = field(factory=list[TickGap])
    raw: list[Tick] = field(factory=list[Tick])

    async def follow(self) -> None:
        """Take ticks for ever."""
        async for tick in self.stream:
            self.gaps += self.stream.take_gaps()
            self.ticks.append(tick)

    def on_message(self, message: Message) -> None:
        """Keep a message as it came."""
        self.raw.append(Tick.from_wire(message.payload))

    def of(self, feed: str) -> list[Tick]:
        """Return the ticks that a feed published."""
        return [tick for tick in self.ticks if tick.feed == feed]

    async def wait_ticks(self, feed: str, count: int = 50) -> None:
        """Return once a feed has published so many more."""
        seen = len(self.of(feed))
        await wait_until(
            lambda: len(self.of(feed)) >= seen + count, what=f"{feed} publishes", timeout=60
        )

    def check(self, *, restarted: bool = False) -> None:
        """No tick twice, none before an older one, and no feed speaks after its time.

        With ``restarted`` a gateway's process was, and counts from 1 again.
        """
        epochs = [tick.epoch for tick in self.raw]
        assert epochs == sorted(epochs)
        # The states that a consumer begins with all have the number of the newest tick.
        numbers = [(tick.epoch, tick.key, tick.sequence) for tick in self.ticks]
        assert restarted or len(set(numbers)) == len(numbers)
        last: dict[str, Tick] = {}
        for tick in self.ticks:
            if (before := last.get(tick.key)) is not None:
                assert (tick.time_ns, tick.volume) >= (before.time_ns, before.volume)
            last[tick.key] = tick


class Market:
    """A market's feeds on one host, with variables added to the environment of their nodes."""

    def __init__(self, host: Host, config: Path, environ: Mapping[str, str] | None = None) -> None:
        self.host = host
        self._config = config
        self._environ = environ

    async def start(self, feed: str, role: str = "active") -> NodeProcess:
        """Start the node of a feed."""
        return await self.host.start_node(
            *(str(self._config), "--feed", feed, "--role", role),
            command=("feed", "run"),
            environ=self._environ,
        )

    @asynccontextmanager
    async def consumer(self) -> AsyncGenerator[Consumer]:
        """Follow all ticks for the time of the block."""
        async with self.host.caller() as cluster, ticks(cluster) as stream:
            consumer = Consumer(cluster, stream)
            await cluster.transport.subscribe("md.tick.>", consumer.on_message)
            following = asyncio.create_task(consumer.follow())
            try:
                yield consumer
            finally:
                following.cancel()


async def status(cluster: Cluster) -> dict[str, Any]:
    """Return how the active feed stands."""
    found: dict[str, Any] = await cluster.call("feed", "status", resource_id="market")
    return found


async def cause_of_the_change(cluster: Cluster) -> str:
    """Return why the active feed is the active one."""
    cause: str = (await status(cluster))["changes"][-1]["cause"]
    return cause


async def wait_standing_by(cluster: Cluster, feed: str, covered: int = 0) -> None:
    """Return once the active feed has heard that another is ready, and hears so many contracts."""

    async def is_there() -> bool:
        try:
            standbys = (await status(cluster))["standbys"]
        except AegisError:
            return False
        return any(
            standby["feed"] == feed and standby["ready"] and standby["covered"] >= covered
            for standby in standbys
        )

    await wait_until(is_there, what=f"{feed} stands by", timeout=120)


async def wait_ready(cluster: Cluster, feed: str, wanted: int) -> dict[str, Any]:
    """Return the status of a feed once it publishes and all that is wanted is covered."""
    found: dict[str, Any] = {}

    async def is_ready() -> bool:
        try:
            found.update(await status(cluster))
        except AegisError:
            return False
        covered = sum(report["covered"] for report in found.get("exchanges", ()))
        return found["feed"] == feed and bool(found.get("publishing")) and covered == wanted

    await wait_until(is_ready, what=f"{feed} covers all of {wanted}", timeout=120)
    return found


def is_gone(pid: int) -> bool:
    """Whether a process has ended, a dead one that nobody has waited for included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
