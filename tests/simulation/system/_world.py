"""What all of one simulated system share: the loop, the dice, the trace, the counters."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Final
from zlib import crc32

from aegis._subjects import Subjects
from aegis.transport import HostLoop, current_host

__all__ = ["InvariantViolated", "World"]

TRACE_EVENTS: Final = 80
"""So many of the last events are shown when a seed fails."""


class InvariantViolated(AssertionError):
    """The system has broken a promise."""


class World:
    """One seed's loop, dice, trace and counters. Seconds are the loop's."""

    def __init__(self, seed: int, loop: HostLoop, *, detailed: bool = False) -> None:
        self.seed = seed
        self.loop = loop
        self.began = loop.now
        self.rng = random.Random(f"schedule {seed}")
        self.subjects = Subjects()
        self.faulty = True
        """False once the faults have stopped for good."""
        self.over = False
        """True once nothing counts any more."""
        self.counters: Counter[str] = Counter()
        self.trace: deque[tuple[float, str, str, tuple[object, ...]]] = deque(maxlen=TRACE_EVENTS)
        self.detailed = detailed
        """Whether the fingerprint covers each message."""
        self.fingerprint = 0
        """Of all that was noted: the same for the same seed."""
        self.violation: InvariantViolated | None = None
        self._context = copy_context()

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.loop.now - self.began

    def later(self, delay: float, action: Callable[..., object], *args: Any) -> None:
        """Do something in ``delay`` seconds that belongs to no host, whoever asks.

        Not once all is over: a host that is frozen then would keep its tasks from ending.
        """
        self.loop.call_later(delay, self._act, action, args, context=self._context.copy())

    def _act(self, action: Callable[..., object], args: tuple[Any, ...]) -> None:
        if not self.over:
            action(*args)

    def note(self, text: str, *arguments: object, host: str = "") -> None:
        """Add a line to the trace; ``text`` is a %-format, filled in when shown."""
        if not host:
            running = current_host()
            host = "" if running is None else running.name
        self.trace.append((self.now, host, text, arguments))
        self.mix(f"{self.loop.now:.6f} {host} {text} {arguments}")

    def mix(self, text: str) -> None:
        """Add something to the fingerprint."""
        self.fingerprint = crc32(text.encode(), self.fingerprint)

    def count(self, name: str, amount: int = 1) -> None:
        """Count an occurrence that the coverage report shows."""
        self.counters[name] += amount

    def chance(self, probability: float) -> bool:
        """Throw the dice; never true once the faults have stopped."""
        return self.faulty and probability > 0.0 and self.rng.random() < probability

    def fail(self, text: str, *arguments: object) -> None:
        """Report a broken promise, wherever it is noticed; the first one counts."""
        if self.violation is None and not self.over:
            self.violation = InvariantViolated(text % arguments if arguments else text)
            self.note("VIOLATED: %s", self.violation)

    def check(self) -> None:
        """Raise the promise that was found broken, if there is one."""
        if self.violation is not None:
            raise self.violation

    def shown_trace(self) -> str:
        """Return the last events as lines."""
        return "\n".join(
            f"{at:10.4f}  {host:8} {text % arguments if arguments else text}"
            for at, host, text, arguments in self.trace
        )
