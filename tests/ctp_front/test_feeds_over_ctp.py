"""The market-data service over the real vnpy_ctp: its binding, its threads, and the GIL.

Each test runs a NATS server, the node of a feed and its gateway's process, and looks at
what the front saw on one side and what a consumer got on the other.
"""

from __future__ import annotations

import os
import signal
from datetime import datetime
from pathlib import Path

import pytest

from tests.ctp_front.build import Build
from tests.ctp_front.front import FakeFront
from tests.ctp_front.market import check_whole, ctp_market, holes, run_feed, wait_subscribed
from tests.support.feeds import (
    SOON,
    Consumer,
    cause_of_the_change,
    is_gone,
    wait_ready,
    wait_standing_by,
)
from tests.support.marketdata import SHANGHAI
from tests.support.poll import wait_until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(300)]

SMALL = {"futures": 60, "options": 40, "rate": 400}
"""A hundred contracts, each of which ticks four times a second."""

GROWTH_BYTES = 128 * 1024 * 1024
"""What a gateway may take besides when it falls behind for a moment; a leak takes more in
the minutes of the soak."""


# -- start ----------------------------------------------------------------------------------


async def test_a_feed_subscribes_to_all_that_the_front_has_and_publishes_it_whole(
    ctp: Build, tmp_path: Path
) -> None:
    async with run_feed(ctp, tmp_path, **SMALL, night=True, combinations=3, strange=2) as feed:
        await feed.wait_ready()
        await feed.wait_more(1_000)
        ticks = feed.consumer.ticks
        feed.consumer.check()
        check_whole(feed.consumer)
        exchanges = {"SHFE", "INE", "DCE", "CZCE", "CFFEX", "GFEX"}
        assert {tick.exchange for tick in ticks} == exchanges
        # Whatever the exchanges write into their dates at night, the day is one.
        assert len({tick.trading_day for tick in ticks}) == 1
        assert not any(tick.stale for tick in ticks)
        prices = [tick.last_price for tick in ticks]
        assert None in prices
        assert all(price is None or 0 < price < 1e6 for price in prices)
        assert (await feed.front.report())["subscribed"] == 100
        for kind in ("td", "md"):
            assert len(feed.front.seen("login", kind)) == 1


async def test_the_whole_market_is_subscribed_within_the_limits_of_the_front(
    ctp: Build, tmp_path: Path
) -> None:
    whole = {"futures": 1_000, "options": 19_000, "rate": 1_000}
    limits = {"subscribe_limit": 1_100, "subscribe_excess": "cut"}
    line = {"link": 20_000, "backlog": 10_000}
    async with run_feed(ctp, tmp_path, **whole, **limits, **line) as feed:
        await wait_subscribed(feed.front, 20_000)
        await feed.wait_ready(20_000)
        report = await feed.front.report()
        assert (report["lost"], report["refused"]) == (0, 0)
        assert report["requests"] < 21_000


async def test_a_refused_query_for_contracts_is_made_again(ctp: Build, tmp_path: Path) -> None:
    async with run_feed(ctp, tmp_path, **SMALL, refuse_queries=2, query_limit=1) as feed:
        await feed.wait_ready()
        refused = [e.words for e in feed.front.seen("refused") if e.words[-1] == "instrument"]
        assert len(refused) == 2


async def test_a_wrong_password_is_tried_once(ctp: Build, tmp_path: Path) -> None:
    async with run_feed(ctp, tmp_path, **SMALL, login_error=3) as feed:
        given_up = await feed.node.wait_event("gateway_given_up")
        assert given_up["code"] == 3
        assert "不合法的登录" in given_up["reason"]
        await feed.front.wait_sessions(0, "td")
        refused = [event.words for event in feed.front.seen("refused", "td")]
        assert refused == [("3", "login", "alice")]
        assert not feed.front.seen("confirm")
        assert not feed.front.seen("login", "md")


async def test_a_front_that_is_not_ready_yet_is_asked_again(ctp: Build, tmp_path: Path) -> None:
    async with run_feed(ctp, tmp_path, **SMALL, login_error=7) as feed:
        await feed.front.wait("refused", "td")
        feed.front.set(login_error=0)
        await feed.wait_ready()


async def test_what_was_not_answered_is_asked_for_again_and_that_alone(
    ctp: Build, tmp_path: Path
) -> None:
    pace = "[pace]\nanswer_timeout = 1.0\nattempts = 100"
    async with run_feed(ctp, tmp_path, pace, **SMALL, unanswered="*") as feed:
        front = feed.front

        async def is_asked() -> bool:
            return (await front.report())["requests"] >= 100

        await wait_until(is_asked, what="all is asked for", timeout=120)
        front.set(unanswered="")
        await feed.wait_ready()
        asked = (await front.report())["requests"]
        await feed.wait_more(1_000)
        assert (await front.report())["requests"] == asked


