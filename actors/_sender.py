"""A client's durable sends: one lane a mailbox, in order, until each is acknowledged.

So is what it publishes for topics that are kept: one lane for the stream that keeps them.

A lane has one append under way at a time, so what a sender sends first stands first,
whatever is lost between. What waits meanwhile goes out together if it is much. An append
whose outcome is unknown is made again as it is: the receiver knows the repeat.

Most messages need none of that: they are appended as they come, and acknowledged. Only
where something has to be waited for does a lane get a task.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from attrs import define, field

from aegis._clock import Clock
from aegis._subjects import Subjects
from aegis._trace import outgoing_traceparent
from aegis.actors._appending import begin_append, pause_before
from aegis.actors._caller import Destination, new_session
from aegis.actors._posting import Gauge, append_all, refusal_of
from aegis.actors._tracer import Operation, Tracer
from aegis.contracts import OK, Kind, Mail, Receipt, ReplyTo, Request, check_id
from aegis.errors import (
    AegisError,
    ConnectionClosed,
    InvalidRequest,
    OutcomeUnknown,
    Overloaded,
    Unavailable,
)
from aegis.transport._base import Append, Appended, AppendOutcome, StreamFacts, Transport
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
    is_busy: bool = False
    """Whether an append is under way, or `task` at work."""
    task: asyncio.Task[None] | None = None

    @property
    def makes_batch(self) -> bool:
        """Whether what waits leaves together."""
        return self.batches and len(self.waiting) >= BATCH_FROM


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
        self._lanes: dict[tuple[str, str], _Lane] = {}
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
            raise ConnectionClosed(_CLOSED)
        deadline = self._loop.time() + timeout
        lane = self._mail_lane(service, resource, session)
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
        mail = Mail(request, reply_to)
        if self._tracer is None or trace:
            return await self._send(lane, mail, deadline)
        span = self._tracer.begin(Operation.SEND, service=service, method=method, resource=resource)
        request.trace = span.traceparent
        try:
            receipt = await self._send(lane, mail, deadline)
        except BaseException as error:
            span.end(getattr(error, "code", None), message_id=request.message_id)
            raise
        span.end(OK, message_id=request.message_id)
        return receipt

    async def _send(self, lane: _Lane, mail: Mail, deadline: float) -> Receipt:
        """Take a message to its place in its lane, and wait for what becomes of it."""
        request = mail.request

        def encode(session: str, n: int) -> bytes:
            request.session, request.n, request.low = session, n, n
            return encode_mail(mail)

        waiting = self._put(lane, lane.name, encode, deadline)
        message_id = request.message_id
        sequence = await self._outcome(waiting, message_id)
        return Receipt(message_id, request.service, request.resource or "", sequence)

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
            raise ConnectionClosed(_CLOSED)
        lane = self._lane("", stream.name) or self._open_lane("", stream.name, stream.name)
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
        if not lane.is_busy:
            self._go_on(lane)
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
                _fail(waiting, ConnectionClosed(_CLOSED))

    async def _outcome(self, waiting: _Waiting, message_id: str) -> int:
        # A timer of its own costs a third of what `asyncio.timeout` and `shield` do.
        timer = self._loop.call_at(waiting.deadline, _expire, waiting, message_id)
        try:
            return await waiting.future
        finally:
            timer.cancel()

    # -- lanes ------------------------------------------------------------------------

    def _mail_lane(self, service: str, resource: str, session: str) -> _Lane:
        """Return the lane to a mailbox; with ``session`` one of its own."""
        lane = None if session else self._lane(service, resource)
        if lane is not None:
            return lane
        for name, value in (("service", service), ("resource_id", resource)):
            problem = check_id(value)
            if problem is not None:
                raise InvalidRequest(f"{name}: {problem}", field=name)
        subject = self._subjects.mailbox(service, resource)
        if session:
            return _Lane(subject, Destination(session), 0.0)
        return self._open_lane(service, resource, subject)

    def _lane(self, service: str, name: str) -> _Lane | None:
        """Return the lane that is there, unless its session has been idle for long."""
        lane = self._lanes.get((service, name))
        if lane is None or lane.is_busy:
            return lane
        return lane if self._loop.time() - lane.used_at < SESSION_IDLE_SECONDS else None

    def _open_lane(self, service: str, name: str, subject: str) -> _Lane:
        key = (service, name)
        if key not in self._lanes and len(self._lanes) >= MAX_LANES:
            idle = next((known for known, one in self._lanes.items() if not one.is_busy), None)
            if idle is not None:
                del self._lanes[idle]
        session = new_session(self._clock.wall_ms(), f"{self._rng.getrandbits(64):016x}")
        lane = self._lanes[key] = _Lane(subject, Destination(session), self._loop.time())
        return lane

    def _go_on(self, lane: _Lane) -> None:
        """Append what is next at once, if nothing has to be waited for; else by a task."""
        waiting = lane.waiting
        while waiting and waiting[0].future.done():
            self._drop(lane, waiting[0])
        lane.is_busy = bool(waiting)
        if not waiting:
            return
        first = waiting[0]
        if (
            lane.makes_batch
            or not self._transport.connected
            or (lane.is_mail and not self._gauge.take(first.size_bytes))
        ):
            lane.task = self._loop.create_task(self._work(lane))
            return
        first.attempts = 1
        appending = begin_append(self._transport, first.append)
        appending.add_done_callback(partial(self._on_outcome, lane, first))

    def _on_outcome(
        self, lane: _Lane, waiting: _Waiting, appending: asyncio.Future[AppendOutcome]
    ) -> None:
        if appending.cancelled():
            return  # The loop ends.
        outcome = appending.result()
        if isinstance(outcome, Appended):
            if not waiting.future.done():
                waiting.future.set_result(outcome.sequence)
            self._drop(lane, waiting)
        if self._closed:
            _fail(waiting, ConnectionClosed(_CLOSED))
        elif not lane.waiting:
            lane.is_busy = False
        elif isinstance(outcome, Appended):
            self._go_on(lane)
        else:
            lane.task = self._loop.create_task(self._work(lane, waiting, outcome))

    async def _work(
        self, lane: _Lane, first: _Waiting | None = None, outcome: AppendOutcome | None = None
    ) -> None:
        """Send what waits in a lane, until nothing does; ``first`` was sent, in vain so far."""
        if first is not None and outcome is not None:
            await self._post(lane, [first], outcome)
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
        lane.is_busy = False

    def _group(self, lane: _Lane) -> list[_Waiting]:
        """Return the next messages to send together; those given up are left out."""
        while lane.waiting and lane.waiting[0].future.done():
            self._drop(lane, lane.waiting[0])
        if not lane.makes_batch:
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

    async def _post(
        self, lane: _Lane, group: list[_Waiting], outcome: AppendOutcome | None = None
    ) -> None:
        """Append messages together until the outcome is known; ``outcome`` is of one append."""
        attempt = 0
        while True:
            if outcome is None:
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
            outcome = None

    def _end(self, lane: _Lane, waiting: _Waiting, error: AegisError) -> None:
        _fail(waiting, error)
        self._drop(lane, waiting)

    def _drop(self, lane: _Lane, waiting: _Waiting) -> None:
        lane.waiting.remove(waiting)
        lane.destination.close(waiting.n)


_CLOSED: Final = "the client was closed"


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
