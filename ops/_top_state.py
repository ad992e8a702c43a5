"""What `aegis top` knows of a system (sans-I/O): rows made of beats, answers and events.

Rates and times are of the last moments, so each needs two looks: of beats, which count
what an instance has ended, and of a node's histograms, which count from its start. What
is not known is None. Times are boot-clock seconds, but for ``at`` of a failover.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import define, field, frozen

from aegis._inspect import NodeHealth
from aegis.actors._lease import Beat
from aegis.contracts import Role
from aegis.ops._histogram import BOUNDS

__all__ = [
    "FailoverRow",
    "InstanceRow",
    "NodeRow",
    "ResourceRow",
    "TopState",
    "Totals",
    "quantile_ms",
]

RATE_SECONDS: Final = 2.0
"""Over how long rates are taken: long enough that a single beat makes none jump."""

FORGET_SECONDS: Final = 30.0
"""After so long without a beat, what an instance did is of the past."""

MAX_FAILOVERS: Final = 200
MAX_SERVED: Final = 1_000
"""Reports of new owners that are kept until their promotion has been told."""


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
    """Resources that one decision moved to another owner, told since the view began.

    ``total_ms`` is from the old owner's last sign of life until the slowest of them
    answered; None as long as one does not.
    """

    at: float
    service: str
    resources: int
    first: str
    old: str
    new: str
    cause: str
    total_ms: float | None


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
    """What an instance ended, by the beats of the last seconds."""

    ended: deque[tuple[float, int]] = field(factory=deque[tuple[float, int]])
    depth: int = 0

    def heard(self, now: float, ended: int, depth: int) -> None:
        self.depth = depth
        if self.ended and ended < self.ended[-1][1]:
            self.ended.clear()  # Another of that name, which counts from 0.
        self.ended.append((now, ended))
        while len(self.ended) > 2 and now - self.ended[0][0] > RATE_SECONDS:
            self.ended.popleft()

    def rate(self) -> float | None:
        (began, first), (ended, last) = self.ended[0], self.ended[-1]
        return (last - first) / (ended - began) if ended > began else None


@define
class _Failover:
    """A promotion, and those of its resources whose new owner has not answered yet."""

    facts: Mapping[str, Any]
    at: float
    open: set[tuple[str, int]]
    slowest_ms: float = 0.0

    def served(self, told: Mapping[str, Any]) -> None:
        self.open -= set(told["epochs"].items())
        self.slowest_ms = max(self.slowest_ms, float(told["covered_ms"]))

    def row(self) -> FailoverRow:
        facts, ids = self.facts, list(self.facts["epochs"])
        durations: Mapping[str, float] = facts.get("durations") or {}
        before = 1000 * sum(durations.get(step, 0.0) for step in ("detected", "decided"))
        return FailoverRow(
            self.at,
            str(facts["service_name"]),
            len(ids),
            str(ids[0]) if ids else "",
            str(facts["old_instance_id"]),
            str(facts["instance_id"]),
            str(facts.get("cause", "")),
            None if self.open else round(before + self.slowest_ms, 1),
        )


class TopState:
    """Everything that is shown. What does not answer stays as it was."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._services: list[dict[str, Any]] = []
        self._nodes: list[NodeHealth] = []
        self._resources: list[dict[str, Any]] = []
        self._progress: dict[str, _Progress] = {}
        self._seen: dict[str, dict[str, Sequence[int]]] = {}
        self._new: dict[tuple[str, str], list[int]] = {}
        self._failovers: deque[_Failover] = deque(maxlen=MAX_FAILOVERS)
        self._served: deque[Mapping[str, Any]] = deque(maxlen=MAX_SERVED)
        self._failed_over = 0

    # -- what is heard ------------------------------------------------------------------

    def heard_beat(self, beat: Beat, now: float) -> None:
        """Take over a beat."""
        for name, load in beat.instances.items():
            self._progress.setdefault(name, _Progress()).heard(now, load.progress, load.depth)
        for name, known in list(self._progress.items()):
            if now - known.ended[-1][0] > FORGET_SECONDS:
                del self._progress[name]

    def heard_event(self, facts: Mapping[str, Any], at: float) -> None:
        """Take over an event; of those that say how a failover went.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: it is not as it should be.
        """
        match facts.get("event"):
            case "promoted" if facts.get("old_instance_id"):
                epochs: Mapping[str, int] = facts["epochs"]
                failover = _Failover(facts, at, set(epochs.items()))
                for told in self._served:
                    if _concerns(told, failover):
                        failover.served(told)
                failover.row()  # It has to be one.
                self._failovers.appendleft(failover)
                self._failed_over += 1
            case "serving":
                self._served.append(facts)
                for failover in self._failovers:
                    if _concerns(facts, failover):
                        failover.served(facts)
            case _:
                pass

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
        self._new = {}
        seen: dict[str, dict[str, Sequence[int]]] = {}
        for node in nodes:
            now = seen[node.node_id] = _observed(node)
            before = self._seen.get(node.node_id)
            for service, buckets in now.items() if before is not None else ():
                known = (before or {}).get(service) or [0] * len(buckets)
                pairs = zip(buckets, known, strict=False)
                self._new[node.node_id, service] = [max(0, a - b) for a, b in pairs]
        self._seen = seen

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
                self._p99(node.node_id),
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
                        None if progress is None else progress.rate(),
                        self._p99(node_id, service),
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
        return [failover.row() for failover in self._failovers]

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
            self._p99(),
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

    def _p99(self, node_id: str | None = None, service: str | None = None) -> float | None:
        chosen = [
            buckets
            for (node, name), buckets in self._new.items()
            if node_id in (None, node) and service in (None, name)
        ]
        return quantile_ms([sum(counts) for counts in zip(*chosen, strict=True)], 0.99)


def quantile_ms(buckets: Sequence[int], share: float) -> float | None:
    """Return below how many milliseconds ``share`` of all lie; None if there are none.

    Within a bucket they count as evenly spread; of the last, its lower bound is given.
    """
    rank = share * sum(buckets)
    below = 0
    for count, lower, upper in zip(buckets, (0.0, *BOUNDS), BOUNDS, strict=False):
        if count and below + count >= rank:
            return 1000 * (lower + (upper - lower) * (rank - below) / count)
        below += count
    return 1000 * BOUNDS[-1] if rank else None


def _observed(node: NodeHealth) -> dict[str, Sequence[int]]:
    """Return a node's histograms by service; one of another release may have others."""
    try:
        handled: dict[str, Sequence[int]] = dict(node.facts["observed"]["handled"])
        return {name: found for name, found in handled.items() if len(found) == len(BOUNDS) + 1}
    except (KeyError, TypeError, ValueError):
        return {}


def _place(node: NodeHealth) -> str:
    """Tell a node by its process, which is short, and what an operator looks for."""
    if "pid" not in node.facts:
        return node.node_id
    return f"{node.facts.get('host', '')}:{node.facts['pid']}"


def _concerns(told: Mapping[str, Any], failover: _Failover) -> bool:
    return told["service_name"] == failover.facts["service_name"] and bool(
        failover.open & set(told["epochs"].items())
    )
