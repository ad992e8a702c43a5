"""`aegis bench failover`: a short run of every kind, against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aegis.ops._bench import main
from aegis.ops._bench_failover import Kind
from tests.support.processes import processes_of

BENCH = "import sys; from aegis.ops._bench import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.timeout(240)
def test_a_short_run_loses_and_repeats_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", BENCH, "failover", "--kills", "1", "--json"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "HOME": str(tmp_path)},
        timeout=230,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["ok"] is True
    kinds = {kind["kind"]: kind for kind in report["kinds"]}
    assert set(kinds) == set(Kind)
    for kind in kinds.values():
        assert kind["count"] == 1
        assert 0 < kind["median_ms"] <= kind["p99_ms"] <= kind["max_ms"]
        assert kind["longest_call_ms"] > 0
        assert kind["acknowledged"] == kind["effects"] > 0
        assert kind["failed"] == kind["wrong"] == []
    assert not list(tmp_path.iterdir()), "files are left"
    assert not processes_of(tmp_path), "processes are left"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--kills", "0"], "--kills: 0 is not from 1"),
        (["--rate", "nan"], "--rate: nan is not from 1"),
        (["--only", "hug"], "invalid choice: 'hug'"),
    ],
)
def test_a_bad_option_is_told_before_anything_starts(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["failover", *arguments])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
