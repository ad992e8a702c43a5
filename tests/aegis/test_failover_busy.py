"""A node that is as busy as can be is not taken for dead, for its beats leave in time."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

import aegis
from aegis import Cluster
from aegis.transport import Message
from aegis.transport._codec import decode_value
from tests.support.nats import NatsServer
from tests.support.node_process import NodeProcess
from tests.support.poll import wait_until

pytestmark = pytest.mark.timeout(180)

SERVICES = """
import time
from attrs import define
from aegis import AegisActor, command

def burn() -> None:
    ends = time.perf_counter() + 0.002
    while time.perf_counter() < ends:
        pass

@define
class State:
    value: int = 0

class Burner(AegisActor):
    service = "burner"
    state: State

    @command
    async def on_loop(self) -> int:
        burn()
        self.state.value += 1
        return self.state.value

    @command
    def in_thread(self) -> int:
        burn()
        self.state.value += 1
        return self.state.value
"""

RESOURCES = 300
CALLERS = 5
"""Of each resource: with as few messages in each mailbox, one turn of all the actors
takes longer than `heartbeat_timeout`, as long as nothing comes between them."""

BEATS = 12


async def call_on(cluster: Cluster, resource: str, method: str) -> None:
    while True:
        await cluster.call("burner", method, resource_id=resource, timeout=60.0)


@pytest.fixture
def namespace(tmp_path: Path, nats_server: NatsServer) -> Generator[str]:
    """A system with a supervisor, a busy node, and one that stands by for it."""
    namespace = f"t{secrets.token_hex(6)}"
    (tmp_path / "services.py").write_text(SERVICES)
    names = "\n".join(f"B-{number}" for number in range(RESOURCES))
    (tmp_path / "resources.txt").write_text(names)
    environ = {
        "AEGIS_NATS_URL": nats_server.url,
        "AEGIS_NAMESPACE": namespace,
        "AEGIS_LOG_FORMAT": "json",
    }
    started: list[NodeProcess] = []
    for arguments in (
        "--supervisor-only",
        "services.py:Burner --no-supervisor --instance-id busy --resource @resources.txt",
        "services.py:Burner --no-supervisor --instance-id idle --resource @resources.txt "
        "--role standby",
    ):
        node = NodeProcess(arguments, folder=tmp_path, environ=environ)
        started.append(node)
        node.wait_event("node_started", timeout=60)
    yield namespace
    for node in started:
        node.process.kill()
        node.wait_end()


async def test_a_node_with_full_mailboxes_and_no_idle_moment_is_not_taken_for_dead(
    namespace: str, nats_server: NatsServer
) -> None:
    async with aegis.connect(nats_server.url, namespace=namespace) as cluster:
        judged: list[str] = []
        depths: list[int] = []

        def on_event(message: Message) -> None:
            name = str(decode_value(message.payload)["event"])
            if name in ("unhealthy", "promoted", "gone"):
                judged.append(name)

        def on_beat(message: Message) -> None:
            instances: dict[str, Any] = decode_value(message.payload)["instances"]
            if "busy" in instances:
                depths.append(instances["busy"]["depth"])

        await cluster.transport.subscribe(f"{namespace}.event.>", on_event)
        await cluster.transport.subscribe(f"{namespace}.heartbeat", on_beat)
        callers = [
            asyncio.ensure_future(call_on(cluster, f"B-{number}", method))
            for number in range(RESOURCES)
            for method in ["on_loop", "in_thread", *["on_loop"] * (CALLERS - 2)]
        ]
        await wait_until(
            lambda: sum(depth >= RESOURCES for depth in depths) >= BEATS or bool(judged),
            what="beats come while every mailbox is full",
            timeout=120,
        )
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    assert judged == []
