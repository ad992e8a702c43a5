"""The verdict on a feed, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from aegis.marketdata._health import Limits, Verdict, judge


def status(**changes: Any) -> dict[str, Any]:
    plain = {
        "state": "ready",
        "publishing": True,
        "lag_p99": 0.02,
        "bridge": {"depth": 0},
        "subscriptions": {"refused": 0},
        "failure": None,
        "exchanges": [exchange()],
    }
    return plain | changes


def exchange(**changes: Any) -> dict[str, Any]:
    plain = {
        "exchange": "SHFE",
        "phase": "open",
        "wanted": 1000,
        "ratio": 1.0,
        "missing_count": 0,
        "stalled_count": 0,
        "silent": False,
        "quiet_seconds": 0.1,
    }
    return plain | changes


CASES: list[tuple[dict[str, Any], Verdict, str | None]] = [
    ({}, Verdict.FINE, None),
    ({"state": "connecting"}, Verdict.CRITICAL, "the gateway is connecting"),
    (
        {"state": "failed", "failure": {"reason": "wrong password"}},
        Verdict.CRITICAL,
        "the gateway is failed: wrong password",
    ),
    ({"publishing": False}, Verdict.CRITICAL, "the feed publishes nothing"),
    ({"publishing": False, "role": "standby"}, Verdict.FINE, None),
    ({"state": "connecting", "role": "standby"}, Verdict.CRITICAL, "the gateway is connecting"),
    ({"connected": True}, Verdict.FINE, None),
    ({"connected": False}, Verdict.CRITICAL, "no connection to the server"),
    (
        {"connected": False, "publishing": False, "role": "standby"},
        Verdict.CRITICAL,
        "no connection to the server",
    ),
    ({"exchanges": []}, Verdict.CRITICAL, "no contract is subscribed"),
    ({"lag_p99": None}, Verdict.FINE, None),
    ({"lag_p99": 1.0}, Verdict.FINE, None),
    ({"lag_p99": 1.1}, Verdict.DEGRADED, "ticks are 1.1 s old"),
    ({"lag_p99": 3.1}, Verdict.CRITICAL, "ticks are 3.1 s old"),
    ({"bridge": {"depth": 5_000}}, Verdict.FINE, None),
    ({"bridge": {"depth": 5_001}}, Verdict.DEGRADED, "5001 ticks wait"),
    ({"calendar_days_left": None}, Verdict.FINE, None),
    ({"calendar_days_left": 10}, Verdict.FINE, None),
    ({"calendar_days_left": 9}, Verdict.DEGRADED, "the calendar still knows: 9;"),
    ({"subscriptions": {"refused": 2}}, Verdict.DEGRADED, "2 subscriptions were refused"),
]

EXCHANGE_CASES: list[tuple[dict[str, Any], Verdict, str | None]] = [
    ({"ratio": 0.995}, Verdict.FINE, None),
    ({"ratio": 0.994, "missing_count": 6}, Verdict.DEGRADED, "SHFE: 6 of 1000 contracts"),
    ({"ratio": 0.95, "missing_count": 50}, Verdict.DEGRADED, "95.0% covered"),
    ({"ratio": 0.94, "missing_count": 60}, Verdict.CRITICAL, "94.0% covered"),
    ({"ratio": 0.5, "phase": "break"}, Verdict.FINE, None),
    ({"ratio": 0.5, "phase": "closed"}, Verdict.FINE, None),
    ({"stalled_count": 3}, Verdict.DEGRADED, "3 contracts have ticked and fell"),
    ({"silent": True, "quiet_seconds": 7.4}, Verdict.CRITICAL, "no tick for 7 s"),
    ({"silent": True, "quiet_seconds": None}, Verdict.CRITICAL, "since the opening"),
]


@pytest.mark.parametrize(
    ("given", "verdict", "text"),
    [(status(**changes), verdict, text) for changes, verdict, text in CASES]
    + [(status(exchanges=[exchange(**c)]), verdict, text) for c, verdict, text in EXCHANGE_CASES],
)
def test_a_feed_is_as_well_as_its_worst_finding(
    given: dict[str, Any], verdict: Verdict, text: str | None
) -> None:
    health = judge(given)
    assert health.verdict is verdict
    if text is None:
        assert health.findings == ()
    else:
        assert text in health.findings[0].text


def test_only_the_exchange_that_is_asked_for_counts() -> None:
    given = status(exchanges=[exchange(), exchange(exchange="DCE", silent=True)])
    assert judge(given).verdict is Verdict.CRITICAL
    assert judge(given, "SHFE").verdict is Verdict.FINE
    assert judge(given, "DCE").verdict is Verdict.CRITICAL


def test_the_worst_comes_first() -> None:
    given = status(lag_p99=1.5, exchanges=[exchange(silent=True)])
    verdicts = [finding.verdict for finding in judge(given).findings]
    assert verdicts == [Verdict.CRITICAL, Verdict.DEGRADED]


def test_coverage_that_is_asked_for_counts_in_breaks() -> None:
    wanted = Limits(coverage_always=0.9)
    given = status(exchanges=[exchange(phase="closed", ratio=0.89, missing_count=110)])
    assert judge(given, limits=wanted).verdict is Verdict.CRITICAL
    given["exchanges"][0]["ratio"] = 0.9
    assert judge(given, limits=wanted).verdict is Verdict.FINE
