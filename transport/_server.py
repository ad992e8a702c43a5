"""The embedded NATS server: found on this host, or started and kept alive.

The server belongs to all processes that use it. Each `EmbeddedServer` is one use; the
guardian (see `_guardian`) restarts a server that dies, and ends it when the last use is
gone, whether by `EmbeddedServer.stop` or because its process was killed. So the process
that happened to start the server can be killed like any other: the rest does not notice.
With ``keep`` the server outlives its users, until `stop_server`.

Should the guardian itself be killed, the server ends with it, and the first process whose
`EmbeddedServer.watch` notices starts both again: same port, same store, same passwords.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import structlog
from attrs import evolve, frozen

from aegis.errors import ConfigurationError, Unavailable
from aegis.transport import _guardian
from aegis.transport._data_folder import (
    MIN_FREE_BYTES,
    FileLock,
    check_free_space,
    default_data_dir,
    describe_folder_error,
    is_locked,
    prepare_data_dir,
)
from aegis.transport._discovery import (
    CREDENTIALS_FILE,
    Identity,
    LocalServer,
    probe_server,
    read_identity,
    read_state,
)
from aegis.transport._ports import free_port, is_free
from aegis.transport._server_binary import find_binary
from aegis.transport._server_config import (
    SYNC_ALWAYS,
    Credentials,
    ServerSettings,
    check_sync,
    render_config,
)

__all__ = ["EmbeddedServer", "ServerOptions", "ensure_server", "stop_server"]

START_TIMEOUT: Final = 60.0
"""How long a start may take, in seconds; a large store is read before the server answers."""

HANG_TIMEOUT: Final = 15.0
MAX_RESTARTS: Final = 20

STOP_TIMEOUT: Final = _guardian.STOP_TIMEOUT + 5.0

WATCH_INTERVAL: Final = 0.2
MAX_TAKEOVERS: Final = 20
TAKEOVER_WINDOW: Final = 60.0
TAKEOVER_DELAY_LIMIT: Final = 2.0

_POLL_INTERVAL = 0.02

WAIT_TOLD: Final = 2.0
"""Seconds without an answer after which it is told what the start waits for."""
_PORT_ATTEMPTS = 5
_PORT_TAKEN = "address already in use"

log = structlog.stdlib.get_logger(__name__)


@frozen
class ServerOptions:
    """How to start the embedded server. None: as it runs already, else the default.

    Args:
        data_dir: where all is kept; default `default_data_dir`.
        port: the port on loopback; default the one that this folder had before, if it is
            free, else a random one.
        sync: when JetStream forces its writes to the disk: ``always`` (default), or a
            duration such as ``2m``, in which a power cut may lose what was acknowledged.
        keep: the server outlives its users.
        nats_server: the program; default `find_binary`.
        monitor: the server's HTTP monitoring is on, at a random port on loopback.
        min_free_bytes: refuse to start with less free on the disk.
        start_timeout: in seconds.
        hang_timeout: a server that lives but does not answer for so long, in seconds, is
            killed and restarted.
        max_restarts: a server that dies more often than this within a minute is given up.
    """

    data_dir: Path | None = None
    port: int | None = None
    sync: str | None = None
    keep: bool = False
    nats_server: Path | None = None
    monitor: bool = False
    min_free_bytes: int = MIN_FREE_BYTES
    start_timeout: float = START_TIMEOUT
    hang_timeout: float = HANG_TIMEOUT
    max_restarts: int = MAX_RESTARTS


class EmbeddedServer:
    """One use of the embedded server, by this process; from `ensure_server`.

    ``server`` is what is known of it, ``owned`` whether this use started it.
    """

    def __init__(
        self, server: LocalServer, options: ServerOptions, users: FileLock, *, owned: bool
    ) -> None:
        self.server = server
        self.owned = owned
        self._options = options
        self._users = users
        self._stopped = asyncio.Event()

    @property
    def url(self) -> str:
        """Where NATS clients connect; stays the same as long as anybody uses the server."""
        return self.server.url

    @property
    def credentials(self) -> Credentials:
        """The user of the application account, which has JetStream."""
        return self.server.credentials

    @property
    def system_credentials(self) -> Credentials:
        """The user of the system account."""
        return self.server.system_credentials

    @property
    def data_dir(self) -> Path:
        """The data folder: the store, the passwords, the logs, the locks."""
        return self.server.data_dir

    @property
    def store_dir(self) -> Path:
        """Where JetStream keeps its files."""
        return self.server.store_dir

    @property
    def pid(self) -> int:
        """The server process, as last seen by `ensure_server` or `watch`."""
        return self.server.pid

    async def watch(self) -> None:
        """Keep the server available until `stop`: run this as a task in every user.

        It starts guardian and server anew when the guardian was killed, and logs each
        restart of the server.

        Raises:
            Unavailable: the server cannot be kept running: it died too often, or it does
                not start any more. The process cannot work and should end.
            ConfigurationError: the data folder is gone.
        """
        takeovers: deque[float] = deque()
        loop = asyncio.get_running_loop()
        while not await self._is_stopped_within(WATCH_INTERVAL):
            lock = FileLock(self.data_dir / _guardian.GUARDIAN_LOCK)
            try:
                if not lock.acquire_nowait():
                    await self._note_restart()
                    continue
                state = read_state(self.data_dir)
                if state is not None and state.get("state") == "failed":
                    raise _unavailable(self.data_dir, str(state.get("reason")))
                now = loop.time()
                while takeovers and now - takeovers[0] > TAKEOVER_WINDOW:
                    takeovers.popleft()
                if len(takeovers) == MAX_TAKEOVERS:
                    reason = f"its guardian ended {MAX_TAKEOVERS + 1} times in a minute"
                    raise _unavailable(self.data_dir, reason)
                delay = 0.0 if not takeovers else 0.1 * 2 ** len(takeovers)
                if await self._is_stopped_within(min(delay, TAKEOVER_DELAY_LIMIT)):
                    return
                takeovers.append(now)
                await self._take_over(lock)
            finally:
                lock.close()

    async def stop(self) -> None:
        """End this use; idempotent. If it was the last one, return when the server has ended.

        A server that is kept goes on.
        """
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._users.close()
        if not (self.data_dir / _guardian.KEEP_FILE).exists():
            await _wait_ended(self.data_dir, STOP_TIMEOUT, unless_used=True)

    async def __aenter__(self) -> Self:
        """Return this use."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        await self.stop()

    async def _is_stopped_within(self, timeout: float) -> bool:
        try:
            await asyncio.wait_for(self._stopped.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def _note_restart(self) -> None:
        state = read_state(self.data_dir)
        if state is None or (state.get("pid"), state.get("state")) == (self.pid, "ready"):
            return
        server = await probe_server(self.data_dir)
        if server is not None and server.pid != self.pid:
            log.warning("nats_server_restarted", pid=server.pid, former_pid=self.pid)
            self.server = server

    async def _take_over(self, lock: FileLock) -> None:
        """Start guardian and server as they were."""
        log.warning("nats_guardian_lost", guardian_pid=self.server.guardian_pid)
        options = evolve(
            self._options,
            data_dir=self.data_dir,
            port=self.server.port,
            sync=self.server.sync,
            keep=(self.data_dir / _guardian.KEEP_FILE).exists(),
            monitor=self.server.monitor_port is not None,
            min_free_bytes=0,
        )
        try:
            await _start(self.data_dir, options, lock)
        except ConfigurationError as error:
            # The state file still says why when the next watcher looks.
            log.error("nats_server_not_taken_over", reason=str(error))
            return
        server = await probe_server(self.data_dir)
        if server is not None:
            log.warning("nats_server_taken_over", pid=server.pid, former_pid=self.pid)
            self.server = server
            self.owned = True


async def ensure_server(options: ServerOptions | None = None) -> EmbeddedServer:
    """Find the server of the data folder, or start it; it runs as long as the result is used.

    Raises:
        ConfigurationError: an option is wrong or cannot be met, or the server that runs
            already differs from it; the message names it and says what to do.
    """
    options = options or ServerOptions()
    if options.sync is not None:
        check_sync(options.sync)
    if options.port is not None and not 1 <= options.port <= 65535:
        raise ConfigurationError(f"port: {options.port} is not between 1 and 65535")
    data_dir = prepare_data_dir(options.data_dir or default_data_dir())
    users = FileLock(data_dir / _guardian.USERS_LOCK)
    wait_told = min(WAIT_TOLD, options.start_timeout / 2)
    told = asyncio.get_running_loop().call_later(wait_told, _tell_waiting, data_dir, options)
    try:
        async with asyncio.timeout(options.start_timeout):
            await _wait_use(users)
            server, owned = await _find_or_start(data_dir, options)
        _check_agreement(server, options)
        if options.keep:
            (data_dir / _guardian.KEEP_FILE).touch(mode=0o600)
    except BaseException as error:
        users.close()
        if isinstance(error, TimeoutError):
            raise _locked(data_dir, options.start_timeout) from error
        if isinstance(error, OSError):
            raise describe_folder_error(data_dir, error) from error
        raise
    finally:
        told.cancel()
    log.info(
        "nats_server_started" if owned else "nats_server_found",
        url=server.url,
        pid=server.pid,
        data_dir=str(data_dir),
        sync=server.sync,
        version=server.version,
    )
    return EmbeddedServer(server, options, users, owned=owned)


async def stop_server(data_dir: Path | None = None, *, timeout: float = STOP_TIMEOUT) -> bool:
    """End a server that was kept; return whether none runs any more.

    One that is in use ends when its last user is gone, which is waited for at most
    ``timeout`` seconds.

    Raises:
        ConfigurationError: the folder is another user's.
    """
    folder = (data_dir or default_data_dir()).resolve()
    try:
        state = read_state(folder)
        (folder / _guardian.KEEP_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise describe_folder_error(folder, error) from error
    if state is None or not is_locked(folder / _guardian.GUARDIAN_LOCK):
        return True
    guardian = int(state["guardian_pid"])
    if _guardian.__file__ in _guardian.command_of(guardian):
        os.kill(guardian, signal.SIGTERM)
    return await _wait_ended(folder, timeout)


async def _find_or_start(data_dir: Path, options: ServerOptions) -> tuple[LocalServer, bool]:
    """Whoever gets the guardian's lock starts the server; the others wait for it."""
    owned = False
    while True:
        server = await probe_server(data_dir)
        if server is not None:
            return server, owned
        lock = FileLock(data_dir / _guardian.GUARDIAN_LOCK)
        try:
            if lock.acquire_nowait():
                await _start(data_dir, options, lock)
                owned = True
                continue
        finally:
            lock.close()
        state = read_state(data_dir)
        if state is not None and state.get("host") != socket.gethostname():
            raise ConfigurationError(
                f"data_dir: {data_dir} is in use by a server on the host {state.get('host')}; "
                "name another data folder, or connect to that server with --nats"
            )
        await asyncio.sleep(_POLL_INTERVAL)


async def _start(data_dir: Path, options: ServerOptions, lock: FileLock) -> None:
    """Start guardian and server; ``lock`` is the guardian's and is handed to it."""
    check_free_space(data_dir, options.min_free_bytes)
    binary = await asyncio.to_thread(find_binary, options.nats_server)
    former = read_state(data_dir) or {}
    port = options.port or former.get("port")
    # Only a server without a guardian, which the next guardian ends, may be in the way.
    usable = isinstance(port, int) and (
        is_free(port) or is_locked(data_dir / _guardian.SERVER_LOCK)
    )
    if not usable and options.port is not None:
        raise _port_taken(options.port)
    if not usable:
        port = free_port()
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        assert isinstance(port, int)
        failure = await _start_at(port, data_dir, options, binary, lock)
        if not failure:
            return
        if _PORT_TAKEN not in failure:
            raise ConfigurationError(
                f"the NATS server does not start: {failure} "
                f"(see {data_dir / _guardian.SERVER_LOG})"
            )
        if options.port is not None:
            break
        log.info("nats_port_taken", port=port, attempt=attempt)
        port = free_port()
    raise ConfigurationError(f"port: {port} is taken by another program; name another port or none")


async def _start_at(
    port: int, data_dir: Path, options: ServerOptions, binary: Path, lock: FileLock
) -> str:
    """Start guardian and server at ``port``; return why it did not work, or ''."""
    sync = options.sync or SYNC_ALWAYS
    monitor_port = free_port() if options.monitor else None
    try:
        identity = _identity(data_dir)
        config = ServerSettings(
            server_name=identity.server_name,
            port=port,
            store_dir=data_dir / "store",
            log_file=data_dir / _guardian.SERVER_LOG,
            application=identity.application,
            system=identity.system,
            sync=sync,
            monitor_port=monitor_port,
        )
        _guardian.write_private(str(data_dir / _guardian.CONFIG_FILE), render_config(config))
        if not options.keep:
            (data_dir / _guardian.KEEP_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise describe_folder_error(data_dir, error) from error
    settings: dict[str, Any] = {
        "data_dir": str(data_dir),
        "binary": str(binary),
        "port": port,
        "server_name": identity.server_name,
        "start_timeout": options.start_timeout,
        "hang_timeout": options.hang_timeout,
        "max_restarts": options.max_restarts,
        "facts": {"sync": sync, "monitor_port": monitor_port},
    }
    answer = await _spawn_guardian(data_dir, settings, lock)
    return str(answer.get("error", ""))


async def _spawn_guardian(
    data_dir: Path, settings: dict[str, Any], lock: FileLock
) -> dict[str, Any]:
    """Start the guardian and return its answer; one that failed has ended by then."""
    loop = asyncio.get_running_loop()
    read_end, write_end = os.pipe()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", buffering=0)
    )
    try:
        try:
            process = _popen_guardian(data_dir, settings, lock, write_end)
        finally:
            os.close(write_end)
        try:
            answer = await reader.read()
        finally:
            process.wait()  # the guardian leaves this process as soon as it runs
    finally:
        transport.close()
    if not answer:
        return {"error": f"its guardian ended at once (see {data_dir / _guardian.GUARDIAN_LOG})"}
    return dict(json.loads(answer))


def _popen_guardian(
    data_dir: Path, settings: dict[str, Any], lock: FileLock, answer_to: int
) -> subprocess.Popen[bytes]:
    try:
        log_file = os.open(
            data_dir / _guardian.GUARDIAN_LOG,
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
            0o600,
        )
    except OSError as error:
        raise describe_folder_error(data_dir, error) from error
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", _guardian.__file__, json.dumps(settings)],
            stdin=subprocess.DEVNULL,
            stdout=answer_to,
            stderr=log_file,
            cwd="/",
            pass_fds=(lock.descriptor,),
            start_new_session=True,
            umask=0o077,
        )
    except OSError as error:
        raise ConfigurationError(f"{sys.executable} cannot be run: {error.strerror}") from error
    finally:
        os.close(log_file)


def _identity(data_dir: Path) -> Identity:
    """Return the name and accounts of the folder's server; made up once, kept for good.

    Clients that reconnect after a restart log in with the same passwords.
    """
    identity = read_identity(data_dir)
    if identity is None:
        identity = Identity(
            server_name=f"aegis-{secrets.token_hex(8)}",
            application=Credentials("aegis", secrets.token_urlsafe(32)),
            system=Credentials("system", secrets.token_urlsafe(32)),
        )
        document = {
            "server_name": identity.server_name,
            "application": {"user": "aegis", "password": identity.application.password},
            "system": {"user": "system", "password": identity.system.password},
        }
        _guardian.write_private(str(data_dir / CREDENTIALS_FILE), json.dumps(document, indent=1))
    return identity


def _check_agreement(server: LocalServer, options: ServerOptions) -> None:
    """Refuse a running server that differs from what was asked for in so many words."""
    advice = f"leave the option out, or stop that server first (data folder {server.data_dir})"
    if options.port not in (None, server.port):
        raise ConfigurationError(
            f"port: the server that runs already is at port {server.port}, "
            f"not {options.port}; {advice}"
        )
    if options.sync not in (None, server.sync):
        raise ConfigurationError(
            f"sync: the server that runs already has {server.sync!r}, not {options.sync!r}; "
            f"{advice}"
        )


async def _wait_use(users: FileLock) -> None:
    """Take the users' lock; while a server is just ending, its guardian stands in the way."""
    while True:
        if users.acquire_nowait(shared=True):
            return
        await asyncio.sleep(_POLL_INTERVAL)


async def _wait_ended(data_dir: Path, timeout: float, *, unless_used: bool = False) -> bool:
    """Wait until no guardian runs, and say whether that came true in time.

    With ``unless_used`` it gives up when the server turns out to have other users.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    times_used = 0
    while is_locked(data_dir / _guardian.GUARDIAN_LOCK):
        # Twice: another process that looks holds the lock itself for a moment.
        times_used = times_used + 1 if unless_used and _is_used(data_dir) else 0
        if times_used == 2:
            return False
        if loop.time() > deadline:
            log.warning("nats_server_still_running", data_dir=str(data_dir))
            return False
        await asyncio.sleep(_POLL_INTERVAL)
    return True


def _is_used(data_dir: Path) -> bool:
    """Whether any process uses the server, and not just the guardian holds the lock."""
    users = FileLock(data_dir / _guardian.USERS_LOCK)
    try:
        return not users.acquire_nowait() and users.acquire_nowait(shared=True)
    finally:
        users.close()


def _port_taken(port: int) -> ConfigurationError:
    return ConfigurationError(
        f"port: {port} is taken by another program; name another port or none"
    )


def _tell_waiting(data_dir: Path, options: ServerOptions) -> None:
    log.warning(
        "nats_server_awaited",
        data_dir=str(data_dir),
        action=f"the data folder's server{_holder(data_dir)} does not answer; it is waited for "
        f"{options.start_timeout:g} s. End it, or name another data folder",
    )


def _locked(data_dir: Path, timeout: float) -> ConfigurationError:
    return ConfigurationError(
        f"data_dir: {data_dir} is locked by another server{_holder(data_dir)} that did not answer "
        f"within {timeout:g} s; end it, or name another data folder"
    )


def _holder(data_dir: Path) -> str:
    state = read_state(data_dir) or {}
    return f" (process {state['pid']})" if state.get("state") == "ready" else ""


def _unavailable(data_dir: Path, reason: str) -> Unavailable:
    return Unavailable(
        f"the NATS server does not stay up: {reason} (see {data_dir / _guardian.SERVER_LOG})"
    )