async def test_the_state_of_last_night_is_marked_stale(ctp: Build, tmp_path: Path) -> None:
    hour = (datetime.now(SHANGHAI).hour + 6) % 24
    quiet = {**SMALL, "rate": 1}
    async with run_feed(ctp, tmp_path, **quiet, snapshot_time=f"{hour:02}:29:59") as feed:
        found = await feed.wait_ready()
        assert found["ticks"]["stale"] >= 90
        await feed.wait_more(1)
        stale = [tick for tick in feed.consumer.ticks if tick.stale]
        assert len({tick.key for tick in stale}) == len(stale)


# -- in the session ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ticks",
    [
        20_000,
        # Some ten minutes.
        pytest.param(2_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(3_600)]),
    ],
)
async def test_bursts_reach_a_consumer_without_a_hole(
    ctp: Build, tmp_path: Path, ticks: int
) -> None:
    async with run_feed(ctp, tmp_path, futures=600, options=400, rate=4_000) as feed:
        found = await feed.wait_ready(1_000)
        await feed.wait_more(4_000)
        memory = resident_bytes(found["process"]["pid"])
        await feed.wait_more(ticks)
        feed.consumer.check()
        assert resident_bytes(found["process"]["pid"]) - memory < GROWTH_BYTES
        found = await feed.status()
        assert found["process"]["restarts"] == 0
        assert found["bridge"]["conflated"] == 0
        assert "older" not in found["ticks"]
        check_whole(feed.consumer)


async def test_an_exchange_that_falls_silent_is_told_and_no_other(
    ctp: Build, tmp_path: Path
) -> None:
    async with run_feed(ctp, tmp_path, "[patience]\nexchange = 2.0", **SMALL) as feed:
        await feed.wait_ready()

        async def silent() -> list[str]:
            reports = (await feed.status())["exchanges"]
            return [report["exchange"] for report in reports if report["silent"]]

        async def is_told() -> bool:
            return await silent() == ["DCE"]

        async def is_over() -> bool:
            return not await silent()

        feed.front.set(silent="DCE")
        await wait_until(is_told, what="DCE is silent", timeout=120)
        feed.front.set(silent="")
        await wait_until(is_over, what="DCE ticks again", timeout=120)


@pytest.mark.parametrize("reason", [8193, 4097])
async def test_a_lost_front_is_subscribed_to_again_in_full(
    ctp: Build, tmp_path: Path, reason: int
) -> None:
    async with run_feed(ctp, tmp_path, **SMALL) as feed:
        await feed.wait_ready()
        await feed.wait_more(200)
        feed.front.drop(reason)
        await feed.front.wait("login", "md", count=2)
        await wait_subscribed(feed.front, 100)
        await feed.wait_more(400)
        feed.consumer.check()
        holes(feed.consumer.ticks)
        found = await feed.status()
        assert found["disconnects"] == 1
        # The process went on, and so did the trading front's session.
        assert found["process"]["restarts"] == 0
        assert len(feed.front.seen("login", "td")) == 1


async def test_a_lost_trading_front_leaves_the_ticks_alone(ctp: Build, tmp_path: Path) -> None:
    async with run_feed(ctp, tmp_path, **SMALL) as feed:
        await feed.wait_ready()
        feed.front.drop(8193, "td")
        await feed.front.wait("contracts", count=2)
        await feed.wait_more(400)
        feed.consumer.check()
        check_whole(feed.consumer)
        assert (await feed.status())["disconnects"] == 0
        assert len(feed.front.seen("login", "md")) == 1


# -- the process ------------------------------------------------------------------------------


async def test_a_killed_gateway_process_is_replaced_and_logs_in_anew(
    ctp: Build, tmp_path: Path
) -> None:
    async with run_feed(ctp, tmp_path, **SMALL) as feed:
        first = (await feed.wait_ready())["process"]["pid"]
        assert feed.front.pids() == {first}
        await feed.wait_more(200)
        os.kill(first, signal.SIGKILL)
        await feed.front.wait("login", "md", count=2)
        await wait_subscribed(feed.front, 100)
        await feed.wait_more(400)
        assert (await feed.wait_ready())["process"]["pid"] != first
        feed.consumer.check(restarted=True)
        assert any(gap.feed_changed for gap in feed.consumer.gaps)
        holes(feed.consumer.ticks)


