"""Hosts on virtual time: processes that freeze, die and have clocks of their own.

A `HostLoop` is one event loop that plays many machines. Each `Host` on it is one life of
one process; whatever that starts, and whatever comes of it, belongs to it, because the
host travels in the context of every callback. So code that knows nothing of this can be
done what no cancellation does:

- *frozen* (SIGSTOP, a long pause of the collector): nothing of it runs; its timers,
  its answers and its messages wait, in their order, and go on at `Host.resume`;
- *killed* (SIGKILL): nothing of it ever runs again, no ``finally``, no goodbye. What it
  leaves behind is kept until `HostLoop.release_all`, so that no garbage collection
  runs its cleanup in the middle of what the others do.

Each host reads a clock of its own: `Host.clock`, and ``loop.time()`` wherever its own code
calls it, run ``rate`` times as fast as the loop's. A frozen host's clock goes on.

A long time in which nothing is to happen can be passed over: `HostLoop.skip` lets all
machines stand still meanwhile, so that their short timers (beats, retries) run none of
the thousands of times that they would have.

Nothing here is random: the same calls happen in the same order each time.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, Final

from aegis.transport._virtual_loop import START_SECONDS, Deadlock, VirtualTimeLoop

__all__ = ["Host", "HostClock", "HostLoop", "current_host"]

MAX_CALLBACKS: Final = 20_000_000
"""A run that needs more goes in a circle."""

WALL_START_MS: Final = 1_700_000_000_000

LONG_SECONDS: Final = 60.0
"""A timer of a host that is set for longer keeps its time when time is skipped."""

_HOST: contextvars.ContextVar[Host | None] = contextvars.ContextVar("aegis_host", default=None)


def current_host() -> Host | None:
    """Return the host whose code is running; None outside of all hosts."""
    return _HOST.get()


class HostClock:
    """One host's clocks, as an `aegis._clock.Clock`: maybe too fast, maybe wrong.

    Boot time runs ``rate`` times as fast as the loop's time and never jumps; it stands
    still while time is skipped, as on a machine that is suspended. Wall time goes on then,
    and is wrong by ``wall_error_ms``, which may change: a jump.
    """

    def __init__(
        self,
        loop: HostLoop,
        *,
        rate: float = 1.0,
        boot_seconds: float = START_SECONDS,
        wall_error_ms: int = 0,
    ) -> None:
        self.rate = rate
        self.wall_error_ms = wall_error_ms
        self._loop = loop
        self._boot_seconds = boot_seconds

    def boot_seconds(self) -> float:
        """Return what the clock has counted since the machine was started."""
        run = self._loop.now - self._loop.skipped - START_SECONDS
        return self._boot_seconds + run * self.rate

    def wall_ms(self) -> int:
        """Return Unix milliseconds, as far as this host knows."""
        passed = (self._loop.now - START_SECONDS) * self.rate
        return WALL_START_MS + round(passed * 1000) + self.wall_error_ms

    def when(self, boot_seconds: float) -> float:
        """Return the loop's time at which this clock reads ``boot_seconds``."""
        run = (boot_seconds - self._boot_seconds) / self.rate
        return START_SECONDS + self._loop.skipped + run


