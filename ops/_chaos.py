"""``aegis chaos``: real processes, random faults, and the books checked afterwards.

Three nodes that all run the same services, one active and the others standing by;
callers as processes that move money between accounts, use registers, have deals booked by
durable messages between actors, send letters and set reminders. Nodes are killed,
frozen for longer than their lease, told to end and cut off, servers are killed, callers
are killed; what is gone comes back after a while. Then the faults stop, every resource must
answer again, callers end what they had begun, all nodes end, and a new one reads the
journals: what they hold is compared with what the callers wrote down outside of Aegis.
Whatever happens, nothing runs on; if anything is wrong, the folder with all of it is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Final

from attrs import evolve
from rich.console import Console

from aegis.errors import AegisError
from aegis.ops._arguments import LineParser
from aegis.ops._bench_loop import run
from aegis.ops._bench_processes import BenchFailed
from aegis.ops._chaos_hosts import NoHosts
from aegis.ops._chaos_mail_verdict import judge_mail
from aegis.ops._chaos_open import Shape, open_run
from aegis.ops._chaos_report import Report, print_report
from aegis.ops._chaos_run import Run
from aegis.ops._chaos_verdict import judge
from aegis.ops._chaos_work import BANKS, REGISTERS
from aegis.ops._logging import configure_logging

__all__ = ["main"]

DEFAULT_MINUTES: Final = 1.0
MAX_MINUTES: Final = 24 * 60.0
SERVERS: Final = (1, 3)

_WIDTH: Final = 80
_INTERRUPTED: Final = 130


async def _run(shape: Shape, seconds: float, seed: int, tell: Callable[[str], None]) -> Report:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await _run_once(Report(seed, shape, seconds), tell)
    except NoHosts as error:
        tell(f"no partitions: {error}")
        report = Report(seed, evolve(shape, partitions=False), seconds, no_partitions=str(error))
        return await _run_once(report, tell)


async def _run_once(report: Report, tell: Callable[[str], None]) -> Report:
    with _folder(report) as folder:
        async with open_run(folder, report.shape, report.seed, tell) as opened:
            report.log = opened.log
            try:
                await _torment_and_judge(opened, report, tell)
            except BenchFailed as error:
                report.wrong.append(f"{error}\n{opened.words()}")
            finally:
                report.failed_starts = opened.failed_starts
    return report


@contextlib.contextmanager
def _folder(report: Report) -> Generator[Path]:
    """Give a folder for the time of the block; it is kept if anything was wrong."""
    folder = Path(tempfile.mkdtemp(prefix="aegis-chaos-"))
    try:
        yield folder
    finally:
        if report.ok:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            report.evidence = str(folder)


async def _torment_and_judge(opened: Run, report: Report, tell: Callable[[str], None]) -> None:
    await opened.start()
    tell(f"faults for {report.seconds:.0f} s, seed {report.seed}")
    began = time.monotonic()
    try:
        await opened.torment(report.seconds)
    finally:
        report.seconds = time.monotonic() - began
    tell("every resource must answer")
    report.converged_seconds = await opened.wait_answers()
    tell("callers end what is open")
    await opened.end_callers()
    tell("reading the journals")
    served = await opened.held_at_rest()
    await opened.restart()
    held = await opened.held()
    tell("judging")
    stories = opened.stories()
    sheets = {place: sheet for place, sheet in held.items() if place[0] in (*BANKS, REGISTERS)}
    report.verdict = await asyncio.to_thread(judge, stories, sheets, REGISTERS)
    report.mail = judge_mail([(story.caller, story.mail) for story in stories], held)
    for place, sheet in served.items():
        if sheet != held[place]:
            text = f"{'/'.join(place)}: was served as {sheet}, the journal holds {held[place]}"
            report.wrong.append(text)
    report.judge_amount()


def main(arguments: Sequence[str]) -> int:
    """Run ``aegis chaos``; return the exit code: 1 if anything is wrong."""
    options = _parse(arguments)
    seed: int = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    shape = Shape(servers=options.servers, partitions=options.partitions)
    errors = Console(stderr=True, highlight=False, markup=False)
    configure_logging("error")

    def tell(text: str) -> None:
        if not options.json:
            errors.print(text, style="dim")

    try:
        report = run(_run(shape, options.minutes * 60, seed, tell))
    except (KeyboardInterrupt, asyncio.CancelledError):
        errors.print(f"Interrupted (seed {seed}); all that was started has been stopped.")
        return _INTERRUPTED
    except AegisError as error:
        errors.print(f"error: {error} (seed {seed})")
        return 1
    report.commit = _commit()
    if options.json:
        print(json.dumps(report.to_plain(), indent=2))
    else:
        console = Console(highlight=False)
        print_report(
            report, console if console.is_terminal else Console(width=_WIDTH, highlight=False)
        )
    return 0 if report.ok else 1


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = LineParser(
        prog="aegis chaos",
        description="Kill, freeze, end and cut off processes at random; then check that nothing "
        "was lost or done twice.",
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
    parser.add_argument(
        "--servers",
        type=int,
        default=1,
        choices=SERVERS,
        help="1: the embedded server (default); 3: a cluster with three copies of all",
    )
    parser.add_argument(
        "--partitions",
        action="store_true",
        help="run everything on hosts of its own (network namespaces) and cut them off, too; "
        "needs Linux and the right to change the network",
    )
    options = parser.parse_args(arguments)
    if not 0 < options.minutes <= MAX_MINUTES:
        parser.error(
            f"argument --minutes: {options.minutes:g} is not above 0 and at most {MAX_MINUTES:g}"
        )
    return options


def _commit() -> str:
    """Return the commit that runs, or nothing where there is no repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
