"""What tests ask about processes that are not their children."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["is_running", "processes_of"]


def is_running(pid: int) -> bool:
    """Whether the process lives; one that has ended and is not yet collected does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self").exists():
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True
    return stat.rpartition(")")[2].split()[0] != "Z"


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of the running processes that name ``folder`` (Linux)."""
    found: list[str] = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(folder) in command:
            found.append(command)
    return found
