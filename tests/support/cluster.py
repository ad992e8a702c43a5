"""Three NATS servers on loopback as one cluster, each of which a test can kill and restart.

```python
async with start_cluster(tmp_path) as cluster:
    leader = await cluster.wait_stream_leader("aegis")
    cluster.kill(leader)
    ...
    await cluster.start(leader)
```
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aegis.transport import Credentials, find_binary
from aegis.transport._ports import free_port
from aegis.transport._server_config import ClusterMember, ServerSettings, render_config
from tests.support.embedded import PlainClient, connected_to, greets
from tests.support.poll import wait_until

__all__ = ["Cluster", "start_cluster"]

READY_TIMEOUT = 30.0
"""The first election of the meta leader takes seconds, and cannot be tuned."""


class Cluster:
    """Servers numbered from 0; all have the same two accounts."""

    def __init__(self, folder: Path, size: int, sync: str) -> None:
        self.folder = folder
        self.credentials = Credentials("aegis", "application-secret")
        self.system_credentials = Credentials("system", "system-secret")
        self._binary = find_binary()
        ports = free_ports(3 * size)
        self.ports, cluster_ports, monitor_ports = (
            ports[:size],
            ports[size : 2 * size],
            ports[2 * size :],
        )
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * size
        for index in range(size):
            settings = ServerSettings(
                server_name=self.name(index),
                port=self.ports[index],
                store_dir=folder / f"store-{index}",
                log_file=folder / f"server-{index}.log",
                application=self.credentials,
                system=self.system_credentials,
                sync=sync,
                monitor_port=monitor_ports[index],
                cluster=ClusterMember("test", cluster_ports[index], cluster_ports),
            )
            (folder / f"nats-{index}.conf").write_text(render_config(settings))

    @property
    def size(self) -> int:
        """How many servers the cluster has, running or not."""
        return len(self.ports)

    @property
    def urls(self) -> list[str]:
        """Where each server listens to clients."""
        return [f"nats://127.0.0.1:{port}" for port in self.ports]

    @staticmethod
    def name(index: int) -> str:
        """The name of a server, as the facts of streams and clusters have it."""
        return f"server-{index}"

    def is_running(self, index: int) -> bool:
        """Whether the server's process lives."""
        process = self._processes[index]
        return process is not None and process.poll() is None

    async def start(self, index: int) -> None:
        """Start a server and return when it greets; it may not have caught up by then."""
        assert not self.is_running(index)
        self._spawn(index)
        await wait_until(
            lambda: greets(self.ports[index]), what=f"{self.name(index)} is up (see {self.folder})"
        )

    def kill(self, index: int) -> None:
        """End a server as a crash does."""
        self._signal(index, signal.SIGKILL)
        process = self._processes[index]
        assert process is not None
        process.wait(10)

    async def stop(self, index: int) -> None:
        """End a server in good order: it hands over what it leads."""
        self._signal(index, signal.SIGTERM)
        process = self._processes[index]
        assert process is not None
        await asyncio.to_thread(process.wait, 20)

    def pause(self, index: int) -> None:
        """Freeze a server, until `resume`."""
        self._signal(index, signal.SIGSTOP)

    def resume(self, index: int) -> None:
        """Let a frozen server go on."""
        self._signal(index, signal.SIGCONT)

    @asynccontextmanager
    async def connected(
        self, *, to: list[int] | None = None, system: bool = False
    ) -> AsyncGenerator[PlainClient]:
        """Connect a plain client to the servers numbered ``to``, by default to all."""
        urls = self.urls if to is None else [self.urls[index] for index in to]
        async with connected_to(
            urls, self.system_credentials if system else self.credentials
        ) as client:
            yield client

    async def wait_ready(self) -> None:
        """Return when JetStream works: there is a meta leader, and it sees all that run."""
        running = sum(self.is_running(index) for index in range(self.size))

        async def is_ready() -> bool:
            async with self.connected(system=True) as client:
                facts = await _meta_facts(client)
                if facts is None or not facts.get("leader"):
                    return False
                others: list[dict[str, Any]] = facts.get("replicas", [])
                current = sum(bool(other["current"]) for other in others)
                return current == running - 1

        await wait_until(is_ready, what="the cluster has a leader", timeout=READY_TIMEOUT)

    async def wait_stream_leader(self, stream: str, *, replicas: int | None = None) -> int:
        """Return the number of the server that leads ``stream``, once there is one.

        With ``replicas``, once so many of its servers, the leader included, are current.
        """
        found: list[int] = []

        async def has_leader() -> bool:
            async with self.connected() as client:
                try:
                    facts = await client.api(f"STREAM.INFO.{stream}")
                except Exception:  # the request itself needs a leader
                    return False
            cluster = facts["cluster"]
            others: list[dict[str, Any]] = cluster.get("replicas") or []
            current = 1 + sum(bool(other["current"]) for other in others)
            if not cluster.get("leader") or current < (replicas or 1):
                return False
            found.append(int(str(cluster["leader"]).removeprefix("server-")))
            return True

        await wait_until(has_leader, what=f"{stream} has a leader", timeout=READY_TIMEOUT)
        return found[-1]

    def close(self) -> None:
        """End all that runs, frozen or not."""
        for process in self._processes:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait(10)

    def _spawn(self, index: int) -> None:
        with (self.folder / f"output-{index}.log").open("ab") as output:
            self._processes[index] = subprocess.Popen(
                [self._binary, "-c", self.folder / f"nats-{index}.conf"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def _signal(self, index: int, number: int) -> None:
        process = self._processes[index]
        assert process is not None
        assert process.poll() is None, f"{self.name(index)} is not running"
        os.kill(process.pid, number)


@asynccontextmanager
async def start_cluster(
    folder: Path, n: int = 3, *, sync: str = "always"
) -> AsyncGenerator[Cluster]:
    """Run a cluster of ``n`` servers for the time of the block; it is ready when it begins.

    All its files are in ``folder``.
    """
    cluster = Cluster(folder, n, sync)
    try:
        await asyncio.gather(*(cluster.start(index) for index in range(n)))
        await cluster.wait_ready()
        yield cluster
    finally:
        cluster.close()


def free_ports(count: int) -> list[int]:
    """Return different ports on loopback that were free just now."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return sorted(ports)


async def _meta_facts(client: PlainClient) -> dict[str, Any] | None:
    """Return what the meta leader says of the cluster, or None if there is none."""
    try:
        message = await client.client.request(
            "$SYS.REQ.SERVER.PING.JSZ", json.dumps({"leader_only": True}).encode(), timeout=1
        )
    except Exception:  # nobody answers
        return None
    facts: dict[str, Any] = json.loads(message.data)
    meta: dict[str, Any] | None = facts.get("data", {}).get("meta_cluster")
    return meta
