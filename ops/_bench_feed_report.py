"""What `aegis bench feed` found, as a table of 80 columns and as JSON."""

from __future__ import annotations

import os
import platform
from datetime import datetime
from typing import Any, Final

from attrs import define, field
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aegis.ops._bench_feed_rows import Load, Row
from aegis.ops._bench_feed_runs import Measured
from aegis.ops._bench_feed_soak import Soak
from aegis.ops._version import commit

__all__ = ["Report", "print_report", "print_soak"]

_TITLES: Final = {
    Load.EVEN: "evenly",
    Load.BURSTS: "in two bursts a second",
    Load.MOST: "evenly, the most that is sustained",
}


@define
class Report:
    """All the figures of one run."""

    began: datetime
    seconds: float
    rows: list[Measured] = field(factory=list[Measured])
    loads: list[float] = field(factory=list[float])
    """The load average after each row."""
    skipped: dict[str, str] = field(factory=dict[str, str])
    """Rows that were not measured, and why."""
    complete: bool = True

    @property
    def ok(self) -> bool:
        """Whether everything ran, and every tick came once; how fast is no matter."""
        return self.complete and all(row.ok for row in self.rows)

    def heading(self) -> dict[str, Any]:
        """Return of what the figures are."""
        return {
            "commit": commit(),
            "began": self.began.isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "processors": os.cpu_count(),
        }

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "ok": self.ok,
            **self.heading(),
            "seconds": self.seconds,
            "rows": [
                {**_plain(row), "load_average": round(load, 2)}
                for row, load in zip(self.rows, self.loads, strict=True)
            ],
            "skipped": self.skipped,
        }


def _plain(measured: Measured) -> dict[str, Any]:
    goal = measured.row.goal
    return {
        "row": measured.row.name,
        "offered_per_second": measured.offered,
        "ticks": measured.ticks,
        "per_second": round(measured.per_second, 1),
        "p50_ms": measured.latencies.percentile_ms(0.5),
        "p99_ms": measured.latencies.percentile_ms(0.99),
        "max_ms": measured.latencies.percentile_ms(1.0),
        "cpu_us": {name: round(value, 2) for name, value in measured.cpu_us.items()},
        "published": measured.published,
        "lost": measured.lost,
        "repeated": measured.repeated,
        "conflated": measured.conflated,
        "sustained": measured.sustained,
        "target_p99_ms": None if goal is None else goal.p99_ms,
        "target_per_second": None if goal is None else goal.per_second,
        "meets": measured.meets,
    }


# -- for a person -------------------------------------------------------------------------


def print_report(report: Report, console: Console) -> None:
    """Print the report for a person."""
    _print_heading(report, console)
    for load in Load:
        rows = [measured for measured in report.rows if measured.row.load is load]
        if rows:
            console.print(_table(load, rows))
            console.print()
    for name, reason in report.skipped.items():
        console.print(f"{name} was not measured: {reason}.", style="yellow")
    lost = sum(row.lost for row in report.rows)
    repeated = sum(row.repeated for row in report.rows)
    console.print(
        f"{sum(row.published for row in report.rows):,} ticks were published: "
        f"{lost} lost, {repeated} repeated.",
        style="green" if report.ok else "bold red",
    )
    console.print(
        "From a gateway's callback to a subscriber in another process, each tick published "
        "alone and in a batch (plain nats-py: alone). Of the gateway with its made-up market, "
        "the subscriber and the server: microseconds of processor time for a tick.",
        style="dim",
    )
    _print_warning(max(report.loads, default=0.0), console)


def _table(load: Load, rows: list[Measured]) -> Table:
    table = Table(title=_TITLES[load], title_justify="left", box=None, padding=(0, 1, 0, 0))
    for name in ("", "per s", "p50 ms", "p99 ms", "gateway", "sub", "server", "goal", ""):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for measured in rows:
        table.add_row(
            measured.row.way.shown,
            f"{measured.per_second:,.0f}",
            _number(measured.latencies.percentile_ms(0.5)),
            _number(measured.latencies.percentile_ms(0.99)),
            *(_number(measured.cpu_us.get(name)) for name in ("gateway", "subscriber", "server")),
            _goal(measured.row),
            _verdict(measured),
        )
    return table


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    if row.goal.per_second is not None:
        return f"≥ {row.goal.per_second:,.0f}"
    return f"< {row.goal.p99_ms:g} ms"


def _verdict(measured: Measured) -> Text:
    if measured.lost or measured.repeated:
        return Text("lost", style="bold red")
    if measured.meets is None:
        return Text("")
    return Text("yes", style="green") if measured.meets else Text("no", style="yellow")


def print_soak(report: Report, soaked: Soak, console: Console) -> None:
    """Print what a long run brought, for a person."""
    _print_heading(report, console)
    latencies = soaked.latencies
    received = ", ".join(f"{count:,} as {form}" for form, count in soaked.received.items())
    console.print(
        f"{soaked.seconds / 60:.1f} minutes: {soaked.published:,} ticks published, received "
        f"{received}; {soaked.lost} lost, {soaked.missed} numbers missed, {soaked.repeated} "
        f"repeated, {soaked.conflated} conflated.",
        style="green" if soaked.ok else "bold red",
    )
    shares = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("most", 1.0))
    console.print(
        "Latency: "
        + ", ".join(f"{name} {_number(latencies.percentile_ms(at))} ms" for name, at in shares)
    )
    for name, (first, last) in soaked.growth.items():
        console.print(f"{name}: {first:.1f} MiB, in the end {last:.1f} MiB; ", end="")
        console.print(f"{soaked.cpu_us[name]:.1f} µs of CPU for a tick")
    console.print(f"Memory is {'flat' if soaked.flat else 'NOT flat'}.")
    _print_warning(max(sample.load for sample in soaked.samples), console)


def _print_heading(report: Report, console: Console) -> None:
    console.print(
        f"feed, commit {commit()}, {report.began:%Y-%m-%d %H:%M} UTC, load "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} processors\n"
    )


def _print_warning(load: float, console: Console) -> None:
    # Three busy processes are the bench's own.
    if load > (os.cpu_count() or 1):
        console.print(
            f"This machine was busy (load average {load:.1f} on {os.cpu_count()} processors): "
            "latencies, tails above all, are those of its other work, too.",
            style="yellow",
        )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"
