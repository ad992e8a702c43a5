"""A node's metrics: counted by the hooks of the kernel, exposed by prometheus-client.

Every node counts what happens on it; a sum over the nodes is the system's. What the leader
alone decides (registrations, failovers) is counted by whichever node leads. Counting is
plain arithmetic on the event loop, and the metrics take their form only when scraped; see
`Timings` for what comes with every message. No label takes resource ids: their number has
no bound.

What the services themselves register in prometheus-client's default registry is exposed
beside it.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import structlog
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from aegis._clock import Clock
from aegis.actors._cell import ActorCell
from aegis.actors._decision import Event
from aegis.actors._failover_log import FailoverLog, Promotion
from aegis.contracts import Role
from aegis.errors import Overloaded
from aegis.ops._histogram import BOUNDS, Histogram
from aegis.ops._node_state import node_state, stream_usage
from aegis.ops._timings import Timings
from aegis.transport._base import StreamUsage

if TYPE_CHECKING:
    from aegis._node import Node

__all__ = ["NodeMetrics"]

_log = structlog.get_logger("aegis.metrics")

MAX_NODES: Final = 10_000
"""Nodes whose beats are followed."""

ANY_KIND: Final = "any"
"""The label ``kind`` of what was refused at a full mailbox, unread."""

_BUCKETS: Final = (*(f"{bound:g}" for bound in BOUNDS), "+Inf")


class NodeMetrics(Timings, Collector):
    """All metrics of one node.

    ``missed_beats`` is what a silent node has left out.
    """

    def __init__(self, clock: Clock, *, missed_beats: int = 4) -> None:
        super().__init__()
        self.listeners: list[Callable[[Mapping[str, Any]], None]] = []
        """Told of each event of the system, once the log of failovers has it."""
        self._clock = clock
        self.failovers = FailoverLog()
        self._missed_beats = missed_beats
        self._node: Node | None = None
        self._usage: StreamUsage | None = None
        self._refused: Counter[tuple[str, str, int]] = Counter()
        self._full: Counter[str] = Counter()
        self._full_lock = threading.Lock()
        self._duplicates = 0
        self._fenced = 0
        self._dead_letters: Counter[str] = Counter()
        self._gaps: Counter[str] = Counter()
        self._failover_seconds = Histogram()
        self._failovers: Counter[tuple[str, str]] = Counter()
        self._heartbeats_missed = 0
        self._beats: OrderedDict[str, int] = OrderedDict()
        self._registrations: Counter[tuple[str, str]] = Counter()
        self._releases: Counter[tuple[str, str]] = Counter()
        self._conflicts: Counter[str] = Counter()
        self._lookups: Counter[tuple[str, str]] = Counter()
        self._operations: dict[str, Histogram] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._registry.register(_OfPrograms())

    def attach(self, node: Node) -> None:
        """Tell the state of ``node`` from now on."""
        self._node = node

    async def scrape(self) -> bytes:
        """Ask what has to be asked for, and return all metrics as `exposition` does."""
        self._usage = None if self._node is None else await stream_usage(self._node)
        return self.exposition()

    def exposition(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    # -- what the kernel tells ------------------------------------------------------------

    def on_refused(self, cell: ActorCell, kind: str, status: int) -> None:
        """Count it."""
        self._refused[cell.spec.service, str(kind), status] += 1

    def on_mailbox_full(self, cell: ActorCell) -> None:
        """Count it, in whatever thread."""
        with self._full_lock:
            self._full[cell.spec.service] += 1

    def on_duplicate(self, cell: ActorCell) -> None:
        """Count it."""
        self._duplicates += 1

    def on_fenced(self, cell: ActorCell) -> None:
        """Count it."""
        self._fenced += 1

    def on_dead_letter(self, service: str) -> None:
        """Count it."""
        self._dead_letters[service] += 1

    def on_gap(self, service: str) -> None:
        """Count it."""
        self._gaps[service] += 1

    # -- what the leader tells --------------------------------------------------------------

    def on_registry_event(self, event: Event) -> None:
        """Count releases, failovers, and the beats that a silent node has left out."""
        match event.name:
            case "released":
                if event.role == Role.ACTIVE:
                    self._releases[event.service, event.cause] += len(event.resources)
            case "promoted" if event.old_instance_id:
                self._failovers[event.service, event.cause] += len(event.resources)
            case "unhealthy" if event.cause == "silence":
                # Once, however many instances the node has.
                if self._beats.pop(event.node_id, None) is not None:
                    self._heartbeats_missed += self._missed_beats
            case _:
                pass

    def on_control_request(
        self, operation: str, service: str, reply: Mapping[str, Any], seconds: float
    ) -> None:
        """Count registrations and conflicts, and time each operation."""
        if operation == "resource.register":
            conflicts = len(reply.get("conflicts") or ())
            registered = len(reply.get("registered") or ())
            if registered:
                self._registrations[service, "registered"] += registered
            if conflicts:
                self._registrations[service, "conflict"] += conflicts
                self._conflicts[service] += conflicts
            if not registered and not conflicts:
                self._registrations[service, "ok" if reply.get("success") else "refused"] += 1
            self._time("register", seconds)
        elif operation == "resource.release":
            self._time("release", seconds)

    def on_lookup(self, service: str, found: bool, seconds: float) -> None:
        """Count it, and time it."""
        self._lookups[service, "true" if found else "false"] += 1
        self._time("lookup", seconds)

    def on_beat(self, node_id: str, number: int, now: float, leading: bool) -> None:
        """Count the beats between this one and the last that came, if this node judges."""
        last = self._beats.get(node_id)
        if last is not None and leading and number > last + 1:
            self._heartbeats_missed += number - last - 1
        self._beats[node_id] = number
        if len(self._beats) > MAX_NODES:
            self._beats.popitem(last=False)

    def on_event(self, facts: Mapping[str, Any]) -> None:
        """Keep the log of failovers, and time those that end on this node."""
        name = facts.get("event")
        try:
            if name == "promoted":
                promotion = self.failovers.promoted(facts, self._clock.wall_ms() / 1000)
                # The new owner may have told before.
                if promotion is not None:
                    for resource_id in promotion.steps:
                        self._time_failover(promotion, resource_id)
            elif name == "serving":
                for resource_id, promotion in self.failovers.serving(facts).items():
                    self._time_failover(promotion, resource_id)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            _log.warning("event_unreadable", told=name, error=repr(error))
            return
        for listen in self.listeners:
            listen(facts)

    def _time_failover(self, promotion: Promotion, resource_id: str) -> None:
        node, away = self._node, promotion.away(resource_id)
        # Every node hears of it; the new owner's counts it.
        if node is not None and promotion.node_id == node.node_id and away is not None:
            self._failover_seconds.observe(away)

    def _time(self, operation: str, seconds: float) -> None:
        histogram = self._operations.get(operation)
        if histogram is None:
            histogram = self._operations[operation] = Histogram()
        histogram.observe(seconds)

    # -- what is scraped --------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, as prometheus-client asks for them at each scrape."""
        self.sort()
        if self._node is not None:
            yield from node_state(self._node, self._usage)
        yield from self._messages()
        yield _histogram(
            "ipc_commit_seconds",
            "From the first try of an append until it was acknowledged.",
            (),
            [((), self.commits)],
        )
        yield _counter(
            "ipc_failovers",
            "Resources that went to another owner; counted by the leader.",
            ("service_name", "cause"),
            self._failovers.items(),
        )
        yield _histogram(
            "ipc_failover_seconds",
            "From the old owner's last sign of life until the new one, on this node, answers.",
            (),
            [((), self._failover_seconds)],
        )
        yield CounterMetricFamily(
            "ipc_heartbeats_missed",
            "Beats of nodes that did not come; counted by the leader.",
            value=self._heartbeats_missed,
        )
        yield CounterMetricFamily(
            "ipc_duplicates",
            "Repeats of commands, which were answered as the first time.",
            value=self._duplicates,
        )
        yield CounterMetricFamily(
            "ipc_fenced", "Owners on this node that met a newer one.", value=self._fenced
        )
        yield _counter(
            "ipc_dead_letters",
            "Messages that owners on this node gave up, and put to the dead letters.",
            ("service_name",),
            (((service,), number) for service, number in self._dead_letters.items()),
        )
        yield _counter(
            "ipc_subscription_gaps",
            "Times that a stream had let go of messages that a durable subscription here missed.",
            ("service_name",),
            (((service,), number) for service, number in self._gaps.items()),
        )
        yield from self._resources()

    def _messages(self) -> Iterator[Metric]:
        counts: Counter[tuple[str, str, int]] = Counter(self._refused)
        for (service, kind), handled in self.handled.items():
            for status, number in handled.statuses.items():
                counts[service, kind, status] += number
        with self._full_lock:
            for service, number in self._full.items():
                counts[service, ANY_KIND, Overloaded.code] += number
        yield _counter(
            "ipc_messages",
            "Messages to actors of this node, by the status of their answer.",
            ("service_name", "kind", "status"),
            ((tuple(map(str, key)), number) for key, number in counts.items()),
        )
        yield _histogram(
            "ipc_processing_seconds",
            "How long handlers took, without the wait before and the commit after.",
            ("service_name", "kind"),
            ((key, handled.seconds) for key, handled in self.handled.items()),
        )

    def _resources(self) -> Iterator[Metric]:
        yield _counter(
            "ipc_resource_registrations",
            "Resources asked for, by what became of it; counted by the leader.",
            ("service_name", "status"),
            self._registrations.items(),
        )
        yield _counter(
            "ipc_resource_releases",
            "Resources that have no owner any more; counted by the leader.",
            ("service_name", "reason"),
            self._releases.items(),
        )
        yield _counter(
            "ipc_resource_conflicts",
            "Resources that were asked for and held by others; counted by the leader.",
            ("service_name",),
            (((service,), number) for service, number in self._conflicts.items()),
        )
        yield _counter(
            "ipc_resource_lookups",
            "Questions who owns a resource, answered by this node.",
            ("service_name", "found"),
            self._lookups.items(),
        )
        yield _histogram(
            "ipc_resource_operation_duration_seconds",
            "Operations on the registry, answered by this node.",
            ("operation",),
            (((operation,), histogram) for operation, histogram in self._operations.items()),
        )


class _OfPrograms(Collector):
    """What is in the default registry: the process's own, and those of the user's code."""

    def collect(self) -> Iterable[Metric]:
        try:
            return list(REGISTRY.collect())
        except Exception as error:
            # The node's own must not be lost with them.
            _log.error("metrics_of_program_failed", error=repr(error))
            return []


def _counter(
    name: str,
    documentation: str,
    labels: Sequence[str],
    values: Iterable[tuple[Sequence[str], int]],
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, documentation, labels=labels)
    for key, number in values:
        family.add_metric(key, number)
    return family


def _histogram(
    name: str,
    documentation: str,
    labels: Sequence[str],
    histograms: Iterable[tuple[Sequence[str], Histogram]],
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, documentation, labels=labels)
    for values, histogram in histograms:
        cumulative = list(zip(_BUCKETS, accumulate(histogram.buckets), strict=True))
        family.add_metric(list(values), cumulative, histogram.total)
    return family
