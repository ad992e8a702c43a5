"""What the processes of `aegis bench feed` take of the machine, where the kernel tells it."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cpu_seconds", "resident_mib"]


def cpu_seconds(pid: int) -> float | None:
    """Return for how long a process has run, all of its threads together."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def resident_mib(pid: int) -> float | None:
    """Return how much memory a process holds."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
