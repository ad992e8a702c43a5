"""``aegis bench --no-metrics``: what it costs a node to be observed.

One node's metrics are switched off and on, many times for a tenth of a second, so that
whatever else differs between two processes, or changes on the machine, hits both. Each
round goes through three settings and back again: with metrics, without, and once more
without; what lies between the last two is what this machine makes of no difference at all,
the control. Beside the throughput, which the caller and the server share, it tells the
processor time of the node for each message: that is the node's own cost.

What observing costs by the second, whether there are messages or none, tells the same node
beside another that has neither metrics nor the admin HTTP, while both are idle.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import tempfile
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from attrs import asdict, define, frozen

from aegis._cluster import Cluster, connect
from aegis._config import ConnectOptions
from aegis.actors._actor import AegisActor
from aegis.actors._handlers import query
from aegis.actors._observer import Observer
from aegis.errors import AegisError
from aegis.ops._arguments import LineParser
from aegis.ops._bench_load import Operation, closed_loop
from aegis.ops._bench_loop import run
from aegis.ops._bench_processes import BenchFailed, Child, child
from aegis.ops._bench_services import Counter
from aegis.ops._bench_stats import median_interval
from aegis.ops._logging import configure_logging
from aegis.ops._output import Output
from aegis.transport._ports import free_port
from aegis.transport._server import ServerOptions, ensure_server

__all__ = ["Cost", "Difference", "MetricsSwitch", "Report", "cost_of", "main"]

RESOURCES: Final = 64
CONCURRENCY: Final = 64
SECONDS: Final = 0.1
ROUNDS: Final = 100
MAX_ROUNDS: Final = 1_000
IDLE_SECONDS: Final = 10.0
START_TIMEOUT: Final = 60.0
_POLL_SECONDS: Final = 0.05

LIMIT_PERCENT: Final = 3.0
"""What observing may cost."""

SETTINGS: Final = ("with", "without", "again")
"""With metrics, without, and once more without."""

_AEGIS: Final = "from aegis.ops.cli import main; main()"


class MetricsSwitch(AegisActor):
    """Switches the metrics of its node off and on."""

    service = "bench-metrics"

    def on_start(self) -> None:
        """Keep what observes the node."""
        self._observer = self.actor_cell.runtime.observer

    @query
    async def observe(self, on: bool) -> None:
        """Let messages be observed from now on, or not."""
        self.actor_cell.runtime.observer = self._observer if on else Observer()


@define
class Slices:
    """What was measured at one setting in one round."""

    messages: int = 0
    seconds: float = 0.0
    cpu_seconds: float | None = 0.0

    @property
    def per_second(self) -> float:
        """The throughput."""
        return self.messages / self.seconds

    @property
    def cpu_us(self) -> float | None:
        """The node's processor time for a message, in microseconds."""
        return None if self.cpu_seconds is None else self.cpu_seconds * 1e6 / self.messages


type Round = dict[str, Slices]


@frozen
class Difference:
    """A median over all rounds, in percent; ``low`` to ``high`` has the true one in 95 of 100.

    Both are None where there were too few rounds to tell.
    """

    percent: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.percent:+.1f}"
        return f"{self.percent:+.1f} ({self.low:+.1f} to {self.high:+.1f})"


@frozen
class Cost:
    """The difference that metrics make to one figure of one kind of message.

    ``percent`` is what is lost of the throughput, or added to the processor time;
    ``control`` is the same between two times without metrics.
    """

    kind: str
    figure: str
    observed: float
    without: float
    cost: Difference
    control: Difference


@frozen
class Report:
    """What observing costs by the message, and by the second of an idle node."""

    costs: list[Cost]
    idle_ms: float | None
    idle_ms_without: float | None
    limit_percent: float = LIMIT_PERCENT

    @property
    def within_limit(self) -> bool | None:
        """Whether metrics cost no more than they may; None if that cannot be told.

        By the node's processor time where the kernel tells it, else by the throughput.
        """
        known = [cost.cost for cost in self.costs if cost.figure == "cpu_us"]
        known = known or [cost.cost for cost in self.costs]
        if any(cost.low is not None and cost.low > self.limit_percent for cost in known):
            return False
        sure = all(cost.high is not None and cost.high <= self.limit_percent for cost in known)
        return True if sure else None


def main(arguments: Sequence[str]) -> int:
    """Measure; return 0, or 1 if a request failed or metrics surely cost too much."""
    parser = LineParser(
        prog="aegis bench --no-metrics",
        description="Measure a node whose metrics are switched off and on, in turn.",
    )
    parser.add_argument("--no-metrics", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"of one measurement (default {SECONDS})"
    )
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"of six measurements (default {ROUNDS})"
    )
    parser.add_argument(
        "--idle-seconds",
        type=float,
        default=IDLE_SECONDS,
        help=f"of the idle nodes (default {IDLE_SECONDS:g})",
    )
    options = parser.parse_args(arguments)
    if not 0 < options.seconds <= 30:
        parser.error(f"argument --seconds: {options.seconds:g} is not above 0 and at most 30")
    if not 1 <= options.rounds <= MAX_ROUNDS:
        parser.error(f"argument --rounds: {options.rounds} is not from 1 to {MAX_ROUNDS}")
    if not 0 < options.idle_seconds <= 3600:
        parser.error(
            f"argument --idle-seconds: {options.idle_seconds:g} is not above 0 and at most 3600"
        )
    configure_logging("warning")
    report = run(_run(options.seconds, options.rounds, options.idle_seconds))
    if options.json:
        print(json.dumps({**asdict(report), "within_limit": report.within_limit}, indent=2))
    else:
        _print(report)
    return 1 if report.within_limit is False else 0


