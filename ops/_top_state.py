"""What `aegis top` knows of a system (sans-I/O): rows made of beats, answers and events.

Rates and times are of the last moments, so each needs two looks: of beats, which count
what an instance has ended, and of a node's histograms, which count from its start. What
is not known is None. Times are boot-clock seconds, but for ``at`` of a failover.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from attrs import define, field, frozen

from aegis._inspect import NodeHealth
from aegis.actors._failover_log import FailoverLog, Promotion
from aegis.actors._lease import Beat
from aegis.contracts import Role
from aegis.ops._latency import Latency
from aegis.ops._live_failovers import failover_rows
from aegis.ops._rate import Rate

__all__ = ["FailoverRow", "InstanceRow", "NodeRow", "ResourceRow", "TopState", "Totals"]

FORGET_SECONDS: Final = 30.0
"""After so long without a beat, what an instance did is of the past."""


@frozen
class NodeRow:
    """One process."""

    node_id: str
    place: str
    status: str
    leads: bool
    candidate: bool
    instances: int
    queue: int
    rate: float
    p99_ms: float | None
    round_trip_ms: float


@frozen
class InstanceRow:
    """One instance of a service. ``p99_ms`` is of its service on its node."""

    service: str
    instance_id: str
    node_id: str
    place: str
    state: str
    cause: str
    resources: int
    standby_for: int
    queue: int | None
    rate: float | None
    p99_ms: float | None


@frozen
class ResourceRow:
    """One resource. ``lag`` is that of the standby that is furthest behind."""

    service: str
    resource_id: str
    owner: str
    state: str
    epoch: int
    queue: int | None
    standbys: tuple[str, ...]
    lag: int | None


@frozen
class FailoverRow:
    """Resources that one decision moved to another owner.

    ``total_ms`` is from the old owner's last sign of life until the slowest of them
    answered; None as long as one does not, or if nobody told. ``serving`` of them have an
    owner that answers.
    """

    at: float
    service: str
    resources: int
    first: str
    old: str
    new: str
    cause: str
    total_ms: float | None
    serving: int
    trace_id: str


@frozen
class Totals:
    """The system in one line."""

    namespace: str
    nodes: int
    leader: str
    instances: int
    healthy: int
    resources: int
    queue: int
    rate: float
    p99_ms: float | None
    failovers: int


@define
class _Progress:
    """What an instance tells in its beats."""

    ended: Rate = field(factory=Rate)
    depth: int = 0


class TopState:
    """Everything that is shown. What does not answer stays as it was."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._services: list[dict[str, Any]] = []
        self._nodes: list[NodeHealth] = []
        self._resources: list[dict[str, Any]] = []
        self._progress: dict[str, _Progress] = {}
        self._latency = Latency()
        self._failovers = FailoverLog()
        self._failed_over = 0

    # -- what is heard ------------------------------------------------------------------

    def heard_beat(self, beat: Beat, now: float) -> None:
        """Take over a beat."""
        for name, load in beat.instances.items():
            progress = self._progress.setdefault(name, _Progress())
            progress.ended.heard(now, load.progress)
            progress.depth = load.depth
        for name, known in list(self._progress.items()):
            if now - known.ended.heard_at > FORGET_SECONDS:
                del self._progress[name]

    def heard_event(self, facts: Mapping[str, Any], at: float) -> None:
        """Take over an event; of those that say how a failover went.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: it is not as it should be.
        """
        match facts.get("event"):
            case "promoted":
                self._failed_over += self._failovers.promoted(facts, at) is not None
            case "serving":
                self._failovers.serving(facts)
            case _:
                pass

    def recalled(self, promotions: Iterable[Promotion], *, past: float) -> None:
        """Take over what supervisors remember of failovers; see `FailoverLog.recall`."""
        self._failed_over += self._failovers.recall(promotions, past=past)

    def looked(
        self,
        services: list[dict[str, Any]],
        nodes: list[NodeHealth],
        resources: list[dict[str, Any]] | None = None,
    ) -> None:
        """Take over what supervisors and nodes have answered; None: not asked for."""
        self._services, self._nodes = services, nodes
        if resources is not None:
            self._resources = resources
        for node in nodes:
            self._latency.heard(node.node_id, node.facts.get("observed"))
        self._latency.turn({node.node_id for node in nodes})

    # -- what is shown ------------------------------------------------------------------

    def nodes(self) -> list[NodeRow]:
        """Return the processes."""
        by_node: dict[str, list[InstanceRow]] = {}
        for row in self.instances():
            by_node.setdefault(row.node_id, []).append(row)
        return [
            NodeRow(
                node.node_id,
                _place(node),
                node.status,
                bool(node.facts.get("leading")),
                node.candidate,
                len(by_node.get(node.node_id, ())),
                sum(row.queue or 0 for row in by_node.get(node.node_id, ())),
                sum(row.rate or 0.0 for row in by_node.get(node.node_id, ())),
                self._latency.of_handlers(0.99, node_id=node.node_id),
                round(1000 * node.round_trip_seconds, 2),
            )
            for node in self._nodes
        ]

    def instances(self) -> list[InstanceRow]:
        """Return the instances of all services."""
        places = {node.node_id: _place(node) for node in self._nodes}
        rows: list[InstanceRow] = []
        for entry in self._services:
            service = str(entry["service_name"])
            for one in entry["instances"]:
                name, node_id = str(one["instance_id"]), str(one["node_id"])
                progress = self._progress.get(name)
                rows.append(
                    InstanceRow(
                        service,
                        name,
                        node_id,
                        places.get(node_id, node_id),
                        str(one.get("state", "")),
                        str(one.get("cause", "")),
                        int(one.get("resources", 0)),
                        int(one.get("standby_for", 0)),
                        one.get("queue_depth") if progress is None else progress.depth,
                        None if progress is None else progress.ended.per_second(),
                        self._latency.of_handlers(0.99, service=service, node_id=node_id),
                    )
                )
        return rows

    def resources(self) -> list[ResourceRow]:
        """Return the resources, as far as they were asked for."""
        actors = {node.node_id: node.actors() for node in self._nodes}
        rows: list[ResourceRow] = []
        for one in self._resources:
            service, name, owner = one["service_name"], one["resource_id"], one["instance_id"]
            address = f"/services/{service}/{owner}/{name}"
            actor = actors.get(str(one.get("node_id", "")), {}).get(address, {})
            standbys = list(one.get("standbys", ()))
            lags = [standby["lag"] for standby in standbys if standby.get("lag") is not None]
            rows.append(
                ResourceRow(
                    service,
                    name,
                    owner,
                    str(one.get("state", "")),
                    int(one.get("epoch", 0)),
                    actor.get("depth"),
                    tuple(str(standby["instance_id"]) for standby in standbys),
                    max(lags, default=None),
                )
            )
        return rows

    def failovers(self) -> list[FailoverRow]:
        """Return the failovers, the newest first."""
        return [
            FailoverRow(
                one.at,
                one.service_name,
                one.resources,
                one.resource_ids[0] if one.resource_ids else "",
                one.old_instance_id,
                one.new_instance_id,
                one.cause,
                one.total_ms,
                one.serving,
                one.trace_id,
            )
            for one in failover_rows(self._failovers).values()
        ]

    def totals(self) -> Totals:
        """Return all in numbers."""
        instances = self.instances()
        leader = next((_place(node) for node in self._nodes if node.facts.get("leading")), "")
        return Totals(
            self.namespace,
            len(self._nodes),
            leader,
            len(instances),
            sum(row.state == "healthy" for row in instances),
            sum(row.resources for row in instances),
            sum(row.queue or 0 for row in instances),
            sum(row.rate or 0.0 for row in instances),
            self._latency.of_handlers(0.99),
            self._failed_over,
        )

    def facts(self, node_id: str) -> Mapping[str, Any]:
        """Return what a node said of itself, without its tree."""
        for node in self._nodes:
            if node.node_id == node_id:
                return {k: v for k, v in node.facts.items() if k not in ("tree", "observed")}
        return {}

    def held_by(self, instance_id: str) -> list[tuple[Role, ResourceRow]]:
        """Return what an instance holds, as far as resources were asked for."""
        return [
            (Role.ACTIVE if row.owner == instance_id else Role.STANDBY, row)
            for row in self.resources()
            if row.owner == instance_id or instance_id in row.standbys
        ]


def _place(node: NodeHealth) -> str:
    """Tell a node by its process, which is short, and what an operator looks for."""
    if "pid" not in node.facts:
        return node.node_id
    return f"{node.facts.get('host', '')}:{node.facts['pid']}"
