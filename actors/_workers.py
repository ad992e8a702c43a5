"""Every crossing between the event loop and worker threads.

Handlers and hooks that are plain ``def`` run here, so they may block. The pool is
bounded; its threads start when they are needed and are daemons, so that a handler
which never returns cannot keep the process alive.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from asyncio import _get_running_loop as running_loop_or_none
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

from aegis.errors import AegisError

__all__ = [
    "DEFAULT_WORKER_THREADS",
    "MAX_BLOCKED_WORKERS",
    "Workers",
    "blocking_section",
    "call_soon",
    "run_in_thread",
    "running_loop_or_none",
]

DEFAULT_WORKER_THREADS: Final = 32
"""How many plain handlers run at once unless the pool is told otherwise."""

MAX_BLOCKED_WORKERS: Final = 256
"""Threads that wait for another actor's answer and are made up for by new ones."""


def call_soon(
    loop: asyncio.AbstractEventLoop,
    callback: Callable[..., object],
    *args: Any,
    context: contextvars.Context | None = None,
) -> bool:
    """Run ``callback`` on ``loop``, from whatever thread; False if the loop is closed."""
    try:
        if running_loop_or_none() is loop:
            loop.call_soon(callback, *args, context=context)
        else:
            loop.call_soon_threadsafe(callback, *args, context=context)
    except RuntimeError:
        if loop.is_closed():
            return False
        raise
    return True


class _Job:
    """One call on its way to a thread and back. The lock of the pool guards ``taken``."""

    __slots__ = ("args", "context", "function", "taken", "waiter")

    def __init__(
        self,
        waiter: asyncio.Future[Any],
        context: contextvars.Context,
        function: Callable[..., Any],
        args: tuple[Any, ...],
    ) -> None:
        self.waiter = waiter
        self.context = context
        self.function = function
        self.args = args
        self.taken = False


class Workers:
    """A pool of at most ``max_threads`` threads that run blocking code.

    A thread that waits for the answer of another actor does not count: another one
    takes its place, since the answer may need a thread itself.
    """

    def __init__(
        self, max_threads: int = DEFAULT_WORKER_THREADS, *, name: str = "aegis-worker"
    ) -> None:
        if max_threads < 1:
            raise ValueError("a pool needs at least one thread")
        self._max_threads = max_threads
        self._name = name
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._blocked = 0
        self._started = 0
        self._closed = False

    @property
    def thread_count(self) -> int:
        """How many threads are there now."""
        return len(self._threads)

    async def run[R](self, function: Callable[..., R], /, *args: Any) -> R:
        """Run ``function`` in a thread, with the caller's context variables.

        What the function raises is raised here, whatever it is. When the awaiting
        task is cancelled, a call that has not begun is dropped; one that has begun
        runs to its end, and its result is lost.

        Raises:
            AegisError: the pool is closed.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
        job = _Job(waiter, contextvars.copy_context(), function, args)
        with self._changed:
            if self._closed:
                raise AegisError("the worker threads have been closed")
            if self._idle > len(self._jobs):
                self._changed.notify()
            else:
                self._start_thread_if_allowed()
            self._jobs.append(job)
        # A loop on virtual time has to hold its clock while a thread works for it.
        hold = getattr(loop, "outside_work", nullcontext)
        try:
            with hold():
                value, error = await waiter
        except asyncio.CancelledError:
            with self._changed:
                if not job.taken:
                    job.taken = True
                    self._jobs.remove(job)
            raise
        if error is not None:
            try:
                raise error
            finally:
                del error, waiter, job  # An exception and its traceback form a cycle.
        return value  # type: ignore[no-any-return]

    def close(self, *, timeout: float = 0.0) -> int:
        """Refuse new calls and end the idle threads; return how many are still busy.

        Waits for busy threads up to ``timeout`` seconds. Calls that wait for a
        thread still get one.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if timeout > 0:
                self._changed.wait_for(lambda: not self._threads, timeout=timeout)
            return len(self._threads) - self._idle

    def _start_thread_if_allowed(self) -> None:
        # Called with the lock held.
        allowed = self._max_threads + min(self._blocked, MAX_BLOCKED_WORKERS)
        if len(self._threads) >= allowed:
            return
        self._started += 1
        thread = threading.Thread(
            target=self._work, name=f"{self._name}-{self._started}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # The system gives no more now; those that are there take one job after the other.
            if not self._threads:
                raise
            return
        self._threads.add(thread)

    def _take(self) -> _Job | None:
        with self._changed:
            while not self._jobs:
                surplus = len(self._threads) > self._max_threads + self._blocked
                if self._closed or surplus:
                    self._threads.discard(threading.current_thread())
                    self._changed.notify_all()
                    return None
                self._idle += 1
                try:
                    self._changed.wait()
                finally:
                    self._idle -= 1
            job = self._jobs.popleft()
            job.taken = True
            return job

    def _work(self) -> None:
        _current.pool = self
        while (job := self._take()) is not None:
            value: Any = None
            error: BaseException | None = None
            try:
                value = job.context.run(job.function, *job.args)
            except BaseException as raised:
                # A SystemExit here is the handler's failure and not this thread's end.
                error = raised
            call_soon(job.waiter.get_loop(), _deliver, job.waiter, value, error)
            del job, value, error  # An idle thread keeps nothing alive.

    @contextmanager
    def _blocking(self) -> Generator[None]:
        with self._changed:
            self._blocked += 1
            if len(self._jobs) > self._idle:
                self._start_thread_if_allowed()
        try:
            yield
        finally:
            with self._changed:
                self._blocked -= 1


class _Current(threading.local):
    pool: Workers | None = None


_current: Final = _Current()


@contextmanager
def blocking_section() -> Generator[None]:
    """Mark a wait for another actor: its pool may start a thread in place of this one."""
    pool = _current.pool
    if pool is None:
        yield
    else:
        with pool._blocking():
            yield


async def run_in_thread[R](function: Callable[..., R], /, *args: Any) -> R:
    """Run ``function`` in a thread of the process-wide pool, which no actor uses."""
    return await _shared.run(function, *args)


def _deliver(
    waiter: asyncio.Future[tuple[Any, BaseException | None]],
    value: Any,
    error: BaseException | None,
) -> None:
    if not waiter.done():
        # The pair hides the exception from the future, which would refuse a
        # StopIteration and let a SystemExit end the loop.
        waiter.set_result((value, error))


_shared: Final = Workers(name="aegis-shared")
