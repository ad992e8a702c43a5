"""What the admin HTTP answers: one class for each shape, which OpenAPI describes."""

from __future__ import annotations

from typing import Any

from attrs import field, frozen

__all__ = [
    "ActorView",
    "Disconnected",
    "FailoverPage",
    "FailoverView",
    "Health",
    "HeldResource",
    "Instance",
    "InstancePage",
    "NodeDetail",
    "NodeView",
    "PageLink",
    "PageLinks",
    "Problem",
    "Readiness",
    "Resource",
    "ResourcePage",
    "Service",
    "ServicePage",
    "ServiceSummary",
    "Standby",
    "SystemTree",
    "TreeInstance",
    "TreeService",
]


@frozen
class Problem:
    """What went wrong, as RFC 9457 has it; ``near`` are names like one that is not there."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    instance: str = ""
    near: list[str] = field(factory=list[str])
    facts: dict[str, Any] = field(factory=dict[str, Any])


@frozen
class Health:
    """The node's process works."""

    status: str
    node_id: str
    version: str


@frozen
class Readiness:
    """Whether the node can serve; ``reasons`` say why not."""

    ready: bool
    reasons: list[str]


@frozen
class Instance:
    """One registered provider of a service. ``queue_depth`` is null until it is known."""

    service_name: str
    instance_id: str
    node_id: str
    role: str
    state: str
    cause: str
    resources: int
    standby_for: int
    queue_depth: int | None
    registered_at: float
    metadata: dict[str, Any]


@frozen
class InstancePage:
    """Instances by id; ``next`` is the value of ``after`` for the page behind this one."""

    instances: list[Instance]
    next: str | None


@frozen
class ServiceSummary:
    """One service in numbers."""

    service_name: str
    instances: int
    healthy: int
    resources: int
    queue_depth: int


@frozen
class ServicePage:
    """Services by name; ``next`` is the value of ``after`` for the page behind this one."""

    services: list[ServiceSummary]
    next: str | None


@frozen
class Service:
    """One service with its instances."""

    service_name: str
    instances: list[Instance]


@frozen
class Standby:
    """An instance that is ready to own a resource; ``lag`` is how many records it trails."""

    instance_id: str
    node_id: str
    state: str
    applied: int | None
    lag: int | None


@frozen
class Resource:
    """Who owns a resource, since which epoch, and who stands by."""

    service_name: str
    resource_id: str
    instance_id: str
    node_id: str
    state: str
    epoch: int
    applied: int | None
    standbys: list[Standby]
    metadata: dict[str, Any]


@frozen
class ResourcePage:
    """Resources by service and id; ``next`` is the ``after`` of the page behind this one."""

    resources: list[Resource]
    next: str | None


@frozen
class NodeView:
    """One process, as it told itself a moment ago; ``status`` may be ``no answer``."""

    node_id: str
    status: str
    host: str
    pid: int
    leading: bool
    lease_seconds: float
    round_trip_ms: float


@frozen
class ActorView:
    """One actor or supervisor of a node; ``left_out`` says how many children are not shown."""

    address: str
    kind: str
    state: str
    restarts: int
    queue_depth: int
    processed: int
    left_out: int


@frozen
class NodeDetail:
    """One process with its actors, each behind its parent."""

    node: NodeView
    actors: list[ActorView]


@frozen
class HeldResource:
    """A resource as one of its instances has it; what the node did not tell is null."""

    resource_id: str
    role: str
    epoch: int
    lag: int | None
    state: str | None
    queue_depth: int | None
    restarts: int | None


@frozen
class TreeInstance:
    """One instance with what it holds; ``left_out`` says how much more there is."""

    instance: Instance
    held: list[HeldResource]
    left_out: int


@frozen
class TreeService:
    """One service with its instances."""

    service_name: str
    instances: list[TreeInstance]


@frozen
class SystemTree:
    """The whole system at one moment."""

    namespace: str
    nodes: list[NodeView]
    services: list[TreeService]


@frozen
class FailoverView:
    """One resource that went to another owner; see ``total_ms`` for how long it was away.

    Durations of the promotion run from its start to the end of each step. They are null
    until the new owner has told. ``trace_id`` is what the log lines of all of it share.
    """

    service_name: str
    resource_id: str
    epoch: int
    at: float
    cause: str
    old_instance_id: str
    new_instance_id: str
    trace_id: str
    detected_ms: float
    decided_ms: float
    fenced_ms: float | None
    replayed_ms: float | None
    covered_ms: float | None
    total_ms: float | None


@frozen
class FailoverPage:
    """Failovers, the newest first: those that the node which answers has heard of, and the
    last ones before it was started.
    """

    failovers: list[FailoverView]
    next: str | None


@frozen
class Disconnected:
    """What became of the resources of an instance that was disconnected."""

    instance_id: str
    service_name: str
    promoted: dict[str, str]
    released: list[str]


@frozen
class PageLink:
    """A page of a service."""

    name: str
    title: str
    path: str


@frozen
class PageLinks:
    """The pages that this node has of the services that it runs."""

    pages: list[PageLink]
