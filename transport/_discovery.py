"""Finding the embedded server that runs on this host for this user."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final, cast

from attrs import frozen

from aegis.errors import ConfigurationError
from aegis.transport._data_folder import default_data_dir, describe_folder_error, is_locked
from aegis.transport._guardian import GUARDIAN_LOCK, HOST, STATE_FILE, parse_info
from aegis.transport._server_config import Credentials

__all__ = [
    "CREDENTIALS_FILE",
    "Identity",
    "LocalServer",
    "find_server",
    "probe_server",
    "read_identity",
    "read_state",
]

CREDENTIALS_FILE: Final = "credentials.json"

_PROBE_TIMEOUT = 1.0
_POLL_INTERVAL = 0.02


@frozen
class Identity:
    """What stays the same for a data folder: the server's name and its two accounts."""

    server_name: str
    application: Credentials
    system: Credentials


@frozen
class LocalServer:
    """An embedded server that answered: where it is and how to log in.

    ``pid`` is the server process, ``guardian_pid`` the one that keeps it. ``sync`` is
    ``always`` or a duration, ``version`` the server's. ``restarts`` counts since the
    guardian began.
    """

    port: int
    credentials: Credentials
    system_credentials: Credentials
    data_dir: Path
    server_name: str
    pid: int
    guardian_pid: int
    sync: str
    version: str
    monitor_port: int | None = None
    restarts: int = 0

    @property
    def url(self) -> str:
        """Where NATS clients connect; it holds no password."""
        return f"nats://{HOST}:{self.port}"

    @property
    def monitor_url(self) -> str | None:
        """The server's HTTP monitoring, if it is on."""
        return None if self.monitor_port is None else f"http://{HOST}:{self.monitor_port}"

    @property
    def store_dir(self) -> Path:
        """Where JetStream keeps its files."""
        return self.data_dir / "store"


async def find_server(
    data_dir: Path | None = None, *, wait_restart: float = 5.0
) -> LocalServer | None:
    """Return the server that runs on ``data_dir`` (default: the user's own), or None.

    It was really reached: what a crash left behind is not taken for a server. One that is
    just starting or restarting is waited for, at most ``wait_restart`` seconds. Nothing
    is created, and the caller does not keep the server from ending with its users.

    Raises:
        ConfigurationError: the folder exists but this user cannot read it.
    """
    folder = default_data_dir() if data_dir is None else data_dir
    try:
        if not folder.is_dir():
            return None
        folder = folder.resolve()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_restart
        while True:
            server = await probe_server(folder)
            if server is not None or loop.time() >= deadline:
                return server
            if not is_locked(folder / GUARDIAN_LOCK):
                return None
            await asyncio.sleep(_POLL_INTERVAL)
    except PermissionError as error:
        raise ConfigurationError(
            f"data_dir: {folder} belongs to another user; name a folder of your own"
        ) from error
    except OSError as error:
        raise describe_folder_error(folder, error) from error


async def probe_server(data_dir: Path) -> LocalServer | None:
    """Return the server that the state file of ``data_dir`` names, if it answers."""
    state = read_state(data_dir)
    identity = read_identity(data_dir)
    if state is None or identity is None or state.get("state") != "ready":
        return None
    try:
        port = int(state["port"])
        server = LocalServer(
            port=port,
            credentials=identity.application,
            system_credentials=identity.system,
            data_dir=data_dir,
            server_name=identity.server_name,
            pid=int(state["pid"]),
            guardian_pid=int(state["guardian_pid"]),
            sync=str(state["sync"]),
            version=str(state["version"]),
            monitor_port=state["monitor_port"],
            restarts=int(state["restarts"]),
        )
    except (KeyError, TypeError, ValueError):
        return None  # not written by us
    return server if await _greets_as(port, identity.server_name) else None


def read_state(data_dir: Path) -> dict[str, Any] | None:
    """Return what the guardian of this very folder wrote last, or None."""
    state = _read_document(data_dir / STATE_FILE)
    # A copy of a data folder must not be taken for the folder it was copied from.
    return state if state is not None and state.get("data_dir") == str(data_dir) else None


def read_identity(data_dir: Path) -> Identity | None:
    """Return the name and accounts of this folder's server, or None if it has none yet."""
    document = _read_document(data_dir / CREDENTIALS_FILE)
    if document is None:
        return None
    try:
        return Identity(
            server_name=str(document["server_name"]),
            application=Credentials(**document["application"]),
            system=Credentials(**document["system"]),
        )
    except (KeyError, TypeError):
        return None


def _read_document(path: Path) -> dict[str, Any] | None:
    """Return the JSON map in the file, or None if there is none."""
    try:
        document: object = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return None
    return cast("dict[str, Any]", document) if isinstance(document, dict) else None


async def _greets_as(port: int, server_name: str) -> bool:
    """Whether the NATS server at ``port`` has this name."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT):
            reader, writer = await asyncio.open_connection(HOST, port)
            info = parse_info(await reader.readline())
    except (OSError, TimeoutError, ValueError):
        return False
    finally:
        if writer is not None:
            writer.close()
    return info is not None and info.get("server_name") == server_name
