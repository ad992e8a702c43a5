"""The only node of a system dies and is started again: nobody has seen its death."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from aegis._config import ConnectOptions, RunOptions
from aegis._node import Node
from aegis._process_identity import has_ended, new_node_id
from aegis.testing import MemoryTransport
from tests.support.services import Vault
from tests.support.system import Backend, System


async def seconds_to_serve_again(system: System, *, gone: bool) -> float:
    """Kill the only node, start it again, and return how long the next answer took."""
    first = await system.start_node((Vault, ["V-1"]), instance_id="a")
    call = system.cluster.call("vault", "deposit", {"amount": "1"}, resource_id="V-1")
    assert await call == "1"
    await system.kill_node(first)
    assert system.broker is not None
    loop = asyncio.get_running_loop()
    began = loop.time()
    again = Node(
        RunOptions(connect=ConnectOptions(namespace=system.namespace)),
        MemoryTransport(system.broker),
        clock=system.clock,
        has_ended=lambda node_id: gone and node_id == first.node_id,
    )
    system.nodes.append(again)
    await again.start()
    await again.add_service(Vault, instance_id="a", resources=["V-1"])
    assert await system.cluster.call("vault", "total", resource_id="V-1") == "1"
    return loop.time() - began


@pytest.mark.parametrize(("gone", "least", "most"), [(True, 0.0, 0.5), (False, 2.0, 5.0)])
def test_leases_of_a_process_that_is_gone_are_not_waited_for(
    gone: bool, least: float, most: float
) -> None:
    async def scenario(system: System) -> None:
        seconds = await seconds_to_serve_again(system, gone=gone)
        assert least <= seconds <= most

    Backend(None).run(scenario)


def test_a_process_that_has_ended_is_known_by_its_nodes_name() -> None:
    script = "from aegis._process_identity import new_node_id; print(new_node_id(), flush=True)"
    child = subprocess.Popen(
        [sys.executable, "-c", f"{script}; input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    node_id = child.stdout.readline().strip()
    assert not has_ended(node_id)
    child.kill()
    # Its parent has not read how it ended: nothing else is left of it.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert has_ended(node_id)
    child.communicate()
    assert has_ended(node_id)


def test_nothing_is_said_of_processes_elsewhere_or_of_oneself() -> None:
    mine = new_node_id()
    host, _, place, token = mine.rsplit("-", 3)
    assert not has_ended(mine)
    gone = 2**22 + 1  # above the kernel's largest
    assert has_ended(f"{host}-{gone}-{place}-{token}")
    assert not has_ended(f"{host}-{gone}-{'0' * 12}-{token}")
    assert not has_ended(f"{host}-{gone}-{place[::-1]}-{token}")
    assert not has_ended(f"{host}-{gone}-{token}")
    assert not has_ended(f"{host}-{'9' * 40}-{place}-{token}")
    assert not has_ended("")
