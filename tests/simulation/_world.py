"""Virtual time, processes and the network: all that happens comes from one seed."""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from tests.simulation._faults import Faults, Link

__all__ = ["Crashed", "InvariantViolated", "Process", "World"]

TRACE_EVENTS: Final = 250
"""So many of the last events are shown when a seed fails."""

MAX_EVENTS: Final = 400_000
"""A seed that needs more never comes to rest."""

WALL_BASE_MS: Final = 1_700_000_000_000


class InvariantViolated(AssertionError):
    """The protocol has broken a promise."""


class Crashed(BaseException):
    """The process that is executing dies here."""


class World:
    """The queue of events, the clock, the dice, the counters and the trace."""

    def __init__(self, seed: int, faults: Faults) -> None:
        self.rng = random.Random(seed)
        self.faults = faults
        self.now = 0.0
        self.faulty = True
        """False once the faults have stopped for good."""
        self.counters: Counter[str] = Counter()
        self.trace: deque[tuple[float, str, tuple[object, ...]]] = deque(maxlen=TRACE_EVENTS)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0

    def note(self, text: str, *arguments: object) -> None:
        """Add a line to the trace; ``text`` is a %-format, filled in when shown."""
        self.trace.append((self.now, text, arguments))

    def count(self, name: str, amount: int = 1) -> None:
        """Count an occurrence that the coverage report shows."""
        self.counters[name] += amount

    def chance(self, probability: float) -> bool:
        """Throw the dice; never true once the faults have stopped."""
        return self.faulty and probability > 0.0 and self.rng.random() < probability

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Do ``action`` in ``delay`` seconds."""
        self._order += 1
        heapq.heappush(self._heap, (self.now + delay, self._order, action))

    def run(self, until: float) -> None:
        """Let time pass up to ``until``, or to the last event."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, action = heapq.heappop(heap)
            if self._order > MAX_EVENTS:
                raise InvariantViolated("the schedule never comes to rest")
            action()
        self.now = max(self.now, until)

    def transmit(self, link: Link, action: Callable[[], None], *, copies: bool = True) -> bool:
        """Carry a message over ``link``; return whether the network made a copy of it.

        It may be lost, late, overtaken by others, or arrive twice.
        """
        if self.chance(link.loss):
            self.count(f"{link.name}: lost")
            return False
        self.after(self._latency(link), action)
        if copies and self.chance(link.duplicate):
            self.count(f"{link.name}: copied")
            self.after(self._latency(link), action)
            return True
        return False

    def _latency(self, link: Link) -> float:
        if self.chance(link.slow):
            self.count(f"{link.name}: late")
            return self.rng.uniform(0.0, link.slow_seconds)
        return 0.0002 + self.rng.random() * 0.001


class Process:
    """Something that can crash, restart and pause; its timers die with it."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.incarnation = 0
        self.skew_ms = 0
        self._paused = False
        self._backlog: list[Callable[[], None]] = []

    def wall_ms(self) -> int:
        """Read this process's wall clock, which may be wrong."""
        return WALL_BASE_MS + int(self.world.now * 1000) + self.skew_ms

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Do ``action`` in this process after ``delay`` seconds, if it lives till then."""
        self.world.after(delay, self.bound(action))

    def bound(self, action: Callable[[], None]) -> Callable[[], None]:
        """Return ``action`` as something that only this incarnation does."""
        incarnation = self.incarnation

        def run() -> None:
            if self.alive and self.incarnation == incarnation:
                self.execute(action)

        return run

    def execute(self, action: Callable[[], None]) -> None:
        """Do ``action`` now; or, while paused, as soon as the pause is over."""
        if self._paused:
            self._backlog.append(action)
            return
        try:
            action()
        except Crashed:
            self.crash()

    def point(self, label: str) -> None:
        """A step between two effects: here the process may die."""
        if self.world.chance(self.world.faults.crash_at_step):
            self.world.note("%s dies at: %s", self.name, label)
            self.world.count(f"crash at: {label}")
            raise Crashed

    def crash(self) -> None:
        """Die: memory is lost, messages under way are not. Restart comes later."""
        if not self.alive:
            return
        self.world.note("%s crashes", self.name)
        self.world.count(f"{type(self).__name__.lower()} crashed")
        self.alive = False
        self._paused = False
        self._backlog = []
        self.on_crash()
        self.world.after(self.world.rng.uniform(0.01, 0.8), self.restart)

    def restart(self) -> None:
        """Begin anew with empty memory."""
        if self.alive:
            return
        self.alive = True
        self.incarnation += 1
        self.world.note("%s restarts", self.name)
        self.execute(self.on_restart)

    def pause(self, seconds: float) -> None:
        """Stop executing, without knowing it, for ``seconds``."""
        if self._paused or not self.alive:
            return
        self.world.note("%s pauses for %.3f s", self.name, seconds)
        self.world.count(f"{type(self).__name__.lower()} paused")
        self._paused = True
        incarnation = self.incarnation

        def resume() -> None:
            if self.incarnation == incarnation:
                self.resume()

        self.world.after(seconds, resume)

    def resume(self) -> None:
        """Go on where the pause began, with all that came meanwhile."""
        if not self._paused:
            return
        self.world.note("%s resumes", self.name)
        self._paused = False
        backlog, self._backlog = self._backlog, []
        incarnation = self.incarnation
        for action in backlog:
            if self.alive and self.incarnation == incarnation:
                self.execute(action)

    def on_crash(self) -> None:
        """Forget everything."""

    def on_restart(self) -> None:
        """Do what a new process does first."""
