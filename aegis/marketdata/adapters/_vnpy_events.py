"""vnpy's event engine with a guard around its handlers and an eye on its thread.

One exception in any handler ends the engine's thread for good, while its queue takes events
on and on; nobody is told. So no exception gets as far, and a thread that is dead or stuck
all the same is seen.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import structlog

from aegis.marketdata._ports import GatewayFailure
from aegis.marketdata._vendor_library import import_vnpy

__all__ = ["EventThread"]

WATCH_INTERVAL: Final = 1.0
STUCK_SECONDS: Final = 30.0
"""So long a queue without an end, or a handler without one, is a failure."""

_BEAT: Final = "aegis.beat"

_log = structlog.get_logger("aegis.feed")

if TYPE_CHECKING:

    class _Engine:
        """What the guard takes of vnpy's engine."""

        _handlers: dict[str, list[Callable[[Any], None]]]
        _general_handlers: list[Callable[[Any], None]]

        def _process(self, event: Any) -> None: ...
        def put(self, event: Any) -> None: ...

else:
    _Engine = object


class _Guard(_Engine):
    """Goes before vnpy's engine among the bases of a class."""

    on_error: Callable[[Exception], None]

    def put(self, event: Any) -> None:
        # A gateway tells each tick twice, the second time under its contract's name. What
        # nobody has registered for would wake the thread for nothing.
        if event.type in self._handlers or self._general_handlers:
            super().put(event)

    def _process(self, event: Any) -> None:
        try:
            super()._process(event)
        except Exception as error:
            self.on_error(error)


class EventThread:
    """One event engine.

    ``on_failed`` is called once, from another thread, when it does not go on.
    """

    def __init__(
        self, name: str, folder: Path, on_failed: Callable[[GatewayFailure], None]
    ) -> None:
        vendor = import_vnpy("vnpy.event", folder)
        self._event = vendor.Event
        engine_class: Any = type("GuardedEventEngine", (_Guard, vendor.EventEngine), {})
        self.engine = engine_class()
        self.engine.on_error = self._on_error
        # vnpy's is written in Python: to put a tick and to get it takes 4 us, here a tenth.
        self.engine._queue = SimpleQueue[Any]()
        self._name = name
        self._on_failed = on_failed
        self.errors: Counter[str] = Counter()
        """Handlers that failed, by exception."""
        self._beat_at = time.monotonic()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name=f"watch-{name}", daemon=True)

    def register(self, kind: str, handler: Callable[[Any], None]) -> None:
        """Have events of a kind handled on the engine's thread."""
        self.engine.register(kind, handler)

    def start(self) -> None:
        """Start the engine's threads."""
        self.engine.register(_BEAT, self._on_beat)
        # A process that ends waits for threads that are no daemons: for these, for ever.
        self.engine._thread.daemon = self.engine._timer.daemon = True
        self.engine.start()
        self._watcher.start()

    def stop(self) -> None:
        """End them. They take up to a second for it, which nobody has to wait."""
        self._stopping.set()
        threading.Thread(target=self.engine.stop, name=f"end-{self._name}", daemon=True).start()

    @property
    def waiting(self) -> int:
        """How many events wait to be handled."""
        count: int = self.engine._queue.qsize()
        return count

    # -- on the engine's thread -----------------------------------------------------------

    def _on_error(self, error: Exception) -> None:
        kind = type(error).__name__
        self.errors[kind] += 1
        if self.errors[kind] == 1:
            # The first of its kind says it all; the others are counted.
            _log.error("event_handler_failed", feed=self._name, exc_info=error)

    def _on_beat(self, _: Any) -> None:
        self._beat_at = time.monotonic()

    # -- on a thread of its own -----------------------------------------------------------

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_INTERVAL):
            reason = self.problem()
            if reason:
                self._on_failed(GatewayFailure(reason))
                return
            self.engine.put(self._event(_BEAT))

    def problem(self) -> str:
        """Return what is wrong with the engine's thread; empty if nothing is."""
        if not self.engine._thread.is_alive():
            return f"vnpy's event thread has ended with {self.waiting} events waiting"
        behind = time.monotonic() - self._beat_at
        if behind > STUCK_SECONDS:
            return f"vnpy's event thread is {behind:.0f} s behind, {self.waiting} events wait"
        return ""
