"""Requests out, replies in: one caller's traffic with instances over NATS.

Requests of one loop iteration to the same instance leave in one NATS message, whose
reply subject ends in ``.m<number>``: the k-th request (from 0) has the correlation
``number + k``. See `_answers` for the other side.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final, Protocol

from attrs import define, evolve, field

from aegis.actors._answers import WITHDRAW
from aegis.actors._caller import Call
from aegis.contracts import Kind, Request
from aegis.errors import AegisError
from aegis.transport._base import Message, Transport
from aegis.transport._codec import decode_reply_values, encode_request
from aegis.transport._patience import subscribe_patiently

__all__ = ["Exchange", "Outgoing", "Receiver"]

MAX_BATCH_BYTES: Final = 64 * 1024
"""A batch of requests is cut here; one request alone may be larger."""

MAX_COUNTED: Final = 10_000
"""Subjects whose messages are counted; of others it is never certain that none arrived."""


@define(slots=True, eq=False)
class Outgoing:
    """A request on its way, with the correlations under which its attempts left."""

    request: Request
    call: Call
    tokens: list[int] = field(factory=list[int])
    base: int = 0
    subject: str = ""
    """Where the last attempt went to."""
    elsewhere: bool = False
    """Whether an earlier one went to another subject."""


class Receiver[P: Outgoing](Protocol):
    """Is told what becomes of the requests."""

    def on_answer(self, outgoing: P, status: int, value: object) -> None:
        """An answer came, decoded; there may be several to a request."""
        ...

    def on_nobody(self, outgoing: P) -> None:
        """The server says that nobody received the last attempt."""
        ...

    def on_unsent(self, outgoing: P, error: AegisError) -> None:
        """The attempt did not leave."""
        ...

    def on_denied(self, outgoing: P, subject: str, *, certain: bool) -> None:
        """The server does not let this user send to ``subject``.

        ``certain`` says that no earlier attempt can have arrived anywhere either.
        """
        ...


class Exchange[P: Outgoing]:
    """Sends requests in batches and finds the request that a reply belongs to."""

    def __init__(self, transport: Transport, receiver: Receiver[P]) -> None:
        self._transport = transport
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._inbox = f"{transport.inbox_prefix}.call"
        self._open: dict[int, P] = {}
        self._token = 0
        self._batches: dict[str, list[P]] = {}
        self._published: dict[str, int] = {}

    async def start(self) -> None:
        """Listen for replies; must be awaited before the first request."""
        await subscribe_patiently(self._transport, f"{self._inbox}.*", self._on_message)

    def open(self) -> set[P]:
        """Return the requests whose replies may still come."""
        return set(self._open.values())

    def send(self, subject: str, outgoing: P) -> None:
        """Send one attempt at the end of this loop iteration."""
        batch = self._batches.get(subject)
        if batch is not None:
            batch.append(outgoing)
            return
        if not self._batches:
            self._loop.call_soon(self._flush)
        self._batches[subject] = [outgoing]

    def withdraw(self, subject: str, outgoing: P) -> None:
        """Tell that nobody waits for the answer any more."""
        request = evolve(
            outgoing.request,
            kind=str(Kind.QUERY),
            method=WITHDRAW,
            params={"of": list(outgoing.tokens)},
        )
        token, self._token = self._token, self._token + 1
        self._count(subject)
        with suppress(AegisError):
            self._transport.publish(
                subject, encode_request(request), reply_to=f"{self._inbox}.m{token}"
            )

    def forget(self, outgoing: P) -> None:
        """Take no more answers to any attempt."""
        for token in outgoing.tokens:
            self._open.pop(token, None)

    def _flush(self) -> None:
        batches, self._batches = self._batches, {}
        for subject, batch in batches.items():
            parts: list[bytes] = []
            members: list[P] = []
            size = 0
            for outgoing in batch:
                try:
                    encoded = encode_request(outgoing.request)
                except AegisError as error:
                    self._receiver.on_unsent(outgoing, error)
                    continue
                if size and size + len(encoded) > MAX_BATCH_BYTES:
                    self._publish(subject, parts, members)
                    parts, members, size = [], [], 0
                parts.append(encoded)
                members.append(outgoing)
                size += len(encoded)
            if members:
                self._publish(subject, parts, members)

    def _publish(self, subject: str, parts: list[bytes], members: list[P]) -> None:
        denials = self._transport.denied(subject)
        if denials:
            # If all messages so far were denied, none of these requests can have arrived.
            none_arrived = denials == self._published.get(subject)
            for outgoing in members:
                moved = outgoing.subject not in ("", subject)
                certain = none_arrived and not outgoing.elsewhere and not moved
                self._receiver.on_denied(outgoing, subject, certain=certain)
            return
        self._count(subject)
        base = self._token
        self._token = base + len(members)
        for token, outgoing in enumerate(members, base):
            outgoing.base = base
            if outgoing.subject != subject:
                outgoing.elsewhere = outgoing.elsewhere or bool(outgoing.subject)
                outgoing.subject = subject
            outgoing.tokens.append(token)
            self._open[token] = outgoing
        payload = parts[0] if len(parts) == 1 else b"".join(parts)
        try:
            self._transport.publish(subject, payload, reply_to=f"{self._inbox}.m{base}")
        except AegisError as error:
            # Too large can only be a request that is alone: batches are cut far below.
            for outgoing in members:
                self._receiver.on_unsent(outgoing, error)

    def _count(self, subject: str) -> None:
        count = self._published.get(subject, 0)
        if count or len(self._published) < MAX_COUNTED:
            self._published[subject] = count + 1

    def _on_message(self, message: Message) -> None:
        if message.no_responders:
            self._on_nobody(int(message.subject.rpartition(".m")[2]))
            return
        for n, status, value, correlation in decode_reply_values(message.payload):
            if not isinstance(correlation, int):
                # A plain reply to a message with one request.
                correlation = int(message.subject.rpartition(".m")[2])
            outgoing = self._open.pop(correlation, None)
            if outgoing is not None and n == outgoing.request.n:
                self._receiver.on_answer(outgoing, status, value)

    def _on_nobody(self, base: int) -> None:
        token = base
        while (outgoing := self._open.get(token)) is not None and outgoing.base == base:
            del self._open[token]
            token += 1
            self._receiver.on_nobody(outgoing)
