"""What a node tells of its promotions: how long each step took, in log and events."""

from __future__ import annotations

import contextlib
from typing import Any

import structlog

from aegis._subjects import Subjects
from aegis.actors._dispatch import InstanceDesk
from aegis.actors._journaled import Takeover
from aegis.errors import ConnectionClosed, Unavailable
from aegis.transport._base import Transport
from aegis.transport._codec import encode_value

__all__ = ["TakeoverReports"]

_log = structlog.get_logger("aegis.node")


class TakeoverReports:
    """Tells of promotions that are complete, and of their first answers."""

    def __init__(self, transport: Transport, subjects: Subjects, node_id: str) -> None:
        self._transport = transport
        self._subjects = subjects
        self._node_id = node_id

    def taken_over(self, desk: InstanceDesk, resource_id: str, takeover: Takeover) -> None:
        """A new owner serves."""
        # No event of the registry: its own `promoted` came before, and this says how
        # the new owner got on.
        self._tell("promoted", "serving", desk, resource_id, takeover, {})

    def first_answer(self, desk: InstanceDesk, resource_id: str, takeover: Takeover) -> None:
        """A new owner has answered for the first time."""
        name = "first_answer"
        self._tell(name, name, desk, resource_id, takeover, {name: takeover.first_answer})

    def _tell(
        self,
        line: str,
        event: str,
        desk: InstanceDesk,
        resource_id: str,
        takeover: Takeover,
        more: dict[str, float],
    ) -> None:
        seconds = {
            "fenced": takeover.fenced,
            "replayed": takeover.replayed,
            "covered": takeover.covered,
            **more,
        }
        facts: dict[str, Any] = {
            "service_name": desk.service,
            "instance_id": desk.instance_id,
            "resource_id": resource_id,
            "epoch": takeover.epoch,
            "records": takeover.records,
            **{f"{name}_ms": round(value * 1000, 3) for name, value in seconds.items()},
        }
        _log.info(line, **facts)
        payload = encode_value({"event": event, "node_id": self._node_id, **facts})
        with contextlib.suppress(Unavailable, ConnectionClosed):
            self._transport.publish(self._subjects.event(event), payload)
