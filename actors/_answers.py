"""Where the answer to a request goes: over NATS in batches, or to a local caller.

Answers of one loop iteration to the same caller leave in one NATS message. That is
possible where the request's reply subject ends in ``.m<number>``: its k-th request
(from 0) is told apart by ``number + k``, which the reply carries as fifth element,
and replies to any of the caller's messages may come to any ``<prefix>.m<number>``.
A reply subject of any other form gets one plain reply to its one request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import structlog
from attrs import define

from aegis.errors import AegisError, HandlerFailed, TooLarge, to_wire
from aegis.transport._base import Transport
from aegis.transport._codec import encode_reply, encode_value

__all__ = [
    "NO_ANSWER",
    "WITHDRAW",
    "AnswerSink",
    "CallbackAnswer",
    "WireAnswer",
    "WireAnswers",
    "error_bytes",
]

WITHDRAW: Final = "$withdraw"
"""Method of a notice that nobody waits for earlier requests any more; it has no answer.

``of`` lists what told their answers apart; the reply subject has the same prefix.
"""

_log = structlog.get_logger("aegis.answers")

_FLUSH_BYTES: Final = 128 * 1024

_FRAME_BYTES: Final = 64
"""Upper bound of what a reply takes beside its value."""


class AnswerSink(Protocol):
    """Takes the one answer to a request: a status, and the encoded value or error."""

    def answer(self, status: int, value: bytes) -> None:
        """Deliver the answer; a second one is a programming error."""
        ...


def error_bytes(error: AegisError) -> bytes:
    """Return ``error`` as the encoded map that a reply carries."""
    return encode_value(to_wire(error))


@define(slots=True, eq=False)
class CallbackAnswer:
    """The answer to a request of this process: ``callback(status, value)``."""

    callback: Callable[[int, bytes], None]

    def answer(self, status: int, value: bytes) -> None:
        """Hand the answer over at once."""
        self.callback(status, value)


NO_ANSWER: Final = CallbackAnswer(lambda _status, _value: None)
"""The sink of a message that nobody waits for."""


@define(slots=True, eq=False)
class WireAnswer:
    """The answer to one request that came over NATS."""

    answers: WireAnswers
    reply_to: str
    correlation: int | None
    n: int

    def answer(self, status: int, value: bytes) -> None:
        """Queue the answer for the end of this loop iteration."""
        self.answers.put(self, status, value)


class WireAnswers:
    """Gathers the answers of one loop iteration and sends them, a message a caller."""

    def __init__(self, transport: Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: dict[str, list[bytes]] = {}
        self._scheduled = False

    def sinks(self, reply_to: str, numbers: list[int]) -> list[WireAnswer] | None:
        """Return a sink for each request (by ``n``) of a message, or None.

        None means that the reply subject cannot tell several answers apart.
        """
        prefix, dot, tail = reply_to.rpartition(".m")
        if dot and tail.isdigit():
            base = int(tail)
            return [WireAnswer(self, prefix, base + i, n) for i, n in enumerate(numbers)]
        if len(numbers) > 1 and reply_to:
            return None
        return [WireAnswer(self, reply_to, None, n) for n in numbers]

    def put(self, sink: WireAnswer, status: int, value: bytes) -> None:
        """Take one answer; it leaves at the end of this loop iteration."""
        if not sink.reply_to:
            return
        limit = self._transport.max_payload_bytes - _FRAME_BYTES
        if len(value) > limit:
            too_large = HandlerFailed(
                f"the answer takes {len(value)} bytes, more than a message may have; keep it smaller",
                size_bytes=len(value),
                limit_bytes=limit,
            )
            status, value = too_large.code, error_bytes(too_large)
        if sink.correlation is None:
            self._publish(sink.reply_to, encode_reply(sink.n, status, value))
            return
        encoded = encode_reply(sink.n, status, value, sink.correlation)
        waiting = self._waiting.get(sink.reply_to)
        if waiting is None:
            self._waiting[sink.reply_to] = [encoded]
        else:
            waiting.append(encoded)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        waiting, self._waiting = self._waiting, {}
        for prefix, replies in waiting.items():
            size = 0
            start = 0
            for end, reply in enumerate(replies):
                size += len(reply)
                if size > _FLUSH_BYTES:
                    self._publish(f"{prefix}.m0", b"".join(replies[start : end + 1]))
                    start, size = end + 1, 0
            if start < len(replies):
                self._publish(f"{prefix}.m0", b"".join(replies[start:]))

    def _publish(self, subject: str, payload: bytes) -> None:
        # An answer that cannot be sent is not lost: the caller repeats its message
        # and is answered from the table.
        try:
            self._transport.publish(subject, payload)
        except TooLarge as error:
            _log.warning("answer_too_large", size_bytes=len(payload), error=str(error))
        except (AegisError, ValueError) as error:
            # Whoever asks may name anything as the place for its answer.
            _log.debug("answer_not_sent", error=str(error))
