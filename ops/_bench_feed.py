"""``aegis bench feed``: market data from a gateway's callback to a subscriber.

Real processes: a NATS server, a feed's gateway process as `aegis feed run` has it, and a
subscriber that checks the number of every tick. Beside it the same market goes through what
one would write first, and through plain nats-py. With ``--minutes`` one load goes on for
long instead, to see that nothing is lost and no memory grows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attrs import frozen
from rich.console import Console

from aegis._cluster import connect
from aegis._config import ConnectOptions
from aegis.errors import AegisError
from aegis.ops._arguments import LineParser
from aegis.ops._bench_feed_report import Report, print_report, print_soak
from aegis.ops._bench_feed_rows import QUICK, ROWS, Row
from aegis.ops._bench_feed_runs import measure
from aegis.ops._bench_feed_soak import SOAK_RATE, Soak, soak
from aegis.ops._bench_feed_sources import Stage
from aegis.ops._bench_loop import run
from aegis.ops._bench_processes import BenchFailed
from aegis.ops._logging import configure_logging
from aegis.transport._ports import free_port
from aegis.transport._server import ServerOptions, ensure_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aegis._cluster import Cluster

__all__ = ["main"]

SECONDS: Final = 5.0
QUICK_SECONDS: Final = 0.5
MAX_SECONDS: Final = 300.0
MAX_MINUTES: Final = 24 * 60.0

_WIDTH: Final = 80
_INTERRUPTED: Final = 130


@frozen
class _Plan:
    rows: tuple[Row, ...]
    seconds: float
    rate: float | None
    """Of every load; None for that of each."""
    minutes: float | None


def main(arguments: Sequence[str]) -> int:
    """Run ``aegis bench feed``; return the exit code: 1 if a tick was lost or repeated."""
    parser = _parser()
    options = parser.parse_args(arguments)
    plan = _plan(parser, options)
    errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    configure_logging("error")
    status = errors.status("") if errors.is_terminal and not options.json else None

    def tell(text: str) -> None:
        if status is not None:
            status.update(text)
        elif plan.minutes is not None:
            errors.print(text)

    report = Report(datetime.now(UTC), plan.seconds)
    soaked: Soak | None = None
    try:
        if status is not None:
            status.start()
        soaked = run(_run(plan, report, tell))
    except (KeyboardInterrupt, asyncio.CancelledError):
        errors.print("Interrupted; all that was started has been stopped.")
        return _INTERRUPTED
    except AegisError as error:
        # What was measured before took minutes, and is shown all the same.
        errors.print(f"error: {error}")
        if not report.rows:
            return 1
        report.complete = False
    finally:
        if status is not None:
            status.stop()
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=_WIDTH)
    if soaked is not None:
        if options.json:
            print(json.dumps({**report.heading(), **soaked.to_plain()}, indent=2))
        else:
            print_soak(report, soaked, console)
        return 0 if soaked.ok else 1
    if options.json:
        print(json.dumps(report.to_plain(), indent=2))
    else:
        print_report(report, console)
    return 0 if report.ok else 1


def _parser() -> argparse.ArgumentParser:
    parser = LineParser(
        prog="aegis bench feed",
        description="Measure market data from a gateway's callback to a subscriber.",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quick", action="store_true", help="a few ticks, to see that it runs")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help=f"of one measurement (default {SECONDS:g})"
    )
    parser.add_argument(
        "--only", default="", metavar="ROW[,ROW]", help="only these: " + ", ".join(_names())
    )
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help=f"instead, {SOAK_RATE:g} ticks a second in bursts for so long, with memory watched",
    )
    return parser


def _names() -> list[str]:
    return [row.name for row in ROWS]


def _plan(parser: argparse.ArgumentParser, options: argparse.Namespace) -> _Plan:
    seconds = options.seconds
    if seconds is None:
        seconds = QUICK_SECONDS if options.quick else SECONDS
    if not (math.isfinite(seconds) and 0 < seconds <= MAX_SECONDS):
        parser.error(f"argument --seconds: {seconds:g} is not above 0 and at most {MAX_SECONDS:g}")
    minutes = options.minutes
    if minutes is not None and not (math.isfinite(minutes) and 0 < minutes <= MAX_MINUTES):
        parser.error(f"argument --minutes: {minutes:g} is not above 0 and at most {MAX_MINUTES:g}")
    names = [name.strip() for name in options.only.split(",") if name.strip()]
    for name in names:
        if name not in _names():
            parser.error(f"argument --only: {name!r} is none of: {', '.join(_names())}")
    rows = tuple(row for row in ROWS if not names or row.name in names)
    return _Plan(rows, seconds, QUICK if options.quick else None, minutes)


async def _run(plan: _Plan, report: Report, tell: Callable[[str], None]) -> Soak | None:
    """Measure; each row is in ``report`` as soon as there is one."""
    current = asyncio.current_task()
    assert current is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as name:
        async with _open_stage(Path(name)) as (stage, cluster):
            if plan.minutes is not None:
                rate = SOAK_RATE if plan.rate is None else plan.rate
                return await soak(plan.minutes, rate, stage, cluster, tell)
            for row in plan.rows:
                if row.way.problem:
                    report.skipped[row.name] = row.way.problem
                    continue
                tell(row.name)
                try:
                    measured = await measure(row, plan.seconds, stage, cluster, rate=plan.rate)
                except BenchFailed as error:
                    report.skipped[row.name] = str(error)
                    report.complete = report.complete and row.way.may_fail
                    continue
                report.rows.append(measured)
                report.loads.append(os.getloadavg()[0])
    return None


@asynccontextmanager
async def _open_stage(folder: Path) -> AsyncGenerator[tuple[Stage, Cluster]]:
    data_dir = folder / "server"
    config = folder / "aegis.toml"
    config.write_text(f"data_dir = {json.dumps(str(data_dir))}\n")
    async with (
        await ensure_server(ServerOptions(data_dir=data_dir)) as server,
        connect(options=ConnectOptions(data_dir=data_dir)) as cluster,
    ):
        rep, pub = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
        yield Stage(folder, server, config, (rep, pub)), cluster
