"""An instance as a member of its service group: commands commit by a claim.

The instance keeps no durable state, so handlers need not wait for one another's
commits: the claim of one message is appended while the next handler runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from aegis._clock import Clock
from aegis._subjects import Subjects
from aegis.actors._actor import AegisActor
from aegis.actors._answers import NO_ANSWER, AnswerSink, error_bytes
from aegis.actors._appending import APPEND_TIMEOUT, pause_before
from aegis.actors._cell import ActorCell
from aegis.actors._claims import CLAIM_TTL, Claim, ClaimStep, is_too_far
from aegis.actors._execution import NOT_RUN, PUT_ASIDE, Outcome, execute, stashed_too_late
from aegis.actors._handlers import HandlerSpec, describe
from aegis.actors._journal import RESERVED_BYTES
from aegis.actors._outgoing import check_address, make_mail
from aegis.actors._posting import Gauge, append_all
from aegis.actors._schedule import Schedule
from aegis.actors._stash import put_aside
from aegis.actors._streams import OpenStreams
from aegis.actors._tracer import Operation, Span
from aegis.actors._withdrawal import WITHDRAW_METHOD, WITHDRAWN
from aegis.contracts import OK, Kind, Request
from aegis.errors import (
    AegisError,
    DeadlineExpired,
    HandlerFailed,
    InvalidRequest,
    Overloaded,
    ProtocolError,
    TooOld,
    Unavailable,
)
from aegis.transport._base import Append, Appended, Refused, Stored, Transport
from aegis.transport._codec import decode_value, encode_value

__all__ = ["GroupBehaviour"]

_log = structlog.get_logger("aegis.group")

MAX_OUTGOING: Final = 500
"""How many messages one command may send: the server takes 1,000 in an atomic batch."""

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
        gauge: Gauge,
    ) -> None:
        self._transport = transport
        self._subjects = subjects
        self._clock = clock
        self._spec = describe(actor_class)
        self._lease_held = lease_held
        self._connection = connection
        self._gauge = gauge
        self._loop = asyncio.get_running_loop()
        self._actor: Any = None
        self._answered: dict[str, tuple[int, bytes]] = {}
        self._under_way: dict[str, list[AnswerSink]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: OpenStreams | None = None
        self._sending: list[Append] | None = None
        """What the command that runs now sends."""
        self._sender = ""

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

    def release(self, publication: AnswerSink) -> None:
        """Answer at once: an instance keeps nothing that could get lost."""
        publication.answer(OK, b"")

    def take_back_changes(self) -> bool:
        """Do nothing: what an instance remembers is no durable state."""
        return False

    def send(
        self, service: str, resource: str, method: str, params: dict[str, Any], reply_to: str | None
    ) -> str:
        """Note a message, to be committed with the claim of the command that runs now.

        Raises:
            InvalidRequest: no command is running, or something of the message is wrong.
            TooLarge, Overloaded: it is too large, or there are too many.
        """
        sending = self._sending
        if sending is None:
            raise InvalidRequest("messages are sent inside commands only", field="method")
        if reply_to is not None:
            raise InvalidRequest(
                "reply_to: an instance of a service group has no mailbox; let a resource send",
                field="reply_to",
            )
        check_address(service, resource)
        if len(sending) >= MAX_OUTGOING:
            raise Overloaded(f"a command sends at most {MAX_OUTGOING} messages", limit=MAX_OUTGOING)
        message_id, payload = make_mail(
            self._transport,
            self._clock,
            session=self._sender,
            n=len(sending) + 1,
            service=service,
            resource=resource,
            method=method,
            params=params,
        )
        sending.append(Append(self._subjects.mailbox(service, resource), payload))
        return message_id

    def publish(self, topic: str, plain: Any) -> bool:
        """Return False: a claim and what is published do not stand in the same stream."""
        return False

    def remind(self, name: str, method: str, params: dict[str, Any], schedule: Schedule) -> None:
        """Refuse: an instance has no journal that could keep the reminder."""
        raise InvalidRequest("an instance of a service group has no reminders", field="name")

    def forget(self, name: str) -> None:
        """Refuse: there is none."""
        raise InvalidRequest("an instance of a service group has no reminders", field="name")

    def hand_over(self, to: str | None) -> AnswerSink:
        """Refuse: nobody stands by for an instance."""
        raise InvalidRequest("only resources are handed over, not instances", field="to")

    async def stop(self, actor: AegisActor) -> None:
        """Wait for the claims under way."""
        if self._streams is not None:
            await self._streams.close()
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
                cell: ActorCell = self._actor.actor_cell
                cell.runtime.observer.on_duplicate(cell)
                sink.answer(*answer)
                return
            if message_id in self._under_way:
                cell = self._actor.actor_cell
                cell.runtime.observer.on_duplicate(cell)
                self._under_way[message_id].append(sink)
                return
        if request.kind == Kind.COMMAND and message_id and request.method == WITHDRAW_METHOD:
            if is_too_far(request.first_sent_ms, self._clock.wall_ms()):
                cell = self._actor.actor_cell
                cell.runtime.observer.on_refused(cell, request.kind, TooOld.code)
                gone = TooOld("the message was first sent too long ago to tell what became of it")
                sink.answer(gone.code, error_bytes(gone))
                return
            self._under_way[message_id] = [sink]
            claim = Claim(
                request.first_sent_ms, self._connection(), DeadlineExpired.code, WITHDRAWN
            )
            self._claim(message_id, claim)
            return
        if self._actor.actor_cell.has_stashed(request):
            put_aside()
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
                if self._spec.has_state:
                    # There is no journal for it: what the command changes would be
                    # acknowledged, and gone with this process.
                    raise InvalidRequest(
                        f"{self._spec.service} keeps its state in resources, not in an "
                        f"instance: name one, as in {self._spec.service}/ID",
                        field="resource_id",
                    )
                if message_id and is_too_far(request.first_sent_ms, self._clock.wall_ms()):
                    raise TooOld(
                        "the message was first sent more than 10 minutes from this host's clock; "
                        "check the clocks of both hosts"
                    )
            elif not self._lease_held():
                raise Unavailable("the node holds no lease at this moment")
        except AegisError as error:
            cell = self._actor.actor_cell
            cell.runtime.observer.on_refused(cell, request.kind, error.code)
            sink.answer(error.code, error_bytes(error))
            return
        if handler.is_stream:
            await self._stream(handler, request, sink)
        elif handler.kind is Kind.COMMAND and message_id:
            await self._command(handler, request, message_id, sink)
        else:
            outcome = await execute(self._actor, handler, request)
            if outcome.status == PUT_ASIDE:
                put_aside()
            else:
                sink.answer(outcome.status, outcome.encoded)

    async def _stream(self, handler: HandlerSpec, request: Request, sink: AnswerSink) -> None:
        if self._streams is None:
            limit = self._transport.max_payload_bytes - RESERVED_BYTES
            self._streams = OpenStreams(self._actor, limit)

        def respond(status: int, value: bytes) -> None:
            if self._lease_held():
                sink.answer(status, value)
            else:
                error = Unavailable("the node holds no lease at this moment")
                sink.answer(error.code, error_bytes(error))

        await self._streams.handle(handler, request, respond)

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
            sending = self._sending = []
            self._sender = message_id
            try:
                outcome = await execute(self._actor, handler, request)
            finally:
                self._sending = None
            if outcome.status == PUT_ASIDE and not sending:
                self._under_way.pop(message_id, None)
                put_aside()
                return
            if outcome.status == PUT_ASIDE:
                late = stashed_too_late(request, "sent")
                outcome = Outcome(late.code, error_bytes(late))
            if outcome.status != OK:
                sending = []
            if sending:
                await self._gauge.check(sum(len(one.payload) for one in sending))
            if outcome.status in NOT_RUN:
                # There is nothing to claim.
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
            sending = []
        claim = Claim(request.first_sent_ms, connection, status, value)
        published = outcome.published if status == OK else None
        self._claim(message_id, claim, sending, published or ())

    def _claim(
        self,
        message_id: str,
        claim: Claim,
        sending: Sequence[Append] = (),
        published: Sequence[AnswerSink] = (),
    ) -> None:
        task = self._loop.create_task(self._commit(message_id, claim, sending, published))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _commit(
        self,
        message_id: str,
        claim: Claim,
        sending: Sequence[Append],
        published: Sequence[AnswerSink],
    ) -> None:
        subject = self._subjects.claim(self._spec.service, message_id)
        # What the command sends is committed with the claim, or not at all.
        appends = [
            Append(subject, encode_value(claim.to_wire()), expect=0, ttl=CLAIM_TTL),
            *sending,
        ]
        began = time.perf_counter()
        attempt = 0
        tracer = self._actor.actor_cell.runtime.tracer
        span: Span | None = None
        if tracer is not None:
            span = tracer.begin(Operation.COMMIT, service=self._spec.service)
        try:
            while True:
                step = claim.begin(wall_ms=self._clock.wall_ms(), connection=self._connection())
                if step is ClaimStep.APPEND:
                    outcome = await append_all(self._transport, appends)
                    if isinstance(outcome, Appended):
                        cell: ActorCell = self._actor.actor_cell
                        cell.runtime.observer.on_committed(time.perf_counter() - began)
                        step = claim.appended()
                        # Who lost the race publishes nothing: the winner did.
                        for publication in published:
                            publication.answer(OK, b"")
                    elif isinstance(outcome, Refused) and outcome.conflict and not outcome.again:
                        step = claim.refused()
                    else:
                        await pause_before(attempt, subject, outcome)
                        attempt += 1
                        continue
                if step is ClaimStep.READ:
                    stored = await self._read(subject)
                    if stored is None:
                        await pause_before(attempt, subject, Refused())
                        attempt += 1
                        continue
                    step = claim.found(decode_value(stored.payload))
                if step is ClaimStep.ANSWER:
                    self._finish(message_id, claim)
                return
        except (AegisError, ProtocolError) as error:
            _log.error("claim_failed", subject=subject, error=str(error))
        finally:
            if span is not None:
                span.end(claim.status)
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
