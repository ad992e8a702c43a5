"""The guardian: a small process that keeps the embedded NATS server of one data folder.

It is detached from whoever started it and has the server as its child. It restarts the
server when it dies or hangs, on the same port and store, and ends it when nobody uses
it any more. Three file locks in the data folder carry all of this, because the kernel
releases them whatever way a process ends:

* ``guardian.lock``, exclusive: held by the one guardian. Who starts it takes the lock
  first and hands it down, so two starts at once give one server.
* ``users.lock``, shared: held by each process that uses the server. When the guardian
  gets it exclusively, the last user is gone, be it by SIGKILL, and the server ends;
  with a file ``keep`` in the folder the guardian does not ask for it.
* ``server.lock``, exclusive: held by the server process alone, which inherits it and
  knows nothing of it. No second server can open the store while the first one lives.

If the guardian itself is killed, Linux sends the server SIGTERM; the next guardian, which
a user's ``EmbeddedServer.watch`` starts, ends a server that is left over in any case.
SIGTERM to the guardian asks it to end as soon as the users are gone, kept or not.

The file runs as a script in an isolated interpreter without site-packages, which starts
in 20 ms and takes little memory: **it may import nothing but cheap parts of the standard
library**. What it does goes to ``guardian.log`` as JSON lines.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

__all__ = [
    "CONFIG_FILE",
    "GUARDIAN_LOCK",
    "GUARDIAN_LOG",
    "HOST",
    "KEEP_FILE",
    "SERVER_LOCK",
    "SERVER_LOG",
    "STATE_FILE",
    "USERS_LOCK",
    "Guardian",
    "command_of",
    "parse_info",
    "read_info",
    "write_private",
]

HOST = "127.0.0.1"

CONFIG_FILE = "nats.conf"
GUARDIAN_LOCK = "guardian.lock"
GUARDIAN_LOG = "guardian.log"
KEEP_FILE = "keep"
SERVER_LOCK = "server.lock"
SERVER_LOG = "server.log"
STATE_FILE = "server.json"
USERS_LOCK = "users.lock"

POLL_INTERVAL = 0.1
"""How often it looks whether a user is left, in seconds."""

PROBE_INTERVAL = 1.0
PROBE_TIMEOUT = 1.0
"""A server is asked for its greeting this often; one that is frozen takes both together.

Probes without an answer are counted, not seconds: a guardian that was itself paused must
not judge the server by that.
"""

START_PROBE_TIMEOUT = 0.25
"""Short: while the server starts, another program at its port may take the call."""

RESTART_WINDOW = 60.0
RESTART_DELAY_FIRST = 0.1
RESTART_DELAY_LIMIT = 2.0

STOP_TIMEOUT = 10.0
"""How long the server may take to end after SIGTERM before it is killed."""

LEFTOVER_TIMEOUT = 2.0
"""How long a server without a guardian may go on before it is killed."""

_PR_SET_PDEATHSIG = 1
_MAX_LOG_BYTES = 1024 * 1024


def read_info(port: int, timeout: float) -> dict[str, object] | None:
    """Return what the NATS server at ``port`` says of itself, or None.

    Every server greets with a line ``INFO {...}`` before any login.
    """
    try:
        with socket.create_connection((HOST, port), timeout) as connection:
            connection.settimeout(timeout)
            line = b""
            while not line.endswith(b"\n") and len(line) < 65536:
                chunk = connection.recv(4096)
                if not chunk:
                    return None
                line += chunk
    except OSError:
        return None
    return parse_info(line)


def parse_info(line: bytes) -> dict[str, object] | None:
    """Return the map in the server's greeting, or None if it is no such greeting."""
    if not line.startswith(b"INFO "):
        return None
    try:
        info: object = json.loads(line[5:])
    except ValueError:
        return None
    return info if isinstance(info, dict) else None  # pyright: ignore[reportUnknownVariableType]


def write_private(path: str, text: str) -> None:
    """Replace the file at ``path`` in one step; only this user can read it."""
    temporary = f"{path}.{os.getpid()}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


