"""What a node tells of its promotions: how long each step took, in log and events.

Promotions come by the hundred when a node is lost, and a line and an event for each
would hold up the very callers who wait for them: what comes within a moment is told
together.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import structlog

from aegis._subjects import Subjects
from aegis._trace import trace_id_of
from aegis.actors._dispatch import InstanceDesk
from aegis.actors._journaled import Takeover
from aegis.errors import ConnectionClosed, Unavailable
from aegis.transport._base import Transport
from aegis.transport._codec import encode_value

__all__ = ["TakeoverReports"]

_log = structlog.get_logger("aegis.node")

GATHER_SECONDS: Final = 0.05
"""For so long after the first promotion, others are told together with it."""

MAX_TOGETHER: Final = 400
"""Resources in one event: even with the longest names it fits a message."""

SERVING: Final = "serving"
"""Not `promoted`, as the registry's event is called that came before: this one says how
the new owner got on."""

FIRST_ANSWER: Final = "first_answer"

_LINES: Final = {SERVING: "promoted", FIRST_ANSWER: "first_answer"}

type _Group = tuple[str, str, str]  # event, service, instance


class TakeoverReports:
    """Tells of promotions that are complete, and of their first answers."""

    def __init__(self, transport: Transport, subjects: Subjects, node_id: str) -> None:
        self._transport = transport
        self._subjects = subjects
        self._node_id = node_id
        self._gathered: dict[_Group, dict[str, Takeover]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def taken_over(self, desk: InstanceDesk, resource_id: str, takeover: Takeover) -> None:
        """A new owner serves."""
        self._gather((SERVING, desk.service, desk.instance_id), resource_id, takeover)

    def first_answer(self, desk: InstanceDesk, resource_id: str, takeover: Takeover) -> None:
        """A new owner has answered for the first time."""
        self._gather((FIRST_ANSWER, desk.service, desk.instance_id), resource_id, takeover)

    def tell(self) -> None:
        """Tell what has been gathered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        gathered, self._gathered = self._gathered, {}
        for group, takeovers in gathered.items():
            self._tell(group, takeovers)

    def _gather(self, group: _Group, resource_id: str, takeover: Takeover) -> None:
        takeovers = self._gathered.setdefault(group, {})
        takeovers[resource_id] = takeover
        if len(takeovers) >= MAX_TOGETHER:
            self._tell(group, self._gathered.pop(group))
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self.tell)

    def _tell(self, group: _Group, takeovers: dict[str, Takeover]) -> None:
        event, service, instance_id = group
        all_ = list(takeovers.values())
        facts: dict[str, Any] = {
            "service_name": service,
            "instance_id": instance_id,
            "resources": len(all_),
            "records": sum(takeover.records for takeover in all_),
            # Of several, the longest: that is what the last caller has waited for.
            "fenced_ms": _milliseconds(max(takeover.fenced for takeover in all_)),
            "replayed_ms": _milliseconds(max(takeover.replayed for takeover in all_)),
            "covered_ms": _milliseconds(max(takeover.covered for takeover in all_)),
        }
        if event == FIRST_ANSWER:
            facts["first_answer_ms"] = _milliseconds(max(t.first_answer for t in all_))
        traces = {trace_id_of(takeover.trace) for takeover in all_}
        if len(traces) == 1 and all(traces):
            (facts["trace_id"],) = traces
        if len(all_) == 1:
            (facts["resource_id"],) = takeovers
            facts["epoch"] = all_[0].epoch
        _log.info(_LINES[event], **facts)
        epochs = {resource_id: takeover.epoch for resource_id, takeover in takeovers.items()}
        payload = encode_value(
            {
                "event": event,
                "node_id": self._node_id,
                "resource_ids": list(takeovers),
                "epochs": epochs,
                **facts,
            }
        )
        with contextlib.suppress(Unavailable, ConnectionClosed):
            self._transport.publish(self._subjects.event(event), payload)


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
