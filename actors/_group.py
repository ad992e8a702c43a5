"""An instance as a member of its service group: commands commit by a claim.

The instance keeps no durable state, so handlers need not wait for one another's
commits: the claim of one message is appended while the next handler runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog

from aegis._clock import Clock
from aegis._subjects import Subjects
from aegis.actors._actor import AegisActor
from aegis.actors._answers import NO_ANSWER, AnswerSink, error_bytes
from aegis.actors._claims import CLAIM_TTL, Claim, ClaimStep, is_too_far
from aegis.actors._execution import execute
from aegis.actors._handlers import HandlerSpec, describe
from aegis.actors._journal import APPEND_TIMEOUT, RESERVED_BYTES, pause
from aegis.contracts import Kind, Request
from aegis.errors import (
    AegisError,
    DeadlineExpired,
    HandlerFailed,
    InvalidRequest,
    ProtocolError,
    TooOld,
    Unavailable,
)
from aegis.transport._base import Append, Appended, Refused, Stored, Transport
from aegis.transport._codec import decode_value, encode_value

__all__ = ["GroupBehaviour"]

_log = structlog.get_logger("aegis.group")

MAX_REMEMBERED: Final = 4_096
"""Answers kept in memory, so that a repeat need not ask the stream."""


class GroupBehaviour:
    """What the actor of an instance does with messages to its service.

    ``lease_held`` says whether the node may answer queries at this moment;
    ``connection`` numbers the transport's connections.
    """

    def __init__(
        self,
        transport: Transport,
        subjects: Subjects,
        clock: Clock,
        *,
        actor_class: type[AegisActor],
        lease_held: Callable[[], bool],
        connection: Callable[[], int],
    ) -> None:
        self._transport = transport
        self._subjects = subjects
        self._clock = clock
        self._spec = describe(actor_class)
        self._lease_held = lease_held
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._actor: Any = None
        self._answered: dict[str, tuple[int, bytes]] = {}
        self._under_way: dict[str, list[AnswerSink]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, actor: AegisActor) -> None:
        """Nothing is to be recovered: an instance keeps no durable state."""
        self._actor = actor
        if self._spec.has_state:
            self._actor.state = self._spec.new_state()

    async def started(self, actor: AegisActor) -> None:
        """Do nothing: an instance owns no resource."""

    def emit(self, event: object) -> None:
        """Refuse: an instance has no journal that could keep the event."""
        raise InvalidRequest("an instance of a service group keeps no events", field="event")

    async def stop(self, actor: AegisActor) -> None:
        """Wait for the claims under way."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=APPEND_TIMEOUT)
        for task in self._tasks:
            task.cancel()

    @property
    def idle(self) -> bool:
        """Whether no claim is under way."""
        return not self._tasks

    async def handle(self, request: Request, reply_to: AnswerSink | None) -> None:
        """Take one request to its answer, or to where only its claim is missing."""
        sink = NO_ANSWER if reply_to is None else reply_to
        message_id = request.message_id if request.session else ""
        if request.kind == Kind.COMMAND and message_id:
            answer = self._answered.get(message_id)
            if answer is not None:
                sink.answer(*answer)
                return
            if message_id in self._under_way:
                self._under_way[message_id].append(sink)
                return
        try:
            handler = self._spec.handler(request.method)
            if request.remaining_ms <= 0:
                raise DeadlineExpired(
                    "the deadline passed while the message waited; it did not run"
                )
            if handler.kind is Kind.COMMAND:
                if request.kind != Kind.COMMAND:
                    raise InvalidRequest(
                        f"kind: {self._spec.service}.{handler.name} is a command, not a query",
                        field="kind",
                    )
                if message_id and is_too_far(request.first_sent_ms, self._clock.wall_ms()):
                    raise TooOld(
                        "the message was first sent more than 10 minutes from this host's clock; "
                        "check the clocks of both hosts"
                    )
            elif not self._lease_held():
                raise Unavailable("the node holds no lease at this moment")
        except AegisError as error:
            sink.answer(error.code, error_bytes(error))
            return
        if handler.kind is Kind.COMMAND and message_id:
            await self._command(handler, request, message_id, sink)
        else:
            outcome = await execute(self._actor, handler, request)
            sink.answer(outcome.status, outcome.encoded)

    async def _command(
        self,
        handler: HandlerSpec,
        request: Request,
        message_id: str,
        sink: AnswerSink,
    ) -> None:
        self._under_way[message_id] = [sink]
        connection = self._connection()
        subject = self._subjects.claim(self._spec.service, message_id)
        try:
            # A repeat may have been answered by another instance, or by this one in
            # an earlier life: then the handler need not run again.
            if request.attempt > 1 and (stored := await self._read(subject)) is not None:
                claim = Claim(request.first_sent_ms, connection, 0, b"")
                claim.found(decode_value(stored.payload))
                self._finish(message_id, claim)
                return
            outcome = await execute(self._actor, handler, request)
            if outcome.status == InvalidRequest.code:
                # Nothing ran, so there is nothing to claim.
                for waiting in self._under_way.pop(message_id, ()):
                    waiting.answer(outcome.status, outcome.encoded)
                return
        except AegisError as error:
            # Nothing was appended: the refusal is true, and the caller may ask again.
            for waiting in self._under_way.pop(message_id, ()):
                waiting.answer(error.code or 503, error_bytes(error))
            return
        except BaseException:
            self._under_way.pop(message_id, None)
            raise
        status, value = outcome.status, outcome.encoded
        limit = self._transport.max_payload_bytes - RESERVED_BYTES
        if len(value) > limit:
            failure = HandlerFailed(
                f"the answer takes {len(value)} bytes, more than a claim may have; keep it smaller",
                size_bytes=len(value),
                limit_bytes=limit,
            )
            status, value = failure.code, error_bytes(failure)
        claim = Claim(request.first_sent_ms, connection, status, value)
        task = self._loop.create_task(self._commit(message_id, subject, claim))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _commit(self, message_id: str, subject: str, claim: Claim) -> None:
        payload = encode_value(claim.to_wire())
        attempt = 0
        try:
            while True:
                step = claim.begin(wall_ms=self._clock.wall_ms(), connection=self._connection())
                if step is ClaimStep.APPEND:
                    outcome = await self._transport.append(
                        Append(subject, payload, expect=0, ttl=CLAIM_TTL), timeout=APPEND_TIMEOUT
                    )
                    if isinstance(outcome, Appended):
                        step = claim.appended()
                    elif isinstance(outcome, Refused) and outcome.conflict and not outcome.again:
                        step = claim.refused()
                    else:
                        await pause(attempt, subject, outcome)
                        attempt += 1
                        continue
                if step is ClaimStep.READ:
                    stored = await self._read(subject)
                    if stored is None:
                        await pause(attempt, subject, Refused())
                        attempt += 1
                        continue
                    step = claim.found(decode_value(stored.payload))
                if step is ClaimStep.ANSWER:
                    self._finish(message_id, claim)
                return
        except (AegisError, ProtocolError) as error:
            _log.error("claim_failed", subject=subject, error=str(error))
        finally:
            self._under_way.pop(message_id, None)

    async def _read(self, subject: str) -> Stored | None:
        last: Stored | None = None
        async for message in self._transport.read(subject):
            last = message
        return last

    def _finish(self, message_id: str, claim: Claim) -> None:
        if len(self._answered) >= MAX_REMEMBERED:
            del self._answered[next(iter(self._answered))]
        self._answered[message_id] = (claim.status, claim.reply)
        for sink in self._under_way.pop(message_id, ()):
            sink.answer(claim.status, claim.reply)
