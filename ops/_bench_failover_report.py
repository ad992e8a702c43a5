"""What `aegis bench failover` found, as a table of 80 columns and as JSON."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aegis.ops._bench_failover_rows import (
    MANY_RESOURCES,
    RESOURCES,
    FollowingReport,
    Row,
    RowReport,
)
from aegis.ops._bench_stats import median_figures
from aegis.ops._version import commit

__all__ = ["print_report", "to_plain"]

_SHOWN: Final = 5
_MET: Final = {True: Text("yes", style="green"), False: Text("no", style="red"), None: Text("-")}


def to_plain(
    reports: Sequence[RowReport], began: datetime, rate: float, seed: int
) -> dict[str, Any]:
    """Return the report as plain values."""
    return {
        "ok": all(report.ok for report in reports),
        "commit": commit(),
        "began": began.isoformat(timespec="seconds"),
        "rate": rate,
        "seed": seed,
        "load_average": round(os.getloadavg()[0], 2),
        "processors": os.cpu_count(),
        "rows": [report.to_plain() for report in reports],
    }


def print_report(
    reports: Sequence[RowReport], began: datetime, rate: float, console: Console
) -> None:
    """Print the report for a person."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("milliseconds", no_wrap=True)
    for name in ("n", "median", "p99", "max", "longest", "target", "met"):
        table.add_column(name, justify="right", no_wrap=True)
    for report in reports:
        goal = str(report.plan.goal) or "-"
        met = _MET[report.meets]
        table.add_row(report.plan.title, str(report.count), *report.cells(), goal, met)
    console.print(
        f"failover, commit {commit()}, {began:%Y-%m-%d %H:%M} UTC, "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors",
        style="bold",
    )
    console.print(table)
    acknowledged = sum(report.acknowledged for report in reports)
    effects = sum(report.effects for report in reports)
    console.print(
        f"{acknowledged:,} commands were acknowledged, and took effect {effects:,} times; "
        f"{sum(len(report.failed) for report in reports)} failed.",
        style="green" if all(report.ok for report in reports) else "bold red",
    )
    for report in reports:
        for text in [*report.failed[:_SHOWN], *report.wrong[:_SHOWN]]:
            console.print(f"{report.row}: {text}", style="red", soft_wrap=True)
    console.print(_legend(reports, rate), style="dim")


def _legend(reports: Sequence[RowReport], rate: float) -> str:
    rows = {report.row for report in reports}
    parts: list[str] = []
    if rows - {Row.STANDBY, Row.TERM}:
        parts.append(
            f"From the signal until every one of {RESOURCES} resources has acknowledged a command "
            f"of its new owner, at {rate:g} commands a second; longest: the longest wait of any "
            f"call."
        )
    if Row.TERM in rows:
        parts.append("SIGTERM: the longest wait of any call, each time.")
    if rows & {Row.KILL_UNPROVEN, Row.KILL_LEADER_UNPROVEN}:
        parts.append("No proof: without the system account, by timeout.")
    if Row.MANY in rows:
        parts.append(f"{MANY_RESOURCES:,} resources: until the last of them.")
    for report in reports:
        if isinstance(report, FollowingReport) and report.following:
            following, alone = median_figures(report.following), median_figures(report.alone)
            parts.append(
                f"A standby follows: latency of a command beside that without one, in turns at "
                f"the same owner; p50 {following.p50_ms:.2f} to {alone.p50_ms:.2f}, p99 "
                f"{following.p99_ms:.2f} to {alone.p99_ms:.2f}."
            )
    return " ".join(parts)
