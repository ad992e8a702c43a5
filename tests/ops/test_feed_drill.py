"""The drill: what it makes of what a consumer saw, and whole ones."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import pytest

from aegis._config import ConnectOptions
from aegis.errors import ConfigurationError
from aegis.marketdata import Tick, TickGap
from aegis.ops._feed_drill import run_drill
from aegis.ops._feed_drill_report import DrillReport, Witness
from tests.support.feeds import TWO_FEEDS
from tests.support.marketdata import tick


def witness(*ticks: Tick, changes: int = 1) -> DrillReport:
    """Return the report of a consumer that got these, one each second from the fault on."""
    seen = Witness("a", "b", broken_at=100.0)
    seen.gaps = [TickGap("SHFE", 9, 0, feed_changed=True)] * changes + [TickGap("SHFE", 7, 3)]
    for number, one in enumerate(ticks):
        seen.take(one, 100.0 + number)
    return seen.report("kill", "node")


OLD = tick(feed="a", epoch=7, sequence=4, volume=100)
NEW = tick(feed="b", epoch=9, sequence=1, volume=200, time_ns=OLD.time_ns + 1)


def test_it_tells_the_last_of_the_old_and_the_first_of_the_new_feed() -> None:
    report = witness(OLD, NEW, NEW._replace(sequence=2, volume=300, exchange="DCE"))
    assert report.passed
    assert (report.old_last, report.new_first) == ("SHFE.rb2701 4", "SHFE.rb2701 1")
    assert (report.old_epoch, report.new_epoch) == (7, 9)
    assert (report.after_fault, report.gap, report.exchange_gaps) == (1.0, 1.0, {"SHFE": 1.0})
    assert (report.missed, report.before, report.after) == (3, 1, 2)


@pytest.mark.parametrize(
    "again",
    [
        OLD._replace(sequence=2, feed="b", epoch=9),
        NEW,
        NEW._replace(sequence=2, received_ns=NEW.received_ns + 1),
        NEW._replace(sequence=2, time_ns=OLD.time_ns),
        NEW._replace(sequence=2, volume=150),
    ],
    ids=["the old feed's again", "the same", "another number", "an older time", "a lower volume"],
)
def test_a_tick_that_is_no_news_fails_the_drill(again: Tick) -> None:
    report = witness(OLD, NEW, again)
    assert report.duplicates == 1
    assert not report.passed
    assert "FAILED" in report.lines()[-1]


def test_a_change_that_was_not_told_fails_the_drill() -> None:
    assert not witness(OLD, NEW, changes=0).passed


@pytest.mark.parametrize(
    ("text", "kind", "problem"),
    [
        (TWO_FEEDS.partition("[feeds.b")[0], "kill", "a drill needs two feeds"),
        (TWO_FEEDS, "fire", "--kind fire: it is one of kill, silence, disconnect, lag"),
        (
            TWO_FEEDS.replace(
                "[feeds.a.simulated]\nfutures = 60\noptions = 0\nrate = 4.0", ""
            ).replace("[feeds.b", '[feeds.a.replay]\nfiles = ["day.csv"]\n[feeds.b'),
            "lag",
            "only a simulated feed can be told to fail like that, and a is none",
        ),
    ],
    ids=["one feed", "no such kind", "not simulated"],
)
def test_what_cannot_be_drilled_is_refused(
    tmp_path: Path, text: str, kind: str, problem: str
) -> None:
    market = tmp_path / "market.toml"
    market.write_text(text)
    with pytest.raises(ConfigurationError, match=problem):
        run_drill(ConnectOptions(), market, kind, told_server=False)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("kind", "cause"), [("kill", "node"), ("silence", "silence")])
async def test_a_drill_shows_a_change_without_a_tick_twice(
    tmp_path: Path, kind: str, cause: str
) -> None:
    market = tmp_path / "market.toml"
    market.write_text(TWO_FEEDS)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AEGIS_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aegis", "feed", "drill", str(market)),
        *("--kind", kind, "--json"),
        env=environment,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )
    out, error = await process.communicate()
    assert process.returncode == 0, f"{out.decode()}{error.decode()}"
    report = json.loads(out)
    assert (report["passed"], report["duplicates"], report["cause"]) == (True, 0, cause)
    assert (report["old_feed"], report["new_feed"]) == ("a", "b")
    assert report["new_epoch"] > report["old_epoch"]
    assert report["before"] > 50
    assert report["after"] > 50
