"""Which process a node is, so that others on its host can tell whether it has ended.

A node's name has in it where its process id means something: the kernel's boot and the
namespace of process ids. Whoever shares both can look whether the process is there, and
its absence proves its death, whatever has become of its connection.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
from functools import cache
from pathlib import Path
from typing import Final

__all__ = ["has_ended", "new_node_id"]

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE: Final = Path("/proc/self/ns/pid")
_NODE_ID: Final = re.compile(r".*-(?P<pid>\d+)-(?P<place>[0-9a-f]{12})-[0-9a-f]{8}", re.DOTALL)
_NOWHERE: Final = "0" * 12
"""The place of processes whose system does not tell: nothing is known of them."""


def new_node_id() -> str:
    """Return a name for a process: a process that starts anew has another."""
    host = socket.gethostname().partition(".")[0] or "host"
    return f"{host}-{os.getpid()}-{_place()}-{secrets.token_hex(4)}"


def has_ended(node_id: str) -> bool:
    """Whether the process of a node is certainly gone; False also where nobody can tell."""
    match = _NODE_ID.fullmatch(node_id)
    if match is None or match["place"] in (_NOWHERE, "") or match["place"] != _place():
        return False
    pid = int(match["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return _is_zombie(pid)


@cache
def _place() -> str:
    """Return a short name for this boot of this kernel and this namespace of processes."""
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
        namespace = str(_PID_NAMESPACE.readlink())
    except OSError:
        return _NOWHERE
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:12]


def _is_zombie(pid: int) -> bool:
    """Whether nothing is left of a process but its exit code, which nobody has read yet."""
    folder = Path("/proc") / str(pid)
    try:
        state = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        threads = len(list((folder / "task").iterdir()))
    except OSError:
        return False
    return state.rpartition(")")[2].split()[:1] == ["Z"] and threads == 1
