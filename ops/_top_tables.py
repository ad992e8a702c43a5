"""The tables of `aegis top`: their columns, how a cell is written, what rows sort by."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from attrs import define, frozen

from aegis.ops._top_state import FailoverRow, InstanceRow, NodeRow, ResourceRow, TopState, Totals

__all__ = ["VIEWS", "Column", "Row", "View", "headline", "shown_number"]

type Row = NodeRow | InstanceRow | ResourceRow | FailoverRow


@frozen
class Column:
    """One column. ``value`` is what it sorts by; ``text`` how that is written."""

    title: str
    value: Callable[[Any], Any]
    text: Callable[[Any], str] = str
    number: bool = False


@define
class View:
    """One table: where its rows come from, its columns, and what tells a row from others."""

    name: str
    rows: Callable[[TopState], Sequence[Row]]
    key: Callable[[Any], str]
    columns: tuple[Column, ...]
    sorted_by: int
    descending: bool = False

    def sorted(self, rows: Iterable[Row], column: int, descending: bool) -> list[Row]:
        """Return ``rows`` by a column; what is not known comes last."""
        value, key = self.columns[column].value, self.key
        known = [row for row in rows if value(row) is not None]
        unknown = [row for row in rows if value(row) is None]
        known.sort(key=key)  # Rows that are alike do not change places.
        known.sort(key=value, reverse=descending)
        return known + sorted(unknown, key=key)

    def cells(self, row: Row) -> list[str]:
        """Return a row as it is shown."""
        return [column.text(column.value(row)) for column in self.columns]

    def matches(self, row: Row, word: str) -> bool:
        """Whether a row has ``word`` in one of its cells or names, whatever the case."""
        return not word or word.lower() in f"{self.key(row)} {' '.join(self.cells(row))}".lower()


def shown_number(value: float | None) -> str:
    """Return a figure in at most six signs: three digits of it tell enough."""
    if value is None:
        return "-"
    if isinstance(value, int) or value >= 100:
        return f"{value:.0f}" if value < 100_000 else f"{value / 1000:.0f}k"
    return f"{value:.3g}"


def headline(totals: Totals, width: int = 80) -> str:
    """Return the system in one line, or in more where it would be wider than ``width``."""
    sick = totals.instances - totals.healthy
    parts = [
        f"{totals.namespace}  nodes {totals.nodes}",
        f"instances {totals.instances}{f' ({sick} not healthy)' if sick else ''}",
        f"resources {totals.resources}",
        f"{shown_number(totals.rate)} msg/s",
        f"p99 {shown_number(totals.p99_ms)} ms",
        f"queue {totals.queue}",
        f"failovers {totals.failovers}",
    ]
    lines = [parts[0]]
    for part in parts[1:]:
        longer = f"{lines[-1]}  {part}"
        if len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return "\n".join(lines)


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def _number(title: str, value: Callable[[Any], Any]) -> Column:
    return Column(title, value, shown_number, number=True)


def _node_role(row: NodeRow) -> str:
    if row.leads:
        return "leader"
    return "could lead" if row.candidate else "-"


def _moved(row: FailoverRow) -> str:
    more = "" if row.resources == 1 else f" +{row.resources - 1}"
    return f"{row.service}/{row.first}{more}"


VIEWS: Final = (
    View(
        "Instances",
        TopState.instances,
        lambda row: f"{row.service}@{row.instance_id}",
        (
            Column("service", lambda row: row.service),
            Column("instance", lambda row: row.instance_id),
            Column("state", lambda row: row.state),
            _number("owns", lambda row: row.resources),
            _number("stby", lambda row: row.standby_for),
            _number("queue", lambda row: row.queue),
            _number("msg/s", lambda row: row.rate),
            _number("p99 ms", lambda row: row.p99_ms),
            Column("node", lambda row: row.place),
        ),
        sorted_by=6,
        descending=True,
    ),
    View(
        "Nodes",
        TopState.nodes,
        lambda row: row.node_id,
        (
            Column("node", lambda row: row.place),
            Column("state", lambda row: row.status),
            Column("role", _node_role),
            _number("inst", lambda row: row.instances),
            _number("queue", lambda row: row.queue),
            _number("msg/s", lambda row: row.rate),
            _number("p99 ms", lambda row: row.p99_ms),
            _number("rtt ms", lambda row: row.round_trip_ms),
        ),
        sorted_by=5,
        descending=True,
    ),
    View(
        "Resources",
        TopState.resources,
        lambda row: f"{row.service}/{row.resource_id}",
        (
            Column("resource", lambda row: f"{row.service}/{row.resource_id}"),
            Column("owner", lambda row: row.owner),
            Column("state", lambda row: row.state),
            _number("queue", lambda row: row.queue),
            _number("lag", lambda row: row.lag),
            _number("epoch", lambda row: row.epoch),
            Column("standby", lambda row: ", ".join(row.standbys) or "none"),
        ),
        sorted_by=3,
        descending=True,
    ),
    View(
        "Failovers",
        TopState.failovers,
        lambda row: f"{row.at} {row.service}/{row.first} {row.new}",
        (
            Column("at", lambda row: row.at, _clock),
            Column("what", _moved),
            Column("from", lambda row: row.old),
            Column("to", lambda row: row.new),
            Column("cause", lambda row: row.cause),
            _number("ms", lambda row: row.total_ms),
        ),
        sorted_by=0,
        descending=True,
    ),
)
