"""`aegis bench --no-metrics`: two nodes in turn, one of them observed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import processes_of


@pytest.mark.timeout(120)
def test_both_nodes_are_measured_and_nothing_is_left(tmp_path: Path) -> None:
    arguments = ["--no-metrics", "--rounds", "1", "--seconds", "0.05", "--json"]
    result = subprocess.run(
        [sys.executable, "-m", "aegis", "bench", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert [cost["kind"] for cost in report["costs"]] == ["query", "command"]
    for cost in report["costs"]:
        assert cost["per_second"] > 0
        assert cost["per_second_without"] > 0
    assert not processes_of(tmp_path)
    assert not list(tmp_path.iterdir())
