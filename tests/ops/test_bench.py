"""`aegis bench` as a whole: a short run against a real server."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aegis.errors import ConfigurationError
from aegis.ops._bench import main
from aegis.ops._bench_cases import CASES, Mode
from tests.support.poll import wait_until
from tests.support.processes import processes_of

BENCH = "import sys; from aegis.ops._bench import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.timeout(180)
def test_a_quick_run_measures_everything_and_loses_nothing(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", BENCH, "--quick", "--seconds", "0.05", "--json"],
        capture_output=True,
        text=True,
        env=_environment(tmp_path),
        timeout=170,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert [run["fsync"] for run in report["runs"]] == ["off", "on"]
    for run in report["runs"]:
        rows = {f"{row['case']}/{row['at']}": row for row in run["rows"]}
        assert set(rows) == {case.name for case in CASES}
        for row in rows.values():
            assert row["failed"] == row["lost"] == 0, row
            assert row["count"] > 0
            # A reminder may come within the millisecond of its time.
            least = 0 if row["case"] == "reminder" else sys.float_info.min
            assert least <= row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
            assert (row["limit"] is None) == (row["ratio"] is None)
            assert not (row["is_limit"] and row["limit"])
            assert (row["meets"] is None) == (
                row["target_ratio"] is None and row["target_ms"] is None
            )
        assert run["acknowledged"] == run["effects"] > 0
    assert report["idle"][0]["count"] > 0
    assert report["idle"][0]["kib_each"] > 0
    _check_nothing_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_run_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        BENCH,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(tmp_path),
    )
    await wait_until(lambda: any(tmp_path.glob("*/off/node.log")), what="the node is started")
    process.send_signal(number)
    _, said = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == 130
    assert said == b"Interrupted; all that was started has been stopped.\n"
    _check_nothing_left(tmp_path)


def _check_nothing_left(folder: Path) -> None:
    assert not list(folder.iterdir()), "files are left"
    assert not processes_of(folder), "processes are left"


def _environment(folder: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "TMPDIR": str(folder), "HOME": str(folder)}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--seconds", "0"], "--seconds: 0 is not above 0"),
        (["--seconds", "nan"], "--seconds: nan"),
        (["--rounds", "0"], "--rounds: 0 is not from 1"),
        (["--only", "queries"], "'queries' is none of: "),
        (["--sync", "often"], "invalid choice: 'often'"),
    ],
)
def test_a_bad_option_is_told_before_anything_starts(arguments: list[str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        main(arguments)


def test_the_names_of_cases_are_what_only_takes() -> None:
    with pytest.raises(ConfigurationError) as raised:
        main(["--only", "nothing"])
    said = str(raised.value)
    for case in CASES:
        assert case.name in said
    for mode in Mode:
        assert str(mode) in said
