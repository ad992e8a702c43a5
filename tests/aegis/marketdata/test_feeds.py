"""Feeds as real processes: an active one, a standby, and what a consumer sees of both."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from aegis import AegisError, Cluster
from aegis.marketdata import Tick, TickGap, TickStream, ticks
from aegis.transport import Message
from tests.support.nodes import Host, NodeProcess
from tests.support.poll import wait_until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

CONFIG = """
calendar = "always"
[universe]
include = ["SHFE.*", "DCE.*"]
[feeds.a.simulated]
futures = 60
options = 40
rate = 4.0
[feeds.b.simulated]
futures = 60
options = 40
rate = 4.0
"""


@define
class Consumer:
    """Follows the market; keeps what it got, and every message as it came."""

    cluster: Cluster
    stream: TickStream
    ticks: list[Tick] = field(factory=list[Tick])
    gaps: list[TickGap] = field(factory=list[TickGap])
    raw: list[Tick] = field(factory=list[Tick])

    async def follow(self) -> None:
        async for tick in self.stream:
            self.gaps += self.stream.take_gaps()
            self.ticks.append(tick)

    def on_message(self, message: Message) -> None:
        self.raw.append(Tick.from_wire(message.payload))

    def of(self, feed: str) -> list[Tick]:
        return [tick for tick in self.ticks if tick.feed == feed]

    async def wait_ticks(self, feed: str, count: int = 50) -> None:
        seen = len(self.of(feed))
        await wait_until(
            lambda: len(self.of(feed)) >= seen + count, what=f"{feed} publishes", timeout=60
        )

    def check(self) -> None:
        """No tick twice, none before an older one, and no feed speaks after its time."""
        epochs = [tick.epoch for tick in self.raw]
        assert epochs == sorted(epochs)
        numbers = [(tick.epoch, tick.exchange, tick.sequence) for tick in self.ticks]
        assert len(set(numbers)) == len(numbers)
        last: dict[str, Tick] = {}
        for tick in self.ticks:
            if (before := last.get(tick.key)) is not None:
                assert (tick.time_ns, tick.volume) >= (before.time_ns, before.volume)
            last[tick.key] = tick


class Market:
    """A market's feeds on one host."""

    def __init__(self, host: Host, config: Path) -> None:
        self.host = host
        self._config = config

    async def start(self, feed: str, role: str = "active") -> NodeProcess:
        return await self.host.start_node(
            *(str(self._config), "--feed", feed, "--role", role), command=("feed", "run")
        )

    @asynccontextmanager
    async def consumer(self) -> AsyncGenerator[Consumer]:
        async with self.host.caller() as cluster, ticks(cluster) as stream:
            consumer = Consumer(cluster, stream)
            await cluster.transport.subscribe("md.tick.>", consumer.on_message)
            following = asyncio.create_task(consumer.follow())
            try:
                yield consumer
            finally:
                following.cancel()


async def status(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = await cluster.call("feed", "status", resource_id="market")
    return found


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

    await wait_until(is_ready, what=f"{feed} covers all of {wanted}", timeout=60)
    return found


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.fixture
async def market(tmp_path: Path) -> AsyncGenerator[Market]:
    config = tmp_path / "market.toml"
    config.write_text(CONFIG)
    async with Host.open(tmp_path / "data") as host:
        yield Market(host, config)


async def test_a_killed_feed_is_replaced_and_the_universe_stays(market: Market) -> None:
    active = await market.start("a")
    await market.start("b", "standby")
    async with market.consumer() as consumer:
        cluster = consumer.cluster
        await consumer.wait_ticks("a")
        arguments = {"include": ["SHFE.*"]}
        wanted = await cluster.call("feed", "subscribe", arguments, resource_id="market")
        gateway = (await wait_ready(cluster, "a", wanted))["process"]["pid"]
        active.kill()
        await consumer.wait_ticks("b")
        await wait_until(lambda: is_gone(gateway), what="the gateway ended with its feed")
        await wait_ready(cluster, "b", wanted)
        consumer.check()
        assert consumer.of("b")[0].epoch > consumer.of("a")[-1].epoch
        assert any(gap.feed_changed for gap in consumer.gaps)
        # What the new feed says of a contract comes after all that the old one said.
        names = [tick.feed for tick in consumer.raw]
        assert names == sorted(names)


async def test_a_frozen_feed_falls_silent_before_the_other_speaks(market: Market) -> None:
    active = await market.start("a")
    await market.start("b", "standby")
    async with market.consumer() as consumer:
        await consumer.wait_ticks("a")
        active.pause()
        await consumer.wait_ticks("b")
        active.resume()
        await consumer.wait_ticks("b", 200)
        consumer.check()
        assert "b" not in {tick.feed for tick in consumer.raw[: len(consumer.of("a")) // 2]}


async def test_a_feed_that_is_told_to_end_hands_over(market: Market) -> None:
    active = await market.start("a")
    await market.start("b", "standby")
    async with market.consumer() as consumer:
        await consumer.wait_ticks("a")
        assert await active.stop() == 0
        await consumer.wait_ticks("b")
        consumer.check()


async def test_a_gateway_that_dies_is_started_again(market: Market) -> None:
    await market.start("a")
    async with market.consumer() as consumer:
        await consumer.wait_ticks("a")
        first = (await status(consumer.cluster))["process"]["pid"]
        os.kill(first, signal.SIGKILL)

        async def is_replaced() -> bool:
            process: dict[str, int] = (await status(consumer.cluster))["process"]
            return process["pid"] != first and process["restarts"] == 1

        await wait_until(is_replaced, what="there is another process", timeout=60)
        seen = len(consumer.raw)
        await wait_until(lambda: len(consumer.raw) > seen + 50, what="it publishes", timeout=60)
        assert {tick.epoch for tick in consumer.raw} == {consumer.raw[0].epoch}
