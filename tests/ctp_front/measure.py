"""Prints how long things take over the fake front: ``python -m tests.ctp_front.measure``.

- from the first subscription to the last of 20,000, at a front that ends a session which
  asks more than 1,100 times a second or falls 10,000 packets behind;
- from the SIGKILL of a feed to the first tick of its standby.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.ctp_front.build import BUILD
from tests.ctp_front.front import FakeFront
from tests.ctp_front.market import ctp_market, wait_subscribed
from tests.support.feeds import wait_ready
from tests.support.poll import wait_until

CONTRACTS = 20_000
ROUNDS = 3


async def measure_subscription(folder: Path) -> float:
    """Return the seconds from the first request to the last contract subscribed."""
    limits = {
        "subscribe_limit": 1_100,
        "subscribe_excess": "cut",
        "link": 20_000,
        "backlog": 10_000,
    }
    async with (
        FakeFront.open(futures=1_000, options=CONTRACTS - 1_000, rate=5_000, **limits) as front,
        ctp_market(BUILD, folder, {"a": front}) as market,
    ):
        await market.start("a")
        times: list[float] = []

        async def is_complete() -> bool:
            report = await front.report()
            if report["requests"] and not times:
                times.append(time.monotonic())
            assert report["lost"] == 0, "the front ended the session"
            return report["subscribed"] == CONTRACTS

        await wait_until(is_complete, what=f"{CONTRACTS} are subscribed", timeout=120)
        return time.monotonic() - times[0]


async def measure_failover(folder: Path) -> float:
    """Return the seconds from the kill of the active feed to a tick of its standby."""
    shape = {"futures": 600, "options": 1_400, "rate": 5_000}
    async with (
        FakeFront.open(**shape) as first,
        FakeFront.open(**shape) as second,
        ctp_market(BUILD, folder, {"a": first, "b": second}) as market,
    ):
        active = await market.start("a")
        await market.start("b", "standby")
        async with market.consumer() as consumer:
            await wait_ready(consumer.cluster, "a", 2_000)

            await wait_subscribed(second, 2_000)
            await consumer.wait_ticks("a", 2_000)
            killed = time.monotonic()
            active.kill()
            await wait_until(
                lambda: consumer.ticks[-1].feed == "b", what="the standby publishes", timeout=60
            )
            return time.monotonic() - killed


async def main() -> None:
    """Measure each a few times."""
    for what, measure in (
        (f"subscribing {CONTRACTS:,} contracts", measure_subscription),
        ("failover of a killed feed", measure_failover),
    ):
        seconds: list[float] = []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as folder:
                seconds.append(await measure(Path(folder)))
        print(f"{what}: {', '.join(f'{one:.2f} s' for one in sorted(seconds))}", flush=True)


if __name__ == "__main__":
    if reason := BUILD.why_not():
        sys.exit(reason)
    asyncio.run(main())
