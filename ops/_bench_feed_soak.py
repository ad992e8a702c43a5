"""The long run of `aegis bench feed`: bursts for an hour, every number checked, memory watched."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any, Final

from attrs import define, field

from aegis._cluster import Cluster
from aegis.ops._bench_feed_host import cpu_seconds, resident_mib
from aegis.ops._bench_feed_rows import Offer, Way
from aegis.ops._bench_feed_runs import Subscriber, open_subscriber
from aegis.ops._bench_feed_sources import Stage, open_source
from aegis.ops._bench_feed_subscriber import BATCHES, TICKS
from aegis.ops._bench_feed_tally import Latencies

__all__ = ["SOAK_RATE", "Soak", "soak"]

SOAK_RATE: Final = 6_000.0
SAMPLE_SECONDS: Final = 10.0
SETTLING_SHARE: Final = 0.1
"""Of the samples at the start: allocators and caches still grow into their size."""

GROWTH_SHARE: Final = 0.1
GROWTH_MIB: Final = 5.0
"""Memory is flat if it ends at most this share and so much above where it was."""


@define
class Sample:
    """How it stood at one moment, and what had come since the one before."""

    seconds: float
    ticks: int
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    load: float
    resident: dict[str, float]

    def to_text(self) -> str:
        """Return it as a line for a person."""
        memory = ", ".join(f"{name} {mib:.0f}" for name, mib in self.resident.items())
        lag = "-" if self.p99_ms is None else f"p50 {self.p50_ms:g} ms, p99 {self.p99_ms:g} ms"
        return f"{self.seconds:6.0f} s: {self.ticks:,} ticks, {lag}; MiB: {memory}; load {self.load:.1f}"


@define
class Soak:
    """What an hour brought, or however long it was."""

    rate: float
    samples: list[Sample] = field(factory=list[Sample])
    latencies: Latencies = field(factory=Latencies)
    seconds: float = 0.0
    published: int = 0
    received: dict[str, int] = field(factory=dict[str, int])
    missed: int = 0
    repeated: int = 0
    conflated: int = 0
    cpu_us: dict[str, float] = field(factory=dict[str, float])

    @property
    def lost(self) -> int:
        """Ticks that were published and did not come, in either form."""
        return max((self.published - count for count in self.received.values()), default=0)

    @property
    def growth(self) -> dict[str, tuple[float, float]]:
        """By process, its memory once it had settled and in the end, in MiB (medians)."""
        settled = self.samples[int(len(self.samples) * SETTLING_SHARE) :]
        share = max(1, len(settled) // 10)
        return {
            name: (
                median(sample.resident[name] for sample in settled[:share]),
                median(sample.resident[name] for sample in settled[-share:]),
            )
            for name in (settled[0].resident if settled else ())
        }

    @property
    def flat(self) -> bool:
        """Whether no process has grown."""
        return all(
            last <= first * (1 + GROWTH_SHARE) + GROWTH_MIB for first, last in self.growth.values()
        )

    @property
    def ok(self) -> bool:
        """Whether each tick came in both forms, once and in order, and memory is flat."""
        wrong = self.lost or self.missed or self.repeated or self.conflated
        return bool(self.published) and not wrong and self.flat

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        loads = sorted(sample.load for sample in self.samples)
        minutes = [sample.p99_ms for sample in self.samples if sample.p99_ms is not None]
        return {
            "ok": self.ok,
            "offered_per_second": self.rate,
            "seconds": round(self.seconds, 1),
            "published": self.published,
            "received": self.received,
            "lost": self.lost,
            "missed": self.missed,
            "repeated": self.repeated,
            "conflated": self.conflated,
            "p50_ms": self.latencies.percentile_ms(0.5),
            "p99_ms": self.latencies.percentile_ms(0.99),
            "p999_ms": self.latencies.percentile_ms(0.999),
            "max_ms": self.latencies.percentile_ms(1.0),
            "median_p99_ms": median(minutes) if minutes else None,
            "cpu_us": {name: round(value, 2) for name, value in self.cpu_us.items()},
            "resident_mib": {
                name: [round(first, 1), round(last, 1)]
                for name, (first, last) in self.growth.items()
            },
            "flat": self.flat,
            "load_median": median(loads) if loads else None,
            "load_max": loads[-1] if loads else None,
        }


async def soak(
    minutes: float, rate: float, stage: Stage, cluster: Cluster, tell: Callable[[str], None]
) -> Soak:
    """Publish ``rate`` ticks a second in two bursts for so long, and check each."""
    result = Soak(rate)
    async with (
        open_subscriber(stage, cluster, TICKS, BATCHES) as subscriber,
        open_source(Way.SIMULATED, Offer(rate, even=False), stage, cluster) as source,
    ):
        pids = {"gateway": source.pid, "subscriber": subscriber.pid, "server": stage.server.pid}
        before = {name: cpu_seconds(pid) or 0.0 for name, pid in pids.items()}
        await source.begin()
        began = time.monotonic()
        ends = began + minutes * 60
        while (left := ends - time.monotonic()) > 0:
            await asyncio.sleep(min(SAMPLE_SECONDS, left))
            sample = await _sample(result, subscriber, pids, time.monotonic() - began)
            tell(sample.to_text())
        result.published = await source.end()
        result.seconds = time.monotonic() - began
        await _count(result, subscriber)
        result.conflated = source.conflated
        result.cpu_us = {
            name: ((cpu_seconds(pid) or 0.0) - before[name]) * 1e6 / max(1, result.published)
            for name, pid in pids.items()
        }
    return result


async def _sample(
    result: Soak, subscriber: Subscriber, pids: dict[str, int], seconds: float
) -> Sample:
    taken = await subscriber.take()
    late = taken[TICKS].latencies
    result.latencies.merge(late)
    resident = {name: resident_mib(pid) or 0.0 for name, pid in pids.items()}
    sample = Sample(
        seconds,
        taken[TICKS].received,
        late.percentile_ms(0.5),
        late.percentile_ms(0.99),
        late.percentile_ms(1.0),
        os.getloadavg()[0],
        resident,
    )
    result.samples.append(sample)
    return sample


async def _count(result: Soak, subscriber: Subscriber) -> None:
    taken = await subscriber.take_all(result.published)
    result.latencies.merge(taken[TICKS].latencies)
    result.received = {form: one.received for form, one in taken.items()}
    result.missed = sum(one.missed for one in taken.values())
    result.repeated = sum(one.repeated for one in taken.values())
