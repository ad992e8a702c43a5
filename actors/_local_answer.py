"""The way back of a call inside one process."""

from __future__ import annotations

from typing import Any

from attrs import define

from aegis.actors._answers import AnswerSink, error_bytes
from aegis.actors._future import AegisFuture
from aegis.actors._handlers import HandlerSpec
from aegis.contracts import OK
from aegis.errors import ActorDead, AegisError, Moved, from_wire
from aegis.transport._codec import decode_value

__all__ = ["LocalAnswer", "refuse"]


@define(slots=True, eq=False)
class LocalAnswer:
    """Sets a future to what a remote caller would get: the same values and errors."""

    future: AegisFuture[Any]
    handler: HandlerSpec

    def answer(self, status: int, value: bytes) -> None:
        """Decode the answer for the caller; it is dropped if the caller gave up."""
        try:
            plain = decode_value(value)
            if status == OK:
                self.future.try_set(self.handler.structure_result(plain))
            else:
                self.future.try_set_exception(from_wire(status, plain))
        except Exception as error:
            self.future.try_set_exception(error)


def refuse(sink: AegisFuture[Any] | AnswerSink | None, error: AegisError) -> None:
    """Answer ``error`` to whoever waits, for a message that did not run."""
    if sink is None:
        return
    if isinstance(sink, AegisFuture):
        sink.try_set_exception(error)
    elif isinstance(sink, LocalAnswer):
        sink.future.try_set_exception(error)
    else:
        if isinstance(error, ActorDead):
            # To another node this means that the actor is not here any more.
            error = Moved(error.message, **error.facts)
        sink.answer(error.code, error_bytes(error))
