"""Run many seeds: ``python -m tests.simulation --seeds 50000 --start 0 --workers 2``.

With ``--system`` the whole system is simulated, else the core of owners and callers alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from attrs import frozen

from tests.simulation import _run as core
from tests.simulation._plants import PLANTS
from tests.simulation._report import coverage_table
from tests.simulation.system import _run as system
from tests.simulation.system._plants import PLANTS as SYSTEM_PLANTS

CHUNK = 50
PROGRESS = 1_000
"""Seeds between two lines that tell how far the run is."""


@frozen
class Chunk:
    """Some seeds in a row, to be run by one process."""

    start: int
    end: int
    plant: str = ""
    black_box: bool = False
    system: bool = False


def main() -> int:
    """Run the seeds asked for; return 0 if every promise was kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many seeds to run")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this one alone, with its trace")
    parser.add_argument("--workers", type=int, default=1, help="processes to run them in")
    parser.add_argument("--system", action="store_true", help="simulate the whole system")
    parser.add_argument("--plant", default="", help="plant a fault; an unknown one names all")
    parser.add_argument(
        "--black-box", action="store_true", help="check without a look into owners and records"
    )
    options = parser.parse_args()
    plants = sorted(SYSTEM_PLANTS if options.system else PLANTS)
    if options.plant and options.plant not in plants:
        parser.error(f"--plant: there are {', '.join(plants)}")
    if options.seed is not None:
        options.start, options.seeds, options.workers = options.seed, 1, 1
    began = time.perf_counter()
    end = options.start + options.seeds
    tasks = [
        Chunk(start, min(start + CHUNK, end), options.plant, options.black_box, options.system)
        for start in range(options.start, end, CHUNK)
    ]
    counters: Counter[str] = Counter()
    failures: list[str] = []
    done = 0
    # A run may take hours: what was run until it is ended counts.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for count, found, failed in _results(tasks, options.workers):
            done += count
            counters.update(found)
            for failure in failed:  # The first one whole, and at once: a run may take hours.
                print(failure.splitlines()[0] if failures else failure, flush=True)
                failures.append(failure)
            if done % PROGRESS < CHUNK:
                print(f"{done} seeds, {len(failures)} failed", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print(f"interrupted; of seeds {options.start} to {end - 1} not all were run:")
    print(coverage_table(counters))
    seconds = time.perf_counter() - began
    print(f"{done} seeds, {len(failures)} failed, {seconds:.1f} s")
    return 1 if failures else 0


def _results(tasks: Sequence[Chunk], workers: int) -> Iterator[tuple[int, Counter[str], list[str]]]:
    if workers == 1:
        for task in tasks:
            yield task.end - task.start, *run_chunk(task)
        return
    with multiprocessing.Pool(workers, _ignore_interrupts) as pool:
        for task, (found, failed) in zip(tasks, pool.imap(run_chunk, tasks), strict=True):
            yield task.end - task.start, found, failed


def _ignore_interrupts() -> None:
    """Leave it to the parent to end the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run_chunk(chunk: Chunk) -> tuple[Counter[str], list[str]]:
    """Run the seeds of one chunk; return its counters and what failed."""
    counters: Counter[str] = Counter()
    failures: list[str] = []
    for seed in range(chunk.start, chunk.end):
        try:
            if chunk.system:
                counters.update(system.run_seed(seed, plant=chunk.plant).counters)
            else:
                outcome = core.run_seed(seed, plant=chunk.plant, black_box=chunk.black_box)
                counters.update(outcome.counters)
        except (core.SeedFailed, system.SeedFailed) as failure:
            failures.append(str(failure))
    return counters, failures


if __name__ == "__main__":
    sys.exit(main())
