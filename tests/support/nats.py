"""Real NATS servers for tests: started by the test, and treated as badly as needed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Generator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from aegis.transport._server_binary import find_binary

__all__ = ["NatsServer", "nats_server"]

BASE_CONFIG = """
listen: "127.0.0.1:{port}"
server_name: test
jetstream {{ store_dir: "{folder}/store", max_file_store: 64G, max_memory_store: 256M }}
max_payload: 8MB
ping_interval: "1s"
ping_max: 2
write_deadline: "2s"
{extra}
"""

ACCOUNTS = """
accounts {
  SYS { users: [ { user: system, password: system } ] }
  APP { jetstream: enabled, users: [ { user: app, password: app } ] }
}
system_account: SYS
no_auth_user: app
"""
"""An application account that needs no password, and a system account."""


class NatsServer:
    """One server process on one port and one folder, which may be restarted."""

    def __init__(self, folder: Path, extra: str = ACCOUNTS, *, scheme: str = "nats") -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.log: list[str] = []
        self._config = folder / "server.conf"
        self._extra = extra
        self.environ: dict[str, str] = {}
        """What the process finds in its environment besides ours."""
        self._process: subprocess.Popen[str] | None = None
        self.configure(extra)

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def configure(self, extra: str) -> None:
        """Use another configuration from the next start on."""
        self._config.write_text(
            BASE_CONFIG.format(port=self.port, folder=self.folder, extra=extra), encoding="utf-8"
        )

    def start(self) -> None:
        """Start the process and wait for the line that says it is ready."""
        self._process = subprocess.Popen(
            [str(find_binary()), "-c", str(self._config)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **self.environ},
            text=True,
        )
        assert self._process.stderr is not None
        ready = threading.Event()
        heard = len(self.log)
        reader = threading.Thread(target=self._read_log, args=(self._process, ready), daemon=True)
        reader.start()
        assert ready.wait(20), "\n".join(self.log)
        assert any("Server is ready" in line for line in self.log[heard:]), "\n".join(self.log)

    def _read_log(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                self.log.append(line.rstrip())
                if "Server is ready" in line:
                    ready.set()
        ready.set()

    def kill(self) -> None:
        """End the process as a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End the process in good order."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def freeze(self) -> None:
        """Let the process answer nothing, and keep its connections."""
        self.process.send_signal(signal.SIGSTOP)
        # All its threads stand still when the parent is told of it.
        os.waitpid(self.process.pid, os.WUNTRACED)

    def thaw(self) -> None:
        """Undo `freeze`."""
        self.process.send_signal(signal.SIGCONT)


def free_port() -> int:
    """Return a port of this host that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def nats_server() -> Generator[NatsServer]:
    """A server for all tests that do not harm it; each uses a namespace of its own."""
    with TemporaryDirectory(prefix="aegis-nats-") as folder:
        server = NatsServer(Path(folder))
        server.start()
        yield server
        server.stop()
