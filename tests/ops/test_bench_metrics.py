"""`aegis bench --no-metrics`: one node whose metrics are switched off and on."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from aegis.ops._bench_metrics import Report, cost_of
from aegis.ops._bench_stats import median_interval
from tests.support.processes import processes_of


@pytest.mark.timeout(120)
def test_each_kind_is_measured_with_its_control_and_nothing_is_left(tmp_path: Path) -> None:
    sizes = ["--rounds", "1", "--seconds", "0.05", "--idle-seconds", "0.05"]
    result = subprocess.run(
        [sys.executable, "-m", "aegis", "bench", "--no-metrics", *sizes, "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    measured = [(cost["kind"], cost["figure"]) for cost in report["costs"]]
    assert measured[::2] == [("query", "cpu_us"), ("command", "cpu_us")]
    assert measured[1::2] == [("query", "per_second"), ("command", "per_second")]
    assert all(cost["observed"] > 0 and cost["without"] > 0 for cost in report["costs"])
    assert report["idle_ms"] is not None
    assert report["within_limit"] is None  # One round proves nothing.
    assert not processes_of(tmp_path)
    assert not list(tmp_path.iterdir())


def noisy(seed: int, middle: float) -> list[float]:
    """Return 100 values that lie around ``middle``, give or take a twentieth."""
    chance = random.Random(seed)
    return [middle * chance.gauss(1, 0.05) for _ in range(100)]


@pytest.mark.parametrize(("added", "within"), [(0.0, True), (0.03, None), (0.1, False)])
def test_what_is_lost_in_the_noise_is_not_said_to_be_known(
    added: float, within: bool | None
) -> None:
    cost = cost_of("query", "cpu_us", noisy(1, 30 * (1 + added)), noisy(2, 30), noisy(3, 30))
    assert cost.cost.low is not None
    assert cost.cost.high is not None
    assert cost.cost.low < 100 * added < cost.cost.high
    assert abs(cost.control.percent) < 2.5
    assert Report([cost], 7.0, 5.0).within_limit is within


def test_less_throughput_is_a_cost_and_more_time_is_one() -> None:
    assert cost_of("query", "per_second", [90.0], [100.0], [100.0]).cost.percent == 10.0
    assert cost_of("query", "cpu_us", [110.0], [100.0], [100.0]).cost.percent == 10.0


def test_the_interval_of_a_median_needs_values_enough_and_holds_as_often_as_it_says() -> None:
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None
    assert median_interval([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]) == (1.0, 6.0)
    held = 0
    for seed in range(400):
        low, high = median_interval(noisy(seed, 1.0)) or (1.0, 1.0)
        held += low <= 1.0 <= high
    assert 0.93 <= held / 400 <= 0.99
