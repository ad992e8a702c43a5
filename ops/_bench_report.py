"""What the bench found, as a table of 80 columns and as JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, evolve, field, frozen
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aegis.ops._bench_cases import Case, Figure, Goal, Mode, Sync, meets, ratio_of
from aegis.ops._bench_idle import MAX_KIB_EACH, MAX_START_SECONDS, START_COUNT, Idle
from aegis.ops._bench_load import Load
from aegis.ops._bench_stats import Figures, median_figures

__all__ = ["Report", "Row", "SyncReport", "print_report", "rows_of"]


@frozen
class Row:
    """One case: its figures, medians over the rounds, beside its limit's."""

    case: Case
    figures: Figures
    ratio: float | None
    goal: Goal | None
    meets: bool | None
    failed: int
    lost: int
    errors: Mapping[str, int]

    def to_plain(self, sync: Sync) -> dict[str, Any]:
        """Return it as plain values."""
        goal = self.goal
        return {
            "case": self.case.key,
            "title": self.case.title,
            "at": str(self.case.mode),
            "messages": self.case.messages,
            "is_limit": self.case.is_limit,
            "count": self.figures.count,
            "p50_ms": _finite(self.figures.p50_ms),
            "p99_ms": _finite(self.figures.p99_ms),
            "max_ms": _finite(self.figures.max_ms),
            "per_second": _finite(self.figures.per_second),
            "limit": self.case.limit(sync),
            "figure": str(self.case.figure),
            "ratio": None if self.ratio is None else _finite(self.ratio),
            "target_ratio": None if goal is None else goal.ratio,
            "target_ms": None if goal is None else goal.milliseconds,
            "meets": self.meets,
            "failed": self.failed,
            "lost": self.lost,
            "errors": dict(self.errors),
        }


@frozen
class SyncReport:
    """All rows with one setting of the server's fsync.

    ``acknowledged`` messages to counters were answered or told to have taken effect,
    ``effects`` the counters have.
    """

    sync: Sync
    rows: Sequence[Row]
    acknowledged: int
    effects: int

    @property
    def ok(self) -> bool:
        """Whether nothing failed, and each command took effect once."""
        clean = not any(row.failed or row.lost for row in self.rows)
        return clean and self.acknowledged == self.effects


@define
class Report:
    """All the figures of one run."""

    seconds: float
    rounds: int
    host: Mapping[str, Any]
    syncs: list[SyncReport] = field(factory=list[SyncReport])
    idle: list[Idle] = field(factory=list[Idle])

    @property
    def ok(self) -> bool:
        """Whether all ran; how fast is no matter."""
        return all(sync.ok for sync in self.syncs)

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "ok": self.ok,
            "seconds": self.seconds,
            "rounds": self.rounds,
            "host": dict(self.host),
            "runs": [
                {
                    "fsync": str(sync.sync),
                    "acknowledged": sync.acknowledged,
                    "effects": sync.effects,
                    "rows": [row.to_plain(sync.sync) for row in sync.rows],
                }
                for sync in self.syncs
            ],
            "idle": [
                {
                    "count": idle.count,
                    "kib_each": idle.kib_each,
                    "start_seconds": idle.start_seconds,
                    "meets": idle.meets,
                }
                for idle in self.idle
            ],
        }


def rows_of(
    cases: Sequence[Case],
    sync: Sync,
    measured: Mapping[str, Sequence[Load]],
    warm_up: Mapping[str, Load],
) -> list[Row]:
    """Return the rows of ``cases``; ``measured`` has each case's rounds by its name.

    Of ``warm_up`` only what went wrong counts.
    """
    messages = {case.name: case.messages for case in cases}
    figures = {
        name: [_counted(load.figures, messages.get(name, 1)) for load in loads]
        for name, loads in measured.items()
    }
    rows: list[Row] = []
    for case in cases:
        limit = case.limit(sync)
        rounds = figures[case.name]
        total = median_figures(rounds)
        ratio = None if limit is None else ratio_of(case.figure, rounds, figures[limit])
        goal = case.goals.get(sync)
        every = [warm_up[case.name], *measured[case.name]]
        errors: Counter[str] = Counter()
        for load in every:
            errors.update(load.errors)
        rows.append(
            Row(
                case,
                total,
                ratio,
                goal,
                None if goal is None else meets(goal, case.figure, total, ratio),
                sum(load.failed for load in every),
                sum(load.lost for load in every),
                errors,
            )
        )
    return rows


