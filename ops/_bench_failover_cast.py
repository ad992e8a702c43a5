"""The processes of `aegis bench failover`: owner, standby, and a supervisor beside them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Final

from attrs import define, field

from aegis._cluster import Cluster, connect
from aegis._config import ConnectOptions
from aegis._inspect import Inspector
from aegis.errors import AegisError
from aegis.ops._bench_failover_rows import Plan
from aegis.ops._bench_processes import BenchFailed
from aegis.ops._bench_services import Tally
from aegis.ops._node_processes import NodeProcess, stop_all, wait_standing_by
from aegis.transport._server import EmbeddedServer

__all__ = ["Cast", "open_cast"]

START_TIMEOUT: Final = 60.0

STREAM_BYTES: Final = "512M"
"""The server promises it to each row's stream, of which there are several at a time."""

MAX_LAG: Final = 1_000
"""A standby that still reads what was there before it came is no standby yet. Beats tell
how far each is, so a few seconds of load are always between them."""

_SUPERVISOR: Final = "supervisor"


@define(eq=False)
class Cast:
    """The processes of one row."""

    plan: Plan
    folder: Path
    connection: Sequence[str]
    environment: dict[str, str]
    cluster: Cluster
    nodes: list[NodeProcess] = field(factory=list[NodeProcess])
    _count: int = 0

    async def start_supervisor(self) -> None:
        """Start a node that leads and does nothing else."""
        await self._start(_SUPERVISOR, ["run", "--supervisor-only"])

    async def start_owner(self, resources: Sequence[str]) -> NodeProcess:
        """Start the node that owns ``resources``; it serves when this returns."""
        owner = await self._start_service("active", resources)
        first = self.cluster.actor(Tally, resources[0], timeout=1.0)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while True:
                    owner.check_running()
                    with contextlib.suppress(AegisError):
                        await first.value()
                        return owner
        except TimeoutError:
            raise BenchFailed(f"{owner.name} does not serve: {owner.last_words()}") from None

    async def start_standby(self, resources: Sequence[str]) -> NodeProcess:
        """Start a node that stands by for ``resources``, and does when this returns."""
        standby = await self._start_service("standby", resources)
        await self.wait_standing_by(standby, len(resources))
        return standby

    async def wait_standing_by(self, node: NodeProcess, resources: int) -> None:
        """Return when ``node`` is a healthy standby of so many resources, and up to date."""
        inspector = Inspector(self.cluster.transport, self.cluster.subjects)
        await wait_standing_by(
            inspector,
            Tally.service,
            resources,
            node.name,
            check=node.check_running,
            max_lag=MAX_LAG,
        )

    def last_words(self) -> str:
        """Return what the newest processes said last."""
        return "\n".join(f"{node.name}: {node.last_words()}" for node in self.nodes[-2:])

    async def stop(self) -> None:
        """End all processes; the supervisor last: it is told of the others' end."""
        await stop_all([node for node in self.nodes if node.name != _SUPERVISOR])
        await stop_all(self.nodes)

    async def _start_service(self, role: str, resources: Sequence[str]) -> NodeProcess:
        self._count += 1
        name = f"tally-{self._count}"
        listed = self.folder / f"{name}.txt"
        listed.write_text("\n".join(resources))
        arguments = ["run", f"{Tally.__module__}:Tally", "--instance-id", name, "--role", role]
        arguments += ["--resource", f"@{listed}"]
        if not self.plan.leads:
            arguments.append("--no-supervisor")
        return await self._start(name, arguments)

    async def _start(self, name: str, arguments: list[str]) -> NodeProcess:
        arguments += [*self.connection, "--max-bytes", STREAM_BYTES]
        arguments += ["--log-level", "warning", "--log-format", "json"]
        node = NodeProcess(name, arguments, self.folder, self.environment)
        self.nodes.append(node)
        await node.start()
        return node


@contextlib.asynccontextmanager
async def open_cast(plan: Plan, server: EmbeddedServer, folder: Path) -> AsyncGenerator[Cast]:
    """Open a system without nodes, named after ``folder``; nothing of it runs afterwards."""
    connection = ["--namespace", folder.name]
    environment: dict[str, str] = {}
    if plan.proof:
        connection += ["--data-dir", str(server.data_dir)]
    else:
        # By its URL alone: then no system account is known, so no death can be proven.
        connection += ["--nats", server.url]
        environment = {
            "AEGIS_USER": server.credentials.user,
            "AEGIS_PASSWORD": server.credentials.password,
        }
    options = ConnectOptions(data_dir=server.data_dir, namespace=folder.name)
    async with connect(options=options) as cluster:
        cast = Cast(plan, folder, connection, environment, cluster)
        try:
            yield cast
        finally:
            await cast.stop()
