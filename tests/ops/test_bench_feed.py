"""`aegis bench feed`: a short run against a real server, its checks and its arithmetic."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from aegis.errors import ConfigurationError
from aegis.marketdata._tick import TickFlag
from aegis.ops._bench import main
from aegis.ops._bench_feed_report import Report, print_report, print_soak
from aegis.ops._bench_feed_rows import LEAST_WHOLE, ROWS, Load, Offer, Way
from aegis.ops._bench_feed_runs import Measured
from aegis.ops._bench_feed_soak import Sample, Soak
from aegis.ops._bench_feed_subscriber import BATCHES, TICKS
from aegis.ops._bench_feed_tally import Latencies, Tally
from aegis.ops._version import commit
from tests.support.marketdata import tick
from tests.support.processes import processes_of

BENCH = "import sys; from aegis.ops._bench import main; sys.exit(main(sys.argv[1:]))"
BEGAN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BENCH, "feed", *arguments],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(folder), "HOME": str(folder)},
        timeout=280,
    )


def check_nothing_left(folder: Path) -> None:
    assert not list(folder.iterdir()), "files are left"
    assert not processes_of(folder), "processes are left"


@pytest.mark.timeout(300)
def test_a_quick_run_has_every_row_and_loses_nothing(tmp_path: Path) -> None:
    result = bench(tmp_path, "--quick", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert report["commit"]
    measured = [row["row"] for row in report["rows"]]
    assert sorted([*measured, *report["skipped"]]) == sorted(row.name for row in ROWS)
    assert set(report["skipped"]) == {row.name for row in ROWS if row.way.problem}
    for row in report["rows"]:
        assert row["ticks"] > 0, row
        assert row["lost"] == row["repeated"] == 0, row
        assert 0 <= row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert set(row["cpu_us"]) == {"gateway", "subscriber", "server"}
    check_nothing_left(tmp_path)


@pytest.mark.timeout(120)
def test_a_long_run_checks_both_forms_of_every_tick_and_leaves_nothing(tmp_path: Path) -> None:
    result = bench(tmp_path, "--minutes", "0.05", "--quick", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["received"] == {TICKS: report["published"], BATCHES: report["published"]}
    assert report["published"] > 0
    assert report["missed"] == report["repeated"] == report["conflated"] == 0
    assert set(report["resident_mib"]) == {"gateway", "subscriber", "server"}
    assert "ticks, p50" in result.stderr
    check_nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--seconds", "0"], "--seconds: 0 is not above 0"),
        (["--seconds", "nan"], "--seconds: nan is not above 0"),
        (["--minutes", "-1"], "--minutes: -1 is not above 0"),
        (["--only", "plain/odd"], "--only: 'plain/odd' is none of: simulated/even, "),
    ],
)
def test_a_bad_option_is_told_before_anything_starts(arguments: list[str], told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        main(["feed", *arguments])
    assert told in str(refused.value)


# -- the subscriber's checks ----------------------------------------------------------------


def taken(*numbers: tuple[int, str, int]) -> Tally:
    tally = Tally()
    for epoch, exchange, sequence in numbers:
        one = tick(epoch=epoch, exchange=exchange, sequence=sequence)
        tally.take(one, one.received_ns + 1_000_000)
    return tally


def test_numbers_of_each_exchange_count_from_one_in_each_epoch() -> None:
    tally = taken((1, "DCE", 1), (1, "SHFE", 1), (1, "DCE", 2), (2, "DCE", 1))
    assert (tally.received, tally.missed, tally.repeated) == (4, 0, 0)
    assert tally.latencies.percentile_ms(1.0) == pytest.approx(1.0, rel=1 / 64)


def test_what_is_left_out_and_what_comes_again_is_counted() -> None:
    tally = taken((1, "DCE", 2), (1, "DCE", 5), (1, "DCE", 5), (1, "DCE", 4))
    assert (tally.received, tally.missed, tally.repeated) == (4, 3, 2)


def test_a_snapshot_tells_nothing_of_latency() -> None:
    tally = Tally()
    tally.take(tick(flags=int(TickFlag.SNAPSHOT)), 10**19)
    assert tally.latencies.percentile_ms(0.5) is None


def test_latencies_are_rounded_by_less_than_two_percent_and_ranked_exactly() -> None:
    latencies = Latencies()
    for microseconds in (5, 127, 128, 1_000, 123_456, 10_000_000):
        one = Latencies()
        one.add(microseconds)
        told = one.percentile_ms(0.5)
        assert told is not None
        assert microseconds * (1 - 1 / 64) <= told * 1000 <= microseconds
        latencies.merge(one)
    assert latencies.percentile_ms(0.5) == 0.128
    assert latencies.percentile_ms(0.01) == 0.005
    assert Latencies().percentile_ms(0.5) is None


# -- its figures ----------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1.0, 400.0, 2_000.0, 5_000.0, 6_000.0, 20_000.0, 100_000.0])
def test_a_market_is_made_that_offers_the_wanted_rate(rate: float) -> None:
    offer = Offer(rate, even=True)
    contracts = offer.futures + offer.options
    assert offer.futures > 0
    if LEAST_WHOLE <= rate <= 6_000:
        assert contracts == 20_900
    else:
        assert 2 * contracts == max(2.0, rate)


def measured(way: Way, load: Load, ms: float, per_second: float, **changes: int) -> Measured:
    row = next(row for row in ROWS if (row.way, row.load) == (way, load))
    latencies = Latencies()
    latencies.add(round(ms * 1000))
    counts = {"lost": 0, "repeated": 0, "conflated": 0, **changes}
    ticks = round(per_second)
    return Measured(
        row, 100_000.0, ticks, 1.0, ticks, **counts, latencies=latencies, cpu_us={"gateway": 9.5}
    )


@pytest.mark.parametrize(
    ("found", "meets"),
    [
        (measured(Way.SIMULATED, Load.EVEN, 4.9, 5_000), True),
        (measured(Way.SIMULATED, Load.EVEN, 5.2, 5_000), False),
        (measured(Way.SIMULATED, Load.EVEN, 4.9, 5_000, lost=1), False),
        (measured(Way.SIMULATED, Load.MOST, 300.0, 99_000), True),
        (measured(Way.SIMULATED, Load.MOST, 300.0, 90_000), False),
        (measured(Way.SIMULATED, Load.MOST, 1_100.0, 99_000), False),
        (measured(Way.SIMULATED, Load.MOST, 300.0, 99_000, conflated=1), False),
        (measured(Way.PLAIN, Load.EVEN, 1.0, 5_000), None),
    ],
)
def test_a_goal_is_met_by_what_was_measured_and_by_nothing_else(
    found: Measured, meets: bool | None
) -> None:
    assert found.meets is meets


def test_the_table_of_all_rows_fits_80_columns_and_says_when_and_of_what() -> None:
    report = Report(BEGAN, 5.0)
    for row in ROWS:
        report.rows.append(measured(row.way, row.load, 12_345.0, 100_000))
        report.loads.append(99.0)
    out = io.StringIO()
    print_report(report, Console(file=out, width=80))
    shown = out.getvalue()
    assert shown.startswith(f"feed, commit {commit()}, 2026-01-02 03:04 UTC, load ")
    assert shown.count("plain nats-py") == 4
    assert "This machine was busy (load average 99.0" in shown
    assert "…" not in shown


def test_lost_ticks_are_shown_whatever_the_figures() -> None:
    report = Report(BEGAN, 5.0, [measured(Way.SIMULATED, Load.EVEN, 1.0, 5_000, lost=3)], [0.0])
    assert not report.ok
    out = io.StringIO()
    print_report(report, Console(file=out, width=80))
    assert "5,000 ticks were published: 3 lost, 0 repeated." in out.getvalue()
    assert "busy" not in out.getvalue()


def soaked(*resident: float, **changes: object) -> Soak:
    samples = [
        Sample(10.0 * n, 60_000 * n, 1.0, 2.0, 3.0, 0.5, {"gateway": mib})
        for n, mib in enumerate(resident, 1)
    ]
    latencies = Latencies()
    latencies.add(1_000)
    soak = Soak(6_000.0, samples, latencies, 600.0, 100, {TICKS: 100, BATCHES: 100})
    soak.cpu_us = {"gateway": 9.0}
    for name, value in changes.items():
        setattr(soak, name, value)
    return soak


def test_memory_is_flat_if_it_stays_where_it_settled() -> None:
    steady = [60.0, *[100.0] * 99]
    assert soaked(*steady).ok
    assert soaked(*steady).growth == {"gateway": (100.0, 100.0)}
    leaking = [100.0 + number for number in range(100)]
    assert not soaked(*leaking).flat
    assert not soaked(*leaking).ok


@pytest.mark.parametrize(
    "changes",
    [
        {"received": {TICKS: 100, BATCHES: 99}},
        {"missed": 1},
        {"repeated": 1},
        {"conflated": 1},
        {"published": 0},
    ],
)
def test_a_long_run_fails_if_anything_is_wrong_with_any_form(changes: dict[str, object]) -> None:
    soak = soaked(100.0, 100.0, **changes)
    assert not soak.ok
    out = io.StringIO()
    print_soak(Report(BEGAN, 5.0), soak, Console(file=out, width=80))
    assert "Memory is flat." in out.getvalue()
