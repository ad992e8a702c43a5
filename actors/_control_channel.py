"""The control plane's side of the network: its subjects, its answers, its events."""

from __future__ import annotations

from typing import Any, Final

import structlog
from attrs import evolve

from aegis._subjects import Subjects, escape
from aegis._trace import trace_id_of, traceparent_of
from aegis.actors._decision import Event, refusal
from aegis.actors._failover_log import Failover
from aegis.actors._observer import Observer
from aegis.actors._registry_entries import Key
from aegis.actors._tracer import Operation
from aegis.contracts import OK
from aegis.errors import AegisError, ConnectionClosed, TooLarge, Unavailable
from aegis.transport._base import Transport
from aegis.transport._codec import encode_value

__all__ = ["STOPS", "ControlChannel"]

_log = structlog.get_logger("aegis.control")

STOPS: Final = "this supervisor stops: try again"


class ControlChannel:
    """How one candidate answers and tells; what is lost with the connection is repeated."""

    def __init__(
        self, transport: Transport, subjects: Subjects, observer: Observer | None = None
    ) -> None:
        self.transport = transport
        self.subjects = subjects
        self.observer = observer or Observer()

    def operation(self, operation: str) -> str:
        """Return where everybody sends control requests."""
        return f"{self.subjects.control_prefix}.{operation}"

    def leader(self, operation: str) -> str:
        """Return where the one that leads is asked, and no other."""
        return self.subjects.leader_control(operation)

    def candidate(self, node_id: str) -> str:
        """Return where the candidate of a node tells that it is there."""
        return f"{self.subjects.control_prefix}.candidate.{escape(node_id)}"

    def record(self, key: Key) -> str:
        """Return where a record of the registry stands."""
        return self.subjects.registry(*key)

    def answer(self, reply_to: str, reply: dict[str, Any]) -> None:
        """Answer a request, if anybody waits for that."""
        if not reply_to:
            return
        payload, limit = encode_value(reply), self.transport.max_payload_bytes
        if len(payload) > limit:
            size = f"the answer has {len(payload)} bytes; the limit is {limit}"
            too_large = TooLarge(f"{size}: ask for less at a time", limit_bytes=limit)
            payload = encode_value(refusal(too_large))
        self._publish(reply_to, payload)

    def refuse(self, reply_to: str, error: AegisError) -> None:
        """Answer a request with what stands against it."""
        self.answer(reply_to, refusal(error))

    def forward(self, reply_to: str, payload: bytes) -> None:
        """Answer a request with what another candidate has answered."""
        self._publish(reply_to, payload)

    def tell(self, event: Event) -> None:
        """Log an event, and publish it to whoever listens."""
        self.observer.on_registry_event(event)
        if event.name == "promoted" and event.old_instance_id:
            event.traceparent = self._trace_failover(event)
            event.trace_id = event.trace_id or trace_id_of(event.traceparent)
        facts: dict[str, Any] = {}
        if len(event.resources) == 1:
            (facts["resource_id"],) = event.resources
            facts["epoch"] = event.epochs.get(event.resources[0])
        if event.name == "promoted":
            facts["old_instance_id"] = event.old_instance_id
            facts["old_node_id"] = event.old_node_id
            facts["detected_ms"] = round(1000 * event.detected, 3)
            facts["decided_ms"] = round(1000 * event.decided, 3)
        _log.info(
            event.name,
            service_name=event.service,
            instance_id=event.instance_id,
            node_id=event.node_id,
            cause=event.cause,
            role=event.role,
            resources=len(event.resources),
            trace_id=event.trace_id,
            **facts,
        )
        self._publish_event(event)

    def _publish_event(self, event: Event) -> None:
        payload = encode_value(event.to_wire())
        if len(payload) <= self.transport.max_payload_bytes or len(event.resources) < 2:
            self._publish(self.subjects.event(event.name), payload)
            return
        middle = len(event.resources) // 2
        for part in event.resources[:middle], event.resources[middle:]:
            self._publish_event(_part_of(event, part))

    def trace_request(
        self, operation: str, parent: str, service: str, reply: dict[str, Any], seconds: float
    ) -> None:
        """Tell of a request to the leader that is answered, if anything traces."""
        tracer = self.observer.tracer
        if tracer is not None:
            span = tracer.begin(
                Operation.REGISTER, parent=parent, ago=seconds, method=operation, service=service
            )
            span.end(reply.get("code", OK), sequence=reply.get("sequence"))

    def _trace_failover(self, event: Event) -> str:
        """Return what the new owner's part in it is to descend from."""
        parent = traceparent_of(event.trace_id)
        tracer = self.observer.tracer
        if tracer is None:
            return parent
        span = tracer.begin(
            Operation.FAILOVER,
            parent=parent,
            ago=event.decided,
            service=event.service,
            instance=event.instance_id,
            old_instance=event.old_instance_id,
            resources=event.resources,
            cause=event.cause,
            detected=event.detected,
        )
        span.end(OK)
        return span.traceparent

    def report(self, failover: Failover) -> None:
        """Log a failover that is complete, and publish it."""
        facts: dict[str, Any] = {
            f"{step}_ms": round(1000 * seconds, 3) for step, seconds in failover.durations.items()
        }
        if len(failover.epochs) == 1:
            ((facts["resource_id"], facts["epoch"]),) = failover.epochs.items()
        _log.info(
            "failed_over",
            service_name=failover.service,
            instance_id=failover.instance_id,
            node_id=failover.node_id,
            old_instance_id=failover.old_instance_id,
            old_node_id=failover.old_node_id,
            cause=failover.cause,
            resources=len(failover.epochs),
            trace_id=failover.trace_id,
            **facts,
        )
        self._publish(self.subjects.event("failed_over"), encode_value(failover.to_wire()))

    def _publish(self, subject: str, payload: bytes) -> None:
        try:
            self.transport.publish(subject, payload)
        except (Unavailable, ConnectionClosed):
            return
        except (AegisError, ValueError) as error:
            # A reply subject may be anything, and must not end whoever leads.
            _log.warning("not_told", subject=subject[:80], reason=str(error))


def _part_of(event: Event, resources: list[str]) -> Event:
    """Return what an event tells of some of its resources."""
    return evolve(
        event,
        resources=resources,
        epochs={name: event.epochs[name] for name in resources if name in event.epochs},
        old_epochs={name: event.old_epochs[name] for name in resources if name in event.old_epochs},
    )
