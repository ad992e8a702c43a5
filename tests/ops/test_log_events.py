"""The log lines of key events, and the trace id by which one request is followed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from aegis import AegisActor, Conflict, HandlerFailed, command
from aegis._inspect import Inspector
from aegis._trace import outgoing_traceparent, trace_id_of, use_trace
from aegis.actors._cell import Directive
from aegis.actors._journal import Journal
from aegis.actors._owner import Owner
from aegis.contracts import Role
from aegis.ops._logging import configure_logging
from aegis.ops._message_log import MessageLog, is_sampled
from aegis.testing import MemoryTransport
from tests.support.node_process import NodeProcess
from tests.support.poll import wait_until
from tests.support.services import Vault
from tests.support.system import Backend, System

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("logging_restored")]


class Clumsy(AegisActor):
    """Fails, and takes its time."""

    service = "clumsy"
    failure_directive = Directive.RESTART

    @command
    async def fail(self) -> None:
        raise RuntimeError("on purpose")

    @command
    def dawdle(self) -> None:
        began = time.perf_counter()
        while time.perf_counter() - began < 0.3:
            pass


type Lines = list[dict[str, Any]]


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Callable[[Callable[[System], Any]], Lines]:
    """Run a scenario in memory, and return its log lines."""

    def run(scenario: Callable[[System], Awaitable[None]]) -> Lines:
        async def wrapped(system: System) -> None:
            await scenario(system)

        configure_logging("info", "json")
        Backend(None).run(wrapped)
        return [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    return run


type Logged = Callable[[Callable[[System], Any]], Lines]


def of(lines: Lines, event: str, **facts: object) -> Lines:
    """Return the lines of an event that tell these facts."""
    return [
        line
        for line in lines
        if line["event"] == event and all(line.get(name) == facts[name] for name in facts)
    ]


def test_a_registration_has_one_trace_id_on_the_node_and_at_the_leader(logged: Logged) -> None:
    async def scenario(system: System) -> None:
        leader = await system.start_node()
        node = await system.start_node((Vault, ["V-1"]), instance_id="one")
        await system.stop_node(node)
        del leader

    lines = logged(scenario)
    (started,) = of(lines, "instance_started", instance_id="one")
    registered = of(lines, "registered", instance_id="one")
    assert [line["resources"] for line in registered] == [0, 1]
    assert {line["trace_id"] for line in registered} == {started["trace_id"]}
    (released,) = of(lines, "released", instance_id="one")
    (gone,) = of(lines, "gone", instance_id="one")
    assert released["trace_id"] == gone["trace_id"] != started["trace_id"]
    assert (released["cause"], released["service_name"]) == ("unregistered", "vault")


def test_a_disconnect_has_one_trace_id_from_who_asks_to_the_promotion(logged: Logged) -> None:
    trace = outgoing_traceparent()

    async def scenario(system: System) -> None:
        await system.start_node((Vault, ["V-1"]), instance_id="one")
        await system.start_node((Vault, ["V-1"]), instance_id="two", role=Role.STANDBY)
        with use_trace(trace):
            inspector = Inspector(system.transport, system.subjects)
            await inspector.disconnect("one")
        await system.cluster.actor(Vault, "V-1").deposit(amount=Decimal(1))

    lines = logged(scenario)
    (promoted,) = of(lines, "promoted", old_instance_id="one")
    assert promoted["trace_id"] == trace_id_of(trace)
    assert {"detected_ms", "decided_ms", "cause"} <= set(promoted)
    promotions = of(lines, "promoted", instance_id="two", resource_id="V-1")
    (serving,) = [line for line in promotions if "covered_ms" in line]
    assert {"fenced_ms", "replayed_ms", "covered_ms", "epoch"} <= set(serving)
    assert serving["trace_id"] == trace_id_of(trace)
    (answered,) = of(lines, "first_answer", instance_id="two")
    assert answered["trace_id"] == trace_id_of(trace)


def test_all_lines_of_a_failover_share_a_trace_id_whoever_writes_them(logged: Logged) -> None:
    async def scenario(system: System) -> None:
        heard = await system.overhear("event.failed_over")
        await system.start_node()
        owner = await system.start_node(
            (Vault, ["V-1", "V-2"]), instance_id="one", no_supervisor=True
        )
        await system.start_node((Vault, ["V-1", "V-2"]), instance_id="two", role=Role.STANDBY)
        await system.kill_node(owner)
        await system.cluster.actor(Vault, "V-1").deposit(amount=Decimal(1))
        await wait_until(lambda: bool(heard), what="the leader has told the whole")

    lines = logged(scenario)
    decided, *_ = of(lines, "promoted", old_instance_id="one")
    (serving,) = [line for line in of(lines, "promoted", resources=2) if "covered_ms" in line]
    (answered,) = of(lines, "first_answer", instance_id="two")
    (whole,) = of(lines, "failed_over", instance_id="two")
    assert len(decided["trace_id"]) == 32
    assert {line["trace_id"] for line in (serving, answered, whole)} == {decided["trace_id"]}


def test_a_conflict_is_logged_with_its_request(logged: Logged) -> None:
    async def scenario(system: System) -> None:
        await system.start_node((Vault, ["V-1"]), instance_id="one")
        other = await system.start_node(Vault, instance_id="two")
        with pytest.raises(Conflict):
            await other.add_resources("two", ["V-1"])

    (conflict,) = of(logged(scenario), "conflict")
    assert (conflict["operation"], conflict["resources"]) == ("resource.register", 1)
    assert "one" in conflict["reason"]
    assert len(conflict["trace_id"]) == 32


def test_a_lease_that_is_lost_and_held_again_is_logged_once_each(logged: Logged) -> None:
    async def scenario(system: System) -> None:
        leader = await system.start_node()
        node = await system.start_node(Vault, no_supervisor=True)
        membership = node.membership

        def holds() -> bool:
            return membership.lease.valid(system.clock.boot_seconds())

        await wait_until(holds, what="the node has a lease")
        await system.kill_node(leader)
        await wait_until(lambda: not holds(), what="the lease runs out")
        await system.start_node()
        await wait_until(holds, what="the node has a lease again")
        assert isinstance(node.transport, MemoryTransport)
        node.transport.disconnect()
        node.transport.reconnect()
        await wait_until(holds, what="the node has a lease for the third time")

    lines = logged(scenario)
    held, *_ = of(lines, "lease_held")
    own = [line["event"] for line in lines if line.get("node_id") == held["node_id"]]
    told = [event for event in own if event.startswith("lease_")]
    assert told[:3] == ["lease_held", "lease_lost", "lease_held"]


def test_a_fence_is_logged_with_both_epochs(logged: Logged) -> None:
    async def scenario(system: System) -> None:
        await system.start_node((Vault, ["V-1"]), instance_id="one")
        await system.cluster.actor(Vault, "V-1").deposit(amount=Decimal(1))
        journal = Journal(system.transport, system.subjects.journal("vault", "V-1"))
        await journal.append(Owner(epoch=10**9, snapshot_state=True).fence())
        request = system.request("vault", "deposit", {"amount": "1"}, resource="V-1")
        assert (await system.ask("one", request)).status == 421

    fenced, *_ = of(logged(scenario), "fenced")
    assert (fenced["resource_id"], fenced["instance_id"]) == ("V-1", "one")
    assert fenced["newer_epoch"] == 10**9 > fenced["epoch"]


def test_failures_restarts_and_slow_handlers_are_logged_with_their_request(logged: Logged) -> None:
    traces = [outgoing_traceparent(), outgoing_traceparent()]

    async def scenario(system: System) -> None:
        await system.start_node((Clumsy, ["C-1"]), instance_id="one")
        actor = system.cluster.actor(Clumsy, "C-1")
        with use_trace(traces[0]), pytest.raises(HandlerFailed):
            await actor.fail()
        with use_trace(traces[1]):
            await actor.dawdle()

    lines = logged(scenario)
    (failed,) = of(lines, "actor_failed")
    assert (failed["operation"], failed["trace_id"]) == ("fail", trace_id_of(traces[0]))
    (restarts,) = of(lines, "actor_restarts")
    assert (restarts["resource_id"], restarts["restarts"]) == ("C-1", 1)
    (slow,) = of(lines, "handler_slow")
    assert slow["duration_ms"] >= 300
    assert (slow["instance_id"], slow["operation"]) == ("one", "dawdle")
    assert slow["trace_id"] == trace_id_of(traces[1])


# -- messages --------------------------------------------------------------------------------


def test_whether_a_request_is_logged_follows_from_its_trace_id_alone() -> None:
    ids = [trace_id_of(outgoing_traceparent()) for _ in range(4_000)]
    assert not any(is_sampled(one, 0.0) for one in ids)
    assert all(is_sampled(one, 1.0) for one in ids)
    chosen = {one for one in ids if is_sampled(one, 0.25)}
    assert 700 < len(chosen) < 1_300
    assert chosen == {one for one in ids if is_sampled(one, 0.25)}
    # A larger share keeps what a smaller one has.
    assert chosen < {one for one in ids if is_sampled(one, 0.5)}
    assert not is_sampled("", 1.0)


def test_messages_are_logged_for_the_share_of_requests_that_was_asked_for(logged: Logged) -> None:
    traces = [outgoing_traceparent() for _ in range(20)]
    share = 0.5

    async def scenario(system: System) -> None:
        await system.start_node((Vault, ["V-1"]), instance_id="one", observer=MessageLog(share))
        for trace in traces:
            with use_trace(trace):
                await system.cluster.actor(Vault, "V-1").deposit(amount=Decimal(1))

    lines = of(logged(scenario), "message_handled")
    wanted = [trace_id_of(one) for one in traces if is_sampled(trace_id_of(one), share)]
    assert [line["trace_id"] for line in lines] == wanted
    for line in lines:
        assert (line["operation"], line["resource_id"], line["status"]) == ("deposit", "V-1", 200)
        assert line["duration_ms"] >= 0


SERVICES = """
from decimal import Decimal
from aegis import AegisActor, command, query

