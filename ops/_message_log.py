"""A log line for each message of some requests: the same requests on every host.

Whether a request is logged follows from its trace id alone, so of one that crosses
several nodes either all lines are there or none.
"""

from __future__ import annotations

from typing import Final

import structlog

from aegis._trace import current_trace_id
from aegis.actors._cell import ActorCell
from aegis.actors._mailbox import current_envelope
from aegis.actors._observer import Observer
from aegis.contracts import Request

__all__ = ["MessageLog", "is_sampled"]

_log = structlog.get_logger("aegis.messages")

_DIGITS: Final = 8
_ALL: Final = 16**_DIGITS


def is_sampled(trace_id: str, share: float) -> bool:
    """Whether a request is among the ``share`` (0 to 1) that is logged; one without id is not."""
    # The last digits: the W3C asks for chance in them at least.
    return bool(trace_id) and int(trace_id[-_DIGITS:], 16) < share * _ALL


class MessageLog(Observer):
    """Logs the messages that were handled, of a share of all requests."""

    def __init__(self, share: float) -> None:
        self._share = share

    def on_message_handled(self, cell: ActorCell, kind: str, status: int, seconds: float) -> None:
        """Log it, if its request is one of those."""
        if not is_sampled(current_trace_id(), self._share):
            return
        envelope = current_envelope.get()
        message = None if envelope is None else envelope.message
        _log.info(
            "message_handled",
            service_name=cell.spec.service,
            instance_id=cell.props.instance_id,
            resource_id=cell.resource_id,
            operation=message.method if isinstance(message, Request) else type(message).__name__,
            kind=str(kind),
            status=status,
            duration_ms=round(seconds * 1000, 3),
            message_id=message.message_id if isinstance(message, Request) else None,
        )
