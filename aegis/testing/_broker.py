"""The broker of a system under test: everything that moves can be seen, and stopped.

Whoever tests sees each hop before it is made and each message when it is stored. A user's
own ``fate`` goes on working beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aegis.transport._memory import Hop, MemoryBroker

__all__ = ["WatchedBroker"]

type Gate = Callable[[Hop], Sequence[float] | None]
"""Says when the copies of a hop arrive; None leaves that to the others."""

type StoredWatcher = Callable[[str, str, int, bytes], None]
"""Is told of each message that is stored: source, subject, sequence, payload."""


class WatchedBroker(MemoryBroker):
    """A `MemoryBroker` with gates for what moves, and watchers of what is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: list[Gate] = []
        self.watchers: list[StoredWatcher] = []

    def delays(self, hop: Hop) -> Sequence[float]:
        """Return after how many seconds each copy of ``hop`` arrives."""
        for gate in tuple(self.gates):
            delays = gate(hop)
            if delays is not None:
                return delays
        return super().delays(hop)

    def _store(
        self,
        source: str,
        stream: Any,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str] | None,
    ) -> int:
        sequence = super()._store(source, stream, subject, payload, headers)
        for watcher in tuple(self.watchers):
            watcher(source, subject, sequence, payload)
        return sequence
