"""Every promise holds in the whole system, whatever fails; and the checker can fail."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Final

import pytest

from tests.simulation.__main__ import Chunk, run_chunk
from tests.simulation.system._plan import (
    Plan,
    with_frozen_leaders,
    with_lone_owners,
    with_mail,
    with_splits,
)
from tests.simulation.system._plants import PLANTS
from tests.simulation.system._report import missing
from tests.simulation.system._run import SeedFailed, run_seed

CHUNKS: Final = 10
SEEDS_IN_CHUNK: Final = 100

SEEDS_FOR_A_PLANT: Final = 400
"""So many seeds are enough for each fault with room to spare."""

SEEDS_FOR_A_MIX: Final = 40

SOAK: Final = range(10_000, 60_000, SEEDS_IN_CHUNK)


def run_seeds(start: int, end: int, *, plant: str = "") -> Counter[str]:
    counters: Counter[str] = Counter()
    for seed in range(start, end):
        counters.update(run_seed(seed, plant=plant).counters)
    return counters


@pytest.mark.timeout(900)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_whole_system_keeps_every_promise_whatever_fails(chunk: int) -> None:
    counters = run_seeds(chunk * SEEDS_IN_CHUNK, (chunk + 1) * SEEDS_IN_CHUNK)
    assert counters["command ended: 200"] > 10 * SEEDS_IN_CHUNK
    assert not missing(counters), "some fault or feature was never exercised"


@pytest.mark.soak
@pytest.mark.timeout(14_400)
def test_the_whole_system_keeps_every_promise_over_many_more_seeds() -> None:
    tasks = [Chunk(start, start + SEEDS_IN_CHUNK, system=True) for start in SOAK]
    with multiprocessing.get_context("spawn").Pool() as pool:
        failures = [one for _, failed in pool.imap_unordered(run_chunk, tasks) for one in failed]
    assert not failures, failures[0]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("plant", sorted(PLANTS))
def test_a_fault_planted_into_the_system_is_caught(plant: str) -> None:
    with pytest.raises(SeedFailed, match=f"--system --seed .* --plant {plant}"):
        run_seeds(0, SEEDS_FOR_A_PLANT, plant=plant)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "mix",
    [with_splits, with_lone_owners, with_frozen_leaders, with_mail],
    ids=["splits", "lone owners", "frozen leaders", "mail"],
)
def test_what_the_plants_show_in_shows_nothing_without_them(mix: Callable[[Plan], Plan]) -> None:
    for seed in range(SEEDS_FOR_A_MIX):
        run_seed(seed, mix=mix)


def test_a_seed_does_the_same_in_every_process() -> None:
    source = (
        "from tests.simulation.system._run import run_seed\n"
        "print([run_seed(seed, detailed=True).fingerprint for seed in range(3)])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", source],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert told == {f"{[run_seed(seed, detailed=True).fingerprint for seed in range(3)]}\n"}


def test_a_failing_seed_of_the_system_says_how_to_replay_it_and_what_happened_last() -> None:
    with pytest.raises(SeedFailed) as failure:
        run_seeds(0, SEEDS_FOR_A_PLANT, plant="early-answer")
    text = str(failure.value)
    assert "acknowledged and is lost" in text.splitlines()[0]
    assert "replay: python -m tests.simulation --system --seed" in text
    assert "VIOLATED" in text
