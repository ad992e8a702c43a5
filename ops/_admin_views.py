"""From what supervisors and nodes answer to the shapes of the admin HTTP.

Nodes of other releases may leave something out, so only what names a thing is relied on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

from aegis._inspect import NodeHealth, SystemPicture
from aegis.actors._failover_log import Promotion
from aegis.contracts import Role
from aegis.ops._admin_contracts import (
    ActorView,
    FailoverView,
    HeldResource,
    Instance,
    NodeDetail,
    NodeView,
    Resource,
    ServiceSummary,
    Standby,
    SystemTree,
    TreeInstance,
    TreeService,
)

__all__ = [
    "failover_view",
    "instance_view",
    "node_detail",
    "resource_view",
    "service_summary",
    "tree_view",
]


def instance_view(service: str, found: Mapping[str, Any]) -> Instance:
    """Return an instance of a service."""
    depth = found.get("queue_depth")
    return Instance(
        service_name=service,
        instance_id=str(found["instance_id"]),
        node_id=str(found["node_id"]),
        role=str(found.get("role", "")),
        state=str(found.get("state", "")),
        cause=str(found.get("cause", "")),
        resources=int(found.get("resources", 0)),
        standby_for=int(found.get("standby_for", 0)),
        queue_depth=None if depth is None else int(depth),
        registered_at=float(found.get("timestamp", 0.0)),
        metadata=_plain(found.get("metadata")),
    )


def service_summary(found: Mapping[str, Any]) -> ServiceSummary:
    """Return the numbers of a service."""
    instances: list[Mapping[str, Any]] = list(found["instances"])
    return ServiceSummary(
        service_name=str(found["service_name"]),
        instances=len(instances),
        healthy=sum(instance.get("state") == "healthy" for instance in instances),
        resources=sum(int(instance.get("resources", 0)) for instance in instances),
        queue_depth=sum(int(instance.get("queue_depth") or 0) for instance in instances),
    )


def resource_view(found: Mapping[str, Any]) -> Resource:
    """Return a resource with its owner and standbys."""
    return Resource(
        service_name=str(found["service_name"]),
        resource_id=str(found["resource_id"]),
        instance_id=str(found["instance_id"]),
        node_id=str(found.get("node_id", "")),
        state=str(found.get("state", "")),
        epoch=int(found.get("epoch", 0)),
        applied=found.get("applied"),
        standbys=[
            Standby(
                instance_id=str(standby["instance_id"]),
                node_id=str(standby.get("node_id", "")),
                state=str(standby.get("state", "")),
                applied=standby.get("applied"),
                lag=standby.get("lag"),
            )
            for standby in found.get("standbys", ())
        ],
        metadata=_plain(found.get("metadata")),
    )


def failover_view(promotion: Promotion, resource_id: str) -> FailoverView:
    """Return the failover of one resource."""
    steps = promotion.steps.get(resource_id)
    return FailoverView(
        service_name=promotion.service,
        resource_id=resource_id,
        epoch=promotion.epochs[resource_id],
        at=promotion.at,
        cause=promotion.cause,
        old_instance_id=promotion.old_instance_id,
        new_instance_id=promotion.instance_id,
        trace_id=promotion.trace_id,
        detected_ms=_milliseconds(promotion.detected),
        decided_ms=_milliseconds(promotion.decided),
        fenced_ms=None if steps is None else _milliseconds(steps.fenced),
        replayed_ms=None if steps is None else _milliseconds(steps.replayed),
        covered_ms=None if steps is None else _milliseconds(steps.covered),
        total_ms=_milliseconds(promotion.away(resource_id)),
    )


def tree_view(picture: SystemPicture, most: int) -> SystemTree:
    """Return the whole system, of each instance at most so many resources."""
    actors, holdings = picture.actors(), picture.holdings()
    services: list[TreeService] = []
    for service in picture.services:
        name = str(service["service_name"])
        instances: list[TreeInstance] = []
        for found in service["instances"]:
            instance = instance_view(name, found)
            held = holdings.get(instance.instance_id, [])
            instances.append(
                TreeInstance(
                    instance=instance,
                    held=[_held(actors, instance, role, what) for role, what in held[:most]],
                    left_out=max(0, instance.resources + instance.standby_for - len(held[:most])),
                )
            )
        services.append(TreeService(name, instances))
    return SystemTree(picture.namespace, [_node(node) for node in picture.nodes], services)


def node_detail(health: NodeHealth, most: int) -> NodeDetail:
    """Return a node with its actors, of each at most so many children."""
    actors: list[ActorView] = []
    waiting: list[Any] = [health.facts.get("tree")]
    while waiting:
        found = waiting.pop()
        if not isinstance(found, Mapping):
            continue
        actor: Mapping[str, Any] = found  # pyright: ignore[reportUnknownVariableType]
        children = list(actor.get("children", ()))
        waiting += reversed(children[:most])
        actors.append(
            ActorView(
                address=str(actor.get("address", "")),
                kind=str(actor.get("kind", "")),
                state=str(actor.get("state", "")),
                restarts=int(actor.get("restarts", 0)),
                queue_depth=int(actor.get("depth", 0)),
                processed=int(actor.get("processed", 0)),
                left_out=int(actor.get("left_out", 0)) + max(0, len(children) - most),
            )
        )
    return NodeDetail(_node(health), actors)


def _held(
    actors: Mapping[tuple[str, str], Mapping[str, Any]],
    instance: Instance,
    role: Role,
    resource: Mapping[str, Any],
) -> HeldResource:
    name = str(resource["resource_id"])
    path = f"/services/{resource['service_name']}/{instance.instance_id}/{name}"
    actor = actors.get((instance.node_id, path), {})
    lag: int | None = None
    if role is Role.STANDBY:
        lag = next(
            (
                standby.get("lag")
                for standby in resource.get("standbys", ())
                if standby["instance_id"] == instance.instance_id
            ),
            None,
        )
    return HeldResource(
        resource_id=name,
        role=str(role),
        epoch=int(resource.get("epoch", 0)),
        lag=lag,
        state=actor.get("state"),
        queue_depth=actor.get("depth"),
        restarts=actor.get("restarts"),
    )


def _node(node: NodeHealth) -> NodeView:
    facts = node.facts
    return NodeView(
        node_id=node.node_id,
        status=node.status,
        host=str(facts.get("host", "")),
        pid=int(facts.get("pid", 0)),
        leading=bool(facts.get("leading")),
        lease_seconds=round(float(facts.get("lease_seconds", 0.0)), 3),
        round_trip_ms=round(node.round_trip_seconds * 1000, 3),
    )


@overload
def _milliseconds(seconds: float) -> float: ...
@overload
def _milliseconds(seconds: float | None) -> float | None: ...
def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)


def _plain(metadata: Any) -> dict[str, Any]:
    """Return metadata, which callers make up, as JSON can have it."""
    if not isinstance(metadata, Mapping):
        return {}
    return {str(key): _plain_value(value) for key, value in metadata.items()}  # pyright: ignore


def _plain_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _plain(value)
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in value]  # pyright: ignore
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
