"""Load: so many at a time (closed loop), or so many a second whatever comes back (open loop)."""

from __future__ import annotations

import asyncio
import math
import time
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from attrs import define, field

from aegis.ops._bench_stats import Figures, figures_of

__all__ = ["Load", "Operation", "closed_loop", "open_loop"]

type Operation = Callable[[int], Awaitable[object]]
"""One request from its start to its answer. It takes a number: of the worker that makes it
(closed loop), or its own (open loop)."""

type Clock = Callable[[], float]

DRAIN_SECONDS: Final = 10.0
"""How long requests that are open at the end may take; what is left then is lost."""

_MAX_KINDS: Final = 20


@define
class Load:
    """What one load brought: ``latencies`` in seconds of all that succeeded."""

    latencies: array[float] = field(factory=lambda: array("d"))
    sent: int = 0
    failed: int = 0
    """Ended with an error."""
    lost: int = 0
    """Did not end at all."""
    seconds: float = 0.0
    """From the first start to the last answer."""
    errors: Counter[str] = field(factory=Counter[str])

    @property
    def figures(self) -> Figures:
        """The figures of what succeeded."""
        return figures_of(self.latencies, self.seconds)

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain values, for another process."""
        return {
            "latencies": self.latencies.tobytes(),
            "sent": self.sent,
            "failed": self.failed,
            "lost": self.lost,
            "seconds": self.seconds,
            "errors": dict(self.errors),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Load:
        """Return what `to_plain` described."""
        latencies = array("d")
        latencies.frombytes(plain["latencies"])
        return cls(
            latencies,
            plain["sent"],
            plain["failed"],
            plain["lost"],
            plain["seconds"],
            Counter(plain["errors"]),
        )

    def note_failure(self, error: BaseException) -> None:
        """Count a request that ended with ``error``."""
        self.failed += 1
        text = f"{type(error).__name__}: {error}"[:200]
        if text in self.errors or len(self.errors) < _MAX_KINDS:
            self.errors[text] += 1


async def closed_loop(
    operation: Operation,
    *,
    concurrency: int,
    seconds: float,
    clock: Clock = time.perf_counter,
) -> Load:
    """Keep ``concurrency`` requests open for ``seconds``; each worker waits for its answer.

    ``clock`` tells seconds; asyncio's own is too coarse on some event loops.
    """
    load = Load()
    began = clock()
    ends = began + seconds

    async def work(worker: int) -> None:
        append = load.latencies.append
        while True:
            start = clock()
            if start >= ends:
                return
            load.sent += 1
            try:
                await operation(worker)
            except Exception as error:
                load.note_failure(error)
            else:
                append(clock() - start)

    await _finish([asyncio.ensure_future(work(worker)) for worker in range(concurrency)], seconds)
    load.seconds = clock() - began
    load.lost = load.sent - load.failed - len(load.latencies)
    return load


async def open_loop(
    operation: Operation,
    *,
    rate: float,
    seconds: float,
    clock: Clock = time.perf_counter,
) -> Load:
    """Start ``rate`` requests a second for ``seconds``, whether or not answers come.

    A latency counts from the moment at which the request was *due*: if the generator or
    the system falls behind, that wait is part of it (no coordinated omission).
    """
    load = Load()
    total = math.floor(rate * seconds)
    began = clock()
    open_requests: set[asyncio.Task[None]] = set()

    async def request(number: int, due: float) -> None:
        try:
            await operation(number)
        except Exception as error:
            load.note_failure(error)
        else:
            load.latencies.append(clock() - due)

    for number in range(total):
        due = began + number / rate
        while (early := due - clock()) > 0:  # noqa: ASYNC110 - this is a clock, no poll
            await asyncio.sleep(early)
        load.sent += 1
        task = asyncio.ensure_future(request(number, due))
        open_requests.add(task)
        task.add_done_callback(open_requests.discard)
    await _finish(list(open_requests), 0.0)
    load.seconds = clock() - began
    load.lost = load.sent - load.failed - len(load.latencies)
    return load


async def _finish(
    tasks: list[asyncio.Future[None]] | list[asyncio.Task[None]], seconds: float
) -> None:
    """Wait for ``tasks``; those that are not done in time are cancelled."""
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=seconds + DRAIN_SECONDS)
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
