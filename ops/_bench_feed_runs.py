"""One measurement of `aegis bench feed`: a source, a subscriber, and what lies between."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

import msgpack
from attrs import define, field, frozen

from aegis._cluster import Cluster
from aegis.ops._bench_feed_host import cpu_seconds
from aegis.ops._bench_feed_rows import OFFERS, RATE, Load, Offer, Row
from aegis.ops._bench_feed_sources import Stage, open_source
from aegis.ops._bench_feed_subscriber import BATCHES, RPC, TALLY
from aegis.ops._bench_feed_tally import Latencies
from aegis.ops._bench_processes import Child, child

__all__ = ["Measured", "Subscriber", "Taken", "measure", "open_subscriber"]

LOOK_SECONDS: Final = 0.5
MOST_LOOKS: Final = 60
SETTLED_SHARE: Final = 0.8
"""A median latency that falls by less from one look to the next has settled."""

ARRIVAL_TIMEOUT: Final = 30.0
"""How long what was published may take to its subscriber, in the end."""

SUSTAINED_SHARE: Final = 0.97
"""Of what is offered; phases that a gateway has no time for are left out."""

SUSTAINED_P99_MS: Final = 1_000.0

_POLL_SECONDS: Final = 0.05
_REQUEST_TIMEOUT: Final = 20.0


@frozen
class Taken:
    """What a subscriber has got of one form so far; the latencies are those of late."""

    received: int
    missed: int
    repeated: int
    latencies: Latencies

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Taken:
        """Return what a subscriber told."""
        return cls(
            plain["received"],
            plain["missed"],
            plain["repeated"],
            Latencies.from_plain(plain["latencies"]),
        )


@define(eq=False)
class Subscriber:
    """The subscriber's process."""

    child: Child
    cluster: Cluster

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.child.process.pid

    async def take(self) -> dict[str, Taken]:
        """Return what it has got, by form."""
        self.child.check_running()
        reply = await self.cluster.transport.request(TALLY, b"", timeout=_REQUEST_TIMEOUT)
        told: dict[str, Any] = msgpack.unpackb(reply.payload, strict_map_key=False)
        return {form: Taken.from_plain(plain) for form, plain in told.items()}

    async def take_all(self, published: int) -> dict[str, Taken]:
        """Return what it has got once that is all of it, or no more comes."""
        until = time.monotonic() + ARRIVAL_TIMEOUT
        while True:
            taken = await self.take()
            complete = all(form.received >= published for form in taken.values())
            if complete or time.monotonic() > until:
                return taken
            await asyncio.sleep(_POLL_SECONDS)


@contextlib.asynccontextmanager
async def open_subscriber(
    stage: Stage, cluster: Cluster, *forms: str
) -> AsyncGenerator[Subscriber]:
    """Run a subscriber for the time of the block; it listens."""
    arguments = ["-m", "aegis.ops._bench_feed_subscriber", *forms]
    if RPC in forms:
        arguments = ["-m", "aegis.ops._bench_feed_rpc", "subscribe", *stage.rpc]
    async with child(
        "subscriber", arguments, folder=stage.folder, environment=stage.environment
    ) as one:
        await one.wait_line()
        yield Subscriber(one, cluster)


@define
class Measured:
    """What came of one row. ``cpu_us`` is the processor time of each process for a tick."""

    row: Row
    offered: float
    ticks: int
    seconds: float
    published: int
    lost: int
    repeated: int
    conflated: int
    latencies: Latencies
    cpu_us: dict[str, float] = field(factory=dict[str, float])

    @property
    def per_second(self) -> float:
        """Ticks a second that came."""
        return self.ticks / self.seconds

    @property
    def ok(self) -> bool:
        """Whether all that was published came, once and in order, as the way promises."""
        return self.row.way.may_fail or not (self.lost or self.repeated)

    @property
    def sustained(self) -> bool:
        """Whether the way kept up with what was offered."""
        p99 = self.latencies.percentile_ms(0.99)
        return (
            not self.lost
            and not self.repeated
            and not self.conflated
            and self.per_second >= SUSTAINED_SHARE * self.offered
            and p99 is not None
            and p99 <= SUSTAINED_P99_MS
        )

    @property
    def meets(self) -> bool | None:
        """Whether the row's goal is reached; None if it has none."""
        goal = self.row.goal
        if goal is None:
            return None
        if goal.per_second is not None:
            return self.sustained and self.per_second >= SUSTAINED_SHARE * goal.per_second
        p99 = self.latencies.percentile_ms(0.99)
        return self.ok and p99 is not None and goal.p99_ms is not None and p99 < goal.p99_ms


async def measure(
    row: Row, seconds: float, stage: Stage, cluster: Cluster, *, rate: float | None = None
) -> Measured:
    """Measure a row; with ``rate`` at that, whatever its load has."""
    even = row.load is not Load.BURSTS
    rates = (rate,) if rate is not None else OFFERS if row.load is Load.MOST else (RATE,)
    *higher, last = rates
    for offered in higher:
        measured = await _measure(row, Offer(offered, even), seconds, stage, cluster)
        if measured.sustained:
            return measured
    return await _measure(row, Offer(last, even), seconds, stage, cluster)


async def _wait_settled(subscriber: Subscriber, form: str) -> None:
    """Wait until the states of all contracts, which come first, hold up nothing any more."""
    before = math.inf
    for _ in range(MOST_LOOKS):
        await asyncio.sleep(LOOK_SECONDS)
        median_ms = (await subscriber.take())[form].latencies.percentile_ms(0.5)
        if median_ms is not None:
            if median_ms >= SETTLED_SHARE * before:
                return
            before = median_ms


async def _measure(
    row: Row, offer: Offer, seconds: float, stage: Stage, cluster: Cluster
) -> Measured:
    # As one would have it for the most there can be: each tick leaves once.
    publish = "batches" if row.form == BATCHES else "both"
    async with (
        open_subscriber(stage, cluster, row.form) as subscriber,
        open_source(row.way, offer, stage, cluster, publish=publish) as source,
    ):
        pids = {"gateway": source.pid, "subscriber": subscriber.pid, "server": stage.server.pid}
        await source.begin()
        await _wait_settled(subscriber, row.form)
        before, began = (await subscriber.take())[row.form], time.perf_counter()
        cpu_before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        await asyncio.sleep(seconds)
        after, lasted = (await subscriber.take())[row.form], time.perf_counter() - began
        cpu_after = {name: cpu_seconds(pid) for name, pid in pids.items()}
        published = await source.end()
        last = (await subscriber.take_all(published))[row.form]
        conflated = source.conflated
    ticks = after.received - before.received
    return Measured(
        row,
        offer.rate,
        ticks,
        lasted,
        published,
        max(last.missed, published - last.received),
        last.repeated,
        conflated,
        after.latencies,
        {
            name: (cpu - cpu_was) * 1e6 / ticks
            for name, cpu_was in cpu_before.items()
            if cpu_was is not None and (cpu := cpu_after[name]) is not None and ticks
        },
    )
