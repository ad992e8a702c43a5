"""The configuration text of a NATS server that Aegis runs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from attrs import field, frozen

from aegis.errors import ConfigurationError

__all__ = [
    "MAX_PAYLOAD_BYTES",
    "SYNC_ALWAYS",
    "ClusterMember",
    "Credentials",
    "ServerSettings",
    "check_sync",
    "render_config",
]

LOOPBACK: Final = "127.0.0.1"

MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024
"""The largest message; it bounds the state of one resource."""

MAX_PENDING_BYTES: Final = 64 * 1024 * 1024
"""What the server keeps for a connection that reads too slowly, before it drops it."""

MAX_STORE_BYTES: Final = 64 * 1024**3
"""JetStream's limit: room for the ``max_bytes`` of several namespaces.

The disk may be smaller: the server counts what streams *may* take, so a limit by the disk
would refuse a stream that is still empty.
"""

MAX_MEMORY_STORE_BYTES: Final = 256 * 1024 * 1024

SYNC_ALWAYS: Final = "always"

_DURATION = re.compile(r"([0-9]+(\.[0-9]+)?(ms|s|m|h))+")


@frozen
class Credentials:
    """The name and the password of one NATS account's user."""

    user: str
    password: str = field(repr=False)


@frozen
class ClusterMember:
    """What makes a server one of a cluster. ``routes`` are the cluster ports of all.

    ``hosts`` are the addresses of all in the same order; without, all are on loopback.
    """

    name: str
    port: int
    routes: Sequence[int]
    hosts: Sequence[str] = ()


@frozen
class ServerSettings:
    """All that differs between the servers that Aegis runs."""

    server_name: str
    port: int
    store_dir: Path
    log_file: Path
    application: Credentials
    system: Credentials
    sync: str = SYNC_ALWAYS
    monitor_port: int | None = None
    cluster: ClusterMember | None = None
    host: str = LOOPBACK
    """Where it listens: loopback, but in a test with hosts of its own."""


def check_sync(sync: str) -> str:
    """Return ``sync`` if it is ``always`` or a duration like ``500ms`` or ``2m``.

    Raises:
        ConfigurationError: it is neither.
    """
    if sync == SYNC_ALWAYS or _DURATION.fullmatch(sync):
        return sync
    raise ConfigurationError(
        f'sync: {sync!r} is neither "always" nor a duration such as "500ms" or "2m"'
    )


def render_config(settings: ServerSettings) -> str:
    """Return the configuration file of one server.

    With ``ping_interval`` 1 s and ``ping_max`` 2 a client that is frozen or cut off is
    disconnected after 2 to 3 s, and the system account tells everyone.
    """
    lines = [
        f"server_name: {_quote(settings.server_name)}",
        f"host: {_quote(settings.host)}",
        f"port: {settings.port}",
        f"max_payload: {MAX_PAYLOAD_BYTES}",
        f"max_pending: {MAX_PENDING_BYTES}",
        'write_deadline: "10s"',
        'ping_interval: "1s"',
        "ping_max: 2",
        f"log_file: {_quote(str(settings.log_file))}",
        f"logfile_size_limit: {10 * 1024 * 1024}",
        "logfile_max_num: 3",
        "jetstream {",
        f"  store_dir: {_quote(str(settings.store_dir))}",
        f"  sync_interval: {_quote(check_sync(settings.sync))}",
        f"  max_file_store: {MAX_STORE_BYTES}",
        f"  max_memory_store: {MAX_MEMORY_STORE_BYTES}",
        "}",
        "accounts {",
        f"  SYS {{ users: [ {_user(settings.system)} ] }}",
        f"  AEGIS {{ jetstream: enabled, users: [ {_user(settings.application)} ] }}",
        "}",
        "system_account: SYS",
    ]
    if settings.monitor_port is not None:
        lines.append(f'http: "{LOOPBACK}:{settings.monitor_port}"')
    if settings.cluster is not None:
        ports = settings.cluster.routes
        hosts = settings.cluster.hosts or [LOOPBACK] * len(ports)
        routes = ", ".join(
            f'"nats-route://{host}:{port}"' for host, port in zip(hosts, ports, strict=True)
        )
        lines += [
            "cluster {",
            f"  name: {_quote(settings.cluster.name)}",
            f'  listen: "{settings.host}:{settings.cluster.port}"',
            f"  routes: [ {routes} ]",
            "}",
        ]
    return "\n".join(lines) + "\n"


def _user(credentials: Credentials) -> str:
    return f"{{ user: {_quote(credentials.user)}, password: {_quote(credentials.password)} }}"


def _quote(text: str) -> str:
    # The server's strings know the escapes of JSON but \u, and take UTF-8 as it is.
    return json.dumps(text, ensure_ascii=False)
