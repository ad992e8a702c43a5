"""What a node is and holds at the moment of a scrape, as gauges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from aegis.errors import AegisError
from aegis.ops._readiness import unready_here
from aegis.transport._base import StreamUsage

if TYPE_CHECKING:
    from aegis._node import Node

__all__ = ["node_state", "stream_usage"]


async def stream_usage(node: Node) -> StreamUsage | None:
    """Return how full the stream is; None while nobody says."""
    try:
        return await node.transport.usage(node.subjects.stream)
    except (AegisError, TimeoutError):
        return None


def node_state(node: Node, usage: StreamUsage | None) -> Iterator[Metric]:
    """Yield the gauges of ``node``; ``usage`` is what `stream_usage` has just returned."""
    yield GaugeMetricFamily(
        "ipc_ready",
        "Whether this node can serve: it runs, has a server, and a leader answers it.",
        value=not unready_here(node),
    )
    leads = node.supervisor is not None and node.supervisor.leading
    yield GaugeMetricFamily(
        "ipc_leading", "Whether the supervisor of this node is the one that leads.", value=leads
    )
    if usage is not None:
        yield GaugeMetricFamily(
            "ipc_stream_bytes",
            "What the stream of all that is durable holds; every node tells the same.",
            value=usage.size_bytes,
        )
        yield GaugeMetricFamily(
            "ipc_stream_max_bytes", "What that stream may hold.", value=usage.max_bytes
        )
    yield from _instances(node)
    yield _by_service(
        "ipc_resources_without_standby",
        "Resources that are lost to their callers if their owner is; told by the leader.",
        _without_standby(node) if leads else {},
    )


def _instances(node: Node) -> Iterator[Metric]:
    online: Counter[str] = Counter()
    depth = GaugeMetricFamily(
        "ipc_mailbox_depth",
        "Messages that wait for an instance and its resources.",
        labels=("service_name", "instance_id"),
    )
    held = GaugeMetricFamily(
        "ipc_resources_per_instance",
        "Resources that an instance owns.",
        labels=("service_name", "instance_id"),
    )
    for desk in list(node.dispatcher.desks.values()):
        labels = (desk.service, desk.instance_id)
        cells = [*desk.resources.values(), *([desk.cell] if desk.cell else ())]
        depth.add_metric(labels, sum(len(cell.mailbox) for cell in cells))
        held.add_metric(labels, len(desk.resources))
        online[desk.service] += node.is_online(desk.instance_id)
    yield _by_service(
        "ipc_instances_online",
        "Instances of this node that are registered, work and hold a lease.",
        online,
    )
    yield depth
    yield held


def _without_standby(node: Node) -> Mapping[str, int]:
    """Return how many resources of each service have no standby."""
    assert node.supervisor is not None
    registry = node.supervisor.registry
    # Services that lack none are told, too: a gauge that vanishes looks like one unknown.
    counts = Counter(dict.fromkeys((service for service, _ in registry.resources), 0))
    counts.update(service for service, _ in registry.resources.keys() - registry.standbys.keys())
    return counts


def _by_service(name: str, documentation: str, values: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, documentation, labels=("service_name",))
    for service, number in values.items():
        family.add_metric((service,), number)
    return family
