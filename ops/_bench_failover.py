"""``aegis bench failover``: how long callers wait when an owner is lost.

Real processes: an active node, a standby and, unless the owner is to lead as well, a
separate supervisor. Callers send commands at a steady rate, whatever comes back. The
owner is killed, frozen or told to end, over and over; each time counts from the signal
until *every* resource has acknowledged a command that the new owner ran. Each reply says
who ran it, so nothing that the old owner still answered is mistaken for a failover.

Counters number their commands. At the end the numbers that were told must be 1, 2, 3 and
so on to what each counter holds: else something was lost, or took effect twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from attrs import define, field, frozen
from rich.console import Console
from rich.table import Table

from aegis._cluster import Cluster, connect
from aegis._config import ConnectOptions
from aegis._inspect import Inspector
from aegis.errors import AegisError
from aegis.ops._bench_loop import run
from aegis.ops._bench_processes import BenchFailed
from aegis.ops._bench_services import Tally
from aegis.ops._bench_stats import percentile
from aegis.ops._logging import configure_logging
from aegis.ops._node_processes import NodeProcess, stop_all, wait_standing_by
from aegis.transport._discovery import read_state
from aegis.transport._server import EmbeddedServer, ServerOptions, ensure_server

__all__ = ["Kind", "KindReport", "main"]

RATE: Final = 200.0
"""Commands a second, over all resources."""

RESOURCES: Final = 4
MANY_RESOURCES: Final = 1_000
DEFAULT_KILLS: Final = 10
MAX_KILLS: Final = 1_000
MAX_RATE: Final = 5_000.0
DEFAULT_SEED: Final = 1

HEARTBEAT_TIMEOUT: Final = 2.0
"""Seconds; what `aegis run` has if nothing else is said."""

CALL_TIMEOUT: Final = 30.0
START_TIMEOUT: Final = 60.0

SETTLE: Final = (0.3, 1.3)
"""Seconds between all being well and the next signal: over more than one heartbeat, so
that signals fall anywhere between two."""

_MIN_COMMANDS: Final = 20
"""Acknowledged before each signal: the load is steady by then."""

_SUPERVISOR: Final = "supervisor"
_POLL_SECONDS: Final = 0.005
_WIDTH: Final = 80
_INTERRUPTED: Final = 130


class Kind(StrEnum):
    """What becomes of the owner."""

    KILL = "kill"
    KILL_LEADER = "kill-leader"
    KILL_UNPROVEN = "kill-unproven"
    STOP = "stop"
    TERM = "term"
    SERVER = "server"
    MANY = "many"


@frozen
class Goal:
    """What a kind should reach, in milliseconds; None: nothing is asked."""

    median_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    longest_call_ms: float | None = None


@frozen
class Plan:
    """How a kind is done."""

    title: str
    signal: int
    goal: Goal
    leads: bool = False
    proof: bool = True
    resources: int = RESOURCES


_BY_SILENCE_MS: Final = (HEARTBEAT_TIMEOUT + 0.3) * 1000

PLANS: Final = {
    Kind.KILL: Plan("SIGKILL owner", signal.SIGKILL, Goal(median_ms=100, p99_ms=250)),
    Kind.KILL_LEADER: Plan(
        "SIGKILL owner+leader", signal.SIGKILL, Goal(median_ms=100, p99_ms=250), leads=True
    ),
    Kind.KILL_UNPROVEN: Plan(
        "SIGKILL, no proof", signal.SIGKILL, Goal(max_ms=_BY_SILENCE_MS), proof=False
    ),
    Kind.STOP: Plan("SIGSTOP owner", signal.SIGSTOP, Goal(max_ms=_BY_SILENCE_MS)),
    Kind.TERM: Plan("SIGTERM owner", signal.SIGTERM, Goal(longest_call_ms=100)),
    Kind.SERVER: Plan("SIGKILL nats-server", signal.SIGKILL, Goal()),
    Kind.MANY: Plan(
        f"SIGKILL, {MANY_RESOURCES:,} res.",
        signal.SIGKILL,
        Goal(max_ms=2000),
        resources=MANY_RESOURCES,
    ),
}


@define
class KindReport:
    """What was measured of one kind; times in seconds."""

    kind: Kind
    times: list[float] = field(factory=list[float])
    """From the signal until every resource had acknowledged a command of its new owner."""
    longest_calls: list[float] = field(factory=list[float])
    """The longest wait of any call from one signal to the next."""
    acknowledged: int = 0
    effects: int = 0
    failed: list[str] = field(factory=list[str])
    wrong: list[str] = field(factory=list[str])

    @property
    def ok(self) -> bool:
        """Whether nothing failed, was lost or took effect twice; speed is no matter."""
        return not self.failed and not self.wrong and self.acknowledged == self.effects

    def figure(self, share: float) -> float:
        """Return a percentile of the times, in milliseconds."""
        return percentile(sorted(self.times), share) * 1000

    @property
    def longest_call_ms(self) -> float:
        """The longest wait of any call."""
        return max(self.longest_calls) * 1000

    @property
    def meets(self) -> bool | None:
        """Whether the goal is reached; None if there is none."""
        goal = PLANS[self.kind].goal
        wanted = [
            (goal.median_ms, self.figure(0.5)),
            (goal.p99_ms, self.figure(0.99)),
            (goal.max_ms, self.figure(1.0)),
            (goal.longest_call_ms, self.longest_call_ms),
        ]
        asked = [found < limit for limit, found in wanted if limit is not None]
        return all(asked) if asked else None

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        goal = PLANS[self.kind].goal
        return {
            "kind": str(self.kind),
            "title": PLANS[self.kind].title,
            "count": len(self.times),
            "median_ms": round(self.figure(0.5), 2),
            "p99_ms": round(self.figure(0.99), 2),
            "max_ms": round(self.figure(1.0), 2),
            "longest_call_ms": round(self.longest_call_ms, 2),
            "times_ms": [round(seconds * 1000, 2) for seconds in self.times],
            "target_median_ms": goal.median_ms,
            "target_p99_ms": goal.p99_ms,
            "target_max_ms": goal.max_ms,
            "target_longest_call_ms": goal.longest_call_ms,
            "meets": self.meets,
            "acknowledged": self.acknowledged,
            "effects": self.effects,
            "failed": self.failed,
            "wrong": self.wrong,
        }


# -- the load ------------------------------------------------------------------------------


@define
class _Told:
    due: float
    end: float
    number: int
    instance_id: str


class _Load:
    """Commands at a steady rate, and what was told of them."""

    def __init__(self, cluster: Cluster, resources: Sequence[str], rate: float) -> None:
        self.told: dict[str, list[_Told]] = {name: [] for name in resources}
        self.acknowledged = 0
        self.failed: list[str] = []
        self.longest = 0.0
        self._actors = {
            name: cluster.actor(Tally, name, timeout=CALL_TIMEOUT) for name in resources
        }
        self._rate = rate
        self._going = True
        self._open: set[asyncio.Task[None]] = set()
        self._task = asyncio.ensure_future(self._send())

    async def _send(self) -> None:
        names = list(self.told)
        began = time.perf_counter()
        number = 0
        while self._going:
            due = began + number / self._rate
            while (early := due - time.perf_counter()) > 0:  # noqa: ASYNC110 - a clock, no poll
                await asyncio.sleep(early)
            self.send(names[number % len(names)], due)
            number += 1

    def send(self, name: str, due: float) -> None:
        """Send one command that was due at that moment."""
        task = asyncio.ensure_future(self._call(name, due))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _call(self, name: str, due: float) -> None:
        try:
            number, instance_id = await self._actors[name].add()
        except Exception as error:
            self.failed.append(f"{name}: {type(error).__name__}: {error}"[:200])
            return
        end = time.perf_counter()
        self.longest = max(self.longest, end - due)
        self.told[name].append(_Told(due, end, number, instance_id))
        self.acknowledged += 1

    async def wait_more(self, count: int) -> None:
        """Return when so many more commands were acknowledged."""
        wanted = self.acknowledged + count
        await _wait(lambda: self.acknowledged >= wanted, self, "commands go on")

    async def end(self) -> None:
        """Send no more, and wait for what is open."""
        self._going = False
        await self._task
        await asyncio.gather(*self._open)

    async def abandon(self) -> None:
        """End at once."""
        self._going = False
        tasks = [self._task, *self._open]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def check_failed(self) -> None:
        """Raise `BenchFailed` if a call failed."""
        if self.failed:
            raise BenchFailed(self.failed[0])

    async def verify(self, report: KindReport) -> None:
        """Compare what was told with what the counters hold."""
        report.acknowledged += self.acknowledged
        report.failed += self.failed
        for name, told in self.told.items():
            held = await self._actors[name].value()
            report.effects += held
            if sorted(one.number for one in told) != list(range(1, held + 1)):
                report.wrong.append(f"{name}: {len(told)} acknowledged, holds {held}")


async def _wait(
    condition: Callable[[], bool], load: _Load, what: str, timeout: float = START_TIMEOUT
) -> None:
    deadline = time.perf_counter() + timeout
    while not condition():
        load.check_failed()
        if time.perf_counter() > deadline:
            raise BenchFailed(f"not within {timeout:g} s: {what}")
        await asyncio.sleep(_POLL_SECONDS)


# -- the system ----------------------------------------------------------------------------


@define(eq=False)
class _Cast:
    """The processes of one kind, and who is who."""

    plan: Plan
    folder: Path
    connection: Sequence[str]
    environment: dict[str, str]
    resources: Sequence[str]
    cluster: Cluster
    nodes: list[NodeProcess] = field(factory=list[NodeProcess])
    count: int = 0

    @property
    def inspector(self) -> Inspector:
        return Inspector(self.cluster.transport, self.cluster.subjects)

    async def start_supervisor(self) -> None:
        await self._start(_SUPERVISOR, ["run", "--supervisor-only"])

    async def start_owner(self) -> NodeProcess:
        owner = await self._start_service("active")
        first = self.cluster.actor(Tally, self.resources[0], timeout=1.0)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while True:
                    owner.check_running()
                    with contextlib.suppress(AegisError):
                        await first.value()
                        return owner
        except TimeoutError:
            raise BenchFailed(f"{owner.name} does not serve: {owner.last_words()}") from None

    async def start_standby(self) -> NodeProcess:
        standby = await self._start_service("standby")
        await self.wait_standing_by(standby)
        return standby

    async def wait_standing_by(self, node: NodeProcess) -> None:
        await wait_standing_by(
            self.inspector,
            Tally.service,
            len(self.resources),
            node.name,
            check=node.check_running,
        )

    async def _start_service(self, role: str) -> NodeProcess:
        self.count += 1
        name = f"tally-{self.count}"
        listed = self.folder / "resources.txt"
        listed.write_text("\n".join(self.resources))
        arguments = ["run", f"{Tally.__module__}:Tally", "--instance-id", name, "--role", role]
        arguments += ["--resource", f"@{listed}"]
        if not self.plan.leads:
            arguments.append("--no-supervisor")
        return await self._start(name, arguments)

    async def _start(self, name: str, arguments: list[str]) -> NodeProcess:
        arguments += [*self.connection, "--log-level", "info", "--log-format", "json"]
        node = NodeProcess(name, arguments, self.folder, self.environment)
        self.nodes.append(node)
        await node.start()
        return node


@contextlib.asynccontextmanager
async def _cast(plan: Plan, server: EmbeddedServer, folder: Path) -> AsyncGenerator[_Cast]:
    """Open a system without nodes; nothing of it runs afterwards."""
    namespace = folder.name
    connection = ["--namespace", namespace]
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
    options = ConnectOptions(data_dir=server.data_dir, namespace=namespace)
    resources = [f"T-{number}" for number in range(plan.resources)]
    async with connect(options=options) as cluster:
        cast = _Cast(plan, folder, connection, environment, resources, cluster)
        try:
            yield cast
        finally:
            # The supervisor ends last: it is told of the others' end.
            await stop_all([node for node in cast.nodes if node.name != _SUPERVISOR])
            await stop_all(cast.nodes)


# -- one kind ------------------------------------------------------------------------------


async def _measure(
    kind: Kind,
    kills: int,
    rate: float,
    server: EmbeddedServer,
    folder: Path,
    rng: random.Random,
    tell: Callable[[str], None],
) -> KindReport:
    plan, report = PLANS[kind], KindReport(kind)
    async with _cast(plan, server, folder) as cast:
        if not plan.leads:
            await cast.start_supervisor()
        owner = await cast.start_owner()
        standby = await cast.start_standby()
        load = _Load(cast.cluster, cast.resources, rate)
        try:
            for number in range(kills):
                tell(f"{plan.title}: {number + 1} of {kills}")
                await load.wait_more(_MIN_COMMANDS)
                await asyncio.sleep(rng.uniform(*SETTLE))
                load.longest = 0.0
                began = time.perf_counter()
                if kind is Kind.SERVER:
                    os.kill(_server_pid(server), signal.SIGKILL)
                    await _wait_answered(load, began, None)
                else:
                    owner.send_signal(plan.signal)
                    if kind is Kind.MANY:
                        for name in cast.resources:
                            load.send(name, began)
                    await _wait_answered(load, began, standby.name)
                report.times.append(_answered_after(load, began, _new(kind, standby)))
                if kind is not Kind.SERVER:
                    owner, standby = standby, await _replace(cast, kind, owner)
                report.longest_calls.append(load.longest)
            await load.end()
            await load.verify(report)
        except BenchFailed as error:
            words = "\n".join(f"{node.name}: {node.last_words()}" for node in cast.nodes[-2:])
            raise BenchFailed(f"{plan.title}: {error}\n{words}") from error
        finally:
            await load.abandon()
    return report


def _new(kind: Kind, standby: NodeProcess) -> str | None:
    return None if kind is Kind.SERVER else standby.name


async def _replace(cast: _Cast, kind: Kind, former: NodeProcess) -> NodeProcess:
    """Return the next standby: the former owner that comes back, or a new one."""
    if kind is Kind.STOP:
        former.send_signal(signal.SIGCONT)
        await cast.wait_standing_by(former)
        return former
    code = await former.wait_ended()
    if kind is Kind.TERM and code != 0:
        raise BenchFailed(f"{former.name} ended with exit code {code}")
    return await cast.start_standby()


def _first(load: _Load, name: str, began: float, instance_id: str | None) -> float | None:
    """Return when the first command that counts was acknowledged."""
    ends = [
        told.end
        for told in reversed(load.told[name])
        if told.end > began
        and (told.instance_id == instance_id if instance_id is not None else told.due > began)
    ]
    return min(ends, default=None)


async def _wait_answered(load: _Load, began: float, instance_id: str | None) -> None:
    waiting = set(load.told)

    def done() -> bool:
        waiting.difference_update(
            [name for name in waiting if _first(load, name, began, instance_id) is not None]
        )
        return not waiting

    await _wait(done, load, "every resource answers again")


def _answered_after(load: _Load, began: float, instance_id: str | None) -> float:
    firsts = [_first(load, name, began, instance_id) for name in load.told]
    return max(first for first in firsts if first is not None) - began


def _server_pid(server: EmbeddedServer) -> int:
    state = read_state(server.data_dir)
    return server.pid if state is None else int(state["pid"])


async def _run(
    kinds: Sequence[Kind], kills: int, rate: float, seed: int, tell: Callable[[str], None]
) -> list[KindReport]:
    reports: list[KindReport] = []
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as name:
        root = Path(name)
        async with await ensure_server(ServerOptions(data_dir=root / "server")) as server:
            for kind in kinds:
                folder = root / f"failover-{kind}"
                folder.mkdir()
                reports.append(await _measure(kind, kills, rate, server, folder, rng, tell))
    return reports


# -- the command ---------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """Run ``aegis bench failover``; return the exit code: 1 if anything was lost or failed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not 1 <= options.kills <= MAX_KILLS:
        parser.error(f"argument --kills: {options.kills} is not from 1 to {MAX_KILLS}")
    if not 1 <= options.rate <= MAX_RATE:
        parser.error(f"argument --rate: {options.rate:g} is not from 1 to {MAX_RATE:g}")
    kinds = [Kind(name) for name in options.only or Kind]
    errors = Console(stderr=True, highlight=False, markup=False)
    configure_logging("error")
    status = errors.status("") if errors.is_terminal and not options.json else None

    def tell(text: str) -> None:
        if status is not None:
            status.update(text)

    try:
        if status is not None:
            status.start()
        reports = run(_run(kinds, options.kills, options.rate, options.seed, tell))
    except (KeyboardInterrupt, asyncio.CancelledError):
        errors.print("Interrupted; all that was started has been stopped.")
        return _INTERRUPTED
    except AegisError as error:
        errors.print(f"error: {error}")
        return 1
    finally:
        if status is not None:
            status.stop()
    ok = all(report.ok for report in reports)
    if options.json:
        plain = {
            "ok": ok,
            "rate": options.rate,
            "seed": options.seed,
            "load_average": round(os.getloadavg()[0], 2),
            "processors": os.cpu_count(),
            "kinds": [report.to_plain() for report in reports],
        }
        print(json.dumps(plain, indent=2))
    else:
        console = Console(highlight=False, markup=False)
        if not console.is_terminal:
            console = Console(highlight=False, markup=False, width=_WIDTH)
        _print(reports, options.rate, console)
    return 0 if ok else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aegis bench failover",
        description="Kill, freeze and end owners under load; measure until commands go on.",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--kills",
        type=int,
        default=DEFAULT_KILLS,
        metavar="N",
        help=f"how often each kind (default {DEFAULT_KILLS})",
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=RATE,
        metavar="R",
        help=f"commands a second (default {RATE:g})",
    )
    parser.add_argument(
        "--seed", type=int, default=DEFAULT_SEED, metavar="N", help="of the pauses (default 1)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[str(kind) for kind in Kind],
        metavar="KIND",
        help="only these: " + ", ".join(Kind),
    )
    return parser


