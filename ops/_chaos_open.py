"""What a run of `aegis chaos` stands on: servers, hosts, a connection; all gone at its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Final

from attrs import define

from aegis._cluster import Cluster, connect
from aegis.errors import AegisError
from aegis.ops._bench_processes import BenchFailed
from aegis.ops._chaos_faults import FaultLog
from aegis.ops._chaos_hosts import Hosts, open_hosts
from aegis.ops._chaos_run import CALLERS, NODES, START_TIMEOUT, Run
from aegis.ops._chaos_servers import Servers, open_cluster, open_embedded

__all__ = ["Shape", "open_run"]

_POLL_SECONDS: Final = 0.05


@define
class Shape:
    """What a run is made of."""

    servers: int = 1
    partitions: bool = False


@contextlib.asynccontextmanager
async def open_run(
    folder: Path, shape: Shape, seed: int, tell: Callable[[str], None]
) -> AsyncGenerator[Run]:
    """Open servers and hosts for the time of the block; nothing is left afterwards.

    Raises:
        NoHosts: the shape asks for partitions, and they cannot be made here.
    """
    async with contextlib.AsyncExitStack() as stack:
        hosts: Hosts | None = None
        if shape.partitions:
            names = [f"node-{number}" for number in range(1, NODES + 1)]
            names += [f"caller-{number}" for number in range(1, CALLERS + 1)]
            names += [f"server-{number}" for number in range(1, shape.servers + 1)]
            hosts = await stack.enter_async_context(open_hosts(names))
        servers: Servers
        if hosts is None and shape.servers == 1:
            servers = await stack.enter_async_context(open_embedded(folder))
        else:
            opened = open_cluster(folder, shape.servers, hosts)
            servers = await stack.enter_async_context(opened)
        cluster = await _connected(stack, servers)
        log = FaultLog(seed, shape.servers, shape.partitions, tell)
        run = Run(folder, servers, cluster, log, hosts)
        stack.push_async_callback(run.close)
        yield run


async def _connected(stack: contextlib.AsyncExitStack, servers: Servers) -> Cluster:
    """Return a connection, once the servers take one."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            return await stack.enter_async_context(connect(options=servers.options))
        except AegisError as error:
            if time.monotonic() > deadline:
                raise BenchFailed(f"the servers cannot be reached: {error}") from error
        await asyncio.sleep(_POLL_SECONDS)
