"""The life of one actor: start, one message at a time, failure, restart, stop.

A cell outlives the actor object: a restart puts a new object into it, while address,
ref and waiting messages stay. It runs no task while there is no mail.

::

    STARTING ──> RUNNING ──> STOPPING ──> STOPPED
        │           │            │
        └───────────┴──> SUSPENDED (failed, or stopped for a restart;
                             its supervisor restarts it or finishes it)

All methods belong to the event loop, but for `wake` and `launch`.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
from attrs import field, frozen
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr

from aegis._trace import enter_trace
from aegis.actors._answers import AnswerSink
from aegis.actors._behaviour import Behaviour, PlainBehaviour
from aegis.actors._execution import SLOW_HANDLER_SECONDS, take_back_cancellation, text_of
from aegis.actors._future import AegisFuture
from aegis.actors._handlers import describe
from aegis.actors._local_answer import LocalAnswer, refuse
from aegis.actors._mailbox import Envelope, Mailbox, current_envelope
from aegis.actors._messages import (
    NO_DEADLINE_MS,
    Failure,
    Stop,
    Terminated,
    Turn,
    as_exception,
)
from aegis.actors._ref import ActorRef
from aegis.actors._runtime import Runtime
from aegis.actors._stash import PutAside, Stash
from aegis.actors._tracer import Operation, Span, Tracer
from aegis.contracts import OK, Kind, Request
from aegis.errors import ActorDead, DeadlineExpired, InvalidRequest, MailboxFull, OutcomeUnknown

if TYPE_CHECKING:
    from aegis.actors._actor import AegisActor

__all__ = ["TURN_MESSAGES", "ActorCell", "Directive", "Parent", "Props", "Status"]

TURN_MESSAGES: Final = 64
"""After so many messages without a wait an actor lets the others on its loop go on."""

TURN_SECONDS: Final = 0.005
"""... or after so long, if its messages are heavy."""

_log = structlog.get_logger("aegis.actors")


class Status(StrEnum):
    """Where an actor is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    SUSPENDED = "suspended"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Directive(StrEnum):
    """What follows when a handler fails."""

    RESUME = "resume"
    """Go on with the next message: the state is what it was before."""
    RESTART = "restart"
    """Begin a new life, as the supervisor's strategy and limits allow."""
    STOP = "stop"
    """End for good."""
    ESCALATE = "escalate"
    """Let the supervisor itself fail."""


class Parent(Protocol):
    """Who decides what happens after an actor ended."""

    def child_exited(self, child: ActorCell, failure: Failure | None, /) -> None:
        """Restart or finish ``child``, which is suspended; not within this call."""
        ...


@frozen(eq=False)
class Props:
    """How to make an actor, the first time and at each restart.

    Actors that differ only in name share one: ``behaviour`` is called with the
    actor, which knows its address and resource.
    """

    actor_class: type[AegisActor]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(factory=dict[str, Any])
    behaviour: Callable[[AegisActor], Behaviour] | None = None
    instance_id: str = ""
    mailbox_capacity: int | None = None


