"""Run many seeds: ``python -m tests.simulation --seeds 50000 --start 0 --workers 2``."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter

from tests.simulation._plants import PLANTS
from tests.simulation._report import coverage_table
from tests.simulation._run import SeedFailed, run_seed

CHUNK = 200


def main() -> int:
    """Run the seeds asked for; return 0 if every promise was kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many seeds to run")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this one alone, with its trace")
    parser.add_argument("--workers", type=int, default=1, help="processes to run them in")
    parser.add_argument("--plant", choices=sorted(PLANTS), default="", help="plant a fault")
    parser.add_argument(
        "--black-box", action="store_true", help="check without a look into owners and records"
    )
    options = parser.parse_args()
    if options.seed is not None:
        options.start, options.seeds, options.workers = options.seed, 1, 1
    began = time.perf_counter()
    end = options.start + options.seeds
    tasks = [
        (start, min(start + CHUNK, end), options.plant, options.black_box)
        for start in range(options.start, end, CHUNK)
    ]
    counters: Counter[str] = Counter()
    failures: list[str] = []
    if options.workers > 1:
        with multiprocessing.Pool(options.workers) as pool:
            for found, failed in pool.imap_unordered(run_chunk, tasks):
                counters.update(found)
                failures += failed
    else:
        for task in tasks:
            found, failed = run_chunk(task)
            counters.update(found)
            failures += failed
    for failure in failures[:1]:
        print(failure)
    for failure in failures[1:20]:
        print(failure.splitlines()[0])
    print(coverage_table(counters))
    seconds = time.perf_counter() - began
    print(f"{options.seeds} seeds, {len(failures)} failed, {seconds:.1f} s")
    return 1 if failures else 0


def run_chunk(task: tuple[int, int, str, bool]) -> tuple[Counter[str], list[str]]:
    """Run the seeds of one task; return its counters and what failed."""
    start, end, plant, black_box = task
    counters: Counter[str] = Counter()
    failures: list[str] = []
    for seed in range(start, end):
        try:
            counters.update(run_seed(seed, plant=plant, black_box=black_box).counters)
        except SeedFailed as failure:
            failures.append(str(failure))
    return counters, failures


if __name__ == "__main__":
    sys.exit(main())
