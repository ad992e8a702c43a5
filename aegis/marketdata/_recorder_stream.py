"""Recording ticks into a JetStream stream: each batch as it was published, and acknowledged.

Whoever reads the stream may find a batch twice, after an answer that was lost; epoch and
number of a tick tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgpack
import structlog
from attrs import define

import aegis
from aegis.marketdata._recorder import RecorderState
from aegis.marketdata._tick import Tick

if TYPE_CHECKING:
    from aegis import Cluster

__all__ = ["TickStreamCopy"]

SUBJECT: Final = "md.record"
"""``md.record.<exchange>.<trading day>``."""

APPEND_TIMEOUT: Final = 10.0
RETRY_SECONDS: Final = 1.0
STOP_TIMEOUT: Final = 10.0

TOGETHER: Final = 64
"""Batches that are on their way to the server at a time."""

_log = structlog.get_logger("aegis.recorder")


@define
class _Batch:
    subject: str
    payload: bytes
    ticks: int
    at: float
    """When it came."""


class TickStreamCopy:
    """Appends batches to a stream, over a connection of its own."""

    def __init__(
        self,
        stream: str,
        *,
        max_age: int,
        max_bytes: int,
        bound: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """Ticks by what became of them: recorded, not_recorded."""
        self.state = RecorderState.STARTING
        self._stream = stream
        self._max_age = max_age
        self._max_bytes = max_bytes
        self._bound = bound
        self._now = now
        self._waiting: deque[_Batch] = deque()
        self._waiting_ticks = 0
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._working: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to append."""
        self._working = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Append what waits, as far as that goes soon, and end."""
        if self._working is None:
            return
        if self._waiting_ticks:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT):
                    await self._idle.wait()
        self._working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._working
        if self._waiting_ticks:
            self.counts["not_recorded"] += self._waiting_ticks
            _log.error("ticks_not_recorded", ticks=self._waiting_ticks, stream=self._stream)
        self.state = RecorderState.STOPPED

    def put(self, ticks: Sequence[Tick]) -> None:
        """Take in a batch; it never waits."""
        if not ticks:
            return
        if self._waiting_ticks + len(ticks) > self._bound:
            self.counts["not_recorded"] += len(ticks)
            return
        first = ticks[0]
        subject = f"{SUBJECT}.{first.exchange}.{first.trading_day}"
        self._waiting.append(_Batch(subject, msgpack.packb(list(ticks)), len(ticks), self._now()))
        self._waiting_ticks += len(ticks)
        self._more.set()

    def statistics(self) -> dict[str, Any]:
        """Return how it does, as plain values."""
        return {
            "state": self.state.value,
            "waiting": self._waiting_ticks,
            "behind_seconds": self.behind_seconds(),
            "ticks": dict(self.counts),
        }

    def behind_seconds(self) -> float:
        """Return for how long the oldest batch has waited that is not acknowledged."""
        return self._now() - self._waiting[0].at if self._waiting else 0.0

    async def _work(self) -> None:
        while True:
            try:
                async with aegis.connect() as cluster:
                    await self._open(cluster)
                    await self._append_all(cluster)
            except aegis.AegisError as error:
                self._enter(RecorderState.FAILING, str(error))
            await asyncio.sleep(RETRY_SECONDS)

    async def _open(self, cluster: Cluster) -> None:
        from aegis.transport import StreamConfig

        config = StreamConfig(
            self._stream, [f"{SUBJECT}.>"], max_bytes=self._max_bytes, max_age=self._max_age
        )
        await cluster.transport.ensure_stream(config)
        self._enter(RecorderState.RECORDING, "")

    async def _append_all(self, cluster: Cluster) -> None:
        while True:
            if not self._waiting:
                self._idle.set()
                self._more.clear()
                await self._more.wait()
            # They stay until they are acknowledged: the connection may end in between.
            batches = [*islice(self._waiting, TOGETHER)]
            failed = await self._append(cluster, batches)
            for _ in batches:
                self._waiting.popleft()
            self._waiting.extendleft(reversed(failed))
            if failed:
                await asyncio.sleep(RETRY_SECONDS)

    async def _append(self, cluster: Cluster, batches: Sequence[_Batch]) -> list[_Batch]:
        """Append batches in their order; return those that have to be tried again."""
        from aegis.transport import Append, Appended, Refused

        appends = [
            cluster.transport.append(Append(batch.subject, batch.payload), timeout=APPEND_TIMEOUT)
            for batch in batches
        ]
        failed: list[_Batch] = []
        for batch, outcome in zip(batches, await asyncio.gather(*appends), strict=True):
            if isinstance(outcome, Appended):
                self.counts["recorded"] += batch.ticks
                self._waiting_ticks -= batch.ticks
            else:
                failed.append(batch)
                code = outcome.code if isinstance(outcome, Refused) else 0
                self._enter(RecorderState.FAILING, outcome.reason or f"code {code}")
        if not failed:
            self._enter(RecorderState.RECORDING, "")
        return failed

    def _enter(self, state: RecorderState, reason: str) -> None:
        if state is self.state:
            return
        if state is RecorderState.FAILING:
            _log.error(
                "recorder_stream_failing",
                stream=self._stream,
                reason=reason,
                waiting=self._waiting_ticks,
                action="mend it; until then batches wait in memory, and beyond the bound are lost",
            )
        elif self.state is RecorderState.FAILING:
            _log.warning("recorder_stream_goes_on", stream=self._stream, **self.statistics())
        self.state = state
