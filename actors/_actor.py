"""`AegisActor`: the class that services subclass."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NoReturn, Self

import pykka
import structlog

from aegis.actors._answers import AnswerSink
from aegis.actors._cell import ActorCell, Directive, Props
from aegis.actors._deadline import time_left
from aegis.actors._future import AegisFuture
from aegis.actors._mailbox import DEFAULT_MAILBOX_CAPACITY, Envelope, Mailbox, current_envelope
from aegis.actors._plain_command import plain_command
from aegis.actors._publication import KeptPublication
from aegis.actors._ref import ActorRef, StopFlag
from aegis.actors._runtime import Runtime
from aegis.actors._schedule import Schedule
from aegis.actors._stash import DEFAULT_STASH_CAPACITY, PutAside
from aegis.actors._workers import running_loop_or_none
from aegis.contracts import AdminPage, Kind, Request, Role

__all__ = ["AegisActor", "spawn"]

_log = structlog.get_logger("aegis.actor")


def _default[F: Callable[..., Any]](hook: F) -> F:
    """Mark a hook that does nothing, so that it need not be called."""
    hook._aegis_default = True  # type: ignore[attr-defined]
    return hook


if TYPE_CHECKING:
    # Pykka's hooks return None, so that for type checkers, which compare with every
    # base, no subclass could have an ``async def on_start``.
    _PykkaActor = object
else:
    _PykkaActor = pykka.Actor


class AegisActor(_PykkaActor):
    """Base of all actors: a `pykka.Actor` on the shared event loop.

    Methods marked with `command` and `query` are what callers reach. An ``async
    def`` method or hook runs on the event loop, a plain ``def`` in a worker thread.
    One message is handled at a time.

    Lifecycle: ``__init__``, `on_start`, messages, then `on_stop`, or `on_failure`
    if a failure ends this life. A restart begins with a new object; address, ref and
    waiting messages stay.
    """

    _aegis_root = True
    _cell: ActorCell | None = None

    mailbox_capacity: ClassVar[int] = DEFAULT_MAILBOX_CAPACITY
    """How many messages wait; more are refused with `MailboxFull`."""

    stash_capacity: ClassVar[int] = DEFAULT_STASH_CAPACITY
    """How many messages may be put aside by `stash`; more are refused with `StashFull`."""

    failure_directive: ClassVar[
        Directive | str | Callable[[BaseException], Directive | str] | None
    ] = None
    """What follows when a handler fails, or a function of the exception that says so.

    None means ``resume`` for an `Exception`, since state is what it was before, and
    ``restart`` for what lies beyond (`SystemExit`, a cancellation).
    """

    state_version: ClassVar[int] = 1
    """Which form of the state this class writes; see `upcasts` for the earlier ones."""

    admin_page: ClassVar[AdminPage | None] = None
    """A page of this service beside the live page, on the nodes that run it."""

    role: Role = Role.ACTIVE
    epoch: int = 0

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """Take the arguments of `start`; a subclass need not call this."""
        # Pykka's makes what the cell has already.

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> ActorRef[Self]:
        """Start an actor that no supervisor holds, and return its ref at once.

        Messages wait until ``on_start`` has ended; see `ActorRef.wait_started`. What
        would restart a supervised actor stops this one.
        """
        return spawn(Props(cls, args, kwargs))

    def _start_actor_loop(self) -> None:
        self.actor_cell.launch()

    @staticmethod
    def _create_actor_inbox() -> Mailbox:
        return Mailbox()

    @staticmethod
    def _create_future() -> AegisFuture[Any]:
        return AegisFuture()

    # -- who this is --------------------------------------------------------------

    @property
    def actor_cell(self) -> ActorCell:
        """The actor's place in the tree.

        Raises:
            RuntimeError: the object was made by calling the class, and is no actor.
        """
        if self._cell is None:
            name = type(self).__qualname__
            raise RuntimeError(f"this {name} is no running actor; make one with {name}.start()")
        return self._cell

    @property
    def actor_ref(
        self,
    ) -> ActorRef[Self]:
        """The ref by which others reach this actor."""
        return self.actor_cell.ref

    @property
    def actor_urn(self) -> str:
        """The address, by the name that Pykka has for it."""
        return self.actor_cell.address

    @property
    def actor_inbox(self) -> Mailbox:
        """The mailbox."""
        return self.actor_cell.mailbox

    @property
    def actor_stopped(self) -> StopFlag:
        """Tells by ``is_set()`` whether the actor has stopped."""
        return StopFlag(self.actor_cell)

    @property
    def address(self) -> str:
        """Where the actor is in the tree, as in ``/services/account/acct-1/ACC-1``."""
        return self.actor_cell.address

    @property
    def resource_id(self) -> str | None:
        """The resource that this actor is, or None."""
        return self.actor_cell.resource_id

    @property
    def instance_id(self) -> str:
        """The instance that this actor belongs to."""
        return self.actor_cell.props.instance_id

    @property
    def message_id(self) -> str:
        """The name of the message in hand, unique over the whole system.

        It stays the same if the message is handled again after a crash: the
        idempotency key for side effects elsewhere. Empty for a local call that has
        none, and outside of commands and queries.
        """
        envelope = current_envelope.get()
        if envelope is None or envelope.finished or not isinstance(envelope.message, Request):
            return ""
        return envelope.message.message_id if envelope.message.session else ""

    @property
    def time_left(self) -> float:
        """How many seconds are left until nobody waits for the answer any more.

        Infinite where no caller has a deadline. Calls that a handler makes of other
        actors get no more than this, and a query that is async is cancelled at 0; a
        command goes on, since its effect counts.
        """
        return time_left()

    @property
    def log(self) -> structlog.stdlib.BoundLogger:
        """A logger that knows the service, the instance and the resource."""
        cell = self.actor_cell
        logger: structlog.stdlib.BoundLogger = _log.bind(
            service_name=cell.spec.service,
            instance_id=cell.props.instance_id,
            resource_id=cell.resource_id,
        )
        return logger

    # -- what it can do -----------------------------------------------------------

    def actor(self, service: Any, resource_id: str | None = None) -> Any:
        """Return a proxy of another actor, anywhere: ``await self.actor(Risk, "R-1").limits()``.

        Inside a command only queries may be awaited; the timeout is the node's.

        Raises:
            RuntimeError: this actor is not part of a node.
        """
        cluster = self.actor_cell.runtime.cluster
        if cluster is None:
            raise RuntimeError(f"{self.address}: actors elsewhere can be called in a node only")
        return cluster.actor(service, resource_id)

    def publish(self, topic: str, value: Any) -> Awaitable[None]:
        """Send ``value`` to whoever `subscribes` to ``topic`` now, at most once.

        In a command it leaves when the command has happened, and not at all if that
        fails; elsewhere as soon as all that it may tell of is stored. It need not be
        awaited, so a plain ``def`` can publish, too.

        To a topic that a stream keeps, since somebody subscribes durably, a resource's
        command publishes for good: it is part of the command's record, and is stored
        exactly once, in the order of what the resource sends. An instance without a
        resource, or a query, sends it until it is stored or its process ends.

        Raises:
            InvalidRequest: the topic has no legal form, or the value none on the wire.
            TooLarge: the value is larger than a message may be.
            Overloaded: too many messages of this actor wait to be forwarded.
            RuntimeError: this actor is not part of a node.
        """
        cell = self.actor_cell
        cluster = cell.runtime.cluster
        if cluster is None:
            raise RuntimeError(f"{self.address}: topics are there in a node only")
        command = _running_command(cell)
        publication = cluster.publication(topic, value)
        is_kept = isinstance(publication, KeptPublication)
        if command is None or not is_kept or not cell.behaviour.publish(topic, publication.plain):
            _release(cell, command, publication)
        return _DONE

    def hand_over(self, to: str | None = None) -> None:
        """Have a healthy standby own this resource: the instance ``to``, if one is named.

        In a command that is done when the command has happened, and not at all if it
        fails. `on_demote` runs here, then `on_promote` there; this instance stands by from
        then on. Callers notice a few milliseconds. If there is no such standby nothing
        changes, and the log says so.

        Raises:
            InvalidRequest: this actor owns no resource.
        """
        cell = self.actor_cell
        _release(cell, _running_command(cell), cell.behaviour.hand_over(to))

    def stop(self) -> None:
        """Stop after the messages that wait now."""
        self.actor_ref.stop()

    def emit(self, event: object) -> None:
        """Change the state by ``event``, through the method that `applies` it."""
        self.actor_cell.behaviour.emit(event)

    def send(
        self,
        service: Any,
        resource_id: str,
        method: str,
        /,
        *,
        reply_to: str | None = None,
        **params: Any,
    ) -> str:
        """Send a command to a resource; it leaves when the command that runs now commits.

        It takes effect there exactly once, whether its receiver is there now or comes
        later; messages to one resource arrive in the order in which they were sent. If
        the running command fails, nothing is sent. ``service`` is the receiver's class,
        and then the parameters are checked, or a service name.

        ``reply_to`` names a command of this class: it is called with an
        `aegis.Answer` as ``answer``, whatever became of the message there. Returns the
        message's id, which the answer carries.

        Raises:
            InvalidRequest: no command is running, or something is wrong; it names the field.
            NotFound: there is no such command.
            Overloaded: too many messages of this actor wait to be forwarded.
        """
        name, command, plain = plain_command(service, method, params)
        return self.actor_cell.behaviour.send(name, resource_id, command, plain, reply_to)

    def remind(
        self,
        name: str,
        method: str,
        /,
        *,
        after: float | timedelta | None = None,
        at: datetime | None = None,
        every: float | timedelta | str | None = None,
        tz: str | None = None,
        missed: Literal["run", "skip"] = "run",
        **params: Any,
    ) -> None:
        """Call a command of this resource at a time; set when the running command commits.

        It takes effect exactly once, not before its time by the clock of the owner's
        host, also after a failover or a stop of the whole system; then it comes late, or
        with ``missed="skip"`` not at all if that is by more than a second. See
        `late_seconds`. ``after`` and ``every`` are seconds or a timedelta; with ``every``
        it comes again and again, for the first time ``after`` or ``at`` that. A time that
        is past comes at once, that late. A reminder of the same name is replaced.

        ``every`` may be a cron text, whose fields are minute, hour, day of the month, month
        and day of the week: ``"0 9 * * 1-5"`` is 9:00 from Monday to Friday, in the time
        zone ``tz`` (``"Asia/Shanghai"``; UTC without). ``after`` or ``at`` then say from
        when on. Where clocks change it is as with Debian's cron: what is due at a certain
        time comes once a day; in an hour that is left out, right after it.

        Raises:
            InvalidRequest: no command is running, or something is wrong; it names the field.
            NotFound: there is no such command.
            Overloaded: the resource has too many reminders.
        """
        schedule = Schedule(after, at, every, tz, missed)
        self.actor_cell.behaviour.remind(name, method, params, schedule)

    def forget(self, name: str) -> None:
        """End the reminder ``name``, if there is one, when the running command commits."""
        self.actor_cell.behaviour.forget(name)

    @property
    def late_seconds(self) -> float:
        """How much later than its time the reminder in hand comes; else 0."""
        envelope = current_envelope.get()
        if envelope is None or envelope.finished:
            return 0.0
        return float(getattr(envelope.reply_to, "late_seconds", 0.0))

    def stash(self) -> NoReturn:
        """Put the message in hand aside until `unstash_all`, and end the handler.

        Call it before the handler has done anything: it has had no effect then, is not
        journaled as done, and is handled from its beginning when it comes again. A
        command that has changed the state, emitted, sent, published or set a reminder
        before fails instead.

        A caller goes on waiting, and is told at its deadline that time is up; a command
        whose time is up does not run any more. A durable message waits in the journal.
        After a failover or a restart all that was put aside comes again by itself, in its
        order: what still has to wait puts itself aside anew. What a durable subscription
        reads cannot wait so, and fails; it may send what has to wait to its own resource.

        Raises:
            StashFull: ``stash_capacity`` messages wait already. Not caught, it makes a
                caller try again, and brings a durable message to the dead letters.
            InvalidRequest: there is no message that could wait.
        """
        self.actor_cell.check_stash()
        raise PutAside

    def unstash_all(self) -> None:
        """Handle what was put aside, in its order, before anything newer.

        It comes as soon as the handler that runs now has ended.
        """
        self.actor_cell.unstash_all()

    def watch(self, ref: ActorRef[Any]) -> None:
        """Receive a `Terminated` in `on_receive` when the actor of ``ref`` stops."""
        ref.watch(self.actor_ref)

    def unwatch(self, ref: ActorRef[Any]) -> None:
        """Undo `watch`."""
        ref.unwatch(self.actor_ref)

    # -- hooks: plain or async, to be overridden ----------------------------------

    @_default
    def on_start(self) -> Any:
        """Run before the first message of this life; what it raises fails the start."""

    @_default
    def on_stop(self) -> Any:
        """Run after the last message; what it raises is logged."""

    @_default
    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        """Run instead of `on_stop` if a failure ends this life; raising is logged."""

    @_default
    def on_promote(self, epoch: int) -> Any:
        """Run when this actor becomes the owner of its resource, before any message.

        It has its state, and no earlier owner can act any more. It runs after
        `on_start`, again in each life after a restart; what it raises fails the start.
        """

    @_default
    def on_demote(self) -> Any:
        """Run when another has become the owner, before `on_stop`; raising is logged.

        Then this life ends, and another begins as a standby.
        """

    @_default
    def on_receive(self, message: Any) -> Any:
        """Handle a message that calls no handler; the result answers an ask."""
        _log.warning("message_unexpected", address=self.address, message=type(message).__name__)


class _Done:
    """An awaitable of what is done already."""

    def __await__(self) -> Generator[Any]:
        yield from ()


_DONE: Final = _Done()


def _running_command(cell: ActorCell) -> Envelope | None:
    """Return the message in hand if it is a command of this actor."""
    envelope = current_envelope.get()
    if envelope is None or envelope.owner is not cell or not _is_command(envelope):
        return None
    return envelope


def _release(cell: ActorCell, command: Envelope | None, sink: AnswerSink) -> None:
    """Answer ``sink`` when the command has happened; without one, when all before is stored."""
    if command is not None:
        if command.published is None:
            command.published = []
        command.published.append(sink)
    elif running_loop_or_none() is cell.runtime.loop:
        cell.behaviour.release(sink)
    else:
        cell.runtime.call_soon(cell.behaviour.release, sink)


def _is_command(envelope: Envelope) -> bool:
    """Whether a command is being handled: what it does may yet be taken back."""
    message, cell = envelope.message, envelope.owner
    if envelope.finished or not isinstance(message, Request) or cell is None:
        return False
    handler = cell.spec.handlers.get(message.method)
    return handler is not None and handler.kind is Kind.COMMAND


def spawn(
    props: Props, *, address: str | None = None, runtime: Runtime | None = None
) -> ActorRef[Any]:
    """Start an actor that no supervisor holds.

    Raises:
        ConfigurationError: the class cannot be served.
        RuntimeError: there is no event loop to run on.
    """
    runtime = Runtime.current() if runtime is None else runtime
    if address is None:
        address = f"/local/{props.actor_class.__name__}-{runtime.next_number()}"
    cell = ActorCell(props, address=address, runtime=runtime)
    cell.actor._start_actor_loop()
    return cell.ref
