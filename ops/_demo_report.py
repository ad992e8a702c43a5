"""What the demo found, for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from attrs import asdict, define, field, frozen
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aegis.ops._ledger import Finding, Problem

__all__ = ["Kill", "Latency", "Report", "latency_of", "print_report"]

_SHOWN_FINDINGS = 10


@frozen
class Latency:
    """Times from a command to its answer, in milliseconds, over ``count`` commands."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def latency_of(seconds: Sequence[float]) -> Latency:
    """Return the percentiles (nearest rank) of durations in seconds."""
    if not seconds:
        return Latency(0, 0.0, 0.0, 0.0)
    ordered = sorted(seconds)

    def rank(share: float) -> float:
        return round(ordered[math.ceil(share * len(ordered)) - 1] * 1000, 3)

    return Latency(len(ordered), rank(0.5), rank(0.99), rank(1.0))


@define
class Kill:
    """An active node that was killed: what was under way, and how long callers waited."""

    node: str
    successor: str
    """Its standby, which took over."""
    pid: int
    after_orders: int
    open_commands: int
    failover_seconds: float
    """From the kill to the first answer to a command that was sent after it."""
    outage_seconds: float
    """From the kill until all that the node owned had answered."""
    latency: Latency
    """Of the commands to this node that were open at some time of the outage."""


@define
class Report:
    """All the figures of one run."""

    seed: int
    orders: int
    seconds: float
    trading_seconds: float
    nodes: list[str]
    sent: int
    acknowledged: int
    rejected: int
    refused: int
    unanswered: int
    queries: int
    latency: Latency
    latency_undisturbed: Latency
    """Of the commands that were not open while a node was down."""
    kills: list[Kill]
    trades: int
    open_orders: int
    accounts: int
    cash: str
    fees: str
    findings: list[Finding] = field(factory=list[Finding])

    @property
    def ok(self) -> bool:
        """Whether every command took effect exactly once and the books agree."""
        return not self.findings

    def count(self, problem: Problem) -> int:
        """Return how many findings are of this kind."""
        return sum(finding.problem is problem for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        document: dict[str, Any] = {"ok": self.ok}
        document |= asdict(self)
        document |= {
            "lost": self.count(Problem.LOST),
            "repeated": self.count(Problem.REPEATED),
            "wrong": self.count(Problem.WRONG),
        }
        return document


def print_report(report: Report, console: Console) -> None:
    """Print the report for a person."""
    console.print(_commands(report))
    console.print(_latencies(report))
    if report.kills:
        console.print(_failovers(report))
    if report.ok:
        console.print(
            f"[bold green]The books agree:[/] {report.accounts} accounts hold {report.cash} in "
            f"cash and have paid {report.fees} in fees, entry by entry as an independent ledger "
            f"has it from the answers; all {report.trades} trades are those of price-time "
            f"priority, paid once and delivered once."
        )
    else:
        console.print(f"[bold red]The check found {len(report.findings)} things wrong:[/]")
        for finding in report.findings[:_SHOWN_FINDINGS]:
            console.print(Text(f"  {finding.problem}  {finding.where}: {finding.text}"))
        more = len(report.findings) - _SHOWN_FINDINGS
        if more > 0:
            console.print(f"  ... and {more} more; all are in the output of --json")
    console.print(_next_steps(), highlight=False)


def _commands(report: Report) -> Table:
    table = Table(title=f"{report.orders} orders, seed {report.seed}", title_justify="left")
    table.add_column("commands")
    table.add_column("number", justify="right")
    rows: list[tuple[str, int, str]] = [
        ("sent", report.sent, ""),
        ("acknowledged", report.acknowledged, ""),
        ("rejected by a service: a business answer", report.rejected, ""),
        ("refused while nobody owned it, sent anew", report.refused, ""),
        ("without an answer", report.unanswered, _colour(report.unanswered)),
        ("lost", report.count(Problem.LOST), _colour(report.count(Problem.LOST))),
        ("repeated", report.count(Problem.REPEATED), _colour(report.count(Problem.REPEATED))),
    ]
    for name, number, style in rows:
        table.add_row(name, f"{number}", style=style)
    rate = report.sent / report.trading_seconds if report.trading_seconds else 0.0
    table.caption = (
        f"{report.trading_seconds:.1f} s of {report.seconds:.1f} s trading: {rate:.0f}/s"
    )
    table.caption_justify = "left"
    return table


def _colour(number: int) -> str:
    return "bold red" if number else "bold green"


def _latencies(report: Report) -> Table:
    table = Table(title="From command to answer", title_justify="left")
    for name in ("", "commands", "p50 ms", "p99 ms", "max ms"):
        table.add_column(name, justify="right" if name else "left")
    rows = [("all", report.latency)]
    if report.kills:
        rows.append(("but for the failovers", report.latency_undisturbed))
    rows += [(f"at {kill.node}, when killed", kill.latency) for kill in report.kills]
    for name, latency in rows:
        figures = (latency.p50_ms, latency.p99_ms, latency.max_ms)
        table.add_row(name, str(latency.count), *(f"{figure:.1f}" for figure in figures))
    return table


def _failovers(report: Report) -> Table:
    table = Table(title="Killed with SIGKILL under load", title_justify="left")
    table.add_column("active")
    table.add_column("open commands", justify="right")
    table.add_column("standby")
    for name in ("first answer", "all answer"):
        table.add_column(name, justify="right")
    for kill in report.kills:
        times = (kill.failover_seconds, kill.outage_seconds)
        table.add_row(
            kill.node,
            str(kill.open_commands),
            kill.successor,
            *(f"{seconds * 1000:,.0f} ms" for seconds in times),
        )
    return table


def _next_steps() -> str:
    return (
        "Where to look next:\n"
        "  examples/trading/       the services that were just run\n"
        "  aegis demo --seed 2     other orders; --json for programs\n"
        "  aegis run examples/accounts.py:Account --resource ACC-1\n"
        "                          a service of your own\n"
        "  aegis tree              what runs, once something does\n"
        "  aegis bench             how fast it is beside plain NATS\n"
        "  aegis bench failover    how long callers wait when an owner is lost"
    )
