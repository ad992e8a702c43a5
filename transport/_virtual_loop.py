"""An event loop whose time is virtual: tests of minutes run in milliseconds.

`VirtualTimeLoop` is asyncio's own selector loop with another clock. When nothing is
ready it does not wait for the next timer, it jumps to it. Only work outside the loop
(`loop.run_in_executor`, or `VirtualTimeLoop.outside_work` around anything else that
will call ``call_soon_threadsafe``) makes it wait in real time, since no timer may pass
before that work is done.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, Final

__all__ = ["Deadlock", "VirtualClock", "VirtualTimeLoop", "run"]

START_SECONDS: Final = 1000.0
"""What the clock of a new loop says; not 0, so that time differences stand out."""

STALL_SECONDS: Final = 10.0
"""How long, in real seconds, a loop with nothing to do waits before `Deadlock`."""

_SOCKET_GRACE_SECONDS: Final = 0.002


class Deadlock(RuntimeError):
    """Nothing is ready, no timer is set and no outside work is under way."""


class _JumpingSelector(selectors.BaseSelector):
    """Polls the real selector and turns waiting into a jump of the clock."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.jump: Callable[[float], None] = _no_jump
        self.outside_work = 0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Any:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return self._real.select(0)
        if self.outside_work:
            # Whoever does that work wakes the loop through its self-pipe.
            return self._real.select(None)
        if timeout is None:
            events = self._real.select(STALL_SECONDS)
            if not events:
                raise Deadlock("nothing is ready, no timer is set: the loop would wait forever")
            return events
        # The first descriptor is the loop's own self-pipe; real sockets besides it
        # get a moment, so that what they carry is not overtaken by every timer.
        grace = _SOCKET_GRACE_SECONDS if len(self._real.get_map()) > 1 else 0
        events = self._real.select(grace)
        if not events:
            self.jump(timeout)
        return events


def _no_jump(_: float) -> None:
    raise AssertionError("the loop is not set up yet")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A selector loop on virtual time; see the module's docstring."""

    def __init__(self) -> None:
        self._virtual_now = START_SECONDS
        self._jumping = _JumpingSelector()
        self._jumping.jump = self._jump
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._virtual_now

    def _jump(self, seconds: float) -> None:
        self._virtual_now += seconds

    @contextmanager
    def outside_work(self) -> Generator[None]:
        """Hold virtual time still: something outside the loop is working for it.

        Whatever it is must wake the loop by ``call_soon_threadsafe`` when it is done.
        """
        self._jumping.outside_work += 1
        try:
            yield
        finally:
            self._jumping.outside_work -= 1

    def run_in_executor[*Ts, T](
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run ``func`` in a thread; virtual time stands still until it is done."""
        future = super().run_in_executor(executor, func, *args)
        self._jumping.outside_work += 1
        future.add_done_callback(self._executor_done)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads of the default executor, in real time."""
        with self.outside_work():
            await super().shutdown_default_executor(timeout)

    def _executor_done(self, _: object) -> None:
        self._jumping.outside_work -= 1


class VirtualClock:
    """The clocks of a `VirtualTimeLoop`, as an `aegis._clock.Clock`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, wall_start_ms: int = 1_700_000_000_000
    ) -> None:
        self._loop = loop
        self._wall_start_ms = wall_start_ms
        self._started = loop.time()

    def boot_seconds(self) -> float:
        """Return the loop's time."""
        return self._loop.time()

    def wall_ms(self) -> int:
        """Return Unix milliseconds: the start given, and what has passed since."""
        return self._wall_start_ms + round((self._loop.time() - self._started) * 1000)


def run[T](main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run ``main`` to its end on a new `VirtualTimeLoop`, as ``asyncio.run`` does.

    Raises:
        Deadlock: ``main`` waits for what can never happen.
    """
    with asyncio.Runner(debug=debug, loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
