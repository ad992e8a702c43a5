"""The market-data service over the real wheel openctp-ctp: its binding, and its threads."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.ctp_front.build import Build
from tests.ctp_front.front import FakeFront
from tests.ctp_front.market import Running, ctp_market, holes
from tests.support.poll import wait_until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(180)]

SMALL = {"futures": 60, "options": 40, "rate": 400}


@asynccontextmanager
async def run_feed(ctp: Build, folder: Path, **front: object) -> AsyncGenerator[Running]:
    async with (
        FakeFront.open(**front) as fake,
        ctp_market(ctp, folder, {"a": fake}, kind="openctp") as market,
    ):
        node = await market.start("a")
        async with market.consumer() as consumer:
            yield Running(fake, node, consumer)


async def test_a_feed_publishes_all_that_the_front_has_and_confirms_nothing(
    ctp: Build, tmp_path: Path
) -> None:
    async with run_feed(ctp, tmp_path, **SMALL, night=True, combinations=3, strange=2) as feed:
        await feed.wait_ready()
        await feed.wait_more(1_000)
        feed.consumer.check()
        assert not holes(feed.consumer.ticks).total()
        assert len({tick.trading_day for tick in feed.consumer.ticks}) == 1
        assert not any(tick.stale for tick in feed.consumer.ticks)
        report = await feed.front.report()
        # Many contracts in one request.
        assert (report["subscribed"], report["requests"]) == (100, 1)
        assert not feed.front.seen("confirm")
        # What is lost is subscribed to anew.
        feed.front.drop(8193)
        await wait_until(lambda: len(feed.front.seen("login", "md")) == 2, what="it logs in again")
        await feed.wait_ready()
        await feed.wait_more(200)


async def test_a_wrong_password_is_tried_once(ctp: Build, tmp_path: Path) -> None:
    async with run_feed(ctp, tmp_path, **SMALL, login_error=3) as feed:
        given_up = await feed.node.wait_event("gateway_given_up")
        assert given_up["code"] == 3
        assert "不合法的登录" in given_up["reason"]
        await feed.front.wait_sessions(0, "td")
        refused = [event.words for event in feed.front.seen("refused", "td")]
        assert refused == [("3", "login", "alice")]
