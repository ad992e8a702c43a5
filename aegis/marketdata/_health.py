"""How well a feed does: one verdict from its status, and every reason for it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from attrs import frozen

__all__ = ["Health", "Limits", "Verdict", "judge"]


class Verdict(IntEnum):
    """The verdict; its number is the exit code of the health command."""

    FINE = 0
    DEGRADED = 1
    CRITICAL = 2
    UNKNOWN = 3
    """Nobody could be asked."""


@frozen
class Limits:
    """From where on a figure is a reason. Shares are from 0 to 1, lags in seconds."""

    coverage_warn: float = 0.995
    coverage_critical: float = 0.95
    coverage_always: float | None = None
    """Below this it is critical in breaks and at night, too: what was subscribed then has
    been told how it stands. None to ask for nothing then."""
    lag_warn: float = 1.0
    lag_critical: float = 3.0
    queue_warn: int = 5_000
    calendar_warn: int = 10
    """Trading days that the calendar should still know: two weeks to get the next year's."""


@frozen
class Finding:
    """One reason, with the exchange that it is about, if it is about one."""

    verdict: Verdict
    text: str
    exchange: str = ""


@frozen
class Health:
    """A verdict, which is the worst of its findings."""

    verdict: Verdict
    findings: tuple[Finding, ...] = ()


def judge(status: Mapping[str, Any], exchange: str = "", limits: Limits | None = None) -> Health:
    """Return how a feed does by its status, of one exchange or of all.

    An exchange that is closed, or in a break, owes no ticks; what was covered before stays.
    """
    limits = limits or Limits()
    findings = [*_of_feed(status, limits)]
    reports = [
        report
        for report in status.get("exchanges", ())
        if not exchange or report["exchange"] == exchange
    ]
    for report in reports:
        findings += _of_exchange(report, limits)
    if not reports:
        findings.append(Finding(Verdict.CRITICAL, "no contract is subscribed"))
    findings.sort(key=lambda finding: -finding.verdict)
    return Health(findings[0].verdict if findings else Verdict.FINE, tuple(findings))


def _of_feed(status: Mapping[str, Any], limits: Limits) -> list[Finding]:
    found: list[Finding] = []
    state = status.get("state", "")
    if state != "ready":
        failure: Mapping[str, Any] = status.get("failure") or {}
        reason = f": {failure['reason']}" if failure.get("reason") else ""
        found.append(Finding(Verdict.CRITICAL, f"the gateway is {state or 'not there'}{reason}"))
    elif not status.get("publishing") and status.get("role") != "standby":
        found.append(Finding(Verdict.CRITICAL, "the feed publishes nothing"))
    if not status.get("connected", True):
        found.append(Finding(Verdict.CRITICAL, "the gateway has no connection to the server"))
    lag = status.get("lag_p99")
    if lag is not None and lag > limits.lag_critical:
        found.append(Finding(Verdict.CRITICAL, f"ticks are {lag:.1f} s old when they come (p99)"))
    elif lag is not None and lag > limits.lag_warn:
        found.append(Finding(Verdict.DEGRADED, f"ticks are {lag:.1f} s old when they come (p99)"))
    bridge: Mapping[str, Any] = status.get("bridge") or {}
    if bridge.get("depth", 0) > limits.queue_warn:
        found.append(Finding(Verdict.DEGRADED, f"{bridge['depth']} ticks wait to be handled"))
    days = status.get("calendar_days_left")
    if days is not None and days < limits.calendar_warn:
        text = f"trading days that the calendar still knows: {days}; add the next year's holidays"
        found.append(Finding(Verdict.DEGRADED, text))
    subscriptions: Mapping[str, int] = status.get("subscriptions") or {}
    refused = subscriptions.get("refused", 0)
    if refused:
        found.append(Finding(Verdict.DEGRADED, f"{refused} subscriptions were refused"))
    return found


def _of_exchange(report: Mapping[str, Any], limits: Limits) -> list[Finding]:
    name, ratio, is_open = report["exchange"], report["ratio"], report["phase"] == "open"
    found: list[Finding] = []

    def add(verdict: Verdict, text: str) -> None:
        found.append(Finding(verdict, f"{name}: {text}", name))

    least = 0.0 if limits.coverage_always is None else limits.coverage_always
    if ratio < least or (is_open and ratio < limits.coverage_warn):
        is_critical = ratio < max(least, limits.coverage_critical)
        verdict = Verdict.CRITICAL if is_critical else Verdict.DEGRADED
        add(
            verdict,
            f"{report['missing_count']} of {report['wanted']} contracts are missing ({ratio:.1%} covered)",
        )
    if report["silent"]:
        quiet = report["quiet_seconds"]
        since = "since the opening" if quiet is None else f"for {quiet:.0f} s"
        add(Verdict.CRITICAL, f"no tick {since} though it is open")
    elif report["stalled_count"]:
        count = report["stalled_count"]
        have = "contracts have" if count > 1 else "contract has"
        add(Verdict.DEGRADED, f"{count} {have} ticked and fell silent, far longer than usual")
    return found
