"""Trace ids of spans that begin a trace: those that the logs of the work have already."""

from __future__ import annotations

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from aegis._opentelemetry import wanted_trace_id

__all__ = ["TraceIds"]


class TraceIds(RandomIdGenerator):
    """Keeps the trace id of a request whose caller records no spans."""

    def generate_trace_id(self) -> int:
        """Return the id that is wanted, or a new one."""
        return wanted_trace_id.get() or super().generate_trace_id()
