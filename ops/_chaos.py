"""``aegis chaos``: real processes, random faults, and the books checked afterwards.

Three nodes that all run the same two services, one active and the others standing by, on
a server of their own; callers as processes that deposit without end. Nodes are killed,
frozen for longer than their lease and told to end, the server is killed, callers are
killed; what is gone comes back after a while. Then the faults stop, every account must
answer again, all nodes end, and a new one reads the journals: what they hold is compared
with what the callers wrote down. Whatever happens, nothing is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from attrs import define, field
from rich.console import Console
from rich.table import Table

from aegis._cluster import Cluster, connect
from aegis._config import ConnectOptions
from aegis.errors import AegisError
from aegis.ops._arguments import LineParser
from aegis.ops._bench_loop import run
from aegis.ops._bench_processes import BenchFailed
from aegis.ops._chaos_caller import RESOURCES, SERVICES
from aegis.ops._chaos_ledger import Ledger, Verdict
from aegis.ops._chaos_services import Chest, Purse
from aegis.ops._logging import configure_logging
from aegis.ops._node_processes import NodeProcess, stop_all
from aegis.transport._discovery import read_state
from aegis.transport._server import EmbeddedServer, ServerOptions, ensure_server

__all__ = ["Fault", "Report", "main"]

NODES: Final = 3
CALLERS: Final = 2
DEFAULT_MINUTES: Final = 1.0
MAX_MINUTES: Final = 24 * 60.0

MIN_RUNNING: Final = 1
"""Nodes that are always left alone."""

MIN_PER_SECOND: Final = 20.0
"""Deposits that must be acknowledged on average: a system that stands proves nothing."""

LEASE: Final = 2.0
"""Seconds; what `aegis run` has if nothing else is said."""

BETWEEN_FAULTS: Final = (0.2, 2.5)
DOWN_SECONDS: Final = (0.0, 3.0)
FROZEN_SECONDS: Final = (LEASE + 0.5, LEASE + 4.0)

START_TIMEOUT: Final = 60.0
MAX_FAILED_STARTS: Final = 20
"""Nodes that may end before they have started."""

END_TIMEOUT: Final = 30.0
"""Seconds in which a node that is told to end hands over and ends."""

CONVERGE_TIMEOUT: Final = 60.0
"""Seconds after the last fault in which every account must answer."""

_POLL_SECONDS: Final = 0.05
_NAMESPACE: Final = "chaos"
_WIDTH: Final = 80
_INTERRUPTED: Final = 130


class Fault(StrEnum):
    """What may happen."""

    KILL_NODE = "kill node"
    FREEZE_NODE = "freeze node"
    END_NODE = "end node"
    KILL_SERVER = "kill server"
    KILL_CALLER = "kill caller"


_WEIGHTS: Final = {
    Fault.KILL_NODE: 4,
    Fault.FREEZE_NODE: 2,
    Fault.END_NODE: 3,
    Fault.KILL_SERVER: 1,
    Fault.KILL_CALLER: 2,
}


@define
class Report:
    """What became of one run."""

    seed: int
    seconds: float
    faults: Counter[str] = field(factory=Counter[str])
    failed_starts: int = 0
    verdict: Verdict = field(factory=Verdict)
    converged_seconds: float = math.inf
    wrong: list[str] = field(factory=list[str])

    @property
    def ok(self) -> bool:
        """Whether nothing was lost or repeated, and enough was done to tell."""
        return not self.wrong and not self.verdict.wrong

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        verdict = self.verdict
        return {
            "ok": self.ok,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "faults": dict(self.faults),
            "failed_starts": self.failed_starts,
            "acknowledged": verdict.acknowledged,
            "unknown": verdict.unknown,
            "unknown_applied": verdict.unknown_applied,
            "errors": verdict.errors,
            "longest_call_seconds": verdict.longest_seconds,
            "converged_seconds": round(self.converged_seconds, 3),
            "wrong": [*self.wrong, *verdict.wrong],
        }


class _Run:
    """One run: its processes and what is done to them."""

    def __init__(self, folder: Path, server: EmbeddedServer, cluster: Cluster, seed: int) -> None:
        self.faults: Counter[str] = Counter()
        self.failed_starts = 0
        self.callers: dict[str, NodeProcess] = {}
        self._folder = folder
        self._server = server
        self._cluster = cluster
        self._rng = random.Random(seed)
        self._nodes: list[NodeProcess] = []
        self._all: list[NodeProcess] = []
        self._busy: set[NodeProcess] = set()
        """Nodes that a fault has in hand."""
        self._returning: set[asyncio.Task[None]] = set()
        self._killed: set[str] = set()
        self._count = 0

    # -- processes ---------------------------------------------------------------------

    async def start(self) -> None:
        """Start nodes and callers; return when every account answers."""
        await self._start_node("active")
        await self.wait_answers(START_TIMEOUT)
        await asyncio.gather(*(self._start_node("standby") for _ in range(NODES - 1)))
        await asyncio.gather(*(self._start_caller() for _ in range(CALLERS)))

    async def _start_node(self, role: str) -> NodeProcess:
        self._count += 1
        arguments = ["run"]
        for actor in (Purse, Chest):
            instance = f"{actor.service}-{self._count}"
            arguments += [f"{actor.__module__}:{actor.__name__}", "--instance-id", instance]
            arguments += ["--role", role]
            for resource in RESOURCES:
                arguments += ["--resource", resource]
        arguments += ["--data-dir", str(self._server.data_dir), "--namespace", _NAMESPACE]
        arguments += ["--log-level", "info", "--log-format", "json"]
        node = NodeProcess(f"node-{self._count}", arguments, self._folder)
        self._all.append(node)
        self._nodes.append(node)
        await node.start()
        return node

    async def _start_caller(self) -> None:
        self._count += 1
        name = f"caller-{self._count}"
        seed = str(self._rng.randrange(2**32))
        file = str(self.file_of(name))
        arguments = [name, str(self._server.data_dir), _NAMESPACE, file, seed]
        command = ("-m", "aegis.ops._chaos_caller")
        caller = NodeProcess(name, arguments, self._folder, command=command)
        self._all.append(caller)
        self.callers[name] = caller
        await caller.start()

    def file_of(self, caller: str) -> Path:
        """Where a caller writes what it was told."""
        return self._folder / f"{caller}.jsonl"

    async def close(self) -> None:
        """Leave nothing running."""
        for task in self._returning:
            task.cancel()
        await asyncio.gather(*self._returning, return_exceptions=True)
        await stop_all(self._all)

    # -- faults ------------------------------------------------------------------------

    async def torment(self, seconds: float) -> None:
        """Let faults happen for so long; return when all that was taken away is back."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            await asyncio.sleep(self._rng.uniform(*BETWEEN_FAULTS))
            self._check_running()
            (fault,) = self._rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
            if await self._do(fault):
                self.faults[fault] += 1
        await asyncio.gather(*self._returning)

    async def _do(self, fault: Fault) -> bool:
        rng = self._rng
        if fault is Fault.KILL_SERVER:
            state = read_state(self._server.data_dir)
            if state is None or state.get("state") != "ready":
                return False
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(state["pid"]), signal.SIGKILL)
            return True
        if fault is Fault.KILL_CALLER:
            name = rng.choice(sorted(name for name, one in self.callers.items() if one.is_running))
            self._killed.add(name)
            self.callers[name].send_signal(signal.SIGKILL)
            await self.callers[name].wait_ended()
            await self._start_caller()
            return True
        free = [node for node in self._nodes if node not in self._busy]
        if len(free) <= MIN_RUNNING:
            return False
        node = rng.choice(free)
        self._busy.add(node)
        if fault is Fault.FREEZE_NODE:
            node.send_signal(signal.SIGSTOP)
            self._later(self._thaw(node, rng.uniform(*FROZEN_SECONDS)))
        else:
            kills = fault is Fault.KILL_NODE
            node.send_signal(signal.SIGKILL if kills else signal.SIGTERM)
            self._later(self._replace(node, rng.uniform(*DOWN_SECONDS), killed=kills))
        return True

    def _later(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._returning.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._returning.discard(task)

    async def _thaw(self, node: NodeProcess, seconds: float) -> None:
        await asyncio.sleep(seconds)
        node.send_signal(signal.SIGCONT)
        self._busy.discard(node)

    async def _replace(self, node: NodeProcess, seconds: float, *, killed: bool) -> None:
        try:
            async with asyncio.timeout(END_TIMEOUT):
                code = await node.wait_ended()
        except TimeoutError:
            raise BenchFailed(
                f"{node.name} does not end within {END_TIMEOUT:g} s:\n{node.last_words()}"
            ) from None
        # Before it has started it knows of no signals yet.
        if not killed and code != 0 and node.has_logged("node_started"):
            raise BenchFailed(f"{node.name} was told to end: exit code {code}\n{node.last_words()}")
        self._nodes.remove(node)
        self._busy.discard(node)
        await asyncio.sleep(seconds)
        await self._start_node("standby")

    def _check_running(self) -> None:
        for node in self._nodes:
            if node in self._busy or node.is_running:
                continue
            if node.has_logged("node_started"):
                node.check_running()
            # A node may refuse to start while the server is down; then it is started again.
            self.failed_starts += 1
            if self.failed_starts > MAX_FAILED_STARTS:
                node.check_running()
            self._busy.add(node)
            self._later(self._replace(node, self._rng.uniform(*DOWN_SECONDS), killed=True))
        for name, caller in self.callers.items():
            if not caller.is_running and name not in self._killed:
                raise BenchFailed(f"{name} ended: {caller.last_words()}")
        for task in self._returning:
            if task.done():
                task.result()

    # -- the end -----------------------------------------------------------------------

    async def wait_answers(self, timeout: float) -> float:
        """Return when every account answers a query: after how many seconds."""
        began = time.monotonic()
        await self.sums(timeout)
        return time.monotonic() - began

    async def sums(self, timeout: float = CONVERGE_TIMEOUT) -> dict[tuple[str, str], Any]:
        """Return what every account holds."""
        held: dict[tuple[str, str], Any] = {}
        deadline = time.monotonic() + timeout
        for service in SERVICES:
            for resource in RESOURCES:
                held[service, resource] = await self._ask(service, resource, deadline)
        return held

    async def _ask(self, service: str, resource: str, deadline: float) -> Any:
        while True:
            try:
                return await self._cluster.call(service, "sums", resource_id=resource, timeout=2.0)
            except AegisError as error:
                if time.monotonic() > deadline:
                    raise BenchFailed(f"{service}/{resource} does not answer: {error}") from error
            await asyncio.sleep(_POLL_SECONDS)

    async def end_callers(self) -> None:
        """Let callers finish what is open."""
        running = {name: one for name, one in self.callers.items() if one.is_running}
        for caller in running.values():
            caller.send_signal(signal.SIGTERM)
        for name, caller in running.items():
            try:
                async with asyncio.timeout(CONVERGE_TIMEOUT):
                    code = await caller.wait_ended()
            except TimeoutError:
                raise BenchFailed(f"{name} has calls that do not end") from None
            if code != 0:
                raise BenchFailed(f"{name}: exit code {code}: {caller.last_words()}")

    async def restart(self) -> None:
        """End all nodes; start a new one, which knows what the journals hold and no more."""
        await stop_all(self._nodes)
        self._nodes.clear()
        await self._start_node("active")

    def words(self) -> str:
        """Return the last words of the processes."""
        return "\n".join(f"{one.name}: {one.last_words()}" for one in self._all[-NODES:])


@contextlib.asynccontextmanager
async def _opened(folder: Path, seed: int) -> AsyncGenerator[_Run]:
    async with await ensure_server(ServerOptions(data_dir=folder / "server")) as server:
        options = ConnectOptions(data_dir=server.data_dir, namespace=_NAMESPACE)
        async with connect(options=options) as cluster:
            one = _Run(folder, server, cluster, seed)
            try:
                yield one
            finally:
                await one.close()


async def _run(seconds: float, seed: int, tell: Callable[[str], None]) -> Report:
    report = Report(seed, seconds)
    with tempfile.TemporaryDirectory(prefix="aegis-chaos-") as name:
        folder = Path(name)
        async with _opened(folder, seed) as one:
            try:
                await one.start()
                tell(f"faults for {seconds:.0f} s, seed {seed}")
                began = time.monotonic()
                try:
                    await one.torment(seconds)
                finally:
                    report.faults, report.failed_starts = one.faults, one.failed_starts
                report.seconds = time.monotonic() - began
                tell("every account must answer")
                report.converged_seconds = await one.wait_answers(CONVERGE_TIMEOUT)
                await one.end_callers()
                tell("reading the journals")
                served = await one.sums()
                await one.restart()
                held = await one.sums()
            except BenchFailed as error:
                report.wrong.append(f"{error}\n{one.words()}")
                return report
            ledger = Ledger()
            for caller in one.callers:
                ledger.read(caller, one.file_of(caller))
            report.verdict = ledger.check(held)
    for account, sums in served.items():
        if sums != held[account]:
            text = f"{'/'.join(account)}: was served as {sums}, the journal holds {held[account]}"
            report.wrong.append(text)
    if report.verdict.acknowledged < MIN_PER_SECOND * report.seconds:
        report.wrong.append(
            f"only {report.verdict.acknowledged} deposits in {report.seconds:.0f} s were "
            f"acknowledged; {MIN_PER_SECOND:g} a second are asked for"
        )
    return report


def main(arguments: Sequence[str]) -> int:
    """Run ``aegis chaos``; return the exit code: 1 if anything is wrong."""
    parser = LineParser(
        prog="aegis chaos",
        description="Kill, freeze and end processes at random; then check that nothing was "
        "lost or done twice.",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--minutes",
        type=float,
        default=DEFAULT_MINUTES,
        metavar="N",
        help=f"how long faults happen (default {DEFAULT_MINUTES:g})",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the faults; default: a new one")
    options = parser.parse_args(arguments)
    if not 0 < options.minutes <= MAX_MINUTES:
        parser.error(
            f"argument --minutes: {options.minutes:g} is not above 0 and at most {MAX_MINUTES:g}"
        )
    seed: int = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    errors = Console(stderr=True, highlight=False, markup=False)
    configure_logging("error")

    def tell(text: str) -> None:
        if errors.is_terminal and not options.json:
            errors.print(text, style="dim")

    try:
        report = run(_run(options.minutes * 60, seed, tell))
    except (KeyboardInterrupt, asyncio.CancelledError):
        errors.print(f"Interrupted (seed {seed}); all that was started has been stopped.")
        return _INTERRUPTED
    except AegisError as error:
        errors.print(f"error: {error} (seed {seed})")
        return 1
    if options.json:
        print(json.dumps(report.to_plain(), indent=2))
    else:
        console = Console(highlight=False, markup=False)
        _print(report, console if console.is_terminal else Console(width=_WIDTH, highlight=False))
    return 0 if report.ok else 1


def _print(report: Report, console: Console) -> None:
    verdict = report.verdict
    table = Table(title=f"chaos, seed {report.seed}", title_justify="left", box=None)
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right")
    table.add_row("seconds of faults", f"{report.seconds:,.0f}")
    for fault in Fault:
        table.add_row(f"  {fault}", str(report.faults[fault]))
    table.add_row("starts that failed", str(report.failed_starts))
    table.add_row("deposits acknowledged", f"{verdict.acknowledged:,}")
    table.add_row("callers not told", f"{verdict.unknown:,}")
    table.add_row("  decided: took effect", f"{verdict.unknown_applied:,}")
    table.add_row("longest call, s", f"{verdict.longest_seconds:.2f}")
    table.add_row("all answer after, s", f"{report.converged_seconds:.2f}")
    console.print(table)
    for error, count in verdict.errors.items():
        console.print(f"  {count} x {error}", style="dim", markup=False)
    wrong = [*report.wrong, *verdict.wrong]
    for text in wrong:
        console.print(text, style="red", markup=False)
    said = f"{len(wrong)} things are wrong." if wrong else "Nothing is lost, nothing done twice."
    console.print(said, style="bold red" if wrong else "green")
