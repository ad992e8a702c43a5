"""`AegisActor`: the class that services subclass."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pykka
import structlog

from aegis.actors._cell import ActorCell, Directive, Props
from aegis.actors._future import AegisFuture
from aegis.actors._mailbox import DEFAULT_MAILBOX_CAPACITY, Mailbox, current_envelope
from aegis.actors._ref import ActorRef, StopFlag
from aegis.actors._runtime import Runtime
from aegis.contracts import Request, Role

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

    failure_directive: ClassVar[
        Directive | str | Callable[[BaseException], Directive | str] | None
    ] = None
    """What follows when a handler fails, or a function of the exception that says so.

    None means ``resume`` for an `Exception`, since state is what it was before, and
    ``restart`` for what lies beyond (`SystemExit`, a cancellation).
    """

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

    def stop(self) -> None:
        """Stop after the messages that wait now."""
        self.actor_ref.stop()

    def emit(self, event: object) -> None:
        """Change the state by ``event``, through the method that `applies` it."""
        self.actor_cell.behaviour.emit(event)

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
