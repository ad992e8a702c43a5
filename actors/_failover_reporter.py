"""The reporter of failovers: listens to what is told of them, and tells the whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

import structlog

from aegis.actors._control_channel import ControlChannel
from aegis.actors._failover_log import FailoverLog
from aegis.errors import ProtocolError
from aegis.transport._base import Message, MessageHandler
from aegis.transport._codec import decode_value

__all__ = ["FailoverReporter"]

_log = structlog.get_logger("aegis.control")


class FailoverReporter:
    """Every candidate keeps the books, and the one that ``leads`` reports."""

    def __init__(self, channel: ControlChannel, leads: Callable[[], bool]) -> None:
        self._channel = channel
        self._leads = leads
        self._failovers = FailoverLog()

    @property
    def handlers(self) -> dict[str, MessageHandler]:
        """What has to be called for each event, by its subject."""
        event = self._channel.subjects.event
        return {
            event("promoted"): self._on_promoted,
            event("first_answer"): self._on_first_answer,
        }

    def _on_promoted(self, message: Message) -> None:
        with _readable(message):
            # When it was heard of is of no interest here.
            self._failovers.promoted(decode_value(message.payload), at=0.0)

    def _on_first_answer(self, message: Message) -> None:
        with _readable(message):
            complete = self._failovers.answered(decode_value(message.payload))
            for failover in complete if self._leads() else ():
                self._channel.report(failover)


@contextlib.contextmanager
def _readable(message: Message) -> Generator[None]:
    """Pass over an event that is none: anybody may publish there."""
    try:
        yield
    except (ProtocolError, AttributeError, KeyError, TypeError, ValueError) as error:
        _log.warning("event cannot be read", subject=message.subject, reason=str(error))
