"""Ports on loopback for servers that must come back at the same one."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import Final

__all__ = ["free_port", "is_free"]

_HOST = "127.0.0.1"
_FIRST: Final = 15000
_LAST: Final = 32768
_ATTEMPTS: Final = 100
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """Return a port that is free now, below those that outgoing connections get.

    The port must be free again at each restart. One that the kernel also gives to outgoing
    connections could be gone by then: a client that reconnects without end even gets it
    itself sooner or later, and is connected to itself.
    """
    try:
        last = min(int(_RANGE_FILE.read_text().split()[0]), _LAST)
    except (OSError, ValueError, IndexError):
        last = _LAST
    if last > _FIRST:
        for _ in range(_ATTEMPTS):
            port = _FIRST + secrets.randbelow(last - _FIRST)
            if is_free(port):
                return port
    with socket.socket() as listener:
        listener.bind((_HOST, 0))
        return int(listener.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could listen at ``port`` now."""
    with socket.socket() as listener:
        # As the server does it: connections that have just ended are no obstacle.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, port))
        except OSError:
            return False
    return True
