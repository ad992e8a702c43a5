"""The clocks that the protocol reads, as a seam that tests replace.

Two clocks exist and are never mixed. *Boot time* counts seconds since the host
started, also while it sleeps: leases and timeouts use it. *Wall time* is Unix
milliseconds: only session names and service-group claims use it.
"""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """What the protocol asks of time."""

    def boot_seconds(self) -> float:
        """Return seconds on the boot-time clock, which never jumps."""
        ...

    def wall_ms(self) -> int:
        """Return Unix time in milliseconds, which may jump."""
        ...


class SystemClock:
    """The clocks of this host."""

    def boot_seconds(self) -> float:
        """Return CLOCK_BOOTTIME where the kernel has it, else the monotonic clock."""
        return _boot_seconds()

    def wall_ms(self) -> int:
        """Return ``time.time()`` in milliseconds."""
        return time.time_ns() // 1_000_000


def _boot_seconds() -> float:
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
