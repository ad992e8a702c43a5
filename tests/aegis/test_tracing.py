"""One trace id from the caller through every actor to the log lines."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from aegis import AegisActor, command, query
from aegis._trace import outgoing_traceparent, trace_id_of, use_trace
from aegis.ops._logging import configure_logging
from tests.support.system import Backend, System


class Risk(AegisActor):
    service = "risk"

    @query
    async def limit(self) -> Decimal:
        self.log.info("limit_read")
        return Decimal(10)


class Desk(AegisActor):
    service = "desk"

    @command
    async def trade(self) -> Decimal:
        self.log.info("traded")
        limit: Decimal = await self.actor(Risk, "R-1").limit()
        return limit

    @command
    def trade_in_thread(self) -> None:
        self.log.info("traded_in_thread")


class Router(AegisActor):
    service = "router"

    @command
    async def route(self) -> None:
        self.log.info("routed")


@pytest.mark.usefixtures("logging_restored")
def test_the_lines_of_one_call_share_the_trace_id_of_its_caller(
    backend: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("info", "json")  # as a node does
    traces = [outgoing_traceparent() for _ in range(3)]

    async def scenario(system: System) -> None:
        await system.start_node((Desk, ["D-1"]), instance_id="desk-1")
        await system.start_node((Risk, ["R-1"]), Router)
        for trace in traces:
            with use_trace(trace):
                await system.cluster.actor(Desk, "D-1").trade()
                await system.cluster.actor(Desk, "D-1").trade_in_thread()
                await system.cluster.actor(Router).route()
        await system.cluster.actor(Desk, "D-1").trade()  # a trace of its own

    backend.run(scenario)
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in capsys.readouterr().err.splitlines()
    ]
    names = ("traded", "limit_read", "traded_in_thread", "routed")
    told = [line for line in lines if line["event"] in names]
    wanted = [(name, trace_id_of(trace)) for trace in traces for name in names]
    assert [(line["event"], line["trace_id"]) for line in told[: len(wanted)]] == wanted
    own = {line["trace_id"] for line in told[len(wanted) :]}
    assert len(own) == 1
    assert not own & {trace_id_of(trace) for trace in traces}
    assert (told[0]["service_name"], told[0]["instance_id"], told[0]["resource_id"]) == (
        "desk",
        "desk-1",
        "D-1",
    )
