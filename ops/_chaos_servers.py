"""The NATS servers of `aegis chaos`: the embedded one, or a cluster of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import secrets
import signal
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from aegis._cluster import Cluster
from aegis._config import ConnectOptions
from aegis.errors import AegisError
from aegis.ops._chaos_hosts import Hosts
from aegis.ops._node_processes import die_with_parent
from aegis.transport._discovery import read_state
from aegis.transport._ports import free_port
from aegis.transport._server import EmbeddedServer, ServerOptions, ensure_server
from aegis.transport._server_binary import find_binary
from aegis.transport._server_config import (
    LOOPBACK,
    ClusterMember,
    Credentials,
    ServerSettings,
    render_config,
)

__all__ = ["ClusterServers", "EmbeddedServers", "Servers", "open_cluster", "open_embedded"]

NAMESPACE: Final = "chaos"
STOP_TIMEOUT: Final = 15.0
_CLIENT_PORT: Final = 4222
_CLUSTER_PORT: Final = 6222


class Servers(Protocol):
    """What nodes and callers connect to."""

    @property
    def options(self) -> ConnectOptions:
        """How callers connect."""
        ...

    @property
    def arguments(self) -> list[str]:
        """The options of ``aegis run``."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables of ``aegis run``."""
        ...

    async def kill(self, rng: random.Random, cluster: Cluster, *, leader: bool) -> str:
        """Kill a server, the stream's leader if asked for; say which, or nothing."""
        ...

    async def restart(self, name: str) -> None:
        """Bring a killed server back, if nobody else does."""
        ...


class EmbeddedServers:
    """The host's own server, which its guardian starts again."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server
        self.options = ConnectOptions(data_dir=server.data_dir, namespace=NAMESPACE)
        self.arguments = ["--data-dir", str(server.data_dir), "--namespace", NAMESPACE]
        self.environment: dict[str, str] = {}

    async def kill(self, rng: random.Random, cluster: Cluster, *, leader: bool) -> str:
        """Kill the server, unless it is down already."""
        state = read_state(self._server.data_dir)
        if state is None or state.get("state") != "ready":
            return ""
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(state["pid"]), signal.SIGKILL)
        return "the embedded server"

    async def restart(self, name: str) -> None:
        """Nothing: the guardian does."""


@contextlib.asynccontextmanager
async def open_embedded(folder: Path) -> AsyncGenerator[EmbeddedServers]:
    """Run the embedded server for the time of the block."""
    async with await ensure_server(ServerOptions(data_dir=folder / "server")) as server:
        yield EmbeddedServers(server)


class ClusterServers:
    """Servers that the run starts itself, on loopback or on hosts of their own."""

    def __init__(self, folder: Path, size: int, hosts: Hosts | None) -> None:
        self.names = [f"server-{number}" for number in range(1, size + 1)]
        self._folder = folder
        self._hosts = hosts
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        application = Credentials("aegis", secrets.token_hex(16))
        system = Credentials("system", secrets.token_hex(16))
        if hosts is None:
            addresses = [LOOPBACK] * size
            ports = sorted({free_port() for _ in range(20)})[: 2 * size]
        else:
            addresses = [hosts.address(name) for name in self.names]
            ports = [_CLIENT_PORT] * size + [_CLUSTER_PORT] * size
        for name, address, port, route in zip(
            self.names, addresses, ports[:size], ports[size:], strict=True
        ):
            member = ClusterMember(NAMESPACE, route, ports[size:], addresses)
            settings = ServerSettings(
                server_name=name,
                port=port,
                store_dir=folder / name,
                log_file=folder / f"{name}.log",
                application=application,
                system=system,
                cluster=member if size > 1 else None,
                host=address,
            )
            self._config(name).write_text(render_config(settings))
        urls = tuple(
            f"nats://{address}:{port}"
            for address, port in zip(addresses, ports[:size], strict=True)
        )
        self.options = ConnectOptions(
            nats=urls, user=application.user, password=application.password, namespace=NAMESPACE
        )
        self.arguments = ["--nats", ",".join(urls), "--namespace", NAMESPACE]
        self.arguments += ["--user", application.user, "--system-user", system.user]
        self.arguments += ["--replicas", str(size)]
        self.environment = {
            "AEGIS_PASSWORD": application.password,
            "AEGIS_SYSTEM_PASSWORD": system.password,
        }

    def _config(self, name: str) -> Path:
        return self._folder / f"{name}.conf"

    async def start(self, name: str) -> None:
        """Start a server; does not wait until it serves."""
        prefix = [] if self._hosts is None else self._hosts.prefix(name)
        command = die_with_parent([str(find_binary()), "-c", str(self._config(name))])
        with (self._folder / f"{name}.out").open("ab") as output:
            self._processes[name] = await asyncio.create_subprocess_exec(
                *prefix,
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def kill(self, rng: random.Random, cluster: Cluster, *, leader: bool) -> str:
        """Kill a server, but only while all run and the stream has all its copies."""
        leads = await self.all_current(cluster)
        if not leads:
            return ""
        name = leads if leader else rng.choice(self.names)
        process = self._processes[name]
        process.kill()
        await process.wait()
        return name

    async def all_current(self, cluster: Cluster) -> str:
        """Return who leads the stream, if all its copies are current; else nothing."""
        if any(one.returncode is not None for one in self._processes.values()):
            return ""
        facts = await _stream_facts(cluster)
        copies: Sequence[Mapping[str, Any]] = facts.get("replicas") or []
        if not all(copy.get("current") for copy in copies):
            return ""
        return str(facts.get("leader") or "")

    async def restart(self, name: str) -> None:
        """Start it again."""
        await self.start(name)

    async def close(self) -> None:
        """End all servers."""
        running = [one for one in self._processes.values() if one.returncode is None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in running:
            try:
                async with asyncio.timeout(STOP_TIMEOUT):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    def last_words(self) -> str:
        """Return the end of the servers' logs."""
        words: list[str] = []
        for name in self.names:
            for file in (self._folder / f"{name}.log", self._folder / f"{name}.out"):
                lines = file.read_text(errors="replace").splitlines() if file.exists() else []
                words += [f"{name}: {line}" for line in lines[-3:]]
        return "\n".join(words)


@contextlib.asynccontextmanager
async def open_cluster(
    folder: Path, size: int, hosts: Hosts | None
) -> AsyncGenerator[ClusterServers]:
    """Run servers for the time of the block."""
    servers = ClusterServers(folder, size, hosts)
    try:
        for name in servers.names:
            await servers.start(name)
        yield servers
    finally:
        await servers.close()


async def _stream_facts(cluster: Cluster) -> Mapping[str, Any]:
    """Return what JetStream says of the stream's copies; nothing if nobody answers now."""
    subject = f"$JS.API.STREAM.INFO.{cluster.subjects.stream}"
    try:
        message = await cluster.transport.request(subject, b"", timeout=2.0)
        facts: Mapping[str, Any] = json.loads(message.payload)
    except (AegisError, TimeoutError, ValueError):
        return {}
    found: Mapping[str, Any] = facts.get("cluster") or {}
    return found
