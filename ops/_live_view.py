"""The whole system as one node sees it (sans-I/O): what it hears, and what it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve

from aegis._inspect import NodeHealth
from aegis.actors._failover_log import FailoverLog
from aegis.ops._latency import Latency
from aegis.ops._live_beats import SILENT, LiveBeats
from aegis.ops._live_contracts import (
    LiveFailover,
    LiveInstance,
    LiveLoad,
    LiveNode,
    LiveService,
    LiveSystem,
    LiveTables,
    Sample,
)
from aegis.ops._live_failovers import failover_rows
from aegis.ops._live_letters import LiveLetters
from aegis.ops._live_orphans import Orphans
from aegis.ops._live_problems import problems

__all__ = ["LiveView"]


class LiveView:
    """Puts together the rows of the live page. Times are as their names say."""

    def __init__(
        self,
        *,
        namespace: str,
        node_id: str,
        version: str,
        failovers: FailoverLog,
        beats: LiveBeats,
    ) -> None:
        self.beats = beats
        self.latency = Latency()
        self.letters = LiveLetters()
        self.orphans = Orphans()
        self.alone = ""
        """How many resources have no standby, in words; empty if none has not."""
        self._system = LiveSystem(namespace, node_id, version, connected=True, leader="", term=0)
        self._failovers = failovers
        self._failover_rows: dict[str, LiveFailover] = {}
        self._services: Sequence[Mapping[str, Any]] = ()
        self._health: dict[str, NodeHealth] = {}

    # -- what is heard and told -----------------------------------------------------------

    def on_event(self, facts: Mapping[str, Any], wall_seconds: float) -> None:
        """Take in an event of the system, after the log of failovers.

        Raises:
            AttributeError, KeyError, TypeError: it is not as it should be.
        """
        self.orphans.on_event(facts, wall_seconds)
        if facts.get("event") in ("promoted", "serving"):
            self.on_failovers()

    def on_failovers(self) -> None:
        """Take over what the log of failovers has by now."""
        self._failover_rows = failover_rows(self._failovers)

    def on_overview(
        self,
        services: Sequence[Mapping[str, Any]],
        leader: Mapping[str, Any],
        boot_seconds: float,
    ) -> None:
        """Take over what a supervisor says of all services."""
        self._services = services
        for service in services:
            for instance in service["instances"]:
                self.beats.expect(str(instance["node_id"]), boot_seconds)
        self._system = evolve(
            self._system, leader=str(leader.get("node_id", "")), term=int(leader.get("term", 0))
        )

    def on_no_supervisor(self) -> None:
        """Take over that nobody answers who could say more."""
        self._system = evolve(self._system, leader="")

    def on_health(self, health: NodeHealth) -> None:
        """Take over what a node says of itself."""
        self._health[health.node_id] = health
        self.latency.heard(health.node_id, health.facts.get("observed"))

    def on_connected(self, connected: bool) -> None:
        """Take over whether this node has a connection."""
        self._system = evolve(self._system, connected=connected)

    def known_nodes(self, boot_seconds: float) -> set[str]:
        """Return the nodes that beat, or run an instance.

        One that is silent and runs none has left.
        """
        return {
            *(name for name, how in self.beats.nodes(boot_seconds).items() if how != SILENT),
            *(str(one["node_id"]) for service in self._services for one in service["instances"]),
        }

    # -- what is shown --------------------------------------------------------------------

    def rows(self, boot_seconds: float) -> LiveTables:
        """Return all rows as they are now."""
        loads = self.beats.loads(boot_seconds)
        rows = LiveTables(
            system={"": evolve(self._system, letters=len(self.letters))},
            nodes=self._nodes(boot_seconds),
            services={
                str(one["service_name"]): self._service(one, loads) for one in self._services
            },
            instances=self._instances(),
            loads=loads,
            failovers=self._failover_rows,
            orphans=self.orphans.rows(),
            letters=self.letters.rows(),
        )
        return evolve(rows, problems=problems(rows, self.alone))

    def sample(self, wall_seconds: float, boot_seconds: float) -> Sample:
        """Return the figures of the system since the last turn of the latencies."""
        loads = self.beats.loads(boot_seconds).values()
        return (
            round(wall_seconds, 1),
            float(f"{sum(load.rate for load in loads):.3g}"),
            sum(load.depth for load in loads),
            self.latency.of_handlers(0.5),
            self.latency.of_handlers(0.99),
            self.latency.of_commits(0.99),
        )

    def _nodes(self, boot_seconds: float) -> dict[str, LiveNode]:
        beats = self.beats.nodes(boot_seconds)
        known = self.known_nodes(boot_seconds)
        self._health = {name: told for name, told in self._health.items() if name in known}
        return {name: self._node(name, beats.get(name, SILENT)) for name in sorted(known)}

    def _node(self, node_id: str, beats: str) -> LiveNode:
        health = self._health.get(node_id)
        facts: Mapping[str, Any] = {} if health is None else health.facts
        return LiveNode(
            node_id=node_id,
            status="" if health is None else health.status,
            beats=beats,
            host=str(facts.get("host", "")),
            pid=int(facts.get("pid", 0)),
            candidate=bool(facts.get("candidate")),
        )

    def _instances(self) -> dict[str, LiveInstance]:
        return {
            str(one["instance_id"]): LiveInstance(
                service_name=str(service["service_name"]),
                instance_id=str(one["instance_id"]),
                node_id=str(one["node_id"]),
                role=str(one.get("role", "")),
                state=str(one.get("state", "")),
                cause=str(one.get("cause", "")),
                resources=int(one.get("resources", 0)),
                standby_for=int(one.get("standby_for", 0)),
            )
            for service in self._services
            for one in service["instances"]
        }

    def _service(self, service: Mapping[str, Any], loads: Mapping[str, LiveLoad]) -> LiveService:
        name = str(service["service_name"])
        instances: list[Mapping[str, Any]] = list(service["instances"])
        told = [loads[i["instance_id"]] for i in instances if i["instance_id"] in loads]
        return LiveService(
            service_name=name,
            instances=len(instances),
            healthy=sum(one.get("state") == "healthy" for one in instances),
            resources=sum(int(one.get("resources", 0)) for one in instances),
            queue_depth=sum(load.depth for load in told),
            rate=float(f"{sum(load.rate for load in told):.3g}"),
            p50_ms=self.latency.of_handlers(0.5, service=name),
            p99_ms=self.latency.of_handlers(0.99, service=name),
        )
