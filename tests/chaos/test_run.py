"""One run of `aegis chaos`: what it takes for ended, for started, for hung."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from aegis._config import ConnectOptions
from aegis.ops._bench_processes import BenchFailed
from aegis.ops._chaos_faults import Fault, FaultLog
from aegis.ops._chaos_run import Run
from aegis.ops._node_processes import NodeProcess
from tests.support.poll import wait_until


class NoServers:
    """Servers that nothing connects to: the processes of these tests are none of ours."""

    options = ConnectOptions()

    def __init__(self) -> None:
        self.arguments: list[str] = []
        self.environment: Mapping[str, str] = {}

    async def kill(self, rng: random.Random, cluster: Any, *, leader: bool) -> str:
        return ""

    async def restart(self, name: str) -> None: ...


def new_run(folder: Path) -> Run:
    log = FaultLog(seed=1, servers=1, cuts=False, tell=lambda text: None)
    return Run(folder, NoServers(), cast("Any", None), log, None)


async def test_a_process_that_is_just_being_started_is_not_taken_for_one_that_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checked: list[str] = []
    runs = new_run(tmp_path), new_run(tmp_path)

    async def start(process: NodeProcess) -> None:
        runs[len(checked)].check_running()
        checked.append(process.name)

    monkeypatch.setattr(NodeProcess, "start", start)
    await runs[0].start_caller("caller-1")
    await runs[1].start_node("active", "node-1")
    assert checked == ["caller-1-1", "node-1"]
    assert runs[1].failed_starts == 0


async def test_a_node_that_ended_before_it_had_started_is_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("aegis.ops._chaos_run.DOWN_SECONDS", (0.0, 0.0))
    monkeypatch.setattr("aegis.ops._chaos_run.NODE_COMMAND", ("-c", ""))  # ends at once
    run = new_run(tmp_path)
    await run.start_node("active", "node-1")
    (first,) = run.nodes
    await first.process.wait_ended()
    run.check_running()
    await run.wait_works()
    (second,) = run.nodes
    assert second is not first
    assert run.failed_starts == 1
    await run.close()


async def test_the_last_node_that_has_started_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "aegis.ops._chaos_run.NODE_COMMAND",
        ("-c", "print('node_started', flush=True); import signal; signal.pause()"),
    )
    monkeypatch.setattr("aegis.ops._chaos_run.DOWN_SECONDS", (0.0, 0.0))
    run = new_run(tmp_path)
    assert await run.do(Fault.KILL_NODE) == ""
    await run.start_node("active", "node-1")
    (first,) = run.nodes
    await wait_until(first.has_started, what="it has started")
    assert await run.do(Fault.KILL_NODE) == ""
    monkeypatch.setattr(
        "aegis.ops._chaos_run.NODE_COMMAND", ("-c", "import signal; signal.pause()")
    )
    await run.start_node("standby", "node-2")
    # The only one that may be killed is the one that has not started.
    for _ in range(3):
        assert await run.do(Fault.KILL_NODE) != first.process.name
        await run.wait_works()
    assert first.process.is_running
    await run.close()


async def test_a_node_that_is_told_to_end_and_does_not_fails_the_run_with_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("aegis.ops._chaos_run.END_TIMEOUT", 0.2)
    monkeypatch.setattr("aegis.ops._chaos_run.MIN_STARTED", 0)
    deaf = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "def tell(*_):\n"
        "    print('waits for ever', flush=True)\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGUSR1, tell)\n"
        "print('deaf', flush=True)\n"
        "signal.pause()\n"
    )
    monkeypatch.setattr("aegis.ops._chaos_run.NODE_COMMAND", ("-c", deaf))
    run = new_run(tmp_path)
    await run.start_node("active", "node-1")
    (node,) = run.nodes
    await wait_until(lambda: node.process.has_logged("deaf"), what="it hears no SIGTERM")
    assert await run.do(Fault.END_NODE) == node.process.name
    with pytest.raises(BenchFailed, match="waits for ever"):
        await run.wait_works()
    await run.close()
