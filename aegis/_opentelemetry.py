"""Spans by OpenTelemetry, wherever the application or `aegis run` has set that up.

Only its API is used, which has no opinion on where spans go. Nothing here is imported
before the API is: an application that has set up a provider has imported it.
"""

from __future__ import annotations

import sys
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from aegis._trace import (
    TraceContext,
    current_traceparent,
    enter_trace,
    outgoing_traceparent,
    parse_traceparent,
)
from aegis.actors._observer import Observer
from aegis.actors._tracer import Operation, Tracer
from aegis.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanKind, TracerProvider

    from aegis.actors._cell import ActorCell
    from aegis.actors._messages import Failure

__all__ = ["OpenTelemetryTracer", "SpanObserver", "current_tracer", "wanted_trace_id"]

SYSTEM: Final = "aegis"
"""The value of ``rpc.system`` and ``messaging.system``."""

wanted_trace_id: Final[ContextVar[int]] = ContextVar("aegis_wanted_trace_id", default=0)
"""While a span without a parent begins: the trace id that its logs have already, or 0."""

_entered: Final[ContextVar[OpenTelemetrySpan | None]] = ContextVar("aegis_span", default=None)

_MESSAGING: Final = {Operation.SEND: "send", Operation.PROCESS: "process"}
_NAMED_ALONE: Final = (Operation.CALL, Operation.HANDLE)
_ANSWERING: Final = (Operation.HANDLE, Operation.PROCESS)

# Names of the semantic conventions where they have one, and ours.
_ATTRIBUTES: Final = {
    "attempts": "aegis.attempts",
    "cause": "aegis.cause",
    "epoch": "aegis.epoch",
    "instance": "aegis.instance_id",
    "kind": "aegis.kind",
    "message_id": "messaging.message.id",
    "method": "rpc.method",
    "old_instance": "aegis.old_instance_id",
    "records": "aegis.records",
    "resource": "aegis.resource_id",
    "role": "aegis.role",
    "sequence": "aegis.sequence",
    "service": "rpc.service",
    "topic": "messaging.destination.name",
}
_SECONDS: Final = ("covered", "detected", "fenced", "replayed")


def current_tracer() -> Tracer | None:
    """Return a tracer of this process's provider; None if it has none."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return OpenTelemetryTracer(provider)


class SpanObserver(Observer):
    """Adds to the span of a message what becomes of it."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer

    def on_message_handled(self, cell: ActorCell, kind: str, status: int, seconds: float) -> None:
        """Note its status."""
        if (span := _entered.get()) is not None:
            span.status = status

    def on_refused(self, cell: ActorCell, kind: str, status: int) -> None:
        """Note its status."""
        if (span := _entered.get()) is not None:
            span.status = status

    def on_duplicate(self, cell: ActorCell) -> None:
        """Note that it came before."""
        if (span := _entered.get()) is not None:
            span.note("aegis.duplicate", True)

    def on_failure(self, cell: ActorCell, failure: Failure) -> None:
        """Note the exception."""
        if (span := _entered.get()) is not None:
            span.failed(failure.error)