class Guardian:
    """Runs the server of ``data_dir`` until nobody uses it.

    ``facts`` are written to the state file as they are, beside what the guardian knows.
    """

    def __init__(
        self,
        data_dir: str,
        binary: str,
        port: int,
        server_name: str,
        start_timeout: float,
        hang_timeout: float,
        max_restarts: int,
        facts: dict[str, object],
    ) -> None:
        self.data_dir = data_dir
        self.binary = binary
        self.port = port
        self.server_name = server_name
        self.start_timeout = start_timeout
        self.hang_timeout = hang_timeout
        self.max_failed_probes = max(1, round(hang_timeout / (PROBE_INTERVAL + PROBE_TIMEOUT)))
        self.max_restarts = max_restarts
        self.facts = facts
        self.leaving = False
        self.restarts = 0
        self._users = os.open(self._path(USERS_LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._nobody_left = False
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = [0, 0]
        self._before_exec = _make_die_with_parent()
        self._wakeup, wakeup_write = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(wakeup_write, False)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        # Handlers, not SIG_IGN: an ignored signal would stay ignored in the server.
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _wake_up)
        signal.signal(signal.SIGTERM, self._leave)

    def run(self) -> None:
        """Start the server, say so on standard output, and keep it."""
        failure = self._start()
        if failure:
            self._stop()
            self._write_state("failed", failure)
            _log("error", "nats_server_failed", reason=failure)
            _answer({"error": failure})  # last: the one who reads it may start the next one
            return
        _answer({"ready": True})
        os.dup2(0, 1)  # who reads to the end learns that this was all
        try:
            failure = self._keep_up()
        finally:
            self._stop()
        self._write_state("failed" if failure else "stopped", failure)
        _log("error" if failure else "info", "guardian_ended", reason=failure)

    def _keep_up(self) -> str:
        """Return when the last user is gone, or with why the server cannot be kept."""
        restarts: list[float] = []
        probe_at = time.monotonic() + PROBE_INTERVAL
        failed_probes = 0
        while not self._is_unused():
            self._wait(POLL_INTERVAL)
            if self._process is not None and self._process.poll() is None:
                if time.monotonic() < probe_at:
                    continue
                failed_probes = 0 if self._is_ready(PROBE_TIMEOUT) else failed_probes + 1
                probe_at = time.monotonic() + PROBE_INTERVAL
                if failed_probes < self.max_failed_probes:
                    continue
                _log("error", "nats_server_hung", pid=self._process.pid)
                self._process.kill()
                self._process.wait()
            reason = self._exit_reason()
            _log("warning", "nats_server_exited", reason=reason)
            now = time.monotonic()
            restarts = [at for at in restarts if now - at < RESTART_WINDOW]
            if len(restarts) >= self.max_restarts:
                return f"it ended {len(restarts) + 1} times in {RESTART_WINDOW:.0f} s: {reason}"
            if restarts:
                delay = RESTART_DELAY_FIRST * 2 ** (len(restarts) - 1)
                until = now + min(delay, RESTART_DELAY_LIMIT)
                while time.monotonic() < until and not self._is_unused():
                    self._wait(POLL_INTERVAL)
                if self._nobody_left:
                    break
            restarts.append(now)
            self.restarts += 1
            self._start()
            failed_probes = 0
        return ""

    def _start(self) -> str:
        """Start the server and wait till it answers; return why it did not, or ''."""
        lock = self._take_store()
        if lock is None:
            return f"a server that cannot be ended still has the data folder {self.data_dir} open"
        self._log_start = [_size(self._path(name)) for name in (SERVER_LOG, GUARDIAN_LOG)]
        command = [self.binary, "-c", self._path(CONFIG_FILE)]
        try:
            # The guardian has one thread, so preexec_fn is safe; and that thread lives
            # as long as the process, which is what the parent-death signal is tied to.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=2,
                stderr=2,
                cwd=self.data_dir,
                pass_fds=(lock,),
                preexec_fn=self._before_exec,
            )
        except OSError as error:
            return f"{self.binary} cannot be run: {error.strerror}"
        finally:
            os.close(lock)
        deadline = time.monotonic() + self.start_timeout
        while not self._is_ready(START_PROBE_TIMEOUT):
            if self._process.poll() is not None:
                return self._exit_reason()
            if self._is_unused():
                return "its last user is gone"
            if time.monotonic() > deadline:
                return f"it did not answer within {self.start_timeout:g} s"
            self._wait(0.002)
        unwritten = self._write_state("ready")
        if unwritten and not self.restarts:
            return unwritten
        _log("info", "nats_server_started", pid=self._process.pid, port=self.port)
        return ""

    def _take_store(self) -> int | None:
        """Return a descriptor that holds ``server.lock``, for the server to inherit.

        A server that is left over from a guardian that was killed gets a little time
        to end by itself.
        """
        lock = os.open(self._path(SERVER_LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        begun = time.monotonic()
        killed = False
        while not _lock_exclusively(lock):
            elapsed = time.monotonic() - begun
            if elapsed > LEFTOVER_TIMEOUT and not killed:
                self._kill_leftover()
                killed = True
            if elapsed > 2 * LEFTOVER_TIMEOUT:
                os.close(lock)
                return None
            time.sleep(0.01)
        return lock

    def _kill_leftover(self) -> None:
        try:
            with open(self._path(STATE_FILE)) as file:
                pid = int(json.load(file)["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        if self._path(CONFIG_FILE) in command_of(pid):
            _log("warning", "leftover_nats_server_killed", pid=pid)
            os.kill(pid, signal.SIGKILL)

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                _log("warning", "nats_server_killed", pid=process.pid)
                process.kill()
                process.wait()

    def _is_ready(self, timeout: float) -> bool:
        info = read_info(self.port, timeout)
        if info is None or info.get("server_name") != self.server_name:
            return False
        self.facts["version"] = info.get("version")
        return True

    def _is_unused(self) -> bool:
        if self._nobody_left:
            return True
        if os.path.exists(self._path(KEEP_FILE)) and not self.leaving:
            return False
        # Never given back: a process that comes now waits till the server has ended.
        self._nobody_left = _lock_exclusively(self._users)
        return self._nobody_left

    def _leave(self, number: int, frame: FrameType | None) -> None:
        self.leaving = True

    def _wait(self, timeout: float) -> None:
        """Return after ``timeout`` seconds, or earlier when a signal came."""
        if select.select([self._wakeup], [], [], timeout)[0]:
            os.read(self._wakeup, 4096)

    def _exit_reason(self) -> str:
        """Return the server's own last words, else its exit status."""
        for name, start in zip((SERVER_LOG, GUARDIAN_LOG), self._log_start, strict=True):
            for line in reversed(_tail(self._path(name), start)):
                for mark in ("[FTL] ", "nats-server: ", "fatal error: ", "panic: "):
                    _, found, words = line.partition(mark)
                    if found:
                        return words.strip()
        status = None if self._process is None else self._process.returncode
        if status is not None and status < 0:
            return f"killed by {signal.Signals(-status).name}"
        return f"exit status {status}"

    def _write_state(self, state: str, reason: str = "") -> str:
        """Tell everyone how the server is; return why that was not possible, or ''.

        After a restart on a disk that is full meanwhile, the guardian goes on: what the
        file said before still holds, but for the process id.
        """
        document = {
            **self.facts,
            "state": state,
            "reason": reason,
            "data_dir": self.data_dir,
            "binary": self.binary,
            "host": socket.gethostname(),
            "port": self.port,
            "server_name": self.server_name,
            "pid": 0 if self._process is None else self._process.pid,
            "guardian_pid": os.getpid(),
            "restarts": self.restarts,
        }
        try:
            write_private(self._path(STATE_FILE), json.dumps(document, indent=1))
        except OSError as error:
            _log("error", "state_not_written", reason=str(error))
            return f"{self._path(STATE_FILE)} cannot be written: {error.strerror}"
        return ""

    def _path(self, name: str) -> str:
        return os.path.join(self.data_dir, name)


def _wake_up(number: int, frame: FrameType | None) -> None:
    """Do nothing: the signal has ended the wait through the wakeup descriptor."""


def _make_die_with_parent() -> Callable[[], None] | None:
    """Return what the child calls before exec so that it ends with the guardian."""
    if sys.platform != "linux":
        return None
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    guardian = os.getpid()

    def die_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != guardian:  # it died before the call
            os._exit(127)

    return die_with_parent


def _lock_exclusively(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def command_of(pid: int) -> str:
    """Return the command line of a process, or '' if there is none."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return os.fsdecode(file.read().replace(b"\0", b" "))
    except OSError:
        if os.path.isdir("/proc/self"):
            return ""
    command = ["ps", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _tail(path: str, start: int) -> list[str]:
    try:
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(65536).decode(errors="replace").splitlines()
    except OSError:
        return []


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _log(level: str, event: str, **facts: object) -> None:
    timestamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = json.dumps({"timestamp": timestamp, "level": level, "event": event, **facts})
    with contextlib.suppress(OSError):  # a full disk
        os.write(2, line.encode() + b"\n")


def _answer(answer: dict[str, object]) -> None:
    """Tell the process that waits at the other end of standard output."""
    with contextlib.suppress(OSError):  # nobody waits any more
        os.write(1, json.dumps(answer).encode() + b"\n")


def main() -> None:
    """Leave the process that started us, and guard. The settings are one argument, JSON."""
    settings = json.loads(sys.argv[1])
    if os.fork():
        os._exit(0)
    try:
        guardian = Guardian(**settings)
        if _size(os.path.join(guardian.data_dir, GUARDIAN_LOG)) > _MAX_LOG_BYTES:
            os.ftruncate(2, 0)
        guardian.run()
    except Exception as error:
        _log("critical", "guardian_failed", reason=f"{type(error).__name__}: {error}")
        _answer({"error": str(error)})
        raise


if __name__ == "__main__":
    main()