def _print(reports: Sequence[KindReport], rate: float, console: Console) -> None:
    table = Table(title="failover", title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in ("n", "median", "p99", "max", "longest call", "target", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for report in reports:
        meets = report.meets
        table.add_row(
            PLANS[report.kind].title,
            str(len(report.times)),
            *(f"{report.figure(share):,.0f}" for share in (0.5, 0.99, 1.0)),
            f"{report.longest_call_ms:,.0f}",
            _goal(PLANS[report.kind].goal),
            "" if meets is None else "yes" if meets else "no",
        )
    console.print(table)
    acknowledged = sum(report.acknowledged for report in reports)
    effects = sum(report.effects for report in reports)
    ok = all(report.ok for report in reports)
    console.print(
        f"{acknowledged:,} commands were acknowledged, and took effect {effects:,} times; "
        f"{sum(len(report.failed) for report in reports)} failed.",
        style="green" if ok else "bold red",
    )
    for report in reports:
        for text in [*report.failed[:5], *report.wrong[:5]]:
            console.print(f"  {report.kind}: {text}", style="red")
    console.print(
        f"Milliseconds from the signal until every resource ({RESOURCES}; "
        f"{MANY_RESOURCES:,} in the last kind) has acknowledged a command of its new owner, at "
        f"{rate:g} commands a second; longest call: the longest wait of any.",
        style="dim",
    )


def _goal(goal: Goal) -> str:
    texts = {
        "": goal.median_ms,
        "p99 ": goal.p99_ms,
        "max ": goal.max_ms,
        "call ": goal.longest_call_ms,
    }
    return ", ".join(f"{name}<{limit:g}" for name, limit in texts.items() if limit is not None)
