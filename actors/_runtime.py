"""What all actors of one event loop share."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from aegis.actors._mailbox import current_envelope
from aegis.actors._observer import Observer
from aegis.actors._workers import Workers, call_soon, running_loop_or_none

if TYPE_CHECKING:
    from aegis.actors._cell import ActorCell

__all__ = ["Runtime"]

SHARE_SECONDS: Final = 0.02
"""For so long in one go actors have the loop to themselves, however many there are and
however much waits for them; then beats, answers and timers have their turn."""


class Runtime:
    """The loop, the worker threads and the observer of a set of actors.

    An application makes one and hands it to its supervisors. An actor that is
    started by itself takes the one of the running loop, or of the actor that starts
    it.
    """

    __slots__ = (
        "_counter",
        "_detached",
        "_ready",
        "_ready_scheduled",
        "awake",
        "cluster",
        "context",
        "loop",
        "observer",
        "top_level",
        "tracer",
        "workers",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        workers: Workers | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop() if loop is None else loop
        self.workers = Workers() if workers is None else workers
        self.observer = Observer() if observer is None else observer
        self.tracer = self.observer.tracer
        self.cluster: Any = None
        """By which actors call others anywhere; None outside of a node."""
        # Each message is handled in a copy of this: context variables that a handler
        # sets, or that a sender had, do not reach the next message.
        self.context = contextvars.copy_context()
        self.context.run(current_envelope.set, None)
        self.top_level: set[ActorCell] = set()
        """Running actors that no supervisor holds."""
        self.awake: set[ActorCell] = set()
        """Actors that have done something, or are about to, since `take_awake`."""
        self._detached: set[asyncio.Task[None]] = set()
        self._ready: deque[Callable[[], None]] = deque()
        self._ready_scheduled = False
        self._counter = 0

    @classmethod
    def current(cls) -> Runtime:
        """Return the runtime of the running handler, or else of the running loop.

        Raises:
            RuntimeError: there is neither.
        """
        envelope = current_envelope.get()
        if envelope is not None and envelope.owner is not None:
            return envelope.owner.runtime
        loop = running_loop_or_none()
        if loop is None:
            raise RuntimeError(
                "no event loop runs here: start actors on the loop, or hand over a Runtime"
            )
        runtime = _runtimes.get(loop)
        if runtime is None:
            for closed in [other for other in list(_runtimes) if other.is_closed()]:
                _runtimes.pop(closed).workers.close()
            runtime = _runtimes[loop] = cls(loop)
        return runtime

    def call_soon(self, callback: Callable[..., object], *args: Any) -> bool:
        """Run ``callback`` on the loop, from any thread; False if the loop is closed."""
        return call_soon(self.loop, callback, *args, context=self.context)

    def pump_soon(self, pump: Callable[[], None]) -> None:
        """Let an actor take messages, after the others that wait to; from any thread."""
        if running_loop_or_none() is self.loop:
            self._add_ready(pump)
        else:
            self.call_soon(self._add_ready, pump)

    def _add_ready(self, pump: Callable[[], None]) -> None:
        self._ready.append(pump)
        if not self._ready_scheduled:
            self._ready_scheduled = self.call_soon(self._run_ready)

    def _run_ready(self) -> None:
        ready = self._ready
        ends = time.perf_counter() + SHARE_SECONDS
        try:
            while ready:
                ready.popleft()()
                if time.perf_counter() >= ends:
                    break
        finally:
            self._ready_scheduled = bool(ready) and self.call_soon(self._run_ready)

    def take_awake(self) -> set[ActorCell]:
        """Return who has done something since the last time, or has something to do.

        Whoever asks so can follow many thousand actors: what is idle costs nothing.
        """
        taken = self.awake
        self.awake = {cell for cell in taken if not cell.mailbox.idle and not cell.is_stopped}
        return taken

    def start_task(self, coroutine: Any) -> asyncio.Task[Any]:
        """Run ``coroutine`` as a task with context variables of its own, at once."""
        return asyncio.Task(
            coroutine, loop=self.loop, context=self.context.copy(), eager_start=True
        )

    def start_detached(self, coroutine: Any) -> None:
        """Run ``coroutine`` as a task that nobody waits for, but that is kept alive."""
        task = self.start_task(coroutine)
        if not task.done():
            self._detached.add(task)
            task.add_done_callback(self._detached.discard)

    def next_number(self) -> int:
        """Return a number for the name of an actor that was given none."""
        self._counter += 1
        return self._counter


_runtimes: Final[dict[asyncio.AbstractEventLoop, Runtime]] = {}
"""The runtime of each loop on which an actor was started by itself."""