async def _run(seconds: float, rounds: int, idle_seconds: float) -> Report:
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as name:
        folder = Path(name)
        data_dir = folder / "server"
        options = ServerOptions(data_dir=data_dir, sync="2m")
        switch = f"{MetricsSwitch.__module__}:{MetricsSwitch.__name__}"
        admin = [switch, "--admin-port", str(free_port())]
        async with (
            await ensure_server(options),
            # One of the two would lead, and have more to do than the other.
            _run_node("leader", ["--supervisor-only"], data_dir, folder),
            _node("M", data_dir, folder, admin) as observed,
            _node("P", data_dir, folder, []) as plain,
            connect(options=ConnectOptions(data_dir=data_dir)) as cluster,
        ):
            for node, prefix in ((observed, "M"), (plain, "P")):
                await _wait_ready(_operation(cluster, prefix, "query"), node)
            costs: list[Cost] = []
            for kind in ("query", "command"):
                operation = _operation(cluster, "M", kind)
                measured = [
                    await _round(cluster, observed, operation, number, seconds)
                    for number in range(rounds + 1)
                ]
                costs += _costs(kind, measured[1:])  # The first one warms up.
            idle, idle_without = await _idle([observed, plain], idle_seconds)
            return Report(costs, idle, idle_without)


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


async def _round(
    cluster: Cluster, node: Child, operation: Operation, number: int, seconds: float
) -> Round:
    """Measure at each setting twice, there and back, in an order that chance gives."""
    there = random.Random(number).sample(SETTINGS, len(SETTINGS))
    found: Round = {setting: Slices() for setting in SETTINGS}
    for setting in (*there, *reversed(there)):
        await cluster.actor(MetricsSwitch).observe(on=setting == "with")
        await _measure(found[setting], node, operation, seconds)
    if not all(slices.messages for slices in found.values()):
        raise BenchFailed(f"nothing was answered within {seconds:g} s; give more by --seconds")
    return found


async def _measure(into: Slices, node: Child, operation: Operation, seconds: float) -> None:
    before = _cpu_seconds(node)
    load = await closed_loop(operation, concurrency=CONCURRENCY, seconds=seconds)
    after = _cpu_seconds(node)
    if load.failed or load.lost:
        raise BenchFailed(f"{load.failed} requests failed, {load.lost} were lost: {load.errors}")
    into.messages += len(load.latencies)
    into.seconds += load.seconds
    if before is None or after is None or into.cpu_seconds is None:
        into.cpu_seconds = None
    else:
        into.cpu_seconds += after - before


async def _idle(nodes: Sequence[Child], seconds: float) -> list[float | None]:
    """Return the milliseconds of processor time that each of idle nodes takes by the second."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    before = [_cpu_seconds(node) for node in nodes]
    await asyncio.sleep(seconds)
    after = [_cpu_seconds(node) for node in nodes]
    passed = loop.time() - began
    return [
        None if a is None or b is None else round(1000 * (b - a) / passed, 2)
        for a, b in zip(before, after, strict=True)
    ]


def _cpu_seconds(node: Child) -> float | None:
    """Return for how long a process's main thread, where its event loop runs, has run."""
    try:
        return int(Path(f"/proc/{node.process.pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def _costs(kind: str, rounds: Sequence[Round]) -> list[Cost]:
    cpu = [[found[setting].cpu_us for found in rounds] for setting in SETTINGS]
    known = [[value for value in values if value is not None] for values in cpu]
    costs = [cost_of(kind, "cpu_us", *known)] if all(map(len, known)) else []
    rates = [[found[setting].per_second for found in rounds] for setting in SETTINGS]
    return [*costs, cost_of(kind, "per_second", *rates)]


def cost_of(
    kind: str,
    figure: str,
    observed: Sequence[float],
    without: Sequence[float],
    again: Sequence[float],
) -> Cost:
    """Compare a figure, round by round: what the machine does besides changes between them."""
    sign = -1 if figure == "per_second" else 1
    plain = [(a + b) / 2 for a, b in zip(without, again, strict=True)]
    return Cost(
        kind,
        figure,
        round(median(observed), 2),
        round(median(plain), 2),
        _difference([sign * (a / b - 1) for a, b in zip(observed, plain, strict=True)]),
        _difference([sign * (a / b - 1) for a, b in zip(again, without, strict=True)]),
    )


def _difference(shares: Sequence[float]) -> Difference:
    middle = round(100 * median(shares), 2)
    bounds = median_interval(shares)
    if bounds is None:
        return Difference(middle)
    return Difference(middle, *(round(100 * bound, 2) for bound in bounds))


_FIGURES: Final = {"cpu_us": "CPU µs", "per_second": "/s"}

_VERDICTS: Final = {
    True: "Metrics cost less than {0:g} %.",
    False: "Metrics cost more than {0:g} %.",
    None: "Whether metrics cost less than {0:g} % cannot be told; give more --rounds.",
}


def _print(report: Report) -> None:
    def shown(value: Any) -> str:
        return "?" if value is None else f"{value:.1f} ms"

    Output().table(
        ("message", "figure", "with", "without", "cost % (95 % sure)", "control %"),
        [
            [
                cost.kind,
                _FIGURES[cost.figure],
                f"{cost.observed:.5g}",
                f"{cost.without:.5g}",
                str(cost.cost),
                str(cost.control),
            ]
            for cost in report.costs
        ],
    )
    idle, without = shown(report.idle_ms), shown(report.idle_ms_without)
    print(f"Idle, the node takes {idle} of CPU a second; one without metrics and admin, {without}.")
    print(_VERDICTS[report.within_limit].format(report.limit_percent))
