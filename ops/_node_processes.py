"""Nodes as processes that may be killed, frozen or told to end: for measurements and chaos."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import define, field

from aegis._inspect import Inspector
from aegis.errors import AegisError
from aegis.ops._bench_processes import BenchFailed

__all__ = ["NodeProcess", "die_with_parent", "stop_all", "wait_standing_by"]

STOP_TIMEOUT: Final = 15.0
"""Seconds that a process gets to hand over and end, before it is killed."""

READY_TIMEOUT: Final = 60.0
_POLL_SECONDS: Final = 0.02
_LOG_LINES: Final = 8

# Run by the new process before it becomes what it is: should its parent be killed, the
# kernel ends it too. (Linux; elsewhere a parent that is killed leaves its nodes behind.)
_DIE_WITH_PARENT: Final = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""

_AEGIS: Final = "from aegis.ops.cli import main; main()"


@define(eq=False)
class NodeProcess:
    """One process, ``aegis`` with ``arguments`` unless ``command`` says otherwise."""

    name: str
    arguments: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(factory=dict[str, str])
    command: Sequence[str] = ("-c", _AEGIS)
    prefix: Sequence[str] = ()
    """What runs it, as ``ip netns exec NAME``; it must become the process, not its parent."""
    _process: asyncio.subprocess.Process | None = field(default=None, repr=False)

    @property
    def log_file(self) -> Path:
        """What the process has written."""
        return self.folder / f"{self.name}.log"

    async def start(self) -> None:
        """Start the process; does not wait until it serves."""
        command = [sys.executable, *self.command, *self.arguments]
        command = [*self.prefix, *die_with_parent(command)]
        # The settings of whoever runs this must not lead its nodes elsewhere.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("AEGIS_")}
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**inherited, **self.environment},
                start_new_session=True,  # Ctrl-C is for the parent, which then ends its nodes
            )

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """The process, or 0 before the first start."""
        return 0 if self._process is None else self._process.pid

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self._process is not None and self.is_running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def wait_ended(self) -> int:
        """Return the exit code when the process is gone; -9 after a SIGKILL."""
        return 0 if self._process is None else await self._process.wait()

    async def stop(self) -> int:
        """End the process: first asked to, then killed. Return the exit code."""
        self.send_signal(signal.SIGCONT)
        self.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                return await self.wait_ended()
        except TimeoutError:
            self.send_signal(signal.SIGKILL)
            return await self.wait_ended()

    def has_logged(self, text: str) -> bool:
        """Whether ``text`` stands in the log."""
        return self.log_file.exists() and text in self.log_file.read_text(errors="replace")

    def last_words(self) -> str:
        """Return the end of the log."""
        try:
            lines = self.log_file.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-_LOG_LINES:])

    def check_running(self) -> None:
        """Raise `BenchFailed` with the last words of a process that has ended."""
        if not self.is_running:
            raise BenchFailed(f"{self.name} ended: {self.last_words() or 'it said nothing'}")


def die_with_parent(command: Sequence[str]) -> list[str]:
    """Return a command that ends when this process does, where the platform has it."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]


async def stop_all(nodes: Sequence[NodeProcess]) -> None:
    """Stop the processes, all at the same time."""
    await asyncio.gather(*(node.stop() for node in nodes))


async def wait_standing_by(
    inspector: Inspector,
    service: str,
    resources: int,
    instance_id: str,
    *,
    check: Callable[[], None],
    max_lag: int | None = None,
    timeout: float = READY_TIMEOUT,
) -> None:
    """Return when the instance is a healthy standby of all ``resources`` of the service.

    With ``max_lag`` it has also told that it trails no owner by more than so many records
    of the stream. ``check`` may raise what makes waiting vain.
    """

    def is_near(lag: int | None) -> bool:
        return max_lag is None or (lag is not None and lag <= max_lag)

    def follows(route: Mapping[str, Any]) -> bool:
        return any(
            standby["instance_id"] == instance_id
            and standby["state"] == "healthy"
            and is_near(standby["lag"])
            for standby in route["standbys"]
        )

    try:
        async with asyncio.timeout(timeout):
            while True:
                check()
                with contextlib.suppress(AegisError):
                    routes = await inspector.resources(service)
                    if sum(map(follows, routes)) == resources:
                        return
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise BenchFailed(f"{instance_id} does not stand by after {timeout:g} s") from None
