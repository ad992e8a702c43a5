"""`aegis chaos`, the short form: real processes, random faults, ledgers outside of Aegis."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aegis.errors import ConfigurationError
from aegis.ops._chaos import main
from aegis.ops._chaos_faults import Fault
from aegis.ops._chaos_hosts import NoHosts, open_hosts
from aegis.ops._chaos_open import Shape
from aegis.ops._chaos_report import Report
from tests.support.processes import processes_of

CHAOS = "import sys; from aegis.ops._chaos import main; sys.exit(main(sys.argv[1:]))"


def run_chaos(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run it; nothing may be wrong, and nothing left."""
    result = subprocess.run(
        [sys.executable, "-c", CHAOS, *arguments, "--json"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(folder), "HOME": str(folder)},
        timeout=230,
    )
    assert result.stdout, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    assert report["wrong"] == [], f"{arguments}: {report}"
    assert report["ok"] is True
    assert result.returncode == 0
    assert not list(folder.iterdir()), "files are left"
    assert not processes_of(folder), "processes are left"
    return report


def assert_worked(report: dict[str, Any]) -> None:
    """Every kind of work was done, and faults happened meanwhile."""
    assert report["transfers"]["done"] > 0
    assert "open" not in report["transfers"]
    assert report["register_reads"] > 0
    assert report["register_writes"] > 0
    assert report["deals"]["booked"] > 0
    assert "open" not in report["deals"]
    assert report["letters_taken"] >= report["letters"] > 0
    assert report["bells"]["rung"] > 0
    assert report["bells"]["forgotten"] > 0
    assert report["acknowledged"] >= report["entries"] > 0
    assert report["messages"] == report["acknowledged"] + report["unknown"]
    assert sum(report["faults"].values()) > 0
    assert set(report["faults"]) <= set(Fault)
    done = [what for _, what, _ in report["fault_log"] if what in set(Fault)]
    assert len(done) == sum(report["faults"].values())


@pytest.mark.timeout(240)
def test_random_faults_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    report = run_chaos(tmp_path, "--minutes", "0.35", "--seed", "4")
    assert_worked(report)
    assert report["servers"] == 1
    assert report["seed"] == 4


@pytest.mark.timeout(240)
def test_random_faults_at_three_servers_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    report = run_chaos(tmp_path, "--minutes", "0.35", "--seed", "7", "--servers", "3")
    assert_worked(report)
    assert report["servers"] == 3


@pytest.mark.timeout(240)
def test_hosts_that_are_cut_off_lose_nothing_or_the_run_says_why_there_are_none(
    tmp_path: Path,
) -> None:
    report = run_chaos(tmp_path, "--minutes", "0.25", "--seed", "5", "--partitions")
    assert_worked(report)
    assert report["partitions"] is not bool(report["no_partitions"])
    if report["partitions"]:
        assert report["faults"].keys() & {Fault.CUT_NODE, Fault.CUT_CALLER}
    else:
        print(f"no partitions: {report['no_partitions']}")


@pytest.mark.timeout(120)
async def test_a_run_that_is_told_to_end_leaves_nothing_behind(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", CHAOS, "--minutes", "5", "--seed", "1"),
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert b"faults for 300 s, seed 1" in await process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    said = await process.stderr.read()
    assert await process.wait() == 130
    assert said.endswith(b"Interrupted (seed 1); all that was started has been stopped.\n")
    assert not os.listdir(tmp_path), "files are left"
    assert not processes_of(tmp_path), "processes are left"


async def test_without_the_ip_command_there_are_no_hosts_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoHosts, match="no `ip` command"):
        async with open_hosts(["node-1"]):
            raise AssertionError("it opened")


async def test_a_refusal_of_the_kernel_is_the_reason_that_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ip = tmp_path / "ip"
    ip.write_text("#!/bin/sh\necho 'RTNETLINK answers: Operation not permitted' >&2\nexit 2\n")
    ip.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(NoHosts, match="type bridge: RTNETLINK answers: Operation not permitted"):
        async with open_hosts(["node-1"]):
            raise AssertionError("it opened")


# -- reports and arguments -------------------------------------------------------------------


def test_a_report_with_anything_wrong_is_not_ok() -> None:
    report = Report(1, Shape(), 1.0)
    assert report.ok
    report.verdict.wrong.append("an entry is lost")
    assert not report.ok


def test_a_report_with_a_letter_lost_is_not_ok() -> None:
    report = Report(1, Shape(), 1.0)
    report.mail.wrong.append("a letter is lost")
    assert not report.ok


@pytest.mark.parametrize(("reads", "ok"), [(99, False), (100, True)])
def test_a_run_in_which_too_little_was_done_is_not_ok(reads: int, ok: bool) -> None:
    report = Report(1, Shape(), 10.0)
    report.verdict.register_reads = reads
    report.judge_amount()
    assert report.ok is ok
    assert ok or report.all_wrong == ["only 99 operations in 10 s; at least 100 must end"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--minutes", "0"], "--minutes: 0 is not above 0"),
        (["--minutes", "-1"], "--minutes: -1 is not above 0"),
        (["--minutes", "nan"], "--minutes: nan is not above 0"),
        (["--minutes", "100000"], "and at most 1440"),
        (["--minutes", "long"], "--minutes: invalid float value: 'long'"),
        (["--servers", "2"], "--servers: invalid choice: 2"),
        (["--seed", "x"], "--seed: invalid int value: 'x'"),
        (["more"], "unrecognized arguments: more"),
    ],
)
def test_a_wrong_argument_is_told_before_anything_starts(arguments: list[str], told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        main(arguments)
    assert told in str(refused.value)
