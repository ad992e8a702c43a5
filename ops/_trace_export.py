"""Sending spans away, as OpenTelemetry's own variables (``OTEL_*``) say.

Nothing is set up unless one of them asks for it: a node without a collector must not look
for one. An application that has a provider already keeps it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from aegis.actors._observer import Observer
from aegis.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["tracing", "wanted_exporters"]

LAST_SECONDS: Final = 3.0
"""How long a process that ends tries to send its last spans."""

_EXPORTER: Final = "OTEL_TRACES_EXPORTER"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


@contextlib.contextmanager
def tracing() -> Generator[Observer | None]:
    """Send spans away inside the block; gives what has to observe a node for that, or None.

    Raises:
        ConfigurationError: the variables ask for what is not installed.
    """
    names = wanted_exporters()
    if not names:
        yield None
        return
    provider = _provider(names)
    try:
        from aegis._opentelemetry import SpanObserver, current_tracer

        tracer = current_tracer()
        yield None if tracer is None else SpanObserver(tracer)
    finally:
        if provider is not None:
            # Not longer: where no collector answers, its end would take half a minute.
            last = threading.Thread(target=provider.shutdown, daemon=True)
            last.start()
            last.join(LAST_SECONDS)


def wanted_exporters() -> list[str]:
    """Return the exporters that the variables name, as their packages call them."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    given = os.environ.get(_EXPORTER)
    if given is None:
        given = "otlp" if any(os.environ.get(name) for name in _ENDPOINTS) else "none"
    names = [name.strip() for name in given.split(",")]
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), "http")
    otlp = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    return [otlp if name == "otlp" else name for name in names if name not in ("", "none")]


def _provider(names: list[str]) -> TracerProvider | None:
    """Return the provider of this process, made now; None if it had one."""
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from aegis.ops._trace_ids import TraceIds
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{_EXPORTER}: spans need the package {error.name}; install aegis-actors[otel]"
        ) from error
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say comes before it.
    mine: dict[str, str | int] = {
        "service.name": "aegis",
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
    }
    said = Resource.create().attributes
    resource = Resource.create(
        {name: value for name, value in mine.items() if _is_missing(name, said.get(name))}
    )
    provider = TracerProvider(resource=resource, id_generator=TraceIds(), shutdown_on_exit=False)
    for name in names:
        provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    trace.set_tracer_provider(provider)
    return provider


def _is_missing(name: str, value: object) -> bool:
    return value is None or (name == "service.name" and str(value).startswith("unknown_service"))


def _exporter(name: str) -> Any:
    from importlib.metadata import entry_points

    exporters = entry_points(group="opentelemetry_traces_exporter")
    for found in exporters.select(name=name):
        return found.load()()
    known = sorted(exporters.names)
    raise ConfigurationError(
        f"{_EXPORTER}: no exporter {name!r} is installed; there are: {', '.join(known) or 'none'}"
    )
