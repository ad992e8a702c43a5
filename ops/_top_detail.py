"""What `aegis top` shows of the one row that was opened."""

from __future__ import annotations

from collections.abc import Iterable

from aegis.contracts import Role
from aegis.ops._top_state import FailoverRow, InstanceRow, NodeRow, ResourceRow, TopState
from aegis.ops._top_tables import Row, View, shown_number

__all__ = ["describe"]

MAX_LINES = 200


def describe(state: TopState, view: View, key: str) -> str:
    """Return in lines all that is known of a row."""
    found = next((row for row in view.rows(state) if view.key(row) == key), None)
    if found is None:
        return "It is not there any more."
    return "\n".join(_lines(state, found))


def _lines(state: TopState, row: Row) -> list[str]:
    match row:
        case ResourceRow():
            return _of_resource(state, row)
        case InstanceRow():
            return _of_instance(state, row)
        case NodeRow():
            return _of_node(state, row)
        case FailoverRow():
            return _of_failover(row)


def _of_resource(state: TopState, row: ResourceRow) -> list[str]:
    instances = {one.instance_id: one for one in state.instances()}

    def where(instance_id: str) -> str:
        one = instances.get(instance_id)
        return f"{instance_id}  {one.state} on {one.place}" if one else f"{instance_id}  gone"

    lines = [
        *_pairs(("service", row.service), ("resource", row.resource_id), ("epoch", row.epoch)),
        *_pairs(("active", where(row.owner)), ("queue", shown_number(row.queue))),
    ]
    lines += _pairs(*(("standby", where(name)) for name in row.standbys))
    if row.standbys:
        lines += _pairs(("lag", f"{shown_number(row.lag)} records"))
    return lines


def _of_instance(state: TopState, row: InstanceRow) -> list[str]:
    lines = _pairs(
        ("service", row.service),
        ("instance", row.instance_id),
        ("state", f"{row.state}{f' ({row.cause})' if row.cause else ''}"),
        ("node", f"{row.place} ({row.node_id})"),
        ("messages", f"{shown_number(row.rate)}/s, p99 {shown_number(row.p99_ms)} ms"),
        ("queue", shown_number(row.queue)),
        ("owns", f"{row.resources}, stands by for {row.standby_for}"),
    )
    held = state.held_by(row.instance_id)
    lines += ["", *(_held(role, one) for role, one in held[:MAX_LINES])]
    if row.resources + row.standby_for > len(held[:MAX_LINES]):
        lines.append("...")
    return lines


def _held(role: Role, row: ResourceRow) -> str:
    more = f"queue {shown_number(row.queue)}" if role is Role.ACTIVE else f"owner {row.owner}"
    return f"{role:8} {row.resource_id}  epoch {row.epoch}  {more}"


def _of_node(state: TopState, row: NodeRow) -> list[str]:
    lines = _pairs(
        ("node", row.node_id),
        ("process", row.place),
        ("state", f"{row.status}{', leads' if row.leads else ''}"),
        ("answers in", f"{row.round_trip_ms} ms"),
    )
    facts = state.facts(row.node_id)
    if "lease_seconds" in facts:
        lines += _pairs(
            ("lease", f"{facts['lease_seconds']:.1f} s, covers {facts.get('covered', 0)} resources")
        )
    here = [one for one in state.instances() if one.node_id == row.node_id]
    lines += ["", *(f"{one.service}@{one.instance_id}  {one.state}" for one in here)]
    return lines


def _of_failover(row: FailoverRow) -> list[str]:
    if row.serving < row.resources:
        took = f"still under way: {row.serving} of {row.resources} are served"
    elif row.total_ms is None:
        took = "nobody told how long"
    else:
        took = f"{row.total_ms} ms, from the last sign of life to the first possible answer"
    return _pairs(
        ("service", row.service),
        ("resources", f"{row.resources}, the first {row.first}"),
        ("from", row.old),
        ("to", row.new),
        ("cause", row.cause),
        ("took", took),
        ("trace", row.trace_id),
    )


def _pairs(*pairs: tuple[str, object]) -> list[str]:
    return [f"{name:<11}{value}" for name, value in _known(pairs)]


def _known(pairs: Iterable[tuple[str, object]]) -> Iterable[tuple[str, object]]:
    return (pair for pair in pairs if pair[1] not in ("", None))