class ActorCell:
    """One place in the tree of actors, and whoever lives there now."""

    __slots__ = (
        "_changed",
        "_counted",
        "_failure",
        "_handling",
        "_in_hand",
        "_life",
        "_stash",
        "_task",
        "_watchers",
        "actor",
        "address",
        "behaviour",
        "error",
        "is_killed",
        "mailbox",
        "parent",
        "processed",
        "props",
        "ref",
        "resource_id",
        "restarts",
        "runtime",
        "spec",
        "status",
    )

    actor: AegisActor
    mailbox: Mailbox
    behaviour: Behaviour

    def __init__(
        self,
        props: Props,
        *,
        address: str,
        runtime: Runtime,
        resource_id: str | None = None,
        parent: Parent | None = None,
    ) -> None:
        self.props = props
        self.address = address
        self.runtime = runtime
        self.resource_id = resource_id
        self.parent = parent
        self.status = Status.STARTING
        self.processed = 0
        """Messages handled so far, in all lives."""
        self._counted = 0  # Of those, how many `take_progress` has told.
        self.restarts = 0
        self.error: BaseException | None = None
        """The failure that ended the last life, if one did."""
        self.is_killed = False
        """Whether the last life was ended by `kill`: another may begin at any moment."""
        self._life = 0  # Which actor object is meant: a killed one may still be busy.
        self._task: asyncio.Task[None] | None = None
        self._handling = False
        self._in_hand: Envelope | None = None  # What the task handles.
        self._failure: Failure | None = None
        self._stash: Stash | None = None  # Most actors never put anything aside.
        self._watchers: list[ActorRef[Any]] | None = None
        self._changed: AegisFuture[None] | None = None
        self.spec = describe(props.actor_class)
        """What the actor's class offers."""
        self.ref: ActorRef[Any] = ActorRef(self)
        self._make_actor()

    def __repr__(self) -> str:
        return f"<ActorCell {self.address} {self.status}>"

    def is_interrupted(self, actor: AegisActor) -> bool:
        """Whether the kernel itself is taking the handler off ``actor``."""
        return (
            self.actor is not actor
            or not self._handling
            or self._failure is not None
            or self.status is Status.STOPPED
        )

    def _make_actor(self) -> None:
        props = self.props
        cls = props.actor_class
        actor: AegisActor = cls.__new__(cls, *props.args, **props.kwargs)
        actor._cell = self
        self.actor = actor
        self.is_killed = False
        self._life += 1
        if self._life == 1:
            mailbox = actor._create_actor_inbox()
            mailbox.address = self.address
            capacity = props.mailbox_capacity
            mailbox.capacity = cls.mailbox_capacity if capacity is None else capacity
            mailbox.owner = self
            self.mailbox = mailbox
        type(actor).__init__(actor, *props.args, **props.kwargs)
        make = props.behaviour
        self.behaviour = PlainBehaviour() if make is None else make(actor)

    # -- starting -----------------------------------------------------------------

    def launch(self) -> None:
        """Start an actor that nobody supervises; from any thread."""
        self.runtime.top_level.add(self)
        self.runtime.call_soon(self._launch)

    def _launch(self) -> None:
        self._run(self._start_alone())

    async def _start_alone(self) -> None:
        error = await self._start()
        if error is not None:
            _log.error("actor_start_failed", address=self.address, exc_info=error)
            self.finish(f"the start failed: {text_of(error)}", failed=True)

    async def start(self) -> BaseException | None:
        """Start the actor, and return what failed, if anything did.

        It is suspended then: `restart` or `finish` it.
        """
        errors: list[BaseException | None] = []

        async def start() -> None:
            errors.append(await self._start())

        await self._wait_for(start())
        return errors[0] if errors else ActorDead(f"{self.address}: was stopped while it started")

    async def restart(self) -> BaseException | None:
        """Begin a new life; return what failed, as `start` does."""
        while not self._at_rest:
            await self._wait_change()
        if self.is_stopped:
            return ActorDead(f"{self.address}: the actor has stopped", address=self.address)
        self.restarts += 1
        self.runtime.observer.on_restart(self)
        _log.info(
            "actor_restarts",
            address=self.address,
            service_name=self.spec.service,
            instance_id=self.props.instance_id,
            resource_id=self.resource_id,
            restarts=self.restarts,
        )
        self.status = Status.STARTING
        self._failure = None
        self.mailbox.reopen()
        self.unstash_all()
        try:
            self._make_actor()
        except BaseException as error:
            self._suspend(error)
            return error
        return await self.start()

    async def _start(self) -> BaseException | None:
        life = self._life
        self._handling = True
        self.runtime.awake.add(self)  # Mail may wait for it already.
        envelope = Envelope(None)
        envelope.owner = self
        current_envelope.set(envelope)
        try:
            await self.behaviour.start(self.actor)
            await self.call_hook("on_start")
            await self.behaviour.started(self.actor)
        except GeneratorExit:
            raise
        except BaseException as error:
            if life == self._life:
                self._suspend(error)
            return error
        finally:
            envelope.finished = True
            if life == self._life:
                self._handling = False
        if life != self._life or self.status is not Status.STARTING:
            return ActorDead(f"{self.address}: was stopped while it started")
        self.status = Status.RUNNING
        self.error = None
        self._tell_change()
        self.runtime.observer.on_started(self)
        # What came in the meantime is handled in the loop's next turn; with nothing
        # there, this ends the hold of the mailbox.
        self.runtime.pump_soon(self._pump)
        return None

    def _suspend(self, error: BaseException | None) -> None:
        self.status = Status.SUSPENDED
        self.error = error
        self._tell_change()

    def take_progress(self) -> int:
        """Return how many messages were handled since this was last asked."""
        counted, self._counted = self._counted, self.processed
        return self.processed - counted

    @property
    def is_stopped(self) -> bool:
        """Whether the actor has stopped for good."""
        return self.status is Status.STOPPED

    async def wait_running(self) -> bool:
        """Wait until the actor runs, or has stopped; return whether it runs."""
        while self.status not in (Status.RUNNING, Status.STOPPED):
            await self._wait_change()
        return self.status is Status.RUNNING

    async def _wait_change(self) -> None:
        if self._changed is None:
            self._changed = AegisFuture()
        await self._changed

    def _tell_change(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    # -- taking messages ----------------------------------------------------------

    def deliver(self, request: Request, reply_to: AnswerSink | None) -> None:
        """Put a request into the mailbox; its time runs from now on.

        Raises:
            ActorDead: the actor has stopped, or was asked to.
            MailboxFull: the mailbox is at capacity.
        """
        deadline = None
        if request.remaining_ms < NO_DEADLINE_MS:
            deadline = self.runtime.loop.time() + request.remaining_ms / 1000
        try:
            self.mailbox.put(Envelope(request, reply_to, deadline))
        except MailboxFull:
            self.runtime.observer.on_mailbox_full(self)
            raise

    def wake(self) -> None:
        """Begin to take messages; called by the mailbox, in any thread."""
        self.runtime.pump_soon(self._pump)

    def _pump(self) -> None:
        if self.status is not Status.STOPPED:
            self.runtime.awake.add(self)
        turn_ends = 0.0
        for _ in range(TURN_MESSAGES):
            # While a task runs, or the actor is suspended, the mailbox stays busy
            # and does not wake it; the end of either comes back here.
            if self._task is not None or self.status is not Status.RUNNING:
                return
            envelope = self.mailbox.get_nowait()
            if envelope is None:
                return
            if self._run(self._process(envelope)):
                envelope.task = self._task
                self._in_hand = envelope
                if envelope.deadline is not None:
                    self._withdraw_at_deadline(envelope)
                return
            now = time.perf_counter()
            if not turn_ends:
                turn_ends = now + TURN_SECONDS
            elif now >= turn_ends:
                break
        self.runtime.pump_soon(self._pump)

    def _run(self, coroutine: Any) -> bool:
        """Run ``coroutine`` as this actor's task; return whether it goes on."""
        task = self.runtime.start_task(coroutine)
        if task.done():
            return False
        self._task = task
        task.add_done_callback(self._task_done, context=self.runtime.context)
        return True

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if task is not self._task:
            return  # Of an earlier life.
        self._task = None
        self._in_hand = None
        self._tell_change()
        self._pump()

    def _withdraw_at_deadline(self, envelope: Envelope) -> None:
        task, deadline = envelope.task, envelope.deadline
        if task is None or deadline is None or envelope.finished:
            return
        if not self._is_withdrawable(envelope):
            return
        timer = self.runtime.loop.call_at(deadline, self._withdraw, envelope)
        task.add_done_callback(lambda _: timer.cancel(), context=self.runtime.context)

    def withdraw(self, given_up: Callable[[Envelope], bool]) -> None:
        """Cancel the queries, waiting or in hand, whose sender gave up; commands go on."""
        for envelope in [*self.mailbox.waiting(), *(self._stash or ())]:
            if given_up(envelope) and self._is_withdrawable(envelope):
                envelope.deadline = -math.inf
        envelope_in_hand = self._in_hand
        if envelope_in_hand is not None and given_up(envelope_in_hand):
            self._withdraw(envelope_in_hand)

    def _withdraw(self, envelope: Envelope) -> None:
        if (
            self._in_hand is not envelope
            or envelope.finished
            or not self._is_withdrawable(envelope)
        ):
            return
        envelope.withdrawn = True
        if self._task is not None:
            self._task.cancel()

    def _is_withdrawable(self, envelope: Envelope) -> bool:
        """Whether it is a query, and one that a cancellation ends: threads run on."""
        message = envelope.message
        if type(message) is not Request:
            return False
        handler = self.spec.handlers.get(message.method)
        return (
            handler is not None
            and handler.kind is Kind.QUERY
            and (handler.is_async or handler.is_stream)
        )

    async def _wait_for(self, coroutine: Any) -> None:
        """Run ``coroutine`` as this actor's task and wait for its end."""
        self._run(coroutine)
        task = self._task
        if task is not None:
            await asyncio.wait((task,))

    async def _process(self, envelope: Envelope) -> None:
        current_envelope.set(envelope)
        envelope.owner = self
        envelope.finished = False  # It may have been put aside before.
        message = envelope.message
        life = self._life
        span: Span | None = None
        self._handling = True
        try:
            if type(message) is Request:
                if envelope.deadline is not None:
                    left = max(-1.0, envelope.deadline - self.runtime.loop.time())
                    message.remaining_ms = math.ceil(left * 1000)
                if self.runtime.tracer is not None:
                    span = self._begin_span(self.runtime.tracer, envelope, message)
                elif message.trace:
                    enter_trace(message.trace)
                waiting = self.behaviour.handle(message, envelope.reply_to)  # type: ignore[arg-type]
                if waiting is not None:
                    await waiting
            elif type(message) is Stop:
                await self._stop(envelope, message)
            elif type(message) is Turn:
                await self._take_turn(envelope, message)
            else:
                await self._receive(envelope)
        except GeneratorExit:
            raise
        except BaseException as error:
            self._interrupted(envelope, error, life)
        finally:
            envelope.finished = True
            if span is not None:
                span.end()
            if type(message) is not Stop:
                self.processed += 1
            if life == self._life:
                self._handling = False
        if envelope.aside:
            self._keep_aside(envelope)
        if self._failure is not None and life == self._life and self.status is Status.RUNNING:
            await self._fall()

    def _begin_span(self, tracer: Tracer, envelope: Envelope, request: Request) -> Span:
        # Mail and reminders have no time that could run out.
        is_mail = envelope.deadline is None and request.remaining_ms <= 0
        span = tracer.begin(
            Operation.PROCESS if is_mail else Operation.HANDLE,
            parent=request.trace,
            kind=request.kind,
            service=request.service or self.spec.service,
            method=request.method,
            resource=self.resource_id,
            instance=self.props.instance_id,
            message_id=request.message_id if request.session else "",
            attempts=request.attempt,
        )
        span.enter()
        return span

    def _interrupted(self, envelope: Envelope, error: BaseException, life: int) -> None:
        """Deal with what came out of a behaviour, or with a kill."""
        message = envelope.message
        if isinstance(message, Request):
            # A remote caller asks again and is answered by whoever owns the journal
            # then. One in this process has to be told.
            if isinstance(envelope.reply_to, LocalAnswer):
                unknown = OutcomeUnknown(
                    f"{self.address}: the actor failed while it handled {message.method}",
                    message_id=message.message_id,
                )
                envelope.reply_to.future.try_set_exception(unknown)
        elif isinstance(envelope.reply_to, AegisFuture):
            envelope.reply_to.try_set_exception(as_exception(error, self.address))
        if life == self._life and self.status is not Status.STOPPED and self._failure is None:
            self.fail(error, directive=self._directive(error, in_behaviour=True))

    async def perform(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run something between two messages, ahead of those that wait; see `Turn`.

        Raises:
            ActorDead: the actor has stopped, or is being stopped.
            Exception: what ``run`` raised.
        """
        done: AegisFuture[None] = AegisFuture()
        self.mailbox.put_control(Envelope(Turn(run), done))
        await done

    async def _take_turn(self, envelope: Envelope, turn: Turn) -> None:
        done = envelope.reply_to
        assert isinstance(done, AegisFuture)
        actor = self.actor
        try:
            await turn.run()
        except GeneratorExit:
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and self.is_interrupted(actor):
                raise
            take_back_cancellation()
            done.try_set_exception(as_exception(error, self.address))
        else:
            done.try_set(None)

    async def _receive(self, envelope: Envelope) -> None:
        """Handle a message that is no request."""
        future = envelope.reply_to
        assert future is None or isinstance(future, AegisFuture)
        if envelope.deadline is not None and self.runtime.loop.time() >= envelope.deadline:
            return  # Its sender gave up before any work was done.
        actor = self.actor
        began = time.perf_counter()
        status = OK
        try:
            result = await self._answer_to(envelope.message)
        except GeneratorExit:
            raise
        except PutAside:
            envelope.aside = True
            return
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and self.is_interrupted(actor):
                raise
            status = 500
            if future is not None:
                future.try_set_exception(as_exception(error, self.address))
            if not self.is_interrupted(actor):
                self.fail(error)
        else:
            if future is not None:
                future.try_set(result)
        take_back_cancellation()
        seconds = time.perf_counter() - began
        if seconds >= SLOW_HANDLER_SECONDS:
            operation = type(envelope.message).__name__
            duration_ms = round(seconds * 1000, 1)
            _log.warning(
                "handler_slow", address=self.address, operation=operation, duration_ms=duration_ms
            )
        self.runtime.observer.on_message_handled(self, "message", status, seconds)

    async def _answer_to(self, message: Any) -> Any:
        actor = self.actor
        if isinstance(message, ProxyCall):
            return await self._call(
                _attribute(actor, message.attr_path), *message.args, **message.kwargs
            )
        if isinstance(message, ProxyGetAttr):
            return _attribute(actor, message.attr_path)
        if isinstance(message, ProxySetAttr):
            setattr(_attribute(actor, message.attr_path[:-1]), message.attr_path[-1], message.value)
            return None
        if getattr(type(actor).on_receive, "_aegis_default", False):
            return actor.on_receive(message)
        return await self._call(actor.on_receive, message)

    async def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of the actor: on the loop if it is async, else in a thread."""
        if inspect.iscoroutinefunction(function):
            return await function(*args, **kwargs)

        result = await self.runtime.workers.run(lambda: function(*args, **kwargs))
        return await result if inspect.isawaitable(result) else result

    async def call_hook(self, name: str, *args: Any) -> None:
        """Run a hook of the actor, plain or async, and raise what it raises.

        For behaviours, within their own methods: hooks and handlers never overlap.
        """
        if not getattr(getattr(type(self.actor), name), "_aegis_default", False):
            await self._call(getattr(self.actor, name), *args)

    # -- what is put aside --------------------------------------------------------

    def check_stash(self) -> None:
        """Make sure that the message in hand can be put aside.

        Raises:
            InvalidRequest: nothing is in hand that could wait.
            StashFull: as many wait as the class allows.
        """
        envelope = current_envelope.get()
        if (
            envelope is None
            or envelope.finished
            or envelope.owner is not self
            or type(envelope.message) in (Stop, Turn, type(None))
        ):
            raise InvalidRequest(
                f"{self.address}: only the handler of a message can put it aside", field="stash"
            )
        if self._stash is None:
            self._stash = Stash()
        capacity = self.props.actor_class.stash_capacity
        late = self._stash.check_room(self.address, capacity, self.runtime.loop.time())
        for expired in late:
            error = DeadlineExpired("the deadline passed while the message was put aside")
            self.runtime.call_soon(refuse, expired.reply_to, error)

    def unstash_all(self) -> None:
        """Let what was put aside come next, in its order; from any thread."""
        if self._stash:
            waiting = self._stash.take_all()
            try:
                self.mailbox.put_back(waiting)
            except ActorDead:
                for envelope in waiting:
                    self._refuse(envelope)

    def has_stashed(self, request: Request) -> bool:
        """Whether the command that ``request`` is, or repeats, was put aside."""
        return self._stash is not None and self._stash.find(request) is not None

    def _keep_aside(self, envelope: Envelope) -> None:
        envelope.aside = False
        if self.status is Status.STOPPED or self._stash is None:
            self._refuse(envelope)
            return
        # For whoever waits for it, it has not begun.
        envelope.owner = None
        envelope.published = None
        self._stash.add(envelope)

    def _take_waiting(self) -> list[Envelope]:
        """Close the mailbox; return all that waits, what was put aside above all."""
        stashed = [] if self._stash is None else self._stash.take_all()
        return [*stashed, *self.mailbox.close()]

    # -- failing ------------------------------------------------------------------

    def fail(
        self,
        error: BaseException,
        *,
        directive: Directive | None = None,
        interrupt: bool = False,
    ) -> None:
        """Take note of a failure, of a handler or from outside, and act on it.

        The directive comes from the actor's class unless it is given. It is carried
        out when the message in hand is done; ``interrupt`` cancels its handler.
        """
        if self.status is Status.STOPPED:
            return
        chosen = self._directive(error) if directive is None else directive
        failure = Failure(error, chosen)
        envelope = current_envelope.get()
        operation = "" if envelope is None else _operation(envelope.message)
        _log.error(
            "actor_failed",
            address=self.address,
            service_name=self.spec.service,
            operation=operation,
            directive=chosen.value,
            exc_info=error,
        )
        self.runtime.observer.on_failure(self, failure)
        if chosen is Directive.RESUME or self.status is not Status.RUNNING:
            return
        if self._failure is None:
            self._failure = failure
        if not self._handling:
            if self._task is None:
                self._run(self._fall())
        elif interrupt and self._task is not None:
            self._task.cancel()

    def _directive(self, error: BaseException, *, in_behaviour: bool = False) -> Directive:
        chosen = self.props.actor_class.failure_directive
        if callable(chosen) and not isinstance(chosen, Directive):
            try:
                chosen = chosen(error)
            except Exception:
                _log.exception("failure_directive_failed", address=self.address)
                chosen = Directive.ESCALATE
        if chosen is None:
            chosen = Directive.RESUME if isinstance(error, Exception) else Directive.RESTART
        if in_behaviour and chosen is Directive.RESUME:
            # What the actor remembers may be half changed: it cannot go on with it.
            return Directive.RESTART
        return Directive(chosen)

    async def _fall(self) -> None:
        """End this life after a failure."""
        failure = self._failure
        assert failure is not None
        life = self._life
        self._suspend(failure.error)
        error = failure.error
        await self._end_life("on_failure", type(error), error, error.__traceback__)
        if life != self._life or self.status is not Status.SUSPENDED:
            return
        self._failure = None
        if self.parent is not None:
            self.parent.child_exited(self, failure)
        else:
            self.finish(f"failed: {failure}", failed=True)

    async def _end_life(self, hook: str, *args: Any) -> None:
        life = self._life
        for step in (
            partial(self.call_hook, hook, *args),
            partial(self.behaviour.stop, self.actor),
        ):
            try:
                await step()
            except GeneratorExit:
                raise
            except BaseException as error:
                if life != self._life or self.status is Status.STOPPED:
                    raise  # Killed meanwhile.
                take_back_cancellation()
                _log.error("actor_hook_failed", address=self.address, hook=hook, exc_info=error)

    # -- stopping -----------------------------------------------------------------

    async def _stop(self, envelope: Envelope, message: Stop) -> None:
        life = self._life
        self.status = Status.STOPPING
        waiting = [envelope] if message.for_restart else [envelope, *self._take_waiting()]
        stops = [w.reply_to for w in waiting if type(w.message) is Stop]
        for other in waiting:
            if type(other.message) is not Stop:
                self._refuse(other)
        await self._end_life("on_stop")
        if life == self._life and self.status is Status.STOPPING:
            self._suspend(None)
            if not message.for_restart:
                if self.parent is not None:
                    self.parent.child_exited(self, None)
                else:
                    self.finish("stopped")
        for stopped in stops:
            if isinstance(stopped, AegisFuture):
                stopped.try_set(True)

    def _refuse(self, envelope: Envelope) -> None:
        if type(envelope.message) is Stop:
            if isinstance(envelope.reply_to, AegisFuture):
                envelope.reply_to.try_set(True)
            return
        dead = ActorDead(
            f"{self.address}: the actor stopped before it handled the message",
            address=self.address,
        )
        try:
            refuse(envelope.reply_to, dead)
        except Exception:
            _log.exception("answer_failed", address=self.address)

    async def terminate(self, *, timeout: float, for_restart: bool = False) -> bool:
        """Stop the actor ahead of what waits in its mailbox; kill it after ``timeout``.

        With ``for_restart`` its messages stay and it is suspended in the end. Returns
        whether it stopped by itself.
        """
        if self.status in (Status.STARTING, Status.RUNNING):
            # A mailbox that refuses it has a stop in it, or is closed by one.
            with suppress(ActorDead):
                self.mailbox.put_control(Envelope(Stop(for_restart)))
        graceful = True
        try:
            async with asyncio.timeout(timeout):
                while not self._at_rest:
                    await self._wait_change()
        except TimeoutError:
            graceful = False
            _log.error("actor_stop_timed_out", address=self.address, timeout_seconds=timeout)
            self.kill(for_restart=for_restart)
        if not for_restart:
            self.finish("stopped")
        return graceful

    @property
    def _at_rest(self) -> bool:
        if self.status is Status.STOPPED:
            return True
        return self.status is Status.SUSPENDED and self._task is None

    def kill(self, reason: str = "killed", *, for_restart: bool = False) -> None:
        """Take the actor off at once: no hooks, and its handler is cancelled.

        A handler that does not let itself be cancelled, or runs in a thread, goes on
        without an actor; nothing that it does is seen.
        """
        if self.status is Status.STOPPED:
            return
        task, self._task = self._task, None
        self.is_killed = True
        self._life += 1
        self._handling = False
        self._failure = None
        behaviour, actor = self.behaviour, self.actor
        if for_restart:
            self.status = Status.SUSPENDED
        else:
            self.finish(reason, failed=True)
        if task is not None:
            task.cancel()
        self.runtime.start_detached(_stop_behaviour(behaviour, actor, self.address))

    def finish(self, reason: str, *, failed: bool = False) -> None:
        """End for good: refuse what waits, and tell those who watch."""
        if self.status is Status.STOPPED:
            return
        self.status = Status.STOPPED
        for envelope in self._take_waiting():
            self._refuse(envelope)
        self.runtime.top_level.discard(self)
        self.runtime.awake.discard(self)
        self.runtime.observer.on_stopped(self, reason)
        self._tell_change()
        watchers, self._watchers = self._watchers, None
        for watcher in watchers or ():
            watcher.notify(Terminated(self.address, reason, failed))

    # -- watching -----------------------------------------------------------------

    def add_watcher(self, watcher: ActorRef[Any]) -> None:
        """Tell ``watcher`` once this actor has stopped; at once if it has."""
        if self.status is Status.STOPPED:
            reason = "stopped" if self.error is None else f"failed: {text_of(self.error)}"
            watcher.notify(Terminated(self.address, reason, failed=self.error is not None))
        elif self._watchers is None:
            self._watchers = [watcher]
        elif watcher not in self._watchers:
            self._watchers.append(watcher)

    def remove_watcher(self, watcher: ActorRef[Any]) -> None:
        """Forget ``watcher``."""
        if self._watchers is not None and watcher in self._watchers:
            self._watchers.remove(watcher)
            self._watchers = self._watchers or None


def _attribute(root: Any, path: Any) -> Any:
    for name in path:
        root = getattr(root, name)
    return root


def _operation(message: Any) -> str:
    return message.method if isinstance(message, Request) else type(message).__name__


async def _stop_behaviour(behaviour: Behaviour, actor: AegisActor, address: str) -> None:
    try:
        await behaviour.stop(actor)
    except GeneratorExit:
        raise
    except BaseException as error:
        _log.error("actor_hook_failed", address=address, hook="stop", exc_info=error)
