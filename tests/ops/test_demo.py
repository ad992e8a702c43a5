"""``aegis demo`` itself: real processes, a real server, a real SIGKILL."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aegis.ops._demo_failover import Outage
from aegis.ops._demo_nodes import make_nodes
from aegis.ops._demo_report import Kill, Latency, Report, latency_of, print_report
from aegis.ops._demo_traders import Fault, Sample
from tests.support.poll import wait_until
from tests.support.processes import processes_of

NODES = 6

AS_COMMAND = """
import sys
from aegis.ops.cli import main
main()
"""

WITH_FAULT = """
import sys
from aegis.ops._demo import run_demo
from aegis.ops._demo_traders import Fault
fault = Fault(sys.argv[1])
sys.exit(run_demo(orders=40, traders=8, kills=(), fault=fault, json_output=True))
"""


async def started(folder: Path, program: str, *arguments: str) -> Process:
    """Start a demo whose temporary files all lie in ``folder``."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "TMPDIR": str(folder)},
    )


async def finished(process: Process) -> tuple[int, str, str]:
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def nothing_is_left(folder: Path) -> bool:
    return not list(folder.iterdir()) and not processes_of(folder)


@pytest.mark.timeout(120)
async def test_the_demo_kills_two_active_nodes_loses_nothing_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    process = await started(
        tmp_path, AS_COMMAND, "demo", "--orders", "300", "--seed", "7", "--json"
    )
    code, out, err = await finished(process)
    assert (code, err) == (0, "")
    report: dict[str, Any] = json.loads(out)
    assert report["ok"]
    assert (report["lost"], report["repeated"], report["unanswered"]) == (0, 0, 0)
    assert report["sent"] == report["acknowledged"] + report["rejected"]
    assert report["trades"] > 0
    assert [(kill["node"], kill["successor"]) for kill in report["kills"]] == [
        ("order-books-1", "order-books-2"),
        ("accounts-1", "accounts-2"),
    ]
    for kill in report["kills"]:
        assert kill["open_commands"] > 0
        assert 0 < kill["failover_seconds"] <= kill["outage_seconds"]
    assert nothing_is_left(tmp_path)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", list(Fault))
async def test_the_demo_fails_if_a_command_is_lost_or_repeated(
    tmp_path: Path, fault: Fault
) -> None:
    code, out, _ = await finished(await started(tmp_path, WITH_FAULT, fault))
    assert code == 1
    report = json.loads(out)
    assert not report["ok"]
    assert report[fault] >= 1
    assert report["lost" if fault is Fault.REPEATED else "repeated"] == 0
    assert nothing_is_left(tmp_path)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = await started(tmp_path, AS_COMMAND, "demo", "--orders", "100000")
    await all_are_running(tmp_path)
    process.send_signal(number)
    code, out, err = await finished(process)
    assert code == 130
    assert out == ""
    assert "stopped" in err
    assert nothing_is_left(tmp_path)


@pytest.mark.timeout(120)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children of a killed process")
async def test_the_processes_of_a_killed_demo_end_by_themselves(tmp_path: Path) -> None:
    process = await started(tmp_path, AS_COMMAND, "demo", "--orders", "100000")
    await all_are_running(tmp_path)
    process.kill()
    await finished(process)
    await wait_until(lambda: not processes_of(tmp_path), what="all processes ended", timeout=30)


async def all_are_running(folder: Path) -> None:
    """Wait for the nodes, the server and its guardian."""
    await wait_until(
        lambda: len(processes_of(folder)) >= NODES + 2, what="the demo has started", timeout=60
    )


def test_percentiles_are_values_that_occurred() -> None:
    seconds = [number / 1000 for number in range(200, 0, -1)]
    assert latency_of(seconds) == Latency(200, p50_ms=100.0, p99_ms=198.0, max_ms=200.0)
    assert latency_of([0.5]) == Latency(1, 500.0, 500.0, 500.0)
    assert latency_of([]).count == 0


def test_a_failover_ends_with_an_answer_to_what_was_sent_after_the_owner_had_died(
    tmp_path: Path,
) -> None:
    nodes = make_nodes(tmp_path, ["A-1"])
    node, successor = (
        next(n for n in nodes if n.name == name) for name in ("accounts-1", "accounts-2")
    )
    assert node.is_partner(successor)
    outage = Outage(node, successor, 10, 1, 99, died=5.01, start=5.0, end=5.5)
    samples = [
        Sample(node.service, "A-1", 4.9, 5.005),  # Answered while it died.
        Sample(node.service, "A-1", 4.9, 5.3),  # Sent before, answered by whom?
        Sample("order-book", "ALPHA", 5.02, 5.03),
        Sample(node.service, "A-1", 5.02, 5.2),
        Sample(node.service, "A-1", 5.6, 5.7),
    ]
    kill = outage.report(samples)
    assert (kill.failover_seconds, kill.outage_seconds) == (0.2, 0.5)
    assert kill.latency.count == 3
    assert outage.report([]).failover_seconds == 0.5


def test_the_report_fits_80_columns_and_shows_failovers_beside_the_books(tmp_path: Path) -> None:
    latency = Latency(123_456, 1234.5, 1234.5, 12345.6)
    kill = Kill("order-books-1", "order-books-2", 1, 2500, 64, 12.345, 12.345, latency)
    report = Report(
        *(1, 2_500, 20.0, 15.0, ["n"], 12_345, 12_000, 345, 0, 0, 99, latency, latency),
        *([kill, kill], 1_362, 12, 64, "3,986,837.21", "1,478.79"),
    )
    out = io.StringIO()
    print_report(report, Console(file=out, width=80))
    shown = out.getvalue()
    assert "…" not in shown
    lines = [line for line in shown.splitlines() if line.startswith("│ order-books-1")]
    assert len(lines) == 2
    assert all("order-books-2" in line and "12,345 ms" in line for line in lines)
    after = shown.partition("Killed with SIGKILL under load")[2]
    assert "The books agree" in after
