"""Feeds over fake fronts: the whole service, with the real vnpy_ctp in its gateways."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from attrs import frozen

from aegis.marketdata import Tick
from tests.ctp_front.build import Build
from tests.ctp_front.front import FakeFront
from tests.support.feeds import Consumer, Market, status, wait_ready
from tests.support.nodes import Host, NodeProcess
from tests.support.poll import wait_until

__all__ = ["Running", "check_whole", "ctp_market", "holes", "run_feed", "wait_subscribed"]

FEED = """
[feeds.{name}.{kind}]
broker = "9999"
user = "alice"
password_env = "CTP_PASSWORD"
app_id = "client_1"
auth_code_env = "CTP_AUTH_CODE"
confirm_settlement = true
trading_fronts = ["{address}"]
market_fronts = ["{address}"]
"""


@asynccontextmanager
async def ctp_market(
    ctp: Build,
    folder: Path,
    fronts: dict[str, FakeFront],
    settings: str = "",
    kind: str = "ctp",
) -> AsyncGenerator[Market]:
    """Run a host whose feeds, by name, are accounts at these fronts; ``kind`` is the library."""
    config = folder / "market.toml"
    feeds = "".join(
        FEED.format(name=name, kind=kind, address=front.address) for name, front in fronts.items()
    )
    config.write_text(f'calendar = "always"\n{settings}\n{feeds}')
    environ = {**ctp.environ(), "CTP_PASSWORD": "secret", "CTP_AUTH_CODE": "0000"}
    async with Host.open(folder / "data") as host:
        yield Market(host, config, environ)


@frozen
class Running:
    """One feed that runs, with the front on one side and a consumer on the other."""

    front: FakeFront
    node: NodeProcess
    consumer: Consumer

    async def wait_ready(self, wanted: int = 100) -> dict[str, Any]:
        """Return the feed's status once so many contracts are covered."""
        return await wait_ready(self.consumer.cluster, "a", wanted)

    async def wait_more(self, count: int) -> None:
        """Return once the consumer has got so many more ticks."""
        ticks = self.consumer.ticks
        wanted = len(ticks) + count
        await wait_until(
            lambda: len(ticks) >= wanted, what=f"{count} more ticks come", timeout=120 + count / 500
        )

    async def status(self) -> dict[str, Any]:
        """Return the feed's status."""
        return await status(self.consumer.cluster)


@asynccontextmanager
async def run_feed(
    ctp: Build, folder: Path, settings: str = "", /, **front: object
) -> AsyncGenerator[Running]:
    """Run one feed at a front that behaves so; ``settings`` are the market's, as TOML."""
    async with (
        FakeFront.open(**front) as fake,
        ctp_market(ctp, folder, {"a": fake}, settings) as market,
    ):
        node = await market.start("a")
        async with market.consumer() as consumer:
            yield Running(fake, node, consumer)


async def wait_subscribed(front: FakeFront, count: int) -> None:
    """Return once a gateway has subscribed to so many contracts."""

    async def is_complete() -> bool:
        return (await front.report())["subscribed"] == count

    await wait_until(is_complete, what=f"{count} contracts are subscribed", timeout=150)


def holes(ticks: Sequence[Tick]) -> Counter[str]:
    """Return how many ticks of each exchange are missing; none may come twice or back.

    At a fake front the volume counts the ticks of its contract. An option that never
    trades has none, and is left out.
    """
    volumes: defaultdict[str, list[int]] = defaultdict(list)
    for tick in ticks:
        if tick.last_price is not None:
            volumes[tick.key].append(tick.volume)
    missing: Counter[str] = Counter()
    for key, seen in volumes.items():
        assert all(a < b for a, b in pairwise(seen)), f"{key}: {seen}"
        missing[key.partition(".")[0]] += seen[-1] - seen[0] + 1 - len(seen)
    return missing


def check_whole(consumer: Consumer, feed: str = "a") -> None:
    """Check that a consumer got every tick of a feed, but for those it was told of.

    On a machine that is too busy a feed may not be renewed in time, and keeps ticks back.
    """
    ticks = consumer.of(feed)
    epochs = {tick.epoch for tick in ticks}
    told = Counter[str]()
    for gap in consumer.gaps:
        if gap.epoch in epochs:
            told[gap.exchange] += gap.missed
    missing = holes(ticks)
    assert all(missing[exchange] <= told[exchange] for exchange in missing), (missing, told)