class Risk(AegisActor):
    service = "risk"

    @query
    async def limit(self) -> Decimal:
        return Decimal(10)

class Desk(AegisActor):
    service = "desk"

    @command
    async def trade(self) -> Decimal:
        return await self.actor(Risk, "R-1").limit()
"""


async def test_one_request_is_followed_by_its_trace_id_over_three_processes(
    tmp_path: Path,
) -> None:
    (tmp_path / "services.py").write_text(SERVICES)
    environ = {"AEGIS_DATA_DIR": str(tmp_path / "nats"), "AEGIS_LOG_FORMAT": "json"}
    nodes: list[NodeProcess] = []
    try:
        for service, resource in (("Desk", "D-1"), ("Risk", "R-1")):
            node = NodeProcess(
                f"services.py:{service} --instance-id {service} --resource {resource} "
                "--log-messages 1",
                folder=tmp_path,
                environ=environ,
            )
            nodes.append(node)
            await asyncio.to_thread(node.wait_event, "node_started")
        called = await asyncio.to_thread(_call_desk, environ)
        desk = await asyncio.to_thread(nodes[0].wait_event, "message_handled")
        risk = await asyncio.to_thread(nodes[1].wait_event, "message_handled")
    finally:
        for node in reversed(nodes):
            await asyncio.to_thread(node.end)
    assert (called["operation"], called["status"]) == ("trade", 200)
    assert (desk["operation"], desk["instance_id"]) == ("trade", "Desk")
    assert (risk["operation"], risk["resource_id"]) == ("limit", "R-1")
    assert len(called["trace_id"]) == 32
    assert called["trace_id"] == desk["trace_id"] == risk["trace_id"]


def _call_desk(environ: dict[str, str]) -> dict[str, Any]:
    arguments = ["call", "desk/D-1", "trade", "--log-level", "info", "--timeout", "30"]
    result = subprocess.run(
        [sys.executable, "-m", "aegis", *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "10\n"), result.stderr
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    (called,) = of(lines, "called")
    return called
