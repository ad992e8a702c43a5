"""Feeds as real processes that fail without dying: the standby takes over, once."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.feeds import (
    TWO_FEEDS,
    Consumer,
    Market,
    cause_of_the_change,
    is_gone,
    status,
    wait_standing_by,
)
from tests.support.nodes import Host
from tests.support.poll import wait_until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(180)]


@asynccontextmanager
async def open_market(folder: Path, faults: str = "") -> AsyncGenerator[Market]:
    config = folder / "market.toml"
    config.write_text(f"{TWO_FEEDS}\n[feeds.a.simulated.faults]\n{faults}")
    async with Host.open(folder / "data") as host:
        yield Market(host, config)


async def test_a_gateway_that_hangs_is_passed_over_and_replaced(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        active = await market.start("a")
        await market.start("b", "standby")
        async with market.consumer() as consumer:
            await consumer.wait_ticks("a")
            await wait_standing_by(consumer.cluster, "b")
            hanging = (await status(consumer.cluster))["process"]["pid"]
            os.kill(hanging, signal.SIGSTOP)
            await consumer.wait_ticks("b")
            assert await cause_of_the_change(consumer.cluster) == "process"
            # What it was told while it hung is over by now: nothing of it gets out.
            os.kill(hanging, signal.SIGCONT)
            await consumer.wait_ticks("b", 200)
            consumer.check()
            assert active.events("feed_gives_way")[0]["to"] == "b"


async def test_a_login_that_is_refused_is_never_repeated_and_the_standby_publishes(
    tmp_path: Path,
) -> None:
    async with open_market(tmp_path, "login_code = 3") as market:
        active = await market.start("a")
        await market.start("b", "standby")
        async with market.consumer() as consumer:
            await consumer.wait_ticks("b", 200)
            assert await cause_of_the_change(consumer.cluster) == "disconnected"
        assert len(active.events("gateway_given_up")) == 1
        (started,) = active.events("gateway_started")
        assert is_gone(started["pid"])


async def test_a_feed_that_is_deaf_to_an_exchange_gives_way(tmp_path: Path) -> None:
    async with open_market(tmp_path, 'silent_exchanges = ["SHFE"]') as market:
        await market.start("a")
        await market.start("b", "standby")
        async with market.consumer() as consumer:
            await consumer.wait_ticks("b")
            assert await cause_of_the_change(consumer.cluster) == "silence"
            assert {tick.exchange for tick in consumer.of("a")} <= {"DCE"}
            assert {tick.exchange for tick in consumer.of("b")} == {"SHFE", "DCE"}
            consumer.check()


async def test_the_market_goes_on_when_the_server_is_back_and_each_gap_is_told(
    tmp_path: Path,
) -> None:
    async with open_market(tmp_path) as market:
        await market.start("a")
        await market.start("b", "standby")
        async with market.consumer() as consumer:
            await consumer.wait_ticks("a")
            server = market.host.server.pid
            market.host.kill_server()
            await wait_until(
                lambda: market.host.is_replaced(server), what="the server is back", timeout=60
            )
            seen = len(consumer.ticks)
            await wait_until(
                lambda: len(consumer.ticks) >= seen + 200, what="ticks come again", timeout=90
            )
            consumer.check()
            assert missing(consumer) == sum(gap.missed for gap in consumer.gaps)


def missing(consumer: Consumer) -> int:
    """Return how many numbers of ticks did not come, by what came on the wire."""
    numbers: dict[tuple[int, str], list[int]] = defaultdict(list)
    for tick in consumer.raw:
        numbers[tick.epoch, tick.exchange].append(tick.sequence)
    return sum(max(came) - min(came) + 1 - len(came) for came in numbers.values())
