"""Spans as tests see them: kept in this process, or received from others by OTLP over HTTP."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from attrs import frozen
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aegis._opentelemetry import OpenTelemetryTracer, SpanObserver
from aegis.ops._trace_ids import TraceIds

__all__ = ["Collector", "Recorder", "Seen", "named", "only"]


@frozen
class Seen:
    """One span that has ended."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for the first of a trace."""
    kind: str
    attributes: dict[str, Any]
    failed: bool = False
    service: str = ""
    """The name of the process, by which its resource tells it."""
    exceptions: tuple[str, ...] = ()


def named(spans: list[Seen], name: str, **attributes: Any) -> list[Seen]:
    """Return the spans of a name that have these attributes (without ``aegis.``)."""
    wanted = {f"aegis.{key}": value for key, value in attributes.items()}
    return [one for one in spans if one.name == name and wanted.items() <= one.attributes.items()]


def only(spans: list[Seen], name: str, **attributes: Any) -> Seen:
    """Return the one span that `named` finds."""
    found = named(spans, name, **attributes)
    assert len(found) == 1, f"{name} {attributes}: {found} of {[one.name for one in spans]}"
    return found[0]


class Recorder:
    """A provider of this process whose spans are kept."""

    def __init__(self, **settings: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(id_generator=TraceIds(), shutdown_on_exit=False, **settings)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = OpenTelemetryTracer(self.provider)

    def observer(self) -> SpanObserver:
        """Return what makes a node tell its spans."""
        return SpanObserver(self.tracer)

    @property
    def spans(self) -> list[Seen]:
        """The spans that have ended, in that order."""
        return [
            Seen(
                one.name,
                f"{context.trace_id:032x}",
                f"{context.span_id:016x}",
                "" if one.parent is None else f"{one.parent.span_id:016x}",
                one.kind.name,
                dict(one.attributes or {}),
                failed=not one.status.is_ok and one.status.status_code.name == "ERROR",
                exceptions=tuple(
                    str((event.attributes or {}).get("exception.type")) for event in one.events
                ),
            )
            for one in self._exporter.get_finished_spans()
            if (context := one.get_span_context()) is not None
        ]


class Collector:
    """Receives what other processes send, as a collector of OpenTelemetry does."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._spans: list[Seen] = []
        self._lock = threading.Lock()

    @property
    def spans(self) -> list[Seen]:
        """All that has come."""
        with self._lock:
            return list(self._spans)

    def environment(self, name: str) -> dict[str, str]:
        """Return the variables by which a process sends its spans here under ``name``."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_SERVICE_NAME": name,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    def take(self, payload: bytes) -> None:
        """Take in one request of an exporter."""
        request = ExportTraceServiceRequest.FromString(payload)
        with self._lock:
            for process in request.resource_spans:
                about = {one.key: one.value.string_value for one in process.resource.attributes}
                self._spans += [
                    Seen(
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                        {one.key: _value(one.value) for one in span.attributes},
                        failed=span.status.code == span.status.STATUS_CODE_ERROR,
                        service=about["service.name"],
                    )
                    for scope in process.scope_spans
                    for span in scope.spans
                ]

    @classmethod
    @contextmanager
    def serving(cls) -> Generator[Collector]:
        """Listen on loopback for the time of the block."""

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.take(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:  # pyright: ignore
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        collector = cls(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))
