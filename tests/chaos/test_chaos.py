"""`aegis chaos`, the short form: real processes, random faults, an independent ledger."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aegis.ops._chaos import Fault, Report, main
from aegis.ops._chaos_ledger import Ledger
from tests.support.processes import processes_of

CHAOS = "import sys; from aegis.ops._chaos import main; sys.exit(main(sys.argv[1:]))"
SEED = 4


@pytest.mark.soak  # Minutes of faults: not for every run of the suite.
@pytest.mark.timeout(240)
def test_random_faults_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", CHAOS, "--minutes", "0.35", "--seed", str(SEED), "--json"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "HOME": str(tmp_path)},
        timeout=230,
    )
    assert result.stdout, result.stderr
    report = json.loads(result.stdout)
    assert report["ok"] is True, f"seed {SEED}: {report}"
    assert result.returncode == 0
    assert report["acknowledged"] > 0
    assert report["unknown"] >= report["unknown_applied"]
    assert sum(report["faults"].values()) > 0
    assert set(report["faults"]) <= set(Fault)
    assert not list(tmp_path.iterdir()), "files are left"
    assert not processes_of(tmp_path), "processes are left"


# -- the ledger ----------------------------------------------------------------------------

ACCOUNT = ("chaos-purse", "R-0")


def ledger(folder: Path, *lines: list[Any]) -> Ledger:
    file = folder / "caller.jsonl"
    file.write_text("".join(json.dumps([what, *ACCOUNT, *rest]) + "\n" for what, *rest in lines))
    made = Ledger()
    made.read("caller", file)
    return made


def held(
    entries: int, cash: int, highest: int, holes: tuple[int, ...] = (), repeated: int = 0
) -> dict[tuple[str, str], dict[str, Any]]:
    applied = {"caller": {"highest": highest, "holes": list(holes)}}
    return {ACCOUNT: {"entries": entries, "cash": cash, "repeated": repeated, "applied": applied}}


ONE = [["asked", 1, 5], ["told", 1, [1, 5, 0.01]]]
TWO = [*ONE, ["asked", 2, 7], ["told", 2, [2, 12, 0.01]]]


def test_the_ledger_finds_nothing_wrong_where_nothing_is(tmp_path: Path) -> None:
    verdict = ledger(tmp_path, *TWO).check(held(2, 12, 2))
    assert verdict.wrong == []
    assert (verdict.acknowledged, verdict.unknown) == (2, 0)


@pytest.mark.parametrize(("sums", "applied"), [(held(1, 5, 1), 0), (held(2, 12, 2), 1)])
def test_the_ledger_decides_what_a_killed_caller_was_not_told(
    tmp_path: Path, sums: dict[tuple[str, str], dict[str, Any]], applied: int
) -> None:
    verdict = ledger(tmp_path, *ONE, ["asked", 2, 7]).check(sums)
    assert verdict.wrong == []
    assert (verdict.unknown, verdict.unknown_applied) == (1, applied)


@pytest.mark.parametrize(
    ("sums", "told"),
    [
        (held(1, 5, 1), "deposit 2 of caller is lost"),
        (held(1, 7, 2, (1,)), "deposit 1 of caller is lost"),
        (held(3, 19, 2, repeated=1), "1 deposits were applied twice"),
        (held(3, 19, 2), "holds 3 entries and 19; what was applied makes 2 and 12"),
        (held(2, 13, 2), "holds 2 entries and 13; what was applied makes 2 and 12"),
        (held(3, 12, 3), "nobody asked for deposit 3 of caller"),
    ],
)
def test_the_ledger_finds_what_is_lost_repeated_or_wrong(
    tmp_path: Path, sums: dict[tuple[str, str], dict[str, Any]], told: str
) -> None:
    assert told in "\n".join(ledger(tmp_path, *TWO).check(sums).wrong)


def test_the_ledger_finds_an_entry_that_two_callers_were_told(tmp_path: Path) -> None:
    lines = [*ONE, ["asked", 2, 7], ["told", 2, [1, 7, 0.01]]]
    assert "entry 1 was told" in "\n".join(ledger(tmp_path, *lines).check(held(2, 12, 2)).wrong)


def test_a_report_with_anything_wrong_is_not_ok() -> None:
    report = Report(seed=1, seconds=1.0)
    assert report.ok
    report.wrong.append("too few deposits")
    assert not report.ok


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "100000"])
def test_a_bad_length_is_told_before_anything_starts(
    minutes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--minutes", minutes])
    assert ended.value.code == 2
    assert "--minutes" in capsys.readouterr().err
