"""Recording ticks: what waits in memory, what is written when, and what was missed.

Whoever brings ticks never waits for a disk. They are kept in memory until a part of the
recording is due, and a part is written as a whole. A disk that is full or fails leaves the
part where it is, to be written later; only what no longer fits into memory is not recorded,
and counted.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any, Final, Protocol

import structlog
from attrs import asdict, define, field, frozen

from aegis.marketdata._tick import Tick

__all__ = [
    "Part",
    "PartFacts",
    "RecordedGap",
    "RecorderState",
    "TickRecorder",
    "TickSink",
    "lacking",
]

ROWS_PACKED: Final = 4_096
"""Ticks that wait as they are; so many are packed together, to a fifth of their size."""

RETRY_SECONDS: Final = 1.0
STOP_TIMEOUT: Final = 20.0

FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_log = structlog.get_logger("aegis.recorder")


class RecorderState(StrEnum):
    """How the recorder does."""

    STARTING = "starting"
    RECORDING = "recording"
    DISK_FULL = "disk_full"
    FAILING = "failing"
    """The disk, or the stream, takes nothing for another reason."""
    STOPPED = "stopped"


@frozen
class RecordedGap:
    """Where a recording lacks ticks of an exchange: ``missed`` behind number ``after``.

    None missed means that nobody can tell: ``reason`` is then that another feed publishes,
    or the same one that was started anew.
    """

    epoch: int
    after: int
    missed: int | None
    reason: str


@define
class PartFacts:
    """What a part of a recording holds. Numbers are ``[epoch, sequence]``."""

    exchange: str
    trading_day: int
    ticks: int
    first: list[int]
    last: list[int]
    first_ns: int
    last_ns: int
    gaps: list[RecordedGap] = field(factory=list[RecordedGap])

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


@define
class Part:
    """One file to be: the ticks of an exchange and a trading day, for a while."""

    facts: PartFacts
    begun: float
    due: float = 0.0
    """When it was to be written; 0 before."""
    packed: list[Any] = field(factory=list[Any])
    rows: list[Tick] = field(factory=list[Tick])


class TickSink(Protocol):
    """Where parts are written."""

    def pack(self, ticks: Sequence[Tick]) -> Any:
        """Return ticks in a form that takes less memory."""
        ...

    def write(self, part: Part) -> None:
        """Write a part, whose rows are all packed: as a whole, or not at all.

        Raises:
            OSError: it cannot be written now.
        """
        ...

    def last(self, exchange: str) -> tuple[int, int] | None:
        """Return epoch and number of the last tick that was recorded of an exchange."""
        ...


@define
class _Came:
    ticks: Sequence[Tick]
    left_out: int
    """Ticks of the exchange right before these that found no room."""


class TickRecorder:
    """Records batches of ticks, each of one exchange.

    A part is due after ``every`` seconds or with ``rows`` ticks, and all are when half of
    ``bound``, the ticks that may be in memory, wait and none waits for the disk.
    """

    def __init__(
        self,
        sink: TickSink,
        *,
        every: float = 60.0,
        rows: int = 1_000_000,
        bound: int = 500_000,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = RecorderState.STOPPED
        self.counts: Counter[str] = Counter()
        """Ticks by what became of them: recorded, not_recorded, outdated; and those missed,
        which did not come."""
        self._sink = sink
        self._every = every
        self._rows = rows
        self._bound = bound
        self._now = now
        self._came: deque[_Came] = deque()
        self._left_out: Counter[str] = Counter()
        self._waiting = 0
        self._parts: dict[tuple[int, str], Part] = {}
        self._due: deque[Part] = deque()
        self._last: dict[str, tuple[int, int] | None] = {}
        self._retry_at = float("-inf")
        self._reason = ""
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    # -- from the loop --------------------------------------------------------------------

    def start(self) -> None:
        """Begin to write, on a thread."""
        self.state = RecorderState.RECORDING
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write all that waits, and end; blocks as long as that takes."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT)

    def put(self, ticks: Sequence[Tick]) -> None:
        """Take in a batch; it never waits."""
        if not ticks:
            return
        exchange = ticks[0].exchange
        with self._changed:
            if self._waiting + len(ticks) > self._bound:
                self.counts["not_recorded"] += len(ticks)
                self._left_out[exchange] += len(ticks)
                return
            self._waiting += len(ticks)
            self._came.append(_Came(ticks, self._left_out.pop(exchange, 0)))
            if len(self._came) == 1:
                self._changed.notify()

    def statistics(self) -> dict[str, Any]:
        """Return how it does, as plain values."""
        return {
            "state": self.state.value,
            "reason": self._reason,
            "waiting": self._waiting,
            "behind_seconds": self.behind_seconds(),
            "ticks": dict(self.counts),
        }

    def behind_seconds(self) -> float:
        """Return for how long the oldest part that was to be written is not, whole."""
        try:
            return self._now() - self._due[0].due
        except IndexError:
            return 0.0  # The thread may take the last one at any time.

    # -- on the thread --------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._came and not self._stopping:
                    self._changed.wait(min(self._every, RETRY_SECONDS))
                stopping = self._stopping
            try:
                self.work()
            except Exception as error:
                self._fail(error)  # The thread goes on, or nothing is recorded any more.
            if stopping:
                self.finish()
                return

    def work(self) -> None:
        """Sort what came into parts, and write those that are due."""
        with self._changed:
            came = [self._came.popleft() for _ in range(len(self._came))]
        for batch in came:
            self._take(batch)
        now = self._now()
        # A disk that keeps up gets more files of a fast market; one that does not, no more.
        crowded = self._waiting > self._bound // 2 and not self._due
        for key, part in list(self._parts.items()):
            if crowded or now - part.begun >= self._every:
                self._close(key)
        if self._due and now >= self._retry_at:
            self._write()

    def finish(self) -> None:
        """Write all that waits, due or not; what cannot be written is not recorded."""
        for key in list(self._parts):
            self._close(key)
        if self._due:
            self._write()
        lost = sum(part.facts.ticks for part in self._due)
        if lost:
            self.counts["not_recorded"] += lost
            _log.error("ticks_not_recorded", ticks=lost, reason=self._reason)
            self._due.clear()
        self.state = RecorderState.STOPPED

    def _take(self, batch: _Came) -> None:
        left_out = batch.left_out
        for tick in batch.ticks:
            gap, outdated = self._judge(tick, left_out)
            left_out = 0
            if outdated:
                self.counts["outdated"] += 1
                self._forget(1)
                continue
            part = self._part_of(tick)
            facts = part.facts
            if gap is not None:
                facts.gaps.append(gap)
                _log.warning("recording_gap", exchange=tick.exchange, **asdict(gap))
            facts.ticks += 1
            facts.last = [tick.epoch, tick.sequence]
            facts.last_ns = tick.received_ns
            part.rows.append(tick)
            if len(part.rows) >= ROWS_PACKED:
                self._pack(part)
            if facts.ticks >= self._rows:
                self._close((tick.trading_day, tick.exchange))

    def _judge(self, tick: Tick, left_out: int) -> tuple[RecordedGap | None, bool]:
        """Return what is missing before a tick, and whether its feed has been replaced."""
        exchange = tick.exchange
        if exchange not in self._last:
            self._last[exchange] = self._sink.last(exchange)
        last = self._last[exchange]
        if last is not None and tick.epoch < last[0]:
            return None, True
        self._last[exchange] = (tick.epoch, tick.sequence)
        if last is None:
            return None, False
        epoch, number = last
        if tick.epoch > epoch:
            return RecordedGap(epoch, number, None, "another feed publishes"), False
        if tick.sequence <= number:
            return RecordedGap(epoch, number, None, "the feed was started anew"), False
        missed = tick.sequence - number - 1
        if not missed:
            return None, False
        if missed > left_out:
            self.counts["missed"] += missed - left_out
        reason = "they did not come" if not left_out else self._reason or "the disk was too slow"
        return RecordedGap(epoch, number, missed, reason), False

    def _part_of(self, tick: Tick) -> Part:
        key = (tick.trading_day, tick.exchange)
        part = self._parts.get(key)
        if part is None:
            # What comes of a new day ends the day before.
            for earlier in [k for k in self._parts if k[1] == tick.exchange]:
                self._close(earlier)
            number = [tick.epoch, tick.sequence]
            at = tick.received_ns
            facts = PartFacts(tick.exchange, tick.trading_day, 0, number, number, at, at)
            part = self._parts[key] = Part(facts, self._now())
        return part

    def _pack(self, part: Part) -> None:
        rows, part.rows = part.rows, []
        if not rows:
            return
        try:
            part.packed.append(self._sink.pack(rows))
        except Exception:
            # Of a feed that says what no column takes: the rest must not go with it.
            _log.exception("ticks_not_recorded", ticks=len(rows), exchange=part.facts.exchange)
            part.facts.ticks -= len(rows)
            self.counts["not_recorded"] += len(rows)
            self._forget(len(rows))

    def _close(self, key: tuple[int, str]) -> None:
        part = self._parts.pop(key)
        part.due = self._now()
        self._pack(part)
        if part.packed:
            self._due.append(part)

    def _write(self) -> None:
        while self._due:
            part = self._due[0]
            try:
                self._sink.write(part)
            except Exception as error:  # pyarrow's own errors have no common class
                self._fail(error)
                return
            self._due.popleft()
            self.counts["recorded"] += part.facts.ticks
            self._forget(part.facts.ticks)
            self._recover()

    def _forget(self, ticks: int) -> None:
        with self._changed:
            self._waiting -= ticks

    def _fail(self, error: Exception) -> None:
        self._retry_at = self._now() + RETRY_SECONDS
        self._reason = getattr(error, "strerror", None) or str(error)
        full = isinstance(error, OSError) and error.errno in FULL
        state = RecorderState.DISK_FULL if full else RecorderState.FAILING
        if state is not self.state:
            self.state = state
            _log.error(
                "recorder_disk_full" if state is RecorderState.DISK_FULL else "recorder_failing",
                reason=self._reason,
                waiting=self._waiting,
                bound=self._bound,
                action="make room; until then ticks wait in memory, and beyond the bound are lost",
            )

    def _recover(self) -> None:
        if self.state in (RecorderState.DISK_FULL, RecorderState.FAILING):
            _log.warning("recorder_goes_on", not_recorded=self.counts["not_recorded"])
            self.state, self._reason = RecorderState.RECORDING, ""


def lacking(parts: Iterable[PartFacts]) -> list[tuple[PartFacts, RecordedGap]]:
    """Return what the parts of one exchange and day lack, in their order, with where.

    Besides the gaps that the recorder knew of, that is what stands in no part though the
    numbers say that there was something: a file that is gone.
    """
    found: list[tuple[PartFacts, RecordedGap]] = []
    before: PartFacts | None = None
    for part in parts:
        known = {(gap.epoch, gap.after) for gap in part.gaps}
        if before is not None and (before.last[0], before.last[1]) not in known:
            (epoch, number), (next_epoch, next_number) = before.last, part.first
            if next_epoch != epoch or next_number != number + 1:
                missed = next_number - number - 1 if next_epoch == epoch else None
                found.append((part, RecordedGap(epoch, number, missed, "a file is missing")))
        found += [(part, gap) for gap in part.gaps]
        before = part
    return found
