"""The processes of `aegis bench` beside the caller: the node, the plain responder."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Final

from attrs import define

from aegis.errors import AegisError

__all__ = ["BenchFailed", "Child", "child"]

STOP_TIMEOUT: Final = 15.0
"""Seconds that a process gets to end by itself, before it is killed."""

_LOG_LINES: Final = 5

# Run by the new process before it becomes what it is: should the bench be killed, the
# kernel ends it too. (Linux; elsewhere a killed bench leaves its processes behind.)
_DIE_WITH_PARENT: Final = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class BenchFailed(AegisError):
    """Something that was to be measured did not run; the message says what."""


@define(eq=False)
class Child:
    """A Python process with a log file."""

    name: str
    process: asyncio.subprocess.Process
    log_file: Path

    async def stop(self) -> None:
        """End the process: first asked to, then killed."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
                await self.process.wait()

    def check_running(self) -> None:
        """Raise `BenchFailed` with the process's last words if it has ended."""
        if self.process.returncode is not None:
            raise BenchFailed(
                f"{self.name} ended with exit code {self.process.returncode}: {self._last_words()}"
            )

    async def wait_line(self) -> str:
        """Return the next line that it prints; `BenchFailed` if it ends before."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            await self.process.wait()
            self.check_running()
        return line.decode().strip()

    def _last_words(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()
        return " / ".join(lines[-_LOG_LINES:]) or "it said nothing"


@contextlib.asynccontextmanager
async def child(
    name: str,
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> AsyncGenerator[Child]:
    """Run Python with ``arguments`` for the time of the block; its stdout can be read."""
    command = [sys.executable, *arguments]
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
    # Neither variables nor an aegis.toml of whoever runs the bench may lead it elsewhere.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("AEGIS_")}
    log_file = folder / f"{name}.log"
    with log_file.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            cwd=folder,
            env={**inherited, **(environment or {})},
            start_new_session=True,  # Ctrl-C is for the bench, which then ends its processes
        )
    started = Child(name, process, log_file)
    try:
        yield started
    finally:
        await started.stop()
