"""A process that uses the embedded server, for tests to kill.

``python -m tests.support.server_user DATA_DIR [keep]`` prints one line of JSON when it has
the server and then watches it until SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from attrs import frozen

from aegis.transport import ServerOptions, ensure_server

__all__ = ["ServerUser", "server_user"]


@frozen
class ServerUser:
    """A running user process and what it said of its server."""

    process: asyncio.subprocess.Process
    port: int
    server_pid: int
    owned: bool

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()

    async def wait(self) -> int:
        """Return its exit code, once it has ended."""
        return await asyncio.wait_for(self.process.wait(), 15)


@asynccontextmanager
async def server_user(data_dir: Path, *, keep: bool = False) -> AsyncGenerator[ServerUser]:
    """Run a user process for the time of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.server_user",
        str(data_dir),
        *(["keep"] if keep else []),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    try:
        said: dict[str, Any] = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        yield ServerUser(process, said["port"], said["server_pid"], said["owned"])
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 30)


async def _main(data_dir: Path, keep: bool) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with await ensure_server(ServerOptions(data_dir=data_dir, keep=keep)) as server:
        said = {"port": server.server.port, "server_pid": server.pid, "owned": server.owned}
        os.write(1, json.dumps(said).encode() + b"\n")
        watch = asyncio.create_task(server.watch())
        await stop.wait()
    await watch


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(_main(Path(sys.argv[1]), "keep" in sys.argv[2:]))
