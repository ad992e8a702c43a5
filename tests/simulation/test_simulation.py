"""Every promise holds on every schedule; and the checker notices when one does not."""

from __future__ import annotations

import multiprocessing
from collections import Counter

import pytest

from tests.simulation.__main__ import CHUNK, Chunk, run_chunk
from tests.simulation._plants import PLANTS
from tests.simulation._report import coverage_table, missing
from tests.simulation._run import SeedFailed, run_seed
from tests.simulation.conftest import COVERAGE, DEFAULT_SEEDS


# A soak of many seeds by --seeds is a test, too.
@pytest.mark.timeout(7200)
def test_every_promise_holds_whatever_fails(seeds: range, pytestconfig: pytest.Config) -> None:
    counters: Counter[str] = Counter()
    for seed in seeds:
        counters.update(run_seed(seed).counters)
    pytestconfig.stash[COVERAGE] = coverage_table(counters)
    if len(seeds) >= DEFAULT_SEEDS:
        assert not missing(counters), "some fault or feature was never exercised"


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_every_promise_holds_over_many_more_seeds() -> None:
    tasks = [Chunk(start, start + CHUNK) for start in range(10_000, 50_000, CHUNK)]
    with multiprocessing.get_context("spawn").Pool() as pool:
        failures = [one for _, failed in pool.imap_unordered(run_chunk, tasks) for one in failed]
    assert not failures, failures[0]


def run_seeds(count: int, *, plant: str) -> None:
    for seed in range(count):
        run_seed(seed, plant=plant, black_box=True)


# So many seeds are enough for each fault with room to spare.
SEEDS_FOR_A_PLANT = 1500


@pytest.mark.timeout(600)
@pytest.mark.parametrize("plant", sorted(PLANTS))
def test_a_planted_fault_is_caught(plant: str) -> None:
    with pytest.raises(SeedFailed, match=f"python -m tests.simulation --seed .* --plant {plant}"):
        run_seeds(SEEDS_FOR_A_PLANT, plant=plant)


def test_a_seed_does_the_same_each_time() -> None:
    assert run_seed(7).counters == run_seed(7).counters


def test_seeds_differ_in_what_they_exercise() -> None:
    assert len({frozenset(run_seed(seed).counters) for seed in range(20)}) == 20


def test_a_failing_seed_says_how_to_replay_it_and_what_happened_last() -> None:
    with pytest.raises(SeedFailed) as failure:
        run_seeds(100, plant="dedup-off")
    text = str(failure.value)
    assert "pytest tests/simulation --seed" in text
    assert "applied twice" in text.splitlines()[0]
    assert "expects" in text
