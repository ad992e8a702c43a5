"""The bench's arithmetic: percentiles, medians, ratios, goals."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from aegis.ops._bench_cases import CASES, Figure, Goal, Mode, Sync, chosen, meets, ratio_of
from aegis.ops._bench_idle import Idle
from aegis.ops._bench_load import Load
from aegis.ops._bench_report import Report, SyncReport, print_report, rows_of
from aegis.ops._bench_stats import figures_of, median_figures, median_of, percentile

finite = st.floats(0, 1e6, allow_nan=False)


def test_percentiles_are_values_by_nearest_rank() -> None:
    ordered = [float(value) for value in range(1, 101)]
    assert percentile(ordered, 0.5) == 50
    assert percentile(ordered, 0.99) == 99
    assert percentile(ordered, 1.0) == 100
    assert percentile(ordered, 0.001) == 1
    assert percentile([7.0], 0.99) == 7


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_out_of_bounds_is_refused(share: float) -> None:
    with pytest.raises(ValueError):
        percentile([1.0], share)


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError):
        percentile([], 0.5)


@given(st.lists(finite, min_size=1), st.floats(0.001, 1.0))
def test_a_percentile_splits_the_values_at_its_share(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert sum(value <= found for value in ordered) >= share * len(ordered)
    assert sum(value < found for value in ordered) < share * len(ordered)


def test_figures_are_in_milliseconds_and_by_the_second() -> None:
    figures = figures_of([0.003, 0.001, 0.002], seconds=0.5)
    assert figures.count == 3
    assert figures.p50_ms == pytest.approx(2)
    assert figures.p99_ms == figures.max_ms == pytest.approx(3)
    assert figures.per_second == 6


def test_a_load_without_any_success_is_infinitely_slow() -> None:
    figures = figures_of([], seconds=1.0)
    assert figures.count == 0
    assert figures.p50_ms == math.inf
    assert figures.per_second == 0


def test_the_median_over_rounds_ignores_one_bad_round() -> None:
    rounds = [figures_of([value] * 10, seconds=1.0) for value in (0.001, 9.0, 0.002)]
    total = median_figures(rounds)
    assert total.p50_ms == pytest.approx(2)
    assert total.max_ms == pytest.approx(9000)
    assert total.count == 30
    assert median_of([1.0, math.inf]) == 1.0
    assert median_of([math.inf]) is None


def test_a_ratio_compares_within_each_round() -> None:
    # The machine was half as fast in the second round, for both.
    ours = [figures_of([0.001] * 50, 1.0), figures_of([0.002] * 25, 1.0)]
    limit = [figures_of([0.001] * 100, 1.0), figures_of([0.001] * 50, 1.0)]
    assert ratio_of(Figure.PER_SECOND, ours, limit) == 0.5
    assert ratio_of(Figure.P50, ours, limit) == 1.5
    assert ratio_of(Figure.PER_SECOND, ours, [figures_of([], 1.0)] * 2) is None


def test_a_throughput_must_be_high_and_a_latency_low() -> None:
    figures = figures_of([0.004], 1.0)
    assert meets(Goal(0.5), Figure.PER_SECOND, figures, 0.5)
    assert not meets(Goal(0.5), Figure.PER_SECOND, figures, 0.49)
    assert meets(Goal(2.5), Figure.P50, figures, 2.5)
    assert not meets(Goal(2.5), Figure.P50, figures, 2.6)
    assert meets(Goal(milliseconds=5.0), Figure.P99, figures, None)
    assert not meets(Goal(milliseconds=3.0), Figure.P99, figures, None)
    assert not meets(Goal(0.5), Figure.PER_SECOND, figures, None)


def test_a_chosen_case_brings_its_limits_along() -> None:
    assert [case.name for case in chosen(["query/64"])] == ["plain-request/64", "query/64"]
    names = {case.name for case in chosen(["command"])}
    assert {"plain-request/64", "plain-append/64", "plain-append/1000/s"} <= names
    assert not any("query" in name for name in names)
    assert chosen([]) == list(CASES)


def test_every_case_is_measured_after_its_limits() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    for case in CASES:
        for sync in Sync:
            limit = case.limit(sync)
            assert limit is None or names.index(limit) < names.index(case.name)
    assert {case.mode for case in CASES} == set(Mode)


def _load(milliseconds: float, *, failed: int = 0) -> Load:
    load = Load(sent=100 + failed, seconds=milliseconds / 10)
    load.latencies.extend([milliseconds / 1000] * 100)
    for _ in range(failed):
        load.note_failure(RuntimeError("no"))
    return load


def _report(*, failed: int = 0) -> Report:
    cases = list(CASES)
    measured = {case.name: [_load(1.0), _load(2.0)] for case in cases}
    measured["query/64"] = [_load(1.5), _load(3.0, failed=failed)]
    warm_up = {case.name: _load(5.0) for case in cases}
    syncs = [SyncReport(sync, rows_of(cases, sync, measured, warm_up), 400, 400) for sync in Sync]
    return Report(0.5, 2, {"processors": 2}, syncs, [Idle(10_000, 2.5, 1.25)])


def test_the_table_fits_80_columns_and_names_every_case() -> None:
    console = Console(width=80, record=True, color_system=None)
    print_report(_report(), console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for case in CASES:
        assert case.title in text
    assert "0.67 req/s" in text
    assert "0 failed, 0 lost" in text


def test_the_report_is_valid_json_without_infinities() -> None:
    report = _report()
    plain = json.loads(json.dumps(report.to_plain(), allow_nan=False))
    assert plain["ok"] is True
    rows = {f"{row['case']}/{row['at']}": row for row in plain["runs"][0]["rows"]}
    assert rows["query/64"]["ratio"] == pytest.approx(0.6667, abs=1e-3)
    assert rows["query/64"]["meets"] is True
    assert rows["plain-request/64"]["is_limit"] is True
    assert plain["idle"][0]["meets"] is True


def test_a_failed_request_is_told_and_fails_the_run() -> None:
    report = _report(failed=3)
    console = Console(width=80, record=True, color_system=None)
    print_report(report, console)
    text = console.export_text()
    assert "3 failed" in text
    assert "3 x RuntimeError: no" in text
    assert not report.ok


def test_an_effect_too_many_fails_the_run() -> None:
    report = _report()
    report.syncs[0] = SyncReport(Sync.OFF, report.syncs[0].rows, acknowledged=400, effects=401)
    assert not report.ok


def test_a_load_crosses_to_another_process_unchanged() -> None:
    load = _load(1.0, failed=2)
    again = Load.from_plain(load.to_plain())
    assert again == load
    assert again.errors == Counter({"RuntimeError: no": 2})
