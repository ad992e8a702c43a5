"""Feeds as real processes: an active one, a standby, and what a consumer sees of both."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.support.feeds import Market, is_gone, status, wait_ready
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


@pytest.fixture
async def market(tmp_path: Path) -> AsyncGenerator[Market]:
    config = tmp_path / "market.toml"
    config.write_text(CONFIG)
    async with Host.open(tmp_path / "data") as host:
        yield Market(host, config)


async def test_a_second_active_feed_is_refused_and_told_who_holds_the_market(
    market: Market, tmp_path: Path
) -> None:
    await market.start("a")
    arguments = (str(tmp_path / "market.toml"), "--feed", "b", "--data-dir", str(tmp_path / "data"))
    second = await NodeProcess.start(*arguments, command=("feed", "run"))
    assert await second.wait_end() == 1
    assert "error 409" in second.lines[-1]
    assert "market by a" in second.lines[-1]


async def test_a_killed_feed_is_replaced_and_the_universe_stays(market: Market) -> None:
    active = await market.start("a")
    await market.start("b", "standby")
    async with market.consumer() as consumer:
        cluster = consumer.cluster
        await consumer.wait_ticks("a")

        async def is_told() -> bool:
            page = await cluster.call("feed", "contracts", resource_id="market")
            return bool(page["total"])

        await wait_until(is_told, what="the feed has told its contracts")
        arguments = {"include": ["SHFE.*"]}
        wanted = await cluster.call("feed", "subscribe", arguments, resource_id="market")
        gateway = (await wait_ready(cluster, "a", wanted))["process"]["pid"]

        async def follows() -> bool:
            standbys = (await status(cluster))["standbys"]
            return [standby["covered"] for standby in standbys if standby["ready"]] == [wanted]

        await wait_until(follows, what="the standby wants the same", timeout=60)
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
