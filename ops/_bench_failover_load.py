"""Callers that keep calling while owners are lost, and remember what they were told.

Counters number their commands. At the end the numbers that were told must be 1, 2, 3 and
so on to what each counter holds: else something was lost, or took effect twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from attrs import define, field

from aegis._cluster import Cluster
from aegis.ops._bench_failover_rows import RowReport
from aegis.ops._bench_processes import BenchFailed
from aegis.ops._bench_services import Tally

__all__ = ["CALL_TIMEOUT", "Books", "SteadyLoad", "wait_until"]

CALL_TIMEOUT: Final = 30.0
WAIT_TIMEOUT: Final = 60.0
_POLL_SECONDS: Final = 0.005


class Books:
    """The counters, and what was told of them."""

    def __init__(self, cluster: Cluster, resources: Sequence[str]) -> None:
        self.told: dict[str, list[int]] = {name: [] for name in resources}
        self.acknowledged = 0
        self.failed: list[str] = []
        self._actors = {
            name: cluster.actor(Tally, name, timeout=CALL_TIMEOUT) for name in resources
        }

    async def add(self, name: str) -> str | None:
        """Send one command; return the instance that ran it, or None if it failed."""
        try:
            number, instance_id = await self._actors[name].add()
        except Exception as error:
            self.failed.append(f"{name}: {type(error).__name__}: {error}"[:200])
            return None
        self.told[name].append(number)
        self.acknowledged += 1
        return instance_id

    def check_failed(self) -> None:
        """Raise `BenchFailed` if a call failed."""
        if self.failed:
            raise BenchFailed(self.failed[0])

    async def verify(self, report: RowReport) -> None:
        """Compare what was told with what the counters hold."""
        report.acknowledged += self.acknowledged
        report.failed += self.failed
        for name, told in self.told.items():
            held = await self._actors[name].value()
            report.effects += held
            if sorted(told) != list(range(1, held + 1)):
                report.wrong.append(f"{name}: {len(told)} acknowledged, holds {held}")


@define(eq=False)
class _Watch:
    """Looks out for the first answer of each resource that counts after a signal."""

    waiting: set[str]
    began: float
    instance_id: str | None
    last: float = 0.0
    done: asyncio.Event = field(factory=asyncio.Event)

    def see(self, name: str, due: float, end: float, instance_id: str) -> None:
        # With a new owner, only it can say so; else what was asked for after the signal.
        new = due > self.began if self.instance_id is None else instance_id == self.instance_id
        if new and name in self.waiting:
            self.waiting.discard(name)
            self.last = max(self.last, end)
            if not self.waiting:
                self.done.set()


class SteadyLoad:
    """Commands at a steady rate, whatever comes back."""

    def __init__(self, books: Books, rate: float) -> None:
        self.longest = 0.0
        """The longest wait of any call that has ended; set it back as you like."""
        self._books = books
        self._rate = rate
        self._watch: _Watch | None = None
        self._going = True
        self._open: set[asyncio.Task[None]] = set()
        self._task = asyncio.ensure_future(self._send())

    def send(self, name: str, due: float) -> None:
        """Send one command that was due at that moment."""
        task = asyncio.ensure_future(self._call(name, due))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def wait_more(self, count: int) -> None:
        """Return when so many more commands were acknowledged."""
        wanted = self._books.acknowledged + count
        await wait_until(lambda: self._books.acknowledged >= wanted, self._books, "commands go on")

    def watch(self, began: float, instance_id: str | None) -> None:
        """Look out for the first answers of ``instance_id``, or to calls due from now on."""
        self._watch = _Watch(set(self._books.told), began, instance_id)

    async def wait_answered(self) -> float:
        """Return how many seconds it took until every resource had answered.

        Raises:
            BenchFailed: a call failed, or it takes too long.
        """
        watch = self._watch
        assert watch is not None
        await wait_until(watch.done.is_set, self._books, "every resource answers again")
        return watch.last - watch.began

    async def end(self) -> None:
        """Send no more, and wait for what is open."""
        self._going = False
        await self._task
        await asyncio.gather(*self._open)

    async def abandon(self) -> None:
        """End at once."""
        self._going = False
        tasks = [self._task, *self._open]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self) -> None:
        names = list(self._books.told)
        began = time.perf_counter()
        number = 0
        while self._going:
            due = began + number / self._rate
            while (early := due - time.perf_counter()) > 0:  # noqa: ASYNC110 - a clock, no poll
                await asyncio.sleep(early)
            self.send(names[number % len(names)], due)
            number += 1

    async def _call(self, name: str, due: float) -> None:
        instance_id = await self._books.add(name)
        if instance_id is None:
            return
        end = time.perf_counter()
        self.longest = max(self.longest, end - due)
        if self._watch is not None:
            self._watch.see(name, due, end, instance_id)


async def wait_until(condition: Callable[[], bool], books: Books, what: str) -> None:
    """Return when ``condition`` holds; `BenchFailed` if a call failed or it takes too long."""
    deadline = time.perf_counter() + WAIT_TIMEOUT
    while not condition():
        books.check_failed()
        if time.perf_counter() > deadline:
            raise BenchFailed(f"not within {WAIT_TIMEOUT:g} s: {what}")
        await asyncio.sleep(_POLL_SECONDS)
