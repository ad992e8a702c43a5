"""``aegis bench --no-metrics``: what it costs a node to be observed.

Two nodes on one server, alike but for the admin HTTP with its metrics, are measured in
turn, many times for a short while, so that whatever else the machine does hits both. Beside
the throughput, which the caller and the server share, it tells the processor time of the
node for each message: that is the node's own cost, and steady on a busy machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from attrs import asdict, define, field

from aegis._cluster import Cluster, connect
from aegis._config import ConnectOptions
from aegis.errors import AegisError
from aegis.ops._arguments import LineParser
from aegis.ops._bench_load import Operation, closed_loop
from aegis.ops._bench_loop import run
from aegis.ops._bench_processes import BenchFailed, Child, child
from aegis.ops._bench_services import Counter
from aegis.ops._logging import configure_logging
from aegis.ops._output import Output
from aegis.transport._ports import free_port
from aegis.transport._server import ServerOptions, ensure_server

__all__ = ["main"]

RESOURCES: Final = 64
CONCURRENCY: Final = 64
SECONDS: Final = 0.25
ROUNDS: Final = 40
MAX_ROUNDS: Final = 1_000
START_TIMEOUT: Final = 60.0
_POLL_SECONDS: Final = 0.05

LIMIT_PERCENT: Final = 3.0
"""What observing may cost."""

_AEGIS: Final = "from aegis.ops.cli import main; main()"


@define
class _Side:
    """One of the two nodes: its process and what it brought, a figure for each round."""

    prefix: str
    child: Child
    per_second: list[float] = field(factory=list[float])
    cpu_us: list[float] = field(factory=list[float])


@define
class Cost:
    """The difference that metrics make to one kind of message; percent of the cost without.

    ``cpu_us`` are microseconds of the node's processor time for a message; they, and what
    follows from them, are None where the kernel does not tell them.
    """

    kind: str
    per_second: float
    per_second_without: float
    throughput_lost_percent: float
    cpu_us: float | None
    cpu_us_without: float | None
    cpu_added_percent: float | None


def main(arguments: Sequence[str]) -> int:
    """Measure; return 0, or 1 if a request failed."""
    parser = LineParser(
        prog="aegis bench --no-metrics",
        description="Measure a node with and without metrics, in turn.",
    )
    parser.add_argument("--no-metrics", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"of one measurement (default {SECONDS})"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    options = parser.parse_args(arguments)
    if not 0 < options.seconds <= 30:
        parser.error(f"argument --seconds: {options.seconds:g} is not above 0 and at most 30")
    if not 1 <= options.rounds <= MAX_ROUNDS:
        parser.error(f"argument --rounds: {options.rounds} is not from 1 to {MAX_ROUNDS}")
    configure_logging("warning")
    costs = run(_run(options.seconds, options.rounds))
    if options.json:
        report = {"limit_percent": LIMIT_PERCENT, "costs": [asdict(cost) for cost in costs]}
        print(json.dumps(report, indent=2))
    else:
        _print(costs)
    return 0


async def _run(seconds: float, rounds: int) -> list[Cost]:
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as name:
        folder = Path(name)
        data_dir = folder / "server"
        options = ServerOptions(data_dir=data_dir, sync="2m")
        async with (
            await ensure_server(options),
            # One of the two would lead, and have more to do than the other.
            _run_node("leader", ["--supervisor-only"], data_dir, folder),
            _node("M", data_dir, folder, ["--admin-port", str(free_port())]) as observed,
            _node("P", data_dir, folder, []) as plain,
            connect(options=ConnectOptions(data_dir=data_dir)) as cluster,
        ):
            costs: list[Cost] = []
            for kind in ("query", "command"):
                sides = (_Side("M", observed), _Side("P", plain))
                operations = [_operation(cluster, side.prefix, kind) for side in sides]
                for side, operation in zip(sides, operations, strict=True):
                    await _wait_ready(operation, side.child)
                for number in range(rounds + 1):
                    # Turn about, so that neither always comes first.
                    order = (0, 1) if number % 2 else (1, 0)
                    for index in order:
                        await _measure(sides[index], operations[index], seconds, keep=number > 0)
                costs.append(_cost(kind, *sides))
            return costs


@contextlib.asynccontextmanager
async def _node(
    prefix: str, data_dir: Path, folder: Path, more: Sequence[str]
) -> AsyncGenerator[Child]:
    arguments = [f"{Counter.__module__}:Counter", "--instance-id", f"bench-{prefix}"]
    for number in range(RESOURCES):
        arguments += ["--resource", f"{prefix}-{number}"]
    arguments += ["--no-supervisor", *more]
    async with _run_node(f"node-{prefix}", arguments, data_dir, folder) as node:
        yield node


@contextlib.asynccontextmanager
async def _run_node(
    name: str, arguments: Sequence[str], data_dir: Path, folder: Path
) -> AsyncGenerator[Child]:
    command = ["-c", _AEGIS, "run", *arguments, "--data-dir", str(data_dir)]
    async with child(name, [*command, "--log-level", "warning"], folder=folder) as node:
        yield node


def _operation(cluster: Cluster, prefix: str, kind: str) -> Operation:
    counters = [cluster.actor(Counter, f"{prefix}-{number}") for number in range(RESOURCES)]

    async def ask(number: int) -> None:
        await counters[number % RESOURCES].value()

    async def add(number: int) -> None:
        await counters[number % RESOURCES].add(amount=1)

    return ask if kind == "query" else add


async def _wait_ready(operation: Operation, node: Child) -> None:
    """Return once all resources of a node answer."""
    try:
        async with asyncio.timeout(START_TIMEOUT):
            for number in range(RESOURCES):
                while True:
                    node.check_running()
                    try:
                        await operation(number)
                        break
                    except AegisError:
                        await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise BenchFailed(f"{node.name} does not serve within {START_TIMEOUT:g} s") from None


async def _measure(side: _Side, operation: Operation, seconds: float, *, keep: bool) -> None:
    before = _cpu_seconds(side.child.process.pid)
    load = await closed_loop(operation, concurrency=CONCURRENCY, seconds=seconds)
    after = _cpu_seconds(side.child.process.pid)
    if load.failed or load.lost:
        raise BenchFailed(f"{load.failed} requests failed, {load.lost} were lost: {load.errors}")
    if not load.latencies:
        raise BenchFailed(f"nothing was answered within {seconds:g} s; give more by --seconds")
    if keep:
        side.per_second.append(load.figures.per_second)
        if before is not None and after is not None:
            side.cpu_us.append((after - before) * 1e6 / len(load.latencies))


def _cpu_seconds(pid: int) -> float | None:
    """Return for how long a process's main thread, where its event loop runs, has run."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def _cost(kind: str, observed: _Side, plain: _Side) -> Cost:
    # Round by round, since what the machine does besides changes from one to the next.
    ratios = [a / b for a, b in zip(observed.per_second, plain.per_second, strict=True)]
    cpu: float | None = None
    cpu_without: float | None = None
    added: float | None = None
    if observed.cpu_us and plain.cpu_us:
        cpu, cpu_without = median(observed.cpu_us), median(plain.cpu_us)
        pairs = zip(observed.cpu_us, plain.cpu_us, strict=True)
        added = round(100 * (median(a / b for a, b in pairs) - 1), 2)
    return Cost(
        kind,
        round(median(observed.per_second), 1),
        round(median(plain.per_second), 1),
        round(100 * (1 - median(ratios)), 2),
        None if cpu is None else round(cpu, 2),
        None if cpu_without is None else round(cpu_without, 2),
        added,
    )


def _print(costs: Sequence[Cost]) -> None:
    def shown(value: Any, unit: str = "") -> str:
        return "?" if value is None else f"{value:g}{unit}"

    Output().table(
        ("message", "/s", "/s without", "lost", "node's CPU µs", "without", "added"),
        [
            [
                cost.kind,
                f"{cost.per_second:.0f}",
                f"{cost.per_second_without:.0f}",
                shown(cost.throughput_lost_percent, " %"),
                shown(cost.cpu_us),
                shown(cost.cpu_us_without),
                shown(cost.cpu_added_percent, " %"),
            ]
            for cost in costs
        ],
    )
