"""`aegis bench failover`: a short run against a real server, and its arithmetic."""

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
from aegis.ops._bench import main
from aegis.ops._bench_failover_report import print_report, to_plain
from aegis.ops._bench_failover_rows import PLANS, FailoverReport, FollowingReport, Row, RowReport
from aegis.ops._bench_stats import Figures
from aegis.ops._version import commit
from tests.support.processes import processes_of

BENCH = "import sys; from aegis.ops._bench import main; sys.exit(main(sys.argv[1:]))"
BEGAN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.mark.timeout(120)
def test_a_short_run_loses_and_repeats_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    rows = [Row.KILL, Row.TERM, Row.STANDBY]
    options = ["failover", "--json", "--kills", "1", "--only", ",".join(rows)]
    result = subprocess.run(
        [sys.executable, "-c", BENCH, *options],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "HOME": str(tmp_path)},
        timeout=110,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert report["commit"]
    assert [row["row"] for row in report["rows"]] == rows
    for row in report["rows"]:
        assert row["count"] == 1
        assert row["acknowledged"] == row["effects"] > 0
        assert row["failed"] == row["wrong"] == []
        assert row["meets"] in (True, False)
    for row in report["rows"][:2]:
        assert 0 < row["median_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["longest_call_ms"] > 0
    assert report["rows"][2]["ratio_p99"] > 0
    assert not list(tmp_path.iterdir()), "files are left"
    assert not processes_of(tmp_path), "processes are left"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--kills", "0"], "--kills: 0 is not from 1"),
        (["--rate", "nan"], "--rate: nan is not from 1"),
        (["--only", "kill,hug"], "--only: 'hug' is none of: kill, kill-leader, "),
        (["--only"], "--only: expected one argument"),
    ],
)
def test_a_bad_option_is_told_before_anything_starts(arguments: list[str], told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        main(["failover", *arguments])
    assert told in str(refused.value)


def measured(row: Row, milliseconds: list[float], calls: list[float]) -> FailoverReport:
    return FailoverReport(
        row,
        acknowledged=9,
        effects=9,
        times=[one / 1000 for one in milliseconds],
        longest_calls=[one / 1000 for one in calls],
    )


def figures(p50_ms: float, p99_ms: float) -> Figures:
    return Figures(200, p50_ms, p99_ms, p99_ms, 200.0)


@pytest.mark.parametrize(
    ("report", "meets"),
    [
        (measured(Row.KILL, [20, 30, 249], [1, 1, 1]), True),
        (measured(Row.KILL, [20, 30, 250], [1, 1, 1]), False),
        (measured(Row.KILL, [20, 101, 102], [1, 1, 1]), False),
        (measured(Row.STOP, [2299], [9000]), True),
        (measured(Row.TERM, [5], [101]), False),
        (measured(Row.TERM, [101], [5]), True),
        (measured(Row.SERVER, [5], [5]), None),
        (measured(Row.KILL, [], []), None),
        (FollowingReport(Row.STANDBY, following=[figures(2, 13)], alone=[figures(1, 10)]), True),
        (FollowingReport(Row.STANDBY, following=[figures(1, 14)], alone=[figures(1, 10)]), False),
        (FollowingReport(Row.STANDBY), None),
    ],
)
def test_a_goal_is_met_by_what_was_measured_and_by_nothing_else(
    report: RowReport, meets: bool | None
) -> None:
    assert report.meets is meets


def test_what_was_lost_or_failed_is_shown_whatever_the_figures() -> None:
    reports = [
        measured(Row.KILL, [20], [25]),
        FailoverReport(Row.STOP, failed=["T-1: OutcomeUnknown"]),
        FailoverReport(Row.SERVER, acknowledged=3, effects=2, wrong=["T-2: 3 told, holds 2"]),
    ]
    assert [report.ok for report in reports] == [True, False, False]
    assert to_plain(reports, BEGAN, 200.0, 1)["ok"] is False
    out = io.StringIO()
    print_report(reports, BEGAN, 200.0, Console(file=out, width=80))
    shown = out.getvalue()
    assert "12 commands were acknowledged, and took effect 11 times; 1 failed." in shown
    assert "stop: T-1: OutcomeUnknown" in shown
    assert "server: T-2: 3 told, holds 2" in shown


def test_the_table_of_all_rows_fits_80_columns_and_says_when_and_of_what() -> None:
    reports: list[RowReport] = [
        measured(row, [12_345.0], [12_345.0]) for row in Row if row is not Row.STANDBY
    ]
    rounds = [figures(100, 1000)]
    reports.append(FollowingReport(Row.STANDBY, following=rounds, alone=rounds))
    out = io.StringIO()
    print_report(reports, BEGAN, 200.0, Console(file=out, width=80))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[0].startswith(f"failover, commit {commit()}, 2026-01-02 03:04 UTC, load ")
    for number, row in enumerate(Row, 2):
        assert lines[number].startswith(PLANS[row].title)
        assert lines[number].split()[-1] in ("yes", "no", "-")
    assert "…" not in out.getvalue()