async def test_a_frozen_gateway_process_is_ended_and_replaced(ctp: Build, tmp_path: Path) -> None:
    async with run_feed(ctp, tmp_path, **SMALL) as feed:
        first = (await feed.wait_ready())["process"]["pid"]
        feed.front.freeze()
        await wait_until(lambda: is_gone(first), what="the process is ended", timeout=120)
        await feed.front.wait("login", "md", count=2)
        await wait_subscribed(feed.front, 100)
        await feed.wait_more(400)
        feed.consumer.check(restarted=True)
        assert any(gap.feed_changed for gap in feed.consumer.gaps)


async def test_a_feed_ends_in_time_though_its_gateway_is_frozen(ctp: Build, tmp_path: Path) -> None:
    async with run_feed(ctp, tmp_path, **SMALL) as feed:
        gateway = (await feed.wait_ready())["process"]["pid"]
        feed.front.freeze()
        assert await feed.node.stop() == 0
        assert is_gone(gateway)


async def test_a_frozen_gateway_process_does_not_outlive_its_killed_feed(
    ctp: Build, tmp_path: Path
) -> None:
    async with run_feed(ctp, tmp_path, **SMALL) as feed:
        gateway = (await feed.wait_ready())["process"]["pid"]
        feed.front.freeze()
        feed.node.kill()
        await wait_until(lambda: is_gone(gateway), what="the gateway is gone", timeout=120)


# -- two feeds --------------------------------------------------------------------------------


async def test_a_killed_feed_is_replaced_by_the_one_at_the_other_front(
    ctp: Build, tmp_path: Path
) -> None:
    async with (
        FakeFront.open(**SMALL) as first,
        FakeFront.open(**SMALL) as second,
        ctp_market(ctp, tmp_path, {"a": first, "b": second}) as market,
    ):
        active = await market.start("a")
        await market.start("b", "standby")
        async with market.consumer() as consumer:
            await wait_subscribed(first, 100)
            await wait_subscribed(second, 100)
            await consumer.wait_ticks("a", 400)
            active.kill()
            await consumer.wait_ticks("b", 400)
            check_change(consumer, "a", "b")
            names = [tick.feed for tick in consumer.raw]
            assert names == sorted(names)


async def test_a_front_that_falls_silent_or_goes_away_loses_the_market_to_the_other(
    ctp: Build, tmp_path: Path
) -> None:
    async with (
        FakeFront.open(**SMALL) as first,
        FakeFront.open(**SMALL) as second,
        ctp_market(ctp, tmp_path, {"a": first, "b": second}, SOON) as market,
    ):
        await market.start("a")
        await market.start("b", "standby")
        async with market.consumer() as consumer:
            cluster = consumer.cluster
            await wait_ready(cluster, "a", 100)
            await wait_standing_by(cluster, "b", 100)
            await consumer.wait_ticks("a", 100)
            first.set(silent="*")
            await consumer.wait_ticks("b", 400)
            assert await cause_of_the_change(cluster) == "silence"
            # Its session stood all the time: nothing else would have told.
            told = await cluster.call("feed", "status", instance_id="a")
            assert (told["state"], told["disconnects"]) == ("ready", 0)
            # Once it ticks again it stands by; nothing is handed back.
            first.set(silent="")
            await wait_standing_by(cluster, "a", 100)
            await consumer.wait_ticks("b", 400)
            assert {tick.feed for tick in consumer.raw[-400:]} == {"b"}
            await second.close()
            await consumer.wait_ticks("a", 400)
            assert await cause_of_the_change(cluster) == "disconnected"
            check_change(consumer, "b")  # The other spoke twice, with this one in between.
            assert len({tick.epoch for tick in consumer.raw}) == 3


async def test_a_front_that_was_never_there_leaves_the_market_to_one_that_is(
    ctp: Build, tmp_path: Path
) -> None:
    async with (
        FakeFront.open(**SMALL) as absent,
        FakeFront.open(**SMALL) as second,
        ctp_market(ctp, tmp_path, {"a": absent, "b": second}, SOON) as market,
    ):
        await absent.close()
        await market.start("a")
        await market.start("b", "standby")
        async with market.consumer() as consumer:
            await consumer.wait_ticks("b", 400)
            assert await cause_of_the_change(consumer.cluster) == "disconnected"
            assert {tick.feed for tick in consumer.raw} == {"b"}
            consumer.check()
            check_whole(consumer, "b")


def check_change(consumer: Consumer, *whole: str) -> None:
    """Check that a consumer was told of a change, and got all of what these feeds said."""
    consumer.check()
    # Both fronts tell the same market: nothing came twice, and what is missing was between
    # the two feeds, which the consumer was told.
    holes(consumer.ticks)
    for feed in whole:
        check_whole(consumer, feed)
    assert any(gap.feed_changed for gap in consumer.gaps)


def resident_bytes(pid: int) -> int:
    """Return how much memory a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