def _counted(figures: Figures, messages: int) -> Figures:
    """Let the throughput count messages, where an operation is more than one."""
    return evolve(figures, per_second=figures.per_second * messages)


# -- for a person -------------------------------------------------------------------------


def print_report(report: Report, console: Console) -> None:
    """Print the report for a person."""
    for sync in report.syncs:
        console.print(_table(sync))
        _print_counts(sync, console)
    if report.idle:
        console.print(_idle_table(report.idle))
    console.print(
        f"Medians of {report.rounds} rounds of {report.seconds:g} s. A ratio is to plain nats-py on the "
        "same server in the same round (req: request/reply, app: append): of throughput with 64 "
        "open, of p50 one at a time, of p99 at the fixed rate. A send counts from the call to its "
        "effect, and of a chain the messages that its actors send; a reminder from its time.",
        style="dim",
    )
    load, processors = report.host.get("load_average", 0.0), report.host.get("processors") or 1
    if load > processors / 2:
        console.print(
            f"This machine was busy when the run began (load average {load:g} on {processors} "
            "processors): latencies, tails above all, are those of its other work, too.",
            style="yellow",
        )


def _table(sync: SyncReport) -> Table:
    table = Table(title=f"fsync {sync.sync}", title_justify="left", box=None, padding=(0, 1, 0, 0))
    for name in ("", "at", "p50 ms", "p99 ms", "per s", "ratio to", "target", ""):
        table.add_column(
            name, justify="left" if name in ("", "ratio to") else "right", no_wrap=True
        )
    mode: Mode | None = None
    for row in sync.rows:
        if mode is not None and row.case.mode is not mode:
            table.add_row()
        mode = row.case.mode
        figures = row.figures
        table.add_row(
            row.case.title,
            str(row.case.mode),
            _number(figures.p50_ms),
            _number(figures.p99_ms),
            f"{figures.per_second:,.0f}",
            _ratio(row, sync.sync),
            _goal(row.goal, row.case.figure),
            _verdict(row.meets),
            style="dim" if row.case.is_limit else "",
        )
    return table


def _print_counts(sync: SyncReport, console: Console) -> None:
    failed, lost = sum(row.failed for row in sync.rows), sum(row.lost for row in sync.rows)
    total = sum(row.figures.count for row in sync.rows)
    console.print(
        f"{total:,} requests: {failed} failed, {lost} lost. {sync.acknowledged:,} messages to "
        f"counters were acknowledged, and took effect {sync.effects:,} times.\n",
        style="green" if sync.ok else "bold red",
    )
    for row in sync.rows:
        for error, count in row.errors.items():
            console.print(Text(f"  {row.case.name}: {count} x {error}", style="red"))


def _idle_table(idle: Sequence[Idle]) -> Table:
    table = Table(title="idle resources", title_justify="left", box=None, padding=(0, 1, 0, 0))
    for name in ("actors", "KiB each", "start s", "target", ""):
        table.add_column(name, justify="right")
    for one in idle:
        start = f", {MAX_START_SECONDS:g} s" if one.count == START_COUNT else ""
        table.add_row(
            f"{one.count:,}",
            f"{one.kib_each:.2f}",
            f"{one.start_seconds:.2f}",
            f"≤ {MAX_KIB_EACH:g} KiB{start}",
            _verdict(one.meets),
        )
    return table


def _ratio(row: Row, sync: Sync) -> str:
    limit = row.case.limit(sync)
    if limit is None or row.ratio is None:
        return ""
    short = "req" if "request" in limit else "app"
    return f"{row.ratio:.2f} {short}{row.case.figure.short}"


def _goal(goal: Goal | None, figure: Figure) -> str:
    if goal is None:
        return ""
    sign = "≥" if figure is Figure.PER_SECOND else "≤"
    return f"{sign} {goal.ratio:g}" if goal.ratio is not None else f"< {goal.milliseconds:g} ms"


def _verdict(meets: bool | None) -> Text:
    if meets is None:
        return Text("")
    return Text("yes", style="green") if meets else Text("no", style="yellow")


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _finite(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
