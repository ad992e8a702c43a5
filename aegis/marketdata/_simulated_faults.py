"""What goes wrong in a made-up market on request: from its start on, or while it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from attrs import frozen

__all__ = ["FAULTS_VARIABLE", "FaultFile", "SimulatedFaults"]

FAULTS_VARIABLE: Final = "AEGIS_FEED_FAULTS"
"""Environment variable with a folder, in which ``<feed>.toml`` says what goes wrong now."""


@frozen
class SimulatedFaults:
    """The faults of one feed; everything is off unless asked for.

    Contracts are given as patterns, such as ``SHFE.rb*``.
    """

    disconnected: bool = False
    """The front is gone, until it is not."""
    unreachable: bool = False
    """The front never was there: nothing is ever told."""
    login_code: int = 0
    """Each login is refused with this code; after 3, 63 and 75 it is never tried again."""
    late_contracts: int = 0
    """So many of the contracts are told only after the gateway said that it is ready."""
    cut_at: int = 0
    """The front cuts a session that subscribes to more than so many in half a second."""
    unanswered: tuple[str, ...] = ()
    """Subscriptions to these get no answer, and no ticks."""
    silent_exchanges: tuple[str, ...] = ()
    """These say nothing."""
    stalled: tuple[str, ...] = ()
    """These contracts say nothing."""
    repeat_share: float = 0.0
    """This share of the ticks is said twice."""
    last_night: bool = False
    """With a subscription a tick that is hours old is sent first."""
    lag: float = 0.0
    """Ticks come so many seconds late; below 0 the exchange's clock is ahead."""


class FaultFile:
    """The file that says what goes wrong with a feed; it need not be there."""

    def __init__(self, path: Path, read: Callable[[Path], SimulatedFaults]) -> None:
        self._path = path
        self._read = read
        self._seen = (0, 0)

    def look(self) -> SimulatedFaults | None:
        """Return what it says, if it has changed since the last look."""
        try:
            status = self._path.stat()
            seen = status.st_mtime_ns, status.st_ino
            if seen == self._seen:
                return None
            faults = self._read(self._path)
        except (OSError, ValueError):
            return None  # It is not there, or is being written at this moment.
        self._seen = seen
        return faults
