"""Hosts of `aegis chaos`: network namespaces on one bridge, each of which can be cut off.

What runs in a namespace has an address of its own and reaches the others by real packets
alone. Cutting its cable loses them without a word to either side, as a broken switch does;
connections stay, and are found out by silence. It takes Linux, the ``ip`` command and the
right to change the network; `open_hosts` says which of them is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Final

from aegis.errors import AegisError

__all__ = ["Hosts", "NoHosts", "open_hosts"]

_PREFIX: Final = "aegis-chaos-"
_NAMESPACES: Final = Path("/run/netns")
_COMMAND_TIMEOUT: Final = 10.0


class NoHosts(AegisError):
    """Namespaces cannot be made here; the message says why."""


class Hosts:
    """Named hosts, numbered from 2 in one network; the run itself has number 1."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._pid = os.getpid()
        # Interfaces have names of at most 15 characters, shared by all runs on the machine.
        self._mark = secrets.token_hex(3)
        self._bridge = f"ae{self._mark}b"
        self._network = f"10.{128 + secrets.randbelow(100)}.{secrets.randbelow(256)}"

    @property
    def names(self) -> list[str]:
        """All hosts."""
        return list(self._names)

    def address(self, name: str) -> str:
        """Return the address of a host."""
        return f"{self._network}.{self._names.index(name) + 2}"

    def prefix(self, name: str) -> list[str]:
        """Return what stands before a command to run it on a host."""
        return ["ip", "netns", "exec", self._namespace(name)]

    def cut(self, name: str) -> None:
        """Lose all packets from and to a host."""
        _ip("link", "set", self._cable(name), "down")

    def heal(self, name: str) -> None:
        """Let them through again."""
        _ip("link", "set", self._cable(name), "up")

    def make(self) -> None:
        """Make the bridge, and the namespaces with their cables."""
        _remove_left()
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("address", "add", f"{self._network}.1/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for name in self._names:
            namespace, cable = self._namespace(name), self._cable(name)
            _ip("netns", "add", namespace)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            _ip("link", "set", cable, "master", self._bridge)
            _ip("link", "set", cable, "up")
            _ip("-n", namespace, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", namespace, "link", "set", device, "up")

    def remove(self) -> None:
        """Remove all that was made; what runs in a namespace must have ended."""
        for name in self._names:
            # A namespace lives on for a moment if a process has just ended in it; its
            # cable goes at once.
            with contextlib.suppress(NoHosts):
                _ip("link", "delete", self._cable(name))
            with contextlib.suppress(NoHosts):
                _ip("netns", "delete", self._namespace(name))
        with contextlib.suppress(NoHosts):
            _ip("link", "delete", self._bridge)

    def _namespace(self, name: str) -> str:
        return f"{_PREFIX}{self._pid}-{name}"

    def _cable(self, name: str) -> str:
        return f"ae{self._mark}{self._names.index(name)}"


@contextlib.asynccontextmanager
async def open_hosts(names: Sequence[str]) -> AsyncGenerator[Hosts]:
    """Make hosts for the time of the block.

    Raises:
        NoHosts: they cannot be made here.
    """
    if shutil.which("ip") is None:
        raise NoHosts("there is no `ip` command (package iproute2)")
    hosts = Hosts(names)
    try:
        await asyncio.to_thread(hosts.make)
        yield hosts
    finally:
        await asyncio.to_thread(hosts.remove)


def _ip(*arguments: str) -> None:
    command = ["ip", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT)
    if result.returncode != 0:
        raise NoHosts(f"{' '.join(command)}: {result.stderr.strip() or result.returncode}")


def _remove_left() -> None:
    """Remove namespaces of runs that were killed; their cables and bridges go with them."""
    for namespace in _NAMESPACES.glob(f"{_PREFIX}*") if _NAMESPACES.is_dir() else ():
        pid = namespace.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(NoHosts):
                _ip("netns", "delete", namespace.name)
