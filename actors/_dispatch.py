"""From an instance's address to its actors: the mail room of one instance.

Every request to ``<namespace>.instance.<id>`` comes in here, and every request of
this process to that instance; each leaves in the mailbox of the resource it names, or
of the instance itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import structlog

from aegis._subjects import Subjects
from aegis.actors._answers import (
    WITHDRAW,
    AnswerSink,
    CallbackAnswer,
    WireAnswer,
    WireAnswers,
    error_bytes,
)
from aegis.actors._cell import ActorCell
from aegis.actors._mailbox import Envelope
from aegis.actors._streams import STREAM, closed_stream, stream_name
from aegis.contracts import OK, Request
from aegis.errors import ActorDead, AegisError, MailboxFull, Moved, NotFound, ProtocolError
from aegis.transport._base import Message, Subscription, Transport
from aegis.transport._codec import decode_requests, decode_value, encode_value
from aegis.transport._patience import subscribe_patiently

__all__ = ["Dispatcher", "InstanceDesk"]

_NIL: Final = encode_value(None)

_log = structlog.get_logger("aegis.dispatch")


class InstanceDesk:
    """The actors of one instance, by resource; ``cell`` is the instance's own."""

    def __init__(self, service: str, instance_id: str) -> None:
        self.service = service
        self.instance_id = instance_id
        self.cell: ActorCell | None = None
        self.resources: dict[str, ActorCell] = {}
        self.draining = False

    def deliver(self, request: Request, sink: AnswerSink, deadline: float) -> None:
        """Put the request into the mailbox it is for, or answer why not."""
        if request.method == WITHDRAW:
            self._withdraw(request, sink)
            return
        try:
            cell = self._find(request)
        except AegisError as error:
            sink.answer(error.code, error_bytes(error))
            return
        if STREAM in request.params:
            _end_step(cell, request)
        try:
            cell.mailbox.put(Envelope(request, sink, deadline))
        except ActorDead as error:
            moved = Moved(error.message)
            sink.answer(moved.code, error_bytes(moved))
        except MailboxFull as error:
            cell.runtime.observer.on_mailbox_full(cell)
            sink.answer(error.code, error_bytes(error))

    def _withdraw(self, request: Request, sink: AnswerSink) -> None:
        """Cancel the queries that the sender of ``request`` waits for no more."""
        given: Any = request.params.get("of")
        tokens = cast("list[object]", given) if isinstance(given, list) else []
        if not isinstance(sink, WireAnswer) or sink.correlation is None:
            return

        def given_up(envelope: Envelope) -> bool:
            other = envelope.reply_to
            return (
                isinstance(other, WireAnswer)
                and other.reply_to == sink.reply_to
                and other.correlation in tokens
            )

        self.withdraw(request, given_up)

    def withdraw(self, request: Request, given_up: Callable[[Envelope], bool]) -> None:
        """Cancel queries to the address of ``request``; one that moved is left alone."""
        with suppress(AegisError):
            self._find(request).withdraw(given_up)

    def _find(self, request: Request) -> ActorCell:
        if request.service != self.service:
            raise NotFound(
                f"instance {self.instance_id} serves {self.service}, not {request.service}",
                service=request.service,
            )
        if request.resource is None:
            if self.cell is None:
                raise Moved(f"instance {self.instance_id} does not take messages now")
            return self.cell
        cell = self.resources.get(request.resource)
        if cell is None:
            raise Moved(
                f"instance {self.instance_id} does not own {self.service}/{request.resource}"
            )
        return cell


def _end_step(cell: ActorCell, request: Request) -> None:
    """If ``request`` closes a stream, cancel what its generator waits for at this moment.

    Else the notice would wait for its turn behind the very step that it is to end.
    """
    name = closed_stream(request.params)
    if name is None:
        return

    def is_pull(envelope: Envelope) -> bool:
        message = envelope.message
        return isinstance(message, Request) and stream_name(message.params) == name

    cell.withdraw(is_pull)


class Dispatcher:
    """Delivers requests to the instances of this process, from NATS and from within."""

    def __init__(self, transport: Transport, subjects: Subjects) -> None:
        self._transport = transport
        self._subjects = subjects
        self._loop = asyncio.get_running_loop()
        self._answers = WireAnswers(transport, self._loop)
        self._desks: dict[str, InstanceDesk] = {}
        self._subscriptions: dict[str, Subscription] = {}

    @property
    def desks(self) -> dict[str, InstanceDesk]:
        """The instances of this process, by id."""
        return self._desks

    async def open(self, desk: InstanceDesk) -> None:
        """Take requests for ``desk`` from now on."""
        self._desks[desk.instance_id] = desk

        def on_message(message: Message) -> None:
            self._on_message(desk, message)

        self._subscriptions[desk.instance_id] = await subscribe_patiently(
            self._transport, self._subjects.instance(desk.instance_id), on_message
        )

    async def close(self, desk: InstanceDesk) -> None:
        """Take no more requests for ``desk``."""
        self._desks.pop(desk.instance_id, None)
        subscription = self._subscriptions.pop(desk.instance_id, None)
        if subscription is not None:
            await subscription.unsubscribe()

    def deliver(self, instance_id: str, request: Request, answer: CallbackAnswer) -> bool:
        """Deliver a request of this process; False if the instance is elsewhere."""
        desk = self._desks.get(instance_id)
        if desk is None:
            return False
        # Through the codec like any other, so that both sides see the same values
        # wherever they run, and none can change the other's.
        params: dict[str, Any] = decode_value(encode_value(request.params))
        copy = Request(
            request.kind,
            request.session,
            request.n,
            request.low,
            request.service,
            request.resource,
            request.method,
            params,
            request.remaining_ms,
            request.first_sent_ms,
            request.attempt,
            request.trace,
        )
        desk.deliver(copy, answer, self._loop.time() + request.remaining_ms / 1000)
        return True

    def withdraw(self, instance_id: str, request: Request, answer: CallbackAnswer) -> None:
        """Cancel a query that was delivered with ``answer``."""
        desk = self._desks.get(instance_id)
        if desk is not None:
            desk.withdraw(request, lambda envelope: envelope.reply_to is answer)

    def _on_message(self, desk: InstanceDesk, message: Message) -> None:
        if not message.payload:
            # Somebody asks whether the instance is alive at all.
            for sink in self._answers.sinks(message.reply_to, [0]) or ():
                sink.answer(OK, _NIL)
            return
        try:
            requests = decode_requests(message.payload)
        except ProtocolError as error:
            self._refuse(message, error)
            return
        sinks = self._answers.sinks(message.reply_to, [request.n for request in requests])
        if sinks is None:
            self._refuse(
                message,
                ProtocolError(
                    "several requests came in one message, and its reply subject does not end "
                    "in .m<number>; send one request a message"
                ),
            )
            return
        now = self._loop.time()
        for request, sink in zip(requests, sinks, strict=True):
            desk.deliver(request, sink, now + request.remaining_ms / 1000)

    def _refuse(self, message: Message, error: ProtocolError) -> None:
        _log.warning("message_refused", subject=message.subject, error=str(error))
        sinks = self._answers.sinks(message.reply_to, [0]) or []
        for sink in sinks:
            sink.answer(400, error_bytes(error))