class OpenTelemetryTracer:
    """Begins spans of one provider."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import context, trace

        self._tracer = provider.get_tracer("aegis")
        self._trace = trace
        self._context = context
        self._empty = context.Context()
        kinds = trace.SpanKind
        self._kinds: Mapping[Operation, SpanKind] = {
            Operation.CALL: kinds.CLIENT,
            Operation.SEND: kinds.PRODUCER,
            Operation.HANDLE: kinds.SERVER,
            Operation.PROCESS: kinds.CONSUMER,
        }

    def begin(
        self, operation: Operation, *, parent: str | None = None, ago: float = 0.0, **facts: Any
    ) -> OpenTelemetrySpan:
        """Begin a span; see `Tracer`."""
        trace = self._trace
        context: Context | None = None
        wanted = 0
        if parent is not None or not trace.get_current_span().get_span_context().is_valid:
            given = parse_traceparent(current_traceparent() if parent is None else parent)
            context = self._empty
            if given is not None and given.has_span:
                context = self._remote(given)
            elif given is not None:
                wanted = int(given.trace_id, 16)
        token = wanted_trace_id.set(wanted)
        try:
            span = self._tracer.start_span(
                _name(operation, facts),
                context,
                kind=self._kinds.get(operation, trace.SpanKind.INTERNAL),
                attributes=_attributes(operation, facts),
                start_time=time.time_ns() - int(ago * 1e9) if ago else None,
            )
        finally:
            wanted_trace_id.reset(token)
        return OpenTelemetrySpan(self, operation, span)

    def _remote(self, given: TraceContext) -> Context:
        trace = self._trace
        span = trace.SpanContext(
            int(given.trace_id, 16),
            int(given.span_id, 16),
            is_remote=True,
            trace_flags=trace.TraceFlags(given.sampled),
        )
        context: Context = trace.set_span_in_context(trace.NonRecordingSpan(span), self._empty)
        return context

    def attach(self, span: Span) -> None:
        """Make ``span`` the current one for the rest of this task."""
        self._context.attach(self._trace.set_span_in_context(span))

    def fail(self, span: Span) -> None:
        """Mark ``span`` as one that failed."""
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR))


class OpenTelemetrySpan:
    """One span."""

    __slots__ = ("_operation", "_span", "_tracer", "status", "traceparent")

    def __init__(self, tracer: OpenTelemetryTracer, operation: Operation, span: Span) -> None:
        self._tracer = tracer
        self._operation = operation
        self._span = span
        self.status: int | None = None
        """Of the answer, as far as it is known."""
        context = span.get_span_context()
        self.traceparent = (
            f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags) & 1:02x}"
            if context.is_valid
            else outgoing_traceparent()
        )

    def enter(self) -> None:
        """Make it the work under way, for OpenTelemetry, the logs and what is sent."""
        self._tracer.attach(self._span)
        enter_trace(self.traceparent)
        _entered.set(self)

    def note(self, name: str, value: bool) -> None:
        """Set an attribute."""
        self._span.set_attribute(name, value)

    def failed(self, error: BaseException) -> None:
        """Record what was raised."""
        self._span.record_exception(error)

    def end(self, status: int | None = None, **facts: Any) -> None:
        """End it with the status of its answer."""
        span = self._span
        if span.is_recording():
            code = self.status if status is None else status
            if code is not None:
                span.set_attribute("aegis.status_code", code)
                self._judge(code)
            for name, value in _known(facts):
                span.set_attribute(name, value)
        span.end()

    def _judge(self, code: int) -> None:
        # As for HTTP: whoever asks has failed if it got no result, whoever answers only
        # if the mistake was its own. A rejection is a result.
        least = 500 if self._operation in _ANSWERING else 400
        if code >= least and code != Rejected.code:
            self._span.set_attribute("error.type", str(code))
            self._tracer.fail(self._span)


def _name(operation: Operation, facts: Mapping[str, Any]) -> str:
    method, service = facts.get("method"), facts.get("service")
    if operation is Operation.REGISTER:
        return str(method)
    target = f"{service}/{method}" if method else str(service)
    return target if operation in _NAMED_ALONE else f"{operation} {target}"


def _attributes(operation: Operation, facts: Mapping[str, Any]) -> dict[str, Any]:
    attributes = dict(_known(facts))
    attributes["aegis.operation"] = str(operation)
    if operation in _MESSAGING:
        attributes["messaging.system"] = SYSTEM
        attributes["messaging.operation.type"] = _MESSAGING[operation]
        if facts.get("resource"):
            address = f"{facts['service']}/{facts['resource']}"
            attributes.setdefault("messaging.destination.name", address)
    elif operation in (Operation.CALL, Operation.HANDLE):
        attributes["rpc.system"] = SYSTEM
    return attributes


def _known(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the facts that are known, as attributes."""
    known = [
        (_ATTRIBUTES[name], str(value) if isinstance(value, str) else value)
        for name, value in facts.items()
        if name in _ATTRIBUTES and value is not None and value != ""
    ]
    known += [
        (f"aegis.{name}_ms", round(1000 * facts[name], 3)) for name in _SECONDS if name in facts
    ]
    if facts.get("resources"):
        # How many: their number has no bound.
        known.append(("aegis.resources", len(facts["resources"])))
    return known