class Host:
    """One life of one process on a machine of its own; made by `HostLoop.host`."""

    def __init__(self, loop: HostLoop, name: str, clock: HostClock) -> None:
        self.name = name
        self.clock = clock
        self.frozen = False
        self.killed = False
        self.runs = True
        """Whether its callbacks are called; neither frozen nor killed."""
        self.context = contextvars.copy_context()
        self.context.run(_HOST.set, self)
        self.threads = 0
        """How many threads work for it: they too do so only while it runs."""
        self._loop = loop
        self._held: deque[asyncio.Handle] = deque()

    def start(
        self, work: Coroutine[Any, Any, Any], *, name: str | None = None
    ) -> asyncio.Task[Any]:
        """Run ``work`` on this host, as a task."""
        return self._loop.create_task(work, name=name, context=self.context.copy())

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Call ``callback`` on this host, after all that waits there already."""
        self._loop.call_soon(callback, *args, context=self.context.copy())

    def freeze(self) -> None:
        """Stop running, without knowing it, until `resume`."""
        if self.runs:
            self.frozen, self.runs = True, False
            self._loop.wait_for_threads(-self.threads)

    def resume(self) -> None:
        """Go on where it stopped, with all that came meanwhile, in its order."""
        if self.frozen and not self.killed:
            self.frozen, self.runs = False, True
            self._loop.wait_for_threads(self.threads)
            self._loop.take_back(self._held)

    def kill(self) -> None:
        """Never run again. Connections are to be cut by whoever made them."""
        if self.runs:
            self._loop.wait_for_threads(-self.threads)
        self.killed, self.runs = True, False

    def hold(self, handle: asyncio.Handle) -> None:
        """Keep what it may not run now, and maybe never."""
        self._held.append(handle)

    def release(self) -> None:
        """Run after all, for the end of everything: see `HostLoop.release_all`."""
        self.runs = True
        self._loop.take_back(self._held)


class _Soon(asyncio.Handle):
    """A handle made without asyncio's look for its debug mode: a loop makes thousands."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: HostLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._context = contextvars.copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class HostLoop(VirtualTimeLoop):
    """A loop on virtual time that plays many hosts; see the module's docstring.

    ``callbacks`` counts what it has called, of whichever host.
    """

    _ready: deque[asyncio.Handle]
    """Asyncio's own queue, which ``call_soon`` fills."""

    _process_events: Callable[[list[Any]], None]
    """Asyncio's own: turns what a selector reports into callbacks that are ready."""

    def __init__(self) -> None:
        self.callbacks = 0
        self.max_callbacks = MAX_CALLBACKS
        self.skipped = 0.0
        """Seconds that have passed without the hosts."""
        self._hosts: list[Host] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle, bool]] = []
        """When, in which order, what, and whether that time is kept when time is skipped."""
        self._timer_number = 0
        self._idle: list[asyncio.Future[None]] = []
        super().__init__()

    def host(self, name: str, clock: HostClock | None = None) -> Host:
        """Return a new life of a process; the machine's clock outlives it."""
        host = Host(self, name, clock or HostClock(self))
        self._hosts.append(host)
        return host

    @property
    def now(self) -> float:
        """The loop's own time, whosever code asks."""
        return self._virtual_now

    def time(self) -> float:
        """Return the time by the clock of the host whose code asks."""
        host = _HOST.get()
        return self._virtual_now if host is None else host.clock.boot_seconds()

    def call_at[*Ts](
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call ``callback`` when the clock of the host that asks reads ``when``."""
        host = _HOST.get()
        at = when if host is None else host.clock.when(when)
        return self._set_timer(at, callback, args, context, host)

    def call_later[*Ts](
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call ``callback`` in ``delay`` seconds by the clock of the host that asks."""
        host = _HOST.get()
        at = self._virtual_now + (delay if host is None else delay / host.clock.rate)
        return self._set_timer(at, callback, args, context, host)

    def _set_timer(
        self,
        at: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
        host: Host | None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(at, callback, args, self, context)
        self._timer_number += 1
        kept = host is None or at - self._virtual_now > LONG_SECONDS
        # Of two timers for the same moment, the one that was set first is first.
        heapq.heappush(self._timers, (at, self._timer_number, timer, kept))
        return timer

    async def wait_idle(self) -> None:
        """Return once nothing more can happen at this instant of virtual time."""
        idle: asyncio.Future[None] = self.create_future()
        self._idle.append(idle)
        await idle

    def skip(self, until: float) -> float:
        """Pass over time while all hosts stand still; return the time that it is now.

        That is ``until``, or the time of the first timer that is no short one of a host.
        """
        first = min((t[0] for t in self._timers if t[3] and not t[2]._cancelled), default=until)
        seconds = min(first, until) - self._virtual_now
        if seconds > 0:
            self._virtual_now += seconds
            self.skipped += seconds
            self._timers = [t if t[3] else (t[0] + seconds, *t[1:]) for t in self._timers]
            heapq.heapify(self._timers)
        return self._virtual_now

    def call_soon[*Ts](
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Call ``callback`` in the next turn, without asyncio's checks."""
        handle = _Soon(callback, args, self, context)
        self._ready.append(handle)
        return handle

    @contextmanager
    def outside_work(self) -> Generator[None]:
        """Hold virtual time still for a thread, as long as the host that it is of runs."""
        host = _HOST.get()
        if host is None:
            with super().outside_work():
                yield
            return
        host.threads += 1
        self.wait_for_threads(1)
        try:
            yield
        finally:
            host.threads -= 1
            if not host.killed:
                self.wait_for_threads(-1)

    def wait_for_threads(self, more: int) -> None:
        """Hold virtual time still for so many more threads, or fewer."""
        self._jumping.outside_work += more

    def take_back(self, held: deque[asyncio.Handle]) -> None:
        """Queue what a host has kept."""
        self._ready.extend(held)
        held.clear()

    def release_all(self) -> None:
        """Let every host run again, the killed as well, so that all tasks can be ended.

        Only for the end: by then nothing that they do may matter any more.
        """
        for host in self._hosts:
            host.release()

    def _run_once(self) -> None:
        """One turn: what is ready, or else what is due next. Asyncio calls this."""
        ready, timers = self._ready, self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not ready:
            due = bool(timers) and timers[0][0] <= self._virtual_now
            if self._idle and not due and not self._jumping.outside_work:
                self._tell_idle()
            elif self._jumping.outside_work or not timers:
                self._wait_for_others()
            elif timers[0][0] > self._virtual_now:
                self._virtual_now = timers[0][0]
        now = self._virtual_now
        while timers and timers[0][0] <= now:
            timer = heapq.heappop(timers)[2]
            if not timer._cancelled:
                ready.append(timer)
        count = len(ready)
        self.callbacks += count
        if self.callbacks > self.max_callbacks:
            raise Deadlock(f"{self.callbacks} callbacks, and no end: something goes in a circle")
        for _ in range(count):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            host: Host | None = handle._context.get(_HOST)  # type: ignore[attr-defined]
            if host is None or host.runs:
                handle._run()
            else:
                host.hold(handle)

    def _tell_idle(self) -> None:
        idle, self._idle = self._idle, []
        for waiter in idle:
            if not waiter.done():
                waiter.set_result(None)

    def _wait_for_others(self) -> None:
        """Wait, in real time, for work outside of the loop."""
        self._process_events(self._jumping.select(None))
