"""The caller's shell: sends requests to whoever owns the address, until they end.

What to do after an answer, a silence or a refusal is decided by `Call` (sans-I/O), the
bytes are moved by `Exchange`; this module finds the owner and keeps the time. Requests
to an instance of this process never leave it.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Coroutine
from typing import Any, Final, Protocol

import structlog
from attrs import define

from aegis._clock import Clock
from aegis._subjects import Subjects
from aegis._trace import outgoing_traceparent
from aegis.actors._answers import CallbackAnswer
from aegis.actors._breaker import Breakers
from aegis.actors._caller import Call, Destination, Done, new_session
from aegis.actors._directory import Directory
from aegis.actors._exchange import Exchange, Outgoing
from aegis.actors._sessions import WINDOW
from aegis.actors._tracer import Operation, Span, Tracer
from aegis.contracts import OK, Request
from aegis.errors import (
    AegisError,
    ConnectionClosed,
    Disconnected,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from aegis.transport._base import Transport
from aegis.transport._codec import decode_value
from aegis.transport._denials import PUBLISH, denied

__all__ = ["Client", "ClientStatistics", "LocalDelivery", "Unresolved"]

_log = structlog.get_logger("aegis.client")

MAX_DESTINATIONS: Final = 10_000
"""Sessions with addresses that are kept; beyond it the oldest idle one is closed."""

LOOKUP_SECONDS: Final = 1.0
"""How long one lookup may take before it is tried again."""

SWEEP_SECONDS: Final = 0.01
"""One timer serves all open calls; it looks at them at most so often."""


@define(slots=True, frozen=True)
class ClientStatistics:
    """What a client keeps at this moment: open calls, and sessions with addresses."""

    open_calls: int
    sessions: int


class LocalDelivery(Protocol):
    """Takes requests for the instances of this process."""

    def deliver(self, instance_id: str, request: Request, answer: CallbackAnswer) -> bool:
        """Deliver, or return False if the instance is not of this process."""
        ...

    def withdraw(self, instance_id: str, request: Request, answer: CallbackAnswer) -> None:
        """Cancel a query that was delivered with ``answer``; leave a command alone."""
        ...


@define(slots=True, frozen=True)
class Unresolved:
    """A message of an earlier call, whose outcome is unknown."""

    session: str
    n: int
    first_sent_ms: int

    @property
    def low(self) -> int:
        """A number that closes no message which could still be open."""
        return max(1, self.n - WINDOW + 1)


@define(slots=True, eq=False, kw_only=True)
class _Pending(Outgoing):
    """One open call with what is needed to repeat it."""

    service: str
    resource: str | None
    instance: str | None
    future: asyncio.Future[Any]
    due: float = math.inf
    last_instance: str = ""
    epoch: int = 0
    """Of the owner that the last attempt went to."""
    waiting: bool = False
    sink: CallbackAnswer | None = None
    """Of the last attempt, if that went to an instance of this process."""


class Client:
    """Calls actors by address. Belongs to one event loop."""

    def __init__(
        self,
        transport: Transport,
        subjects: Subjects,
        clock: Clock,
        directory: Directory,
        *,
        local: LocalDelivery | None = None,
        rng: random.Random | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._transport = transport
        self._subjects = subjects
        self._clock = clock
        self._directory = directory
        self._local = local
        self._rng = rng or random.Random()
        self._tracer = tracer
        self._loop = asyncio.get_running_loop()
        self._exchange: Exchange[_Pending] = Exchange(transport, self)
        self._destinations: dict[tuple[str, str | None, str | None], Destination] = {}
        self._room: dict[Destination, asyncio.Event] = {}
        self._backing_off: dict[_Pending, None] = {}  # In order, like all that is walked through.
        self._timed: dict[_Pending, None] = {}  # All open calls, oldest first.
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._round_robin: dict[str, int] = {}
        self._breakers = Breakers()
        self._tasks: set[asyncio.Task[None]] = set()
        self._instance_subjects: dict[str, str] = {}
        self._closed = False

    async def start(self) -> None:
        """Listen for replies; must be awaited before the first call."""
        await self._exchange.start()
        self._start_task(self._retry_at_events())

    async def close(self) -> None:
        """End all open calls with `ConnectionClosed`."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for pending in list(self._timed):
            self._finish(pending, Done(error=ConnectionClosed("the client was closed")))
        for room in self._room.values():
            room.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def directory(self) -> Directory:
        """What is known of who owns what."""
        return self._directory

    def statistics(self) -> ClientStatistics:
        """Return what is kept at this moment."""
        return ClientStatistics(len(self._timed), len(self._destinations))

    async def call(
        self,
        service: str,
        method: str,
        params: dict[str, Any],
        *,
        resource: str | None = None,
        instance: str | None = None,
        kind: str = "command",
        timeout: float,
        trace: str = "",
        again: Unresolved | None = None,
    ) -> Any:
        """Call a handler and return its plain result; ``timeout`` in seconds.

        The same message is repeated until it is answered or the time is up. With
        ``instance`` the call goes to that instance alone. With ``again`` it is that
        message of an earlier call.

        Raises:
            AegisError: the class that stands for the answer's status.
        """
        if self._closed:
            raise ConnectionClosed("the client was closed")
        loop = self._loop
        deadline = loop.time() + timeout
        exact = kind == "command"
        session, n, low = "", 0, 0
        first_sent_ms = self._clock.wall_ms() if exact and resource is None else 0
        destination: Destination | None = None
        if again is not None:
            session, n, low = again.session, again.n, again.low
            first_sent_ms = again.first_sent_ms
        elif exact:
            destination = self._destination(service, resource, instance)
            while not destination.has_room:
                if destination.abandon_oldest():
                    continue
                await self._wait_room(destination, deadline)
                if self._closed:
                    raise ConnectionClosed("the client was closed")
            n = destination.open()
            session, low = destination.session, destination.low
        span: Span | None = None
        if self._tracer is not None and not trace:
            span = self._tracer.begin(
                Operation.CALL, kind=kind, service=service, method=method, resource=resource
            )
        request = Request(
            kind,
            session,
            n,
            low,
            service,
            resource,
            method,
            params,
            0,
            first_sent_ms,
            0,
            trace or (outgoing_traceparent() if span is None else span.traceparent),
        )
        pending = _Pending(
            request=request,
            call=Call(deadline, exact, request.message_id if exact else ""),
            service=service,
            resource=resource,
            instance=instance,
            future=loop.create_future(),
        )
        self._timed[pending] = None
        unknown = False
        try:
            self._try(pending)
            return await pending.future
        except asyncio.CancelledError:
            self._withdraw(pending)
            raise
        except OutcomeUnknown as error:
            unknown = not error.facts.get("done")
            error.facts |= {
                "service": service,
                "resource_id": resource,
                "first_sent_ms": request.first_sent_ms,
            }
            raise
        except AegisError as error:
            floor = pending.call.too_old_to_begin(error) if destination is not None else None
            if floor is None:
                raise
        finally:
            self._forget(pending)
            if span is not None:
                self._end_span(span, pending)
            if destination is not None:
                if unknown:
                    destination.leave(n)
                else:
                    destination.close(n)
                room = self._room.get(destination)
                if room is not None and destination.has_room:
                    room.set()
        # The owner has dropped so many sessions that this one is too old to begin:
        # the message did not run, so it may run as the first of a younger session.
        self._destinations.pop((service, resource, instance), None)
        self._destination(service, resource, instance, above=floor)
        return await self.call(
            service,
            method,
            params,
            resource=resource,
            instance=instance,
            kind=kind,
            timeout=max(0.0, deadline - loop.time()),
            trace=request.trace if span is None else "",
        )

    @staticmethod
    def _end_span(span: Span, pending: _Pending) -> None:
        future, status = pending.future, None
        if future.done() and not future.cancelled():
            error = future.exception()
            status = OK if error is None else getattr(error, "code", None)
        span.end(
            status,
            instance=pending.last_instance,
            message_id=pending.request.message_id if pending.call.exact else "",
            attempts=pending.request.attempt,
        )

    async def _retry_at_events(self) -> None:
        """Ownership has changed: whoever waits for the old owner need not wait longer."""
        while True:
            await self._directory.wait_change()
            waiting, self._backing_off = self._backing_off, {}
            for pending in waiting:
                pending.waiting = False
                self._try(pending)
            unknown = dict.fromkeys(self._retry_if_moved(pending) for pending in self._in_flight())
            for address in unknown:
                if address is not None:
                    self._start_task(self._look_again(*address))

    def _in_flight(self) -> list[_Pending]:
        sent = self._exchange.open()
        return [p for p in self._timed if p in sent and p.instance is None and not p.future.done()]

    def _retry_if_moved(self, pending: _Pending) -> tuple[str, str | None] | None:
        """Try again if the attempt under way went to whom the address belongs no more.

        Returns the address if that is not known at this moment.
        """
        service, resource = pending.service, pending.resource
        if resource is not None:
            route = self._directory.routes.get((service, resource))
            moved = route is not None and route.epoch > pending.epoch
            known = route is not None
        else:
            providers = self._directory.providers.get(service)
            known = providers is not None
            moved = known and all(p.instance_id != pending.last_instance for p in providers or ())
        if moved:
            self._try(pending)
        return None if known else (service, resource)

    async def _look_again(self, service: str, resource: str | None) -> None:
        """Look up an address that attempts under way went to, and repeat those that err."""
        try:
            if resource is not None:
                await self._directory.route(service, resource, timeout=LOOKUP_SECONDS)
            else:
                await self._directory.instances(service, timeout=LOOKUP_SECONDS)
        except AegisError:
            return  # Nobody has it now; the next event comes when somebody does.
        for pending in self._in_flight():
            if (pending.service, pending.resource) == (service, resource):
                self._retry_if_moved(pending)

    # -- one attempt ------------------------------------------------------------------

    def _try(self, pending: _Pending) -> None:
        """Start an attempt: at once if the address is known, else after a lookup."""
        if pending.future.done():
            return
        instance = self._choose(pending)
        if instance is None:
            self._start_task(self._look_up(pending))
        else:
            self._send(pending, instance)

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _choose(self, pending: _Pending) -> str | None:
        if pending.instance is not None:
            return pending.instance
        if pending.resource is not None:
            route = self._directory.routes.get((pending.service, pending.resource))
            if route is None:
                return None
            if route.epoch > pending.epoch:
                pending.call.moved()
                pending.epoch = route.epoch
            return route.instance_id
        providers = self._directory.providers.get(pending.service)
        if not providers:
            return None
        # Retries stay with one instance while it lives: it may know the answer.
        if pending.last_instance and any(
            provider.instance_id == pending.last_instance for provider in providers
        ):
            return pending.last_instance
        turn = self._round_robin.get(pending.service, -1) + 1
        if self._breakers:
            # Those that have not answered are passed over; if nobody is left, all may try.
            now = self._loop.time()
            for skipped in range(len(providers)):
                instance = providers[(turn + skipped) % len(providers)].instance_id
                if self._breakers.admits(instance, now):
                    turn += skipped
                    self._breakers.sent(instance, now)
                    break
        self._round_robin[pending.service] = turn
        return providers[turn % len(providers)].instance_id

    async def _look_up(self, pending: _Pending) -> None:
        left = max(0.0, pending.call.deadline - self._loop.time())
        timeout = min(LOOKUP_SECONDS, left)
        try:
            if pending.resource is not None:
                await self._directory.route(pending.service, pending.resource, timeout=timeout)
            else:
                await self._directory.instances(pending.service, timeout=timeout)
        except NotFound as error:
            # Nobody has it: that is an answer, unless an earlier attempt may have run, or
            # its owner was lost just now and may be starting again.
            moving = pending.resource is not None and self._directory.is_moving(
                pending.service, pending.resource
            )
            if not moving and (pending.call.sent == 0 or not pending.call.exact):
                self._finish(pending, Done(error=error))
            else:
                self._back_off(pending, error)
            return
        except AegisError as error:
            self._back_off(pending, error)
            return
        instance = self._choose(pending)
        if instance is None:
            self._back_off(pending, Unavailable(f"nobody serves {pending.service} now"))
        elif not pending.future.done():
            self._send(pending, instance)

    def _send(self, pending: _Pending, instance: str) -> None:
        now = self._loop.time()
        left = pending.call.deadline - now
        if left <= 0:
            self._finish(pending, pending.call.expired())
            return
        pending.last_instance = instance
        request = pending.request
        request.attempt = pending.call.attempt()
        request.remaining_ms = int(left * 1000)
        # Before it leaves: an instance of this process may refuse it at once, and then the
        # time of the next attempt is set already.
        self._set_timer(pending, now + min(left, pending.call.silence()))
        if self._local is not None and self._deliver_locally(pending, instance):
            return
        subject = self._instance_subjects.get(instance)
        if subject is None:
            subject = self._instance_subjects[instance] = self._subjects.instance(instance)
        self._exchange.send(subject, pending)

    def _deliver_locally(self, pending: _Pending, instance: str) -> bool:
        assert self._local is not None

        def answered(status: int, value: bytes) -> None:
            if not pending.future.done():
                self._judge(pending, status, decode_value(value))

        sink = CallbackAnswer(answered)
        is_local = self._local.deliver(instance, pending.request, sink)
        pending.sink = sink if is_local else None
        return is_local

    # -- what the exchange tells ------------------------------------------------------

    def on_answer(self, outgoing: _Pending, status: int, value: object) -> None:
        """An answer came."""
        if self._breakers and outgoing.resource is None and status != Unavailable.code:
            self._breakers.answered(outgoing.last_instance)
        if not outgoing.future.done():
            self._judge(outgoing, status, value)

    def on_nobody(self, outgoing: _Pending) -> None:
        """The server says that nobody received the last attempt."""
        if outgoing.future.done():
            return
        outgoing.call.undelivered()
        if outgoing.resource is not None:
            self._directory.invalidate_route(outgoing.service, outgoing.resource, outgoing.epoch)
        else:
            self._directory.invalidate_service(outgoing.service)
        gone, outgoing.last_instance = outgoing.last_instance, ""
        if outgoing.resource is None:
            self._breakers.failed(gone, self._loop.time(), at_once=True)
        self._back_off(outgoing, Unavailable(f"instance {gone} does not answer"))

    def on_unsent(self, outgoing: _Pending, error: AegisError) -> None:
        """The attempt did not leave: it waits for the server, or can never leave."""
        if isinstance(error, Disconnected):
            outgoing.call.undelivered()
            self._back_off(outgoing, error)
        else:
            self._finish(outgoing, Done(error=error))

    def on_denied(self, outgoing: _Pending, subject: str, *, certain: bool) -> None:
        """This user may not send there."""
        error: AegisError = denied(PUBLISH, subject)
        if outgoing.call.exact and outgoing.call.sent > 1 and not certain:
            error = OutcomeUnknown(
                f"{error}; an earlier attempt may have taken effect",
                message_id=outgoing.call.message_id,
            )
        self._finish(outgoing, Done(error=error))

    def _judge(self, pending: _Pending, status: int, value: Any) -> None:
        done = pending.call.answered(status, value)
        if done is None:
            self._back_off(pending, None)
        else:
            self._finish(pending, done)

    def _back_off(self, pending: _Pending, error: AegisError | None) -> None:
        if pending.future.done():
            return
        now = self._loop.time()
        decision = pending.call.refused(now, self._rng.random(), error=error)
        if isinstance(decision, Done):
            self._finish(pending, decision)
            return
        if decision.moved and pending.resource is not None:
            self._directory.invalidate_route(pending.service, pending.resource, pending.epoch)
        pending.waiting = True
        self._backing_off[pending] = None
        self._set_timer(pending, now + decision.delay)

    def _finish(self, pending: _Pending, done: Done) -> None:
        if pending.future.done():
            return
        if done.error is not None:
            pending.future.set_exception(done.error)
        else:
            pending.future.set_result(done.value)

    def _withdraw(self, pending: _Pending) -> None:
        """Tell who has the call that nobody waits for it; there only a query is cancelled."""
        instance = pending.last_instance
        if not instance:
            return
        if pending.sink is not None and self._local is not None:
            self._local.withdraw(instance, pending.request, pending.sink)
        elif pending.tokens:
            self._exchange.withdraw(self._instance_subjects[instance], pending)

    def _forget(self, pending: _Pending) -> None:
        self._timed.pop(pending, None)
        self._exchange.forget(pending)
        if pending.waiting:
            self._stop_waiting(pending)

    def _stop_waiting(self, pending: _Pending) -> None:
        pending.waiting = False
        self._backing_off.pop(pending, None)

    # -- time -------------------------------------------------------------------------

    def _set_timer(self, pending: _Pending, due: float) -> None:
        pending.due = due
        if due < self._timer_at:
            self._start_timer(due)

    def _start_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer_at = math.inf
        now = self._loop.time()
        earliest = math.inf
        # Not a heap: that would keep calls, and make the garbage collector look at them,
        # long after they have ended.
        for pending in list(self._timed):
            if pending.due > now:
                earliest = min(earliest, pending.due)
            elif not pending.future.done():
                pending.due = math.inf
                self._on_due(pending, now)
        if earliest < self._timer_at:
            self._start_timer(max(earliest, now + SWEEP_SECONDS))

    def _on_due(self, pending: _Pending, now: float) -> None:
        if pending.waiting:
            self._stop_waiting(pending)
        elif pending.resource is None and pending.last_instance:
            self._breakers.failed(pending.last_instance, now)
        if now >= pending.call.deadline:
            self._finish(pending, pending.call.expired())
        else:
            self._try(pending)

    # -- sessions ---------------------------------------------------------------------

    def _destination(
        self, service: str, resource: str | None, instance: str | None, *, above: int = -1
    ) -> Destination:
        key = (service, resource, instance)
        destination = self._destinations.get(key)
        if destination is None:
            if len(self._destinations) >= MAX_DESTINATIONS:
                self._drop_idle_destination()
            start = max(self._clock.wall_ms(), above + 1)
            destination = Destination(new_session(start, f"{self._rng.getrandbits(64):016x}"))
            self._destinations[key] = destination
        return destination

    def _drop_idle_destination(self) -> None:
        # Nothing of it is open, so nothing will ever be repeated: a new session is as good.
        for key, destination in self._destinations.items():
            if destination.is_idle:
                del self._destinations[key]
                self._room.pop(destination, None)
                return

    async def _wait_room(self, destination: Destination, deadline: float) -> None:
        room = self._room.setdefault(destination, asyncio.Event())
        room.clear()
        left = deadline - self._loop.time()
        try:
            async with asyncio.timeout(left):
                await room.wait()
        except TimeoutError:
            raise Unavailable(
                "too many calls to this address are open; none ended before the deadline"
            ) from None
