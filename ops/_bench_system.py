"""The system under test: server, node and plain responder, each in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from attrs import define

from aegis._cluster import Cluster, connect
from aegis._config import ConnectOptions
from aegis.errors import AegisError
from aegis.ops._bench_cases import APPENDS, CHAIN_MESSAGES, REQUESTS, Case, Mode, Sync
from aegis.ops._bench_limits import (
    PASSWORD_VARIABLE,
    USER_VARIABLE,
    PlainAppends,
    PlainRequests,
    connect_plain,
)
from aegis.ops._bench_load import Load, Operation, closed_loop, open_loop
from aegis.ops._bench_mail import (
    ALARMS,
    LINKS,
    SINKS,
    Effects,
    mail_operations,
    measure_reminders,
)
from aegis.ops._bench_mail_services import Alarm, Link, Sink
from aegis.ops._bench_processes import BenchFailed, Child, child
from aegis.ops._bench_services import HOT, Counter, Driver, Quote
from aegis.transport._nats import connect_nats
from aegis.transport._nats_options import NatsOptions
from aegis.transport._server import ServerOptions, ensure_server

__all__ = ["SYNC_SETTINGS", "System", "open_system"]

RESOURCES: Final = 64
CONCURRENCY: Final = 64

SYNC_SETTINGS: Final = {Sync.OFF: "2m", Sync.ON: "always"}
"""What the server's setting is; two minutes are its own default."""

START_TIMEOUT: Final = 60.0
_POLL_SECONDS: Final = 0.05

_AEGIS: Final = "from aegis.ops.cli import main; main()"
"""What the installed script ``aegis`` does."""


@define(eq=False)
class System:
    """What can be measured, and how."""

    cluster: Cluster
    node: Child
    operations: Mapping[str, Operation]
    acknowledged: int = 0
    """Messages that were answered with success, or whose effect was told, by all who count."""

    async def measure(self, case: Case, seconds: float) -> Load:
        """Measure one case for ``seconds``."""
        self.node.check_running()
        if case.key == "local-query":
            concurrency = 1 if case.mode is Mode.ONE else CONCURRENCY
            driver = self.cluster.actor(Driver, timeout=seconds + START_TIMEOUT)
            return Load.from_plain(await driver.drive("C-0", concurrency, seconds))
        if case.key == "reminder":
            load = await measure_reminders(self.cluster, case.mode.rate, 2 * seconds)
        elif case.mode is Mode.RATE:
            # Tails need more requests than medians do.
            load = await open_loop(
                self.operations[case.key], rate=case.mode.rate, seconds=2 * seconds
            )
        else:
            concurrency = 1 if case.mode is Mode.ONE else CONCURRENCY
            load = await closed_loop(
                self.operations[case.key], concurrency=concurrency, seconds=seconds
            )
        self.acknowledged += _COUNTED.get(case.key, 0) * len(load.latencies)
        return load

    async def effects(self) -> int:
        """Return how many messages took effect, as those who count them have it."""
        return sum([await counter.value() for counter in _counting(self.cluster)])


_COUNTED: Final = {
    "command": 1,
    "hot-command": 1,
    "send": 1,
    "hot-send": 1,
    "chain": 1 + CHAIN_MESSAGES,
    "reminder": 1,
}
"""How many messages to those who count an operation is, by the key of its case."""

_NAMES: Final = (*(f"C-{number}" for number in range(RESOURCES)), HOT)

_COUNTING: Final = ((Counter, _NAMES), (Sink, SINKS), (Link, LINKS), (Alarm, ALARMS))
"""The services that count, and their resources."""


def _counting(cluster: Cluster) -> list[Any]:
    return [cluster.actor(service, name) for service, names in _COUNTING for name in names]


@contextlib.asynccontextmanager
async def open_system(folder: Path, sync: Sync) -> AsyncGenerator[System]:
    """Run everything for the time of the block; nothing is left afterwards."""
    async with contextlib.AsyncExitStack() as stack:
        data_dir = folder / "server"
        options = ServerOptions(data_dir=data_dir, sync=SYNC_SETTINGS[sync])
        server = await stack.enter_async_context(await ensure_server(options))
        login = server.credentials
        environment = {USER_VARIABLE: login.user, PASSWORD_VARIABLE: login.password}
        responder = await stack.enter_async_context(
            child(
                "responder",
                ["-m", "aegis.ops._bench_limits", server.url],
                folder=folder,
                environment=environment,
            )
        )
        node = await stack.enter_async_context(child("node", _node(data_dir), folder=folder))
        await responder.wait_line()
        plain = await connect_plain(server.url, login.user, login.password)
        stack.push_async_callback(plain.close)
        appends = PlainAppends(plain, RESOURCES)
        await appends.prepare()
        cluster = await stack.enter_async_context(
            connect(options=ConnectOptions(data_dir=data_dir))
        )
        transport = await connect_nats(
            NatsOptions(servers=(server.url,), user=login.user, password=login.password)
        )
        stack.push_async_callback(transport.close)
        effects = Effects(transport)
        await effects.listen()
        operations: dict[str, Operation] = {
            REQUESTS: PlainRequests(plain),
            APPENDS: appends,
            **_operations(cluster),
            **mail_operations(cluster, effects),
        }
        await _wait_ready(cluster, node)
        yield System(cluster, node, operations)


def _node(data_dir: Path) -> list[str]:
    arguments = ["-c", _AEGIS, "run"]
    services = (*_COUNTING, (Quote, ()), (Driver, ()))
    for number, (service, names) in enumerate(services, 1):
        arguments += [f"{service.__module__}:{service.__name__}"]
        arguments += ["--instance-id", f"bench-{number}"]
        for name in names:
            arguments += ["--resource", name]
    return [*arguments, "--data-dir", str(data_dir), "--log-level", "warning"]


def _operations(cluster: Cluster) -> dict[str, Operation]:
    counters = [cluster.actor(Counter, f"C-{number}") for number in range(RESOURCES)]
    hot = cluster.actor(Counter, HOT)
    quote = cluster.actor(Quote)

    async def ask(number: int) -> None:
        await counters[number % RESOURCES].value()

    async def add(number: int) -> None:
        await counters[number % RESOURCES].add(amount=1)

    async def add_hot(number: int) -> None:
        await hot.add(amount=1)

    async def price(number: int) -> None:
        await quote.price(amount=1)

    return {"query": ask, "command": add, "hot-command": add_hot, "group-command": price}


async def _wait_ready(cluster: Cluster, node: Child) -> None:
    """Return once every actor of the node answers."""
    waiting: list[Callable[[], Awaitable[object]]] = [
        *(counter.value for counter in _counting(cluster)),
        lambda: cluster.actor(Quote).price(amount=1),
        lambda: cluster.actor(Driver).drive("C-0", 1, 0.0),
    ]
    try:
        async with asyncio.timeout(START_TIMEOUT):
            while waiting:
                node.check_running()
                try:
                    await waiting[-1]()
                    waiting.pop()
                except AegisError:
                    await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise BenchFailed(f"the node does not serve within {START_TIMEOUT:g} s") from None
