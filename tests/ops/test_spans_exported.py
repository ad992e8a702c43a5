"""Spans of real processes, received as a collector receives them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from aegis.errors import ConfigurationError
from aegis.ops import _trace_export
from tests.support.node_process import NodeProcess
from tests.support.poll import wait_until
from tests.support.spans import Collector, named, only
from tests.test_style import ROOT

PURSE = "tests/support/mail_services.py:Purse"


async def seen(condition: Callable[[], bool], what: str) -> None:
    await wait_until(condition, what=what, timeout=60)


@pytest.mark.timeout(180)
async def test_spans_lead_over_processes_along_mail_and_through_a_failover(tmp_path: Path) -> None:
    with Collector.serving() as collector, ExitStack() as at_last:
        environ = {"AEGIS_DATA_DIR": str(tmp_path / "nats"), "AEGIS_LOG_FORMAT": "json"}

        def start(name: str, arguments: str) -> NodeProcess:
            node = NodeProcess(
                arguments, folder=ROOT, environ=environ | collector.environment(name)
            )
            at_last.callback(node.process.kill)
            node.wait_event("node_started", timeout=60)
            return node

        def call(name: str, *arguments: str) -> None:
            result = subprocess.run(
                [sys.executable, "-m", "aegis", "call", *arguments, "--timeout", "30"],
                env={**os.environ, **environ, **collector.environment(name)},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert result.returncode == 0, result.stderr

        one = start("one", f"{PURSE} --instance-id one --resource P-1")
        two = start(
            "two",
            f"{PURSE} --instance-id two --resource P-2 "
            f"{PURSE} --instance-id heir --resource P-1 --role standby",
        )
        call("first", "purse/P-1", "put_in", "amount=10")
        call("second", "purse/P-1", "pay", "to=P-2", "amount=4")
        await seen(lambda: bool(named(collector.spans, "process purse/paid")), "the reply is told")
        one.end(signal.SIGKILL)
        call("third", "purse/P-1", "whole")
        assert two.end()[0] == 0

    spans = collector.spans
    # From the caller over the owner to the other process, and back, along the mail.
    asked = only(spans, "purse/pay", operation="call")
    pay = only(spans, "purse/pay", operation="handle")
    take = only(spans, "process purse/take")
    paid = only(spans, "process purse/paid")
    chain = (asked, pay, take, paid)
    assert [one.service for one in chain] == ["second", "one", "two", "one"]
    assert [one.parent_id for one in chain] == ["", asked.span_id, pay.span_id, take.span_id]
    assert len({one.trace_id for one in chain}) == 1
    assert {pay.span_id, take.span_id} <= {s.parent_id for s in named(spans, "commit purse")}
    # The heir.
    failover = only(spans, "failover purse", instance_id="heir")
    promote = only(spans, "promote purse", instance_id="heir")
    assert (promote.service, promote.parent_id) == ("two", failover.span_id)
    whole = only(spans, "purse/whole", operation="handle")
    assert (whole.service, whole.attributes["aegis.instance_id"]) == ("two", "heir")
    assert whole.parent_id == only(spans, "purse/whole", operation="call").span_id
    # Who registers, and who decides that.
    known = {one.span_id: one for one in spans}
    (asks,) = named(spans, "resource.register", instance_id="two")
    (decides,) = [one for one in spans if one.parent_id == asks.span_id]
    assert (decides.name, decides.service) == ("resource.register", "one")
    assert all(one.parent_id in known for one in spans if one.parent_id)


@pytest.mark.parametrize(
    ("environ", "exporters"),
    [
        ({}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, ["otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, []),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, []),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp_proto_http"]),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            ["otlp_proto_grpc"],
        ),
    ],
)
def test_where_spans_go_is_said_by_the_variables_of_opentelemetry(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], exporters: list[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert _trace_export.wanted_exporters() == exporters


def test_an_exporter_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with (
        pytest.raises(
            ConfigurationError, match="no exporter 'zipkin' is installed; there are: con"
        ),
        _trace_export.tracing(),
    ):
        pytest.fail("it must not begin")


def test_where_the_extra_is_missing_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with (
        pytest.raises(ConfigurationError, match=r"install aegis-actors\[otel\]"),
        _trace_export.tracing(),
    ):
        pytest.fail("it must not begin")
