"""What `aegis feed validate` says of a market that can be started."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aegis.marketdata import _validation
from aegis.marketdata._validation import Problem
from aegis.ops import cli

pytestmark = pytest.mark.usefixtures("logging_restored")


def nothing_is_wrong(*_: object, **__: object) -> list[Problem]:
    """Stand in for what looks at this host's clock, too."""
    return []


def test_it_is_said_how_many_trading_days_the_calendar_still_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_validation, "check", nothing_is_wrong)
    year = datetime.now(UTC).year
    calendar, market = tmp_path / "calendar.toml", tmp_path / "market.toml"
    calendar.write_text(
        f'sessions = []\ntimezone = "UTC"\n[holidays]\n{year} = []\n{year + 1} = []\n'
    )
    market.write_text(f'calendar = "{calendar}"\n[feeds.a.simulated]\n')
    result = CliRunner().invoke(cli.app, ["feed", "validate", str(market)])
    assert result.exit_code == 0, result.output
    known = re.search(r"calendar: it knows (\d+) more trading days", result.output)
    assert known is not None, result.output
    assert 260 <= int(known[1]) <= 524
