"""``aegis run`` as a process of its own, with its log."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

__all__ = ["NodeProcess"]


class NodeProcess:
    """``aegis run`` as a process; its log lines as they come."""

    def __init__(self, arguments: str, *, folder: Path, environ: dict[str, str]) -> None:
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.log: list[str] = []
        self._read_all = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aegis", "run", *arguments.split()],
            cwd=folder,
            env={**os.environ, **environ},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.put(line)
        self.lines.put(None)

    def wait_event(self, event: str, timeout: float = 30.0) -> dict[str, Any]:
        """Return the next log line of ``event``."""
        while True:
            line = self.lines.get(timeout=timeout)
            self._read_all = line is None
            assert line is not None, f"ended without {event}:\n{''.join(self.log)}"
            self.log.append(line)
            facts: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
            if facts.get("event") == event:
                return facts

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; return the exit code and all that was logged."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait_end()

    def wait_end(self) -> tuple[int, str]:
        """Return the exit code and all that was logged."""
        code = self.process.wait(timeout=30)
        self._reader.join(timeout=30)
        while not self._read_all and (line := self.lines.get(timeout=30)) is not None:
            self.log.append(line)
        self._read_all = True
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code, "".join(self.log)
