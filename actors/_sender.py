"""A client's durable sends: one lane a mailbox, in order, until each is acknowledged.

So is what it publishes for topics that are kept: one lane for the stream that keeps them.

A lane has one append under way at a time, so what a sender sends first stands first,
whatever is lost between. What waits meanwhile goes out together if it is much. An append
whose outcome is unknown is made again as it is: the receiver knows the repeat.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from attrs import define, field

from aegis._clock import Clock
from aegis._subjects import Subjects
from aegis._trace import outgoing_traceparent
from aegis.actors._appending import pause_before
from aegis.actors._caller import Destination, new_session
from aegis.actors._posting import Gauge, append_all, refusal_of
from aegis.actors._tracer import Operation, Span, Tracer
from aegis.contracts import OK, Kind, Mail, Receipt, ReplyTo, Request, check_id
from aegis.errors import (
    AegisError,
    ConnectionClosed,
    InvalidRequest,
    OutcomeUnknown,
    Overloaded,
    Unavailable,
)
from aegis.transport._base import Append, Appended, StreamFacts, Transport
from aegis.transport._codec import encode_mail

__all__ = ["BATCH_FROM", "MailSender"]

BATCH_FROM: Final = 16
"""So many messages that wait for one mailbox leave in one atomic batch: a batch takes
the server as long as ten appends or so."""

MAX_BATCH: Final = 256
MAX_BATCH_BYTES: Final = 1024 * 1024
"""More messages, or bytes, do not leave together."""

MAX_WAITING: Final = 4_096
"""How many messages to one mailbox may wait in this process."""

MAX_LANES: Final = 10_000
"""How many mailboxes a process keeps sessions with; beyond it an idle one is closed."""

SESSION_IDLE_SECONDS: Final = 60.0
"""After so long without a message a lane begins a new session. Receivers forget the
sessions that are idle longest, and mail of a forgotten one ends in the dead letters."""


@define(eq=False)
class _Waiting:
    n: int
    size_bytes: int
    append: Append
    deadline: float
    future: asyncio.Future[int]
    attempts: int = 0


@define(eq=False)
class _Lane:
    """The messages of this process to one mailbox, or one stream of topics, oldest first.

    The stream of topics lets go of what is old: there is always room. It takes batches if
    it ``batches``.
    """

    name: str
    destination: Destination
    used_at: float
    is_mail: bool = True
    batches: bool = True
    waiting: deque[_Waiting] = field(factory=deque[_Waiting])
    task: asyncio.Task[None] | None = None


class MailSender:
    """Sends to mailboxes. Belongs to one event loop."""

    def __init__(
        self,
        transport: Transport,
        subjects: Subjects,
        clock: Clock,
        *,
        rng: random.Random | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._transport = transport
        self._subjects = subjects
        self._clock = clock
        self._rng = rng or random.Random()
        self._tracer = tracer
        self._loop = asyncio.get_running_loop()
        self._gauge = Gauge(transport, subjects.stream)
        self._lanes: dict[str, _Lane] = {}
        self._unwatched: set[asyncio.Future[None]] = set()
        self._closed = False

    async def send(
        self,
        service: str,
        resource: str,
        method: str,
        params: dict[str, Any],
        *,
        timeout: float,
        trace: str = "",
        reply_to: ReplyTo | None = None,
        session: str = "",
    ) -> Receipt:
        """Append a message to a mailbox; return when the server has it for good.

        With ``session`` it is the one message of that session, which may be sent again.

        Raises:
            InvalidRequest: a name is no legal one, or a parameter cannot be sent.
            TooLarge: the message does not fit.
            Overloaded: sends are stopped, or too many wait here; nothing was sent.
            Unavailable: no server could be reached in time; nothing was sent.
            OutcomeUnknown: the time was up and nobody can tell whether it is there.
        """
        if self._closed:
            raise ConnectionClosed("the client was closed")
        for name, value in (("service", service), ("resource_id", resource)):
            problem = check_id(value)
            if problem is not None:
                raise InvalidRequest(f"{name}: {problem}", field=name)
        deadline = self._loop.time() + timeout
        subject = self._subjects.mailbox(service, resource)
        request = Request(
            Kind.COMMAND,
            session,
            1,
            1,
            service,
            resource,
            method,
            params,
            0,
            self._clock.wall_ms(),
            1,
            trace or outgoing_traceparent(),
        )
        span: Span | None = None
        if self._tracer is not None and not trace:
            span = self._tracer.begin(
                Operation.SEND, service=service, method=method, resource=resource
            )
            request.trace = span.traceparent
        try:
            receipt = await self._send(subject, Mail(request, reply_to), session, deadline)
        except BaseException as error:
            if span is not None:
                span.end(getattr(error, "code", None), message_id=request.message_id)
            raise
        if span is not None:
            span.end(OK, message_id=request.message_id)
        return receipt

    async def _send(self, subject: str, mail: Mail, session: str, deadline: float) -> Receipt:
        """Take a message to its place in its lane, and wait for what becomes of it."""
        request = mail.request

        def encode(session: str, n: int) -> bytes:
            request.session, request.n, request.low = session, n, n
            return encode_mail(mail)

        if session:
            lane = _Lane(subject, Destination(session), 0.0)
        else:
            lane = self._lane(subject)
        waiting = self._put(lane, subject, encode, deadline)
        sequence = await self._outcome(waiting, request.message_id)
        return Receipt(request.message_id, request.service, request.resource or "", sequence)

    async def publish(
        self,
        stream: StreamFacts,
        subject: str,
        encode: Callable[[str, int], bytes],
        *,
        timeout: float,
    ) -> int:
        """Append to a stream of topics what ``encode`` makes of a session and a number.

        Return the sequence at which it is stored. Messages of one stream stand there in
        the order of these calls.

        Raises:
            Overloaded: too many wait here, or the stream takes no more; nothing was sent.
            Unavailable: no server could be reached in time; nothing was sent.
            OutcomeUnknown: the time was up and nobody can tell whether it is there.
        """
        if self._closed:
            raise ConnectionClosed("the client was closed")
        lane = self._lane(f"stream {stream.name}")
        lane.is_mail, lane.batches = False, stream.batches
        waiting = self._put(lane, subject, encode, self._loop.time() + timeout)
        return await self._outcome(waiting, f"{lane.destination.session}-{waiting.n}")

    def keep(self, task: asyncio.Future[None]) -> None:
        """Hold on to what is sent while nobody waits for it."""
        self._unwatched.add(task)
        task.add_done_callback(self._unwatched.discard)

    def _put(
        self, lane: _Lane, subject: str, encode: Callable[[str, int], bytes], deadline: float
    ) -> _Waiting:
        """Number and encode a message at once: what is called first is sent first."""
        if len(lane.waiting) >= MAX_WAITING:
            raise Overloaded(
                f"{lane.name}: {MAX_WAITING} messages wait in this process already",
                limit=MAX_WAITING,
            )
        destination = lane.destination
        n = destination.open()
        try:
            payload = encode(destination.session, n)
        except BaseException:
            destination.close(n)
            raise
        future: asyncio.Future[int] = self._loop.create_future()
        waiting = _Waiting(n, len(payload), Append(subject, payload), deadline, future)
        lane.waiting.append(waiting)
        lane.used_at = self._loop.time()
        if lane.task is None:
            lane.task = self._loop.create_task(self._work(lane))
        return waiting

    async def close(self) -> None:
        """End all that is under way with `ConnectionClosed`."""
        self._closed = True
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in (*tasks, *self._unwatched):
            task.cancel()
        await asyncio.gather(*tasks, *self._unwatched, return_exceptions=True)
        for lane in self._lanes.values():
            for waiting in lane.waiting:
                _fail(waiting, ConnectionClosed("the client was closed"))

    async def _outcome(self, waiting: _Waiting, message_id: str) -> int:
        # A timer of its own costs a third of what `asyncio.timeout` and `shield` do.
        timer = self._loop.call_at(waiting.deadline, _expire, waiting, message_id)
        try:
            return await waiting.future
        finally:
            timer.cancel()

    def _lane(self, name: str) -> _Lane:
        now = self._loop.time()
        lane = self._lanes.get(name)
        if lane is not None and (
            lane.task is not None or now - lane.used_at < SESSION_IDLE_SECONDS
        ):
            return lane
        if lane is None and len(self._lanes) >= MAX_LANES:
            idle = next((s for s, one in self._lanes.items() if one.task is None), None)
            if idle is not None:
                del self._lanes[idle]
        session = new_session(self._clock.wall_ms(), f"{self._rng.getrandbits(64):016x}")
        lane = self._lanes[name] = _Lane(name, Destination(session), now)
        return lane

    async def _work(self, lane: _Lane) -> None:
        """Send what waits in a lane, until nothing does."""
        attempt = 0
        while lane.waiting:
            group = self._group(lane)
            if not group:
                break
            try:
                if lane.is_mail:
                    await self._gauge.check(sum(waiting.size_bytes for waiting in group))
                if not self._transport.connected:
                    raise Unavailable("there is no connection to the server")
            except ConnectionClosed as error:
                for waiting in list(lane.waiting):
                    self._end(lane, waiting, error)
            except Unavailable as error:
                # The server may come back before the time of those that wait is up.
                await pause_before(attempt, lane.name, error)
                attempt += 1
            except AegisError as error:
                for waiting in group:
                    self._end(lane, waiting, error)
            else:
                attempt = 0
                await self._post(lane, group)
        lane.task = None

    def _group(self, lane: _Lane) -> list[_Waiting]:
        """Return the next messages to send together; those given up are left out."""
        while lane.waiting and lane.waiting[0].future.done():
            self._drop(lane, lane.waiting[0])
        if len(lane.waiting) < BATCH_FROM or not lane.batches:
            return [lane.waiting[0]] if lane.waiting else []
        group: list[_Waiting] = []
        size = 0
        for waiting in lane.waiting:
            size += waiting.size_bytes
            if len(group) >= MAX_BATCH or (group and size > MAX_BATCH_BYTES):
                break
            if not waiting.future.done():
                group.append(waiting)
        return group

    async def _post(self, lane: _Lane, group: list[_Waiting]) -> None:
        attempt = 0
        while True:
            # A message given up before it was ever sent is left out; one that may have
            # been is not: a repeat must be the same.
            if attempt == 0:
                group = [waiting for waiting in group if not waiting.future.done()]
            if all(waiting.future.done() for waiting in group):
                for waiting in group:
                    self._drop(lane, waiting)
                return
            for waiting in group:
                waiting.attempts += 1
            outcome = await append_all(self._transport, [waiting.append for waiting in group])
            if isinstance(outcome, Appended):
                first = outcome.sequence - len(group) + 1
                for index, waiting in enumerate(group):
                    if not waiting.future.done():
                        waiting.future.set_result(first + index)
                    self._drop(lane, waiting)
                return
            error = refusal_of(outcome)
            if error is not None and attempt == 0:
                for waiting in group:
                    self._end(lane, waiting, error)
                return
            await pause_before(attempt, lane.name, outcome)
            attempt += 1

    def _end(self, lane: _Lane, waiting: _Waiting, error: AegisError) -> None:
        _fail(waiting, error)
        self._drop(lane, waiting)

    def _drop(self, lane: _Lane, waiting: _Waiting) -> None:
        lane.waiting.remove(waiting)
        lane.destination.close(waiting.n)


def _expire(waiting: _Waiting, message_id: str) -> None:
    error: AegisError = Unavailable("the message could not be sent in time")
    if waiting.attempts:
        error = OutcomeUnknown(
            "no acknowledgement came in time: the message may or may not be stored",
            message_id=message_id,
        )
    _fail(waiting, error)


def _fail(waiting: _Waiting, error: AegisError) -> None:
    if not waiting.future.done():
        waiting.future.set_exception(error)
        waiting.future.exception()  # Whoever waited for it may be gone.
