"""Metrics: what is counted, under which names, and that it is counted once in the system."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from decimal import Decimal

import pytest
from prometheus_client import REGISTRY, Counter
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from aegis import Conflict, NotFound, OutcomeUnknown, Rejected
from aegis._clock import SystemClock
from aegis._node import Node
from aegis.actors._decision import Event
from aegis.actors._journal import Journal
from aegis.actors._owner import Owner
from aegis.contracts import Kind, Mail, Role
from aegis.ops._histogram import BOUNDS, Histogram
from aegis.ops._metrics import NodeMetrics
from aegis.ops._timings import MAX_UNSORTED, Timings
from aegis.testing import MemoryTransport
from aegis.transport import Append, Appended
from aegis.transport._codec import encode_mail
from tests.support.poll import wait_until
from tests.support.services import Quoter, Vault
from tests.support.system import Backend, System

NAMES = {
    "ipc_instances_online": {"service_name"},
    "ipc_mailbox_depth": {"service_name", "instance_id"},
    "ipc_messages_total": {"service_name", "kind", "status"},
    "ipc_processing_seconds": {"service_name", "kind"},
    "ipc_commit_seconds": set[str](),
    "ipc_failovers_total": {"service_name", "cause"},
    "ipc_failover_seconds": set[str](),
    "ipc_heartbeats_missed_total": set[str](),
    "ipc_duplicates_total": set[str](),
    "ipc_fenced_total": set[str](),
    "ipc_resource_registrations_total": {"service_name", "status"},
    "ipc_resource_releases_total": {"service_name", "reason"},
    "ipc_resource_conflicts_total": {"service_name"},
    "ipc_resource_lookups_total": {"service_name", "found"},
    "ipc_resources_per_instance": {"service_name", "instance_id"},
    "ipc_resource_operation_duration_seconds": {"operation"},
    "ipc_ready": set[str](),
    "ipc_leading": set[str](),
    "ipc_stream_bytes": set[str](),
    "ipc_stream_max_bytes": set[str](),
    "ipc_resources_without_standby": {"service_name"},
}
"""The metrics with their labels: those that the design names, and some for alerts."""


class Watched:
    """A node in memory with its metrics."""

    def __init__(self, node: Node, metrics: NodeMetrics) -> None:
        self.node = node
        self.metrics = metrics

    def value(self, name: str, **labels: str) -> float:
        """Return one sample, 0 if there is none."""
        for family in text_string_to_metric_families(self.metrics.exposition().decode()):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        return 0.0


async def start(
    system: System, *services: object, role: Role = Role.ACTIVE, **options: object
) -> Watched:
    metrics = NodeMetrics(system.clock)
    node = await system.start_node(*services, observer=metrics, role=role, **options)  # type: ignore[arg-type]
    metrics.attach(node)
    return Watched(node, metrics)


def in_memory(scenario: Callable[[System], Awaitable[None]]) -> None:
    async def run(system: System) -> None:
        await scenario(system)

    Backend(None).run(run)


def test_every_metric_of_the_design_is_there_with_its_labels_and_no_resource_id() -> None:
    async def scenario(system: System) -> None:
        one = await start(system, (Vault, ["SECRET-1", "SECRET-2"]), instance_id="one")
        two = await start(system, (Vault, ["SECRET-1"]), instance_id="two", role=Role.STANDBY)
        vault = system.cluster.actor(Vault, "SECRET-1")
        await vault.deposit(amount=Decimal(1))
        with pytest.raises(Conflict):
            await two.node.add_resources("two", ["SECRET-1"], role=Role.ACTIVE)
        await one.node.membership.release_resources("vault", "one", ["SECRET-2"])
        await system.kill_node(one.node)
        await wait_until(
            lambda: two.value("ipc_failover_seconds_count") > 0, what="the failover is counted"
        )
        await vault.total()
        found: dict[str, set[str]] = {}
        expositions = [one.metrics.exposition(), await two.metrics.scrape()]
        assert b"SECRET-1" not in b"".join(expositions)
        for exposition in expositions:
            for family in text_string_to_metric_families(exposition.decode()):
                name = f"{family.name}_total" if family.type == "counter" else family.name
                for sample in family.samples:
                    found.setdefault(name, set()).update(set(sample.labels) - {"le"})
        assert {name: found.get(name) for name in NAMES} == NAMES

    in_memory(scenario)


def test_the_leader_tells_what_has_no_standby_and_each_node_if_it_can_serve() -> None:
    async def scenario(system: System) -> None:
        one = await start(system, (Vault, ["V-1", "V-2"]), instance_id="one")
        two = await start(system, (Vault, ["V-1"]), instance_id="two", role=Role.STANDBY)
        leading = [watched.value("ipc_leading") for watched in (one, two)]
        assert sorted(leading) == [0, 1]
        leader = (one, two)[leading.index(1)]
        lacking = "ipc_resources_without_standby"
        assert leader.value(lacking, service_name="vault") == 1
        await two.node.add_resources("two", ["V-2"], role=Role.STANDBY)
        await wait_until(
            lambda: leader.value(lacking, service_name="vault") == 0, what="both have a standby"
        )
        assert b'ipc_resources_without_standby{service_name="vault"} 0.0' in (
            leader.metrics.exposition()
        )
        assert [watched.value("ipc_ready") for watched in (one, two)] == [1, 1]
        await one.metrics.scrape()
        assert 0 < one.value("ipc_stream_bytes") < one.value("ipc_stream_max_bytes")
        transport = one.node.transport
        assert isinstance(transport, MemoryTransport)
        transport.disconnect()
        assert one.value("ipc_ready") == 0
        assert b"ipc_stream_bytes " not in await one.metrics.scrape()

    in_memory(scenario)


def test_messages_are_counted_by_service_kind_and_status() -> None:
    async def scenario(system: System) -> None:
        one = await start(system, (Vault, ["V-1"]))
        vault = system.cluster.actor(Vault, "V-1")
        for _ in range(3):
            await vault.deposit(amount=Decimal(1))
        with pytest.raises(Rejected):
            await vault.deposit(amount=Decimal(0))
        await vault.total()
        with pytest.raises(NotFound):
            await system.cluster.call("vault", "nonsense", resource_id="V-1")
        count = one.value
        assert count("ipc_messages_total", service_name="vault", kind="command", status="200") == 3
        assert count("ipc_messages_total", service_name="vault", kind="command", status="422") == 1
        assert count("ipc_messages_total", service_name="vault", kind="query", status="200") == 1
        assert count("ipc_messages_total", service_name="vault", kind="command", status="404") == 1
        # What never ran has no time.
        handled = count("ipc_processing_seconds_count", service_name="vault", kind="command")
        assert handled == 4
        assert count("ipc_processing_seconds_sum", service_name="vault", kind="command") > 0
        assert 1 <= count("ipc_commit_seconds_count") <= 4

    in_memory(scenario)


def test_a_repeat_of_a_command_counts_as_a_duplicate_and_not_as_handled() -> None:
    async def scenario(system: System) -> None:
        one = await start(system, (Vault, ["V-1"]), Quoter)
        (instance_id,) = [i for i, d in one.node.dispatcher.desks.items() if d.service == "vault"]
        (group_id,) = [i for i, d in one.node.dispatcher.desks.items() if d.service != "vault"]
        request = system.request("vault", "deposit", {"amount": "1"}, resource="V-1")
        first = await system.ask(instance_id, request)
        assert one.value("ipc_duplicates_total") == 0
        assert await system.ask(instance_id, request) == first
        assert one.value("ipc_duplicates_total") == 1
        assert (
            one.value("ipc_messages_total", service_name="vault", kind="command", status="200") == 1
        )
        price = system.request(Quoter.service, "place", {"amount": "1"}, kind=Kind.COMMAND)
        await system.ask(group_id, price)
        commits = one.value("ipc_commit_seconds_count")
        await system.ask(group_id, price)
        assert one.value("ipc_duplicates_total") == 2
        assert one.value("ipc_commit_seconds_count") == commits

    in_memory(scenario)


def test_state_is_told_as_it_is_at_the_scrape() -> None:
    async def scenario(system: System) -> None:
        one = await start(system, (Vault, ["V-1", "V-2"]), instance_id="one")
        labels = {"service_name": "vault", "instance_id": "one"}
        assert one.value("ipc_resources_per_instance", **labels) == 2
        assert one.value("ipc_mailbox_depth", **labels) == 0
        assert one.value("ipc_instances_online", service_name="vault") == 1
        assert isinstance(one.node.transport, MemoryTransport)
        one.node.transport.disconnect()
        assert one.value("ipc_instances_online", service_name="vault") == 0
        one.node.transport.reconnect()
        await wait_until(
            lambda: one.value("ipc_instances_online", service_name="vault") == 1,
            what="the lease is back",
        )

    in_memory(scenario)


def test_the_leader_counts_registrations_conflicts_releases_and_times_them() -> None:
    async def scenario(system: System) -> None:
        leader = await start(system, (Vault, ["V-1", "V-2"]), instance_id="one")
        other = await start(system, Vault, instance_id="two")
        with pytest.raises(Conflict):
            await other.node.add_resources("two", ["V-2", "V-3"])
        registered = {"service_name": "vault", "status": "registered"}
        conflict = {"service_name": "vault", "status": "conflict"}
        assert leader.value("ipc_resource_registrations_total", **registered) == 3
        assert leader.value("ipc_resource_registrations_total", **conflict) == 1
        assert leader.value("ipc_resource_conflicts_total", service_name="vault") == 1
        await other.node.membership.release_resources("vault", "two", ["V-3"])
        released = {"service_name": "vault", "reason": "released"}
        assert leader.value("ipc_resource_releases_total", **released) == 1
        timed = "ipc_resource_operation_duration_seconds_count"
        assert leader.value(timed, operation="register") == 2
        assert leader.value(timed, operation="release") == 1
        with pytest.raises(NotFound):
            await other.node.membership.register_resources("made-up", "nobody", ["V-9"])
        refused = {"service_name": "", "status": "refused"}
        assert leader.value("ipc_resource_registrations_total", **refused) == 1
        assert "made-up" not in leader.metrics.exposition().decode()
        # Nobody else counts any of it.
        assert other.value("ipc_resource_registrations_total", **registered) == 0
        assert other.value("ipc_resource_conflicts_total", service_name="vault") == 0

    in_memory(scenario)


def test_lookups_are_counted_by_service_if_there_is_one_of_that_name() -> None:
    async def scenario(system: System) -> None:
        one = await start(system, (Vault, ["V-1"]))
        await system.cluster.actor(Vault, "V-1").total()
        with pytest.raises((NotFound, OutcomeUnknown)):
            await system.cluster.call("vault", "total", resource_id="V-9", timeout=3.0)
        with pytest.raises((NotFound, OutcomeUnknown)):
            await system.cluster.call("made-up", "total", resource_id="V-9", timeout=3.0)
        name = "ipc_resource_lookups_total"
        assert one.value(name, service_name="vault", found="true") >= 1
        assert one.value(name, service_name="", found="false") >= 2
        assert "made-up" not in one.metrics.exposition().decode()

    in_memory(scenario)


def test_a_failover_is_counted_once_in_the_whole_system_and_its_time_by_the_new_owner() -> None:
    async def scenario(system: System) -> None:
        leader = await start(system, instance_id="none")
        owner = await start(system, (Vault, ["V-1", "V-2"]), instance_id="one")
        standby = await start(system, (Vault, ["V-1", "V-2"]), instance_id="two", role=Role.STANDBY)
        await system.cluster.actor(Vault, "V-1").deposit(amount=Decimal(1))
        await system.kill_node(owner.node)
        await wait_until(
            lambda: standby.value("ipc_failover_seconds_count") == 2, what="both are replaced"
        )
        totals = [
            sum(
                sample.value
                for family in text_string_to_metric_families(one.metrics.exposition().decode())
                for sample in family.samples
                if sample.name == "ipc_failovers_total"
            )
            for one in (leader, standby)
        ]
        assert totals == [2, 0]
        assert leader.value("ipc_failover_seconds_count") == 0
        # It counts from the last sign of life: a beat's silence is part of it.
        assert standby.value("ipc_failover_seconds_sum") / 2 > 1.5
        [heard] = leader.metrics.failovers.newest_first()
        assert set(heard.epochs) == {"V-1", "V-2"}
        assert (heard.old_instance_id, heard.instance_id) == ("one", "two")
        assert all((heard.away(name) or 0.0) > 1.5 for name in heard.epochs)
        assert leader.value("ipc_heartbeats_missed_total") >= 4

    in_memory(scenario)


def test_mail_is_counted_as_handled_as_a_duplicate_and_as_dead() -> None:
    async def scenario(system: System) -> None:
        one = await start(system, (Vault, ["V-1"]), instance_id="one")
        receipt = await system.cluster.send("vault/V-1", "deposit", {"amount": "1"})
        await system.cluster.result(receipt)
        subject = system.subjects.mailbox("vault", "V-1")
        mail = Mail(system.request("vault", "deposit", {"amount": "1"}, resource="V-1"))
        for payload in (encode_mail(mail), encode_mail(mail), b"\xc1"):
            assert isinstance(
                await system.transport.append(Append(subject, payload), timeout=10), Appended
            )
        await wait_until(
            lambda: one.value("ipc_dead_letters_total", service_name="vault") == 1,
            what="the last one is dead",
        )
        assert one.value("ipc_duplicates_total") == 1
        commands = {"service_name": "vault", "kind": "command"}
        assert one.value("ipc_messages_total", **commands, status="200") == 2
        nothing = await system.cluster.send("vault/V-1", "nothing")
        with pytest.raises(NotFound):
            await system.cluster.result(nothing)
        assert one.value("ipc_messages_total", **commands, status="404") == 1

    in_memory(scenario)


def test_an_owner_that_meets_a_newer_one_counts_as_fenced() -> None:
    async def scenario(system: System) -> None:
        one = await start(system, (Vault, ["V-1"]), instance_id="one")
        await system.cluster.actor(Vault, "V-1").deposit(amount=Decimal(1))
        assert one.value("ipc_fenced_total") == 0
        journal = Journal(system.transport, system.subjects.journal("vault", "V-1"))
        assert isinstance(
            await journal.append(Owner(epoch=10**9, snapshot_state=True).fence()), Appended
        )
        request = system.request("vault", "deposit", {"amount": "1"}, resource="V-1")
        assert (await system.ask("one", request)).status == 421
        assert one.value("ipc_fenced_total") == 1

    in_memory(scenario)


@pytest.mark.parametrize("batched", [False, True])
def test_a_value_falls_into_the_bucket_whose_bound_it_reaches(batched: bool) -> None:
    histogram = Histogram()
    values = [10.0, 0.00011, 11.0, 0.0001]
    if batched:
        assert histogram.take(values) == 4
        assert values == []
    else:
        for value in values:
            histogram.observe(value)
    assert histogram.count == 4
    assert histogram.total == pytest.approx(21.00021)
    found = {bound: count for bound, count in zip(BOUNDS, histogram.buckets, strict=False) if count}
    assert found == {0.0001: 1, 0.00025: 1, 10.0: 1}
    assert histogram.buckets[-1] == 1
    assert (BOUNDS[0], BOUNDS[-1]) == (0.0001, 10.0)
    assert list(BOUNDS) == sorted(BOUNDS)


def test_buckets_are_shown_as_prometheus_adds_them_up() -> None:
    watched = Watched(None, NodeMetrics(SystemClock()))  # type: ignore[arg-type]
    for seconds in (10.0, 0.00011, 11.0, 0.0001):
        watched.metrics.on_committed(seconds)
    bounds = ("0.0001", "0.00025", "5", "10", "+Inf")
    counts = [watched.value("ipc_commit_seconds_bucket", le=bound) for bound in bounds]
    assert counts == [1, 2, 2, 3, 4]
    assert watched.value("ipc_commit_seconds_sum") == pytest.approx(21.00021)


@pytest.mark.parametrize("number", [MAX_UNSORTED - 1, MAX_UNSORTED, 2 * MAX_UNSORTED + 3])
def test_values_wait_to_be_sorted_up_to_a_bound_and_none_is_lost(number: int) -> None:
    timings = Timings()
    for _ in range(number):
        timings.on_committed(0.001)
    assert timings.commits.count == number - number % MAX_UNSORTED
    timings.sort()
    assert timings.commits.count == number


def test_beats_that_do_not_come_are_counted_by_the_leader_alone() -> None:
    metrics = NodeMetrics(SystemClock(), missed_beats=4)
    follower = Watched(None, metrics)  # type: ignore[arg-type]
    metrics.on_beat("n", 1, 0.0, leading=True)
    metrics.on_beat("n", 2, 0.5, leading=True)
    metrics.on_beat("n", 5, 2.0, leading=True)
    assert follower.value("ipc_heartbeats_missed_total") == 2
    metrics.on_beat("n", 9, 4.0, leading=False)
    metrics.on_beat("n", 10, 4.5, leading=True)
    assert follower.value("ipc_heartbeats_missed_total") == 2
    for instance_id in ("one", "two"):
        metrics.on_registry_event(Event("unhealthy", "vault", instance_id, "n", "silence"))
    assert follower.value("ipc_heartbeats_missed_total") == 6


class Broken(Collector):
    """What fails at each scrape, and not before."""

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        raise RuntimeError("the database is gone")


def test_what_a_service_registers_by_default_is_exposed_with_the_nodes_own() -> None:
    node = Watched(None, NodeMetrics(SystemClock()))  # type: ignore[arg-type]
    orders = Counter("orders", "Orders taken.", ["desk"])
    try:
        orders.labels(desk="north").inc(3)
        assert node.value("orders_total", desk="north") == 3
        assert node.value("process_resident_memory_bytes") > 0
        assert node.metrics.exposition().count(b"# TYPE process_resident_memory_bytes ") == 1
    finally:
        REGISTRY.unregister(orders)


def test_a_service_whose_metrics_fail_does_not_take_the_nodes_own_with_it() -> None:
    node = Watched(None, NodeMetrics(SystemClock()))  # type: ignore[arg-type]
    broken = Broken()
    REGISTRY.register(broken)
    try:
        assert "ipc_duplicates_total 0.0" in node.metrics.exposition().decode()
    finally:
        REGISTRY.unregister(broken)
