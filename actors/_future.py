"""The answer to a message: awaitable on any event loop, waitable from any thread."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from functools import reduce
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import pykka
import structlog

from aegis.actors._workers import (
    blocking_section,
    call_soon,
    run_in_thread,
    running_loop_or_none,
)

if TYPE_CHECKING:
    from pykka._future import GetHookFunc
    from pykka._types import OptExcInfo

__all__ = ["AegisFuture"]

_log = structlog.get_logger("aegis.future")

type _Waiter = asyncio.Future[None] | threading.Lock | Callable[[AegisFuture[Any]], object]

_UNSET: Any = object()


class AegisFuture[T](pykka.Future[T]):
    """A `pykka.Future` that can be awaited, and set once from any thread.

    Cancelling a task that awaits it cancels only that wait: the future may still be
    set, and others may still await it.
    """

    # Class-level defaults: most futures need only some of these, and one is made for
    # each message. `pykka.Future.__init__` would set two of them every time.
    _get_hook: GetHookFunc[T] | None = None
    _get_hook_result: Any = _UNSET
    _await_hook: Callable[[], Awaitable[T]] | None = None
    _done = False
    _value: Any = None
    _error: BaseException | None = None
    _traceback: TracebackType | None = None
    _waiters: list[_Waiter] | None = None

    home_loop: asyncio.AbstractEventLoop | None = None
    """The loop that has to run for this future to be set, where it is known."""

    refuse_await: Callable[[], BaseException | None] | None = None
    """Called before a wait; what it returns is raised instead of waiting for ever."""

    def __init__(self) -> None:
        # An RLock: a finalizer that runs inside of the few guarded lines may set
        # another future of the same kind, or this one.
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        if not self._done:
            return "<AegisFuture pending>"
        if self._error is not None:
            return f"<AegisFuture error={self._error!r}>"
        return f"<AegisFuture value={self._value!r}>"

    # -- setting ------------------------------------------------------------------

    def done(self) -> bool:
        """Whether a value or an exception has been set."""
        return self._done

    def set(self, value: T | None = None) -> None:
        """Set the value.

        Raises:
            queue.Full: the future is set already, or has a get hook.
        """
        if not self._settle(value, None, None):
            raise queue.Full

    def set_exception(self, exc_info: OptExcInfo | BaseException | None = None) -> None:
        """Set an exception: itself, as ``sys.exc_info()`` has it, or the current one.

        Raises:
            queue.Full: the future is set already, or has a get hook.
        """
        if not self.try_set_exception(exc_info):
            raise queue.Full

    def try_set(self, value: T | None = None) -> bool:
        """Set the value unless the future is set already; return whether it was not."""
        return self._settle(value, None, None)

    def try_set_exception(self, exc_info: OptExcInfo | BaseException | None = None) -> bool:
        """Set an exception unless the future is set; return whether it was not."""
        if isinstance(exc_info, BaseException):
            return self._settle(None, exc_info, exc_info.__traceback__)
        kind, error, traceback = sys.exc_info() if exc_info is None else exc_info
        if error is None:
            error = kind() if kind is not None else RuntimeError("no exception was given")
        return self._settle(None, error, traceback)

    def _settle(
        self, value: Any, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        with self._lock:
            if self._done or self._get_hook is not None:
                return False
            self._value = value
            if error is not None:
                self._error = error
                self._traceback = traceback
            self._done = True
            waiters = self._waiters
            if waiters is None:
                return True
            self._waiters = None
        self._wake(waiters)
        return True

    def set_get_hook(self, func: GetHookFunc[T]) -> None:
        """Set the function that `get` calls, with its timeout, for the value.

        Raises:
            queue.Full: the future is set already.
        """
        with self._lock:
            if self._done:
                raise queue.Full
            self._get_hook = func
            waiters, self._waiters = self._waiters, None
        if waiters is not None:
            self._wake(waiters)

    def _wake(self, waiters: list[_Waiter]) -> None:
        loop = running_loop_or_none()
        for waiter in waiters:
            if isinstance(waiter, asyncio.Future):
                if waiter.get_loop() is loop:
                    _release(waiter)  # pyright: ignore[reportUnknownArgumentType]
                else:
                    call_soon(waiter.get_loop(), _release, waiter)
            elif callable(waiter):
                self._call_back(waiter)
            else:
                waiter.release()

    def add_done_callback(self, callback: Callable[[AegisFuture[T]], object]) -> None:
        """Call ``callback`` once this is set: in the thread that sets it, or now.

        What it raises is logged.
        """
        with self._lock:
            if not self._done:
                self._add_waiter(callback)
                return
        self._call_back(callback)

    def _call_back(self, callback: Callable[[AegisFuture[Any]], object]) -> None:
        try:
            callback(self)
        except Exception:
            _log.exception("future_callback_failed")

    def _add_waiter(self, waiter: _Waiter) -> None:
        if self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)

    def _is_settled(self) -> bool:
        return self._done or self._get_hook is not None

    def _drop_waiter(self, waiter: _Waiter) -> None:
        with self._lock:
            if self._waiters is not None and waiter in self._waiters:
                self._waiters.remove(waiter)

    # -- waiting ------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, T]:
        while not self._done:
            if self._get_hook is not None:
                return (yield from self._await_get_hook().__await__())
            if self.refuse_await is not None and (error := self.refuse_await()) is not None:
                raise error
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            with self._lock:
                if self._is_settled():
                    continue
                self._add_waiter(waiter)
            try:
                yield from waiter
            except BaseException:
                self._drop_waiter(waiter)
                raise
        return self._result()

    __iter__ = __await__

    async def _await_get_hook(self) -> T:
        if self._get_hook_result is _UNSET:
            if self._await_hook is not None:
                self._get_hook_result = await self._await_hook()
            else:
                # Pykka's hooks block, so one may not run on the loop.
                self._get_hook_result = await run_in_thread(self._run_get_hook, None)
        return cast("T", self._get_hook_result)

    def get(self, *, timeout: float | None = None) -> T:
        """Return the value, or raise the exception, once it is there.

        Blocks the calling thread, at most ``timeout`` seconds.

        Raises:
            RuntimeError: the wait would block the event loop that has to bring the
                answer; ``await`` the future there.
            pykka.Timeout: nothing was set in time.
        """
        if not self._done:
            if self._get_hook is not None:
                return self._run_get_hook(timeout)
            hooked = self._wait_in_thread(timeout)
            if hooked:
                return self.get(timeout=timeout)
        return self._result()

    def _run_get_hook(self, timeout: float | None) -> T:
        assert self._get_hook is not None
        if self._get_hook_result is _UNSET:
            result = self._get_hook(timeout)
            with self._lock:
                if self._get_hook_result is _UNSET:
                    self._get_hook_result = result
        return cast("T", self._get_hook_result)

    def _wait_in_thread(self, timeout: float | None) -> bool:
        """Block until this is set; return True if a get hook was set instead."""
        running = running_loop_or_none()
        if running is not None and (self.home_loop is None or self.home_loop is running):
            raise RuntimeError(
                "get() would block the event loop that has to run the actor; await the future"
            )
        if self.refuse_await is not None and (error := self.refuse_await()) is not None:
            raise error
        signal = threading.Lock()
        signal.acquire()
        with self._lock:
            if self._done:
                return False
            if self._get_hook is not None:
                return True
            self._add_waiter(signal)
        limit = -1.0 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX)
        with blocking_section():
            if not signal.acquire(timeout=limit):
                self._drop_waiter(signal)
                if not self._done:
                    raise pykka.Timeout(f"{timeout} seconds")
        return self._get_hook is not None

    def _result(self) -> T:
        if self._error is None:
            return cast("T", self._value)
        try:
            # From here on each raise adds its own frames to the traceback, and the
            # next one must not find those of this one.
            raise self._error.with_traceback(self._traceback)
        finally:
            del self

    # -- derived futures ----------------------------------------------------------

    def _derive[M](
        self, hook: Callable[[float | None], M], await_hook: Callable[[], Awaitable[M]]
    ) -> AegisFuture[M]:
        future: AegisFuture[M] = AegisFuture()
        future.home_loop = self.home_loop
        future._get_hook = hook
        future._await_hook = await_hook
        return future

    def filter(self, func: Callable[[Any], bool]) -> AegisFuture[Any]:
        """Return a future of only the items for which ``func`` is true."""
        return self.map(lambda items: list(filter(func, cast("Iterable[Any]", items))))

    def join(self, *futures: pykka.Future[Any]) -> AegisFuture[Iterable[Any]]:
        """Return a future of the list of this one's result and those of ``futures``."""
        every: list[pykka.Future[Any]] = [self, *futures]

        def block(timeout: float | None) -> Iterable[Any]:
            end = None if timeout is None else time.monotonic() + timeout
            left = (None if end is None else max(end - time.monotonic(), 0.0) for _ in every)
            return [
                future.get(timeout=seconds) for future, seconds in zip(every, left, strict=True)
            ]

        async def wait() -> Iterable[Any]:
            return [await future for future in every]

        return self._derive(block, wait)

    def map[M](self, func: Callable[[T], M]) -> AegisFuture[M]:
        """Return a future of ``func(result)``."""

        async def wait() -> M:
            return func(await self)

        return self._derive(lambda timeout: func(self.get(timeout=timeout)), wait)

    def reduce(self, func: Callable[[Any, Any], Any], *args: Any) -> AegisFuture[Any]:
        """Return a future of the items combined by ``func``, from left to right."""
        return self.map(lambda items: reduce(func, cast("Iterable[Any]", items), *args))


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
