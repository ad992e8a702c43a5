"""``aegis bench failover``: how long callers wait when an owner is lost.

Real processes: an active node, a standby and, unless the owner is to lead as well, a
separate supervisor. Callers send commands at a steady rate, whatever comes back. The
owner is killed, frozen or told to end, over and over; each time counts from the signal
until *every* resource has acknowledged a command that the new owner ran. Each reply says
who ran it, so nothing that the old owner still answered is mistaken for a failover.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console

from aegis.errors import AegisError
from aegis.ops._arguments import LineParser
from aegis.ops._bench_failover_report import print_report, to_plain
from aegis.ops._bench_failover_rows import Row, RowReport
from aegis.ops._bench_failover_runs import measure
from aegis.ops._bench_loop import run
from aegis.ops._logging import configure_logging
from aegis.transport._server import ServerOptions, ensure_server

__all__ = ["main"]

RATE: Final = 200.0
"""Commands a second, over all resources."""

DEFAULT_KILLS: Final = 5
MAX_KILLS: Final = 1_000
MAX_RATE: Final = 5_000.0
DEFAULT_SEED: Final = 1

_WIDTH: Final = 80
_INTERRUPTED: Final = 130


def main(arguments: Sequence[str]) -> int:
    """Run ``aegis bench failover``; return the exit code: 1 if anything was lost or failed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not 1 <= options.kills <= MAX_KILLS:
        parser.error(f"argument --kills: {options.kills} is not from 1 to {MAX_KILLS}")
    if not 1 <= options.rate <= MAX_RATE:
        parser.error(f"argument --rate: {options.rate:g} is not from 1 to {MAX_RATE:g}")
    rows = _rows(parser, options.only)
    errors = Console(stderr=True, highlight=False, markup=False)
    configure_logging("error")
    status = errors.status("") if errors.is_terminal and not options.json else None

    def tell(text: str) -> None:
        if status is not None:
            status.update(text)

    began = datetime.now(UTC)
    reports: list[RowReport] = []
    complete = True
    try:
        if status is not None:
            status.start()
        run(_run(rows, options.kills, options.rate, options.seed, tell, reports))
    except (KeyboardInterrupt, asyncio.CancelledError):
        errors.print("Interrupted; all that was started has been stopped.")
        return _INTERRUPTED
    except AegisError as error:
        # What was measured before took minutes, and is shown all the same.
        complete = False
        errors.print(f"error: {rows[len(reports)]}: {error}")
    finally:
        if status is not None:
            status.stop()
    if not reports:
        return 1
    if options.json:
        print(json.dumps(to_plain(reports, began, options.rate, options.seed), indent=2))
    else:
        console = Console(highlight=False, markup=False)
        if not console.is_terminal:
            console = Console(highlight=False, markup=False, width=_WIDTH)
        print_report(reports, began, options.rate, console)
    return 0 if complete and all(report.ok for report in reports) else 1


def _parser() -> argparse.ArgumentParser:
    parser = LineParser(
        prog="aegis bench failover",
        description="Kill, freeze and end owners under load; measure until commands go on.",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--kills",
        type=int,
        default=DEFAULT_KILLS,
        metavar="N",
        help=f"how often each (default {DEFAULT_KILLS})",
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
        "--only", default="", metavar="ROW[,ROW]", help="only these: " + ", ".join(Row)
    )
    return parser


def _rows(parser: argparse.ArgumentParser, only: str) -> list[Row]:
    """Return the rows that are asked for, in the order of the table."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        if name not in list(Row):
            parser.error(f"argument --only: {name!r} is none of: {', '.join(Row)}")
    return [row for row in Row if not names or row in names]


async def _run(
    rows: Sequence[Row],
    kills: int,
    rate: float,
    seed: int,
    tell: Callable[[str], None],
    reports: list[RowReport],
) -> None:
    """Measure the rows; each report is in ``reports`` as soon as it is complete."""
    current = asyncio.current_task()
    assert current is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as name:
        root = Path(name)
        # It is killed more often in a minute than any server that is worth keeping ends.
        options = ServerOptions(data_dir=root / "server", max_restarts=MAX_KILLS)
        async with await ensure_server(options) as server:
            for row in rows:
                folder = root / f"failover-{row}"
                folder.mkdir()
                # Each row has the same pauses, whatever rows were measured before it.
                rng = random.Random(seed)
                reports.append(await measure(row, kills, rate, server, folder, rng, tell))
