"""Refs and proxies: how one actor, or other code, talks to an actor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, cast, overload

import pykka
from attrs import evolve
from pykka.messages import ProxyCall, ProxyGetAttr

from aegis._trace import current_traceparent
from aegis.actors._deadline import deadline_of_caller
from aegis.actors._future import AegisFuture
from aegis.actors._local_answer import LocalAnswer
from aegis.actors._mailbox import Envelope, Mailbox, current_envelope
from aegis.actors._messages import NO_DEADLINE_MS, Call, Stop, as_exception
from aegis.actors._proxy_method import ProxyMethod
from aegis.actors._reply_stream import ReplyStream
from aegis.actors._streams import STREAM, Pull
from aegis.actors._workers import running_loop_or_none
from aegis.contracts import Kind, Receipt, Request
from aegis.errors import (
    ActorDead,
    AegisError,
    CommandInCommand,
    DeadlineExpired,
    InvalidRequest,
    MailboxFull,
    NotFound,
    OutcomeUnknown,
)
from aegis.transport._codec import decode_value, encode_value

if TYPE_CHECKING:
    from aegis.actors._actor import AegisActor
    from aegis.actors._cell import ActorCell
    from aegis.actors._handlers import HandlerSpec

__all__ = [
    "ActorRef",
    "ActorRefLike",
    "LocalProxy",
    "NotFoundAttribute",
    "call_of",
]


class ActorRefLike(Protocol):
    """What every ref offers, be the actor in this process or elsewhere."""

    @property
    def address(self) -> str:
        """Where the actor is: unique in its system."""
        ...

    def ask(self, message: Any, *, timeout: float | None = None) -> AegisFuture[Any]:
        """Send a message and return the future answer; raise nothing."""
        ...

    def tell(self, message: Any) -> None:
        """Send a message that nobody waits for."""
        ...

    def send(self, message: Any) -> AegisFuture[Receipt]:
        """Put a command into the mailbox of a resource, where it waits for any owner."""
        ...

    def proxy(self) -> Any:
        """Return an object whose methods are the actor's handlers."""
        ...

    def is_alive(self) -> bool:
        """Whether the actor takes messages, as far as is known here."""
        ...


class StopFlag:
    """Looks like the `threading.Event` by which Pykka tells that an actor stopped."""

    __slots__ = ("_cell",)

    def __init__(self, cell: ActorCell) -> None:
        self._cell = cell

    def is_set(self) -> bool:
        """Whether the actor has stopped."""
        return self._cell.is_stopped


if TYPE_CHECKING:
    # To type checkers an `AegisActor` is no Pykka actor, and so this no ref to one.
    _PykkaRef = object
else:
    _PykkaRef = pykka.ActorRef


class ActorRef[A: AegisActor](_PykkaRef):
    """Reference to an actor of this process; may be passed around and kept.

    It stays the same through all restarts of the actor. Every method but
    `wait_started` may be called in any thread.
    """

    def __init__(self, cell: ActorCell) -> None:
        self._cell = cell

    def __repr__(self) -> str:
        return f"<ActorRef {self}>"

    def __str__(self) -> str:
        return f"{self.actor_class.__name__} ({self._cell.address})"

    # What Pykka keeps in each ref, here taken from the cell.

    @property
    def actor_class(self) -> type[A]:
        """The class of the actor."""
        return cast("type[A]", self._cell.props.actor_class)

    @property
    def actor_urn(self) -> str:
        """The actor's address."""
        return self._cell.address

    @property
    def actor_inbox(self) -> Mailbox:
        """The actor's mailbox."""
        return self._cell.mailbox

    @property
    def actor_stopped(self) -> StopFlag:
        """Tells by ``is_set()`` whether the actor has stopped."""
        return StopFlag(self._cell)

    def _actor_weakref(self) -> A:
        return cast("A", self._cell.actor)

    @property
    def address(self) -> str:
        """Where the actor is in the tree, as in ``/services/account/acct-1/ACC-1``."""
        return self._cell.address

    @property
    def cell(self) -> ActorCell:
        """The actor's place in the tree: for supervisors and the runtime."""
        return self._cell

    def is_alive(self) -> bool:
        """Whether the actor takes messages: it has neither stopped nor been asked to."""
        return not self._cell.mailbox.closed

    async def wait_started(self) -> None:
        """Wait until the actor takes messages.

        Raises:
            Exception: what ``on_start`` raised.
            ActorDead: the actor stopped before.
        """
        cell = self._cell
        if running_loop_or_none() is not cell.runtime.loop:
            raise RuntimeError("wait_started belongs to the actor's own event loop")
        if not await cell.wait_running():
            if cell.error is not None:
                raise as_exception(cell.error, f"{cell.address}: on_start")
            raise ActorDead(f"{cell.address}: the actor has stopped", address=cell.address)

    # -- sending ------------------------------------------------------------------

    @overload
    def ask(
        self, message: Any, *, block: Literal[False] = False, timeout: float | None = None
    ) -> AegisFuture[Any]: ...
    @overload
    def ask(self, message: Any, *, block: Literal[True], timeout: float | None = None) -> Any: ...
    def ask(
        self, message: Any, *, block: bool = False, timeout: float | None = None
    ) -> AegisFuture[Any] | Any:
        """Send ``message`` and return the future of its answer.

        A `Call` runs a command or query, with the same results and errors as from
        another process; what is returned is a copy. Any other value goes to the
        actor's ``on_receive``. Errors come out of the future: `ActorDead`,
        `MailboxFull`, what the handler raised. With ``block`` the answer itself is
        returned; not on the actor's own loop.

        After ``timeout`` seconds the future fails: with `DeadlineExpired` if the
        actor has not begun, and will not; else with `OutcomeUnknown`.
        """
        cell = self._cell
        future: AegisFuture[Any] = AegisFuture()
        loop = cell.runtime.loop
        future.home_loop = loop
        try:
            current = current_envelope.get()
            if current is not None and current.owner is cell and not current.finished:
                future.refuse_await = _SelfWait(current)
            envelope = self._envelope(message, current, future)
            if timeout is not None:
                self._limit(envelope, future, timeout)
            cell.mailbox.put(envelope)
        except MailboxFull as error:
            cell.runtime.observer.on_mailbox_full(cell)
            future.try_set_exception(error)
        except AegisError as error:
            future.try_set_exception(error)
        return future.get() if block else future

    def tell(self, message: Any) -> None:
        """Send ``message`` and forget it; what goes wrong later is only logged.

        Raises:
            ActorDead: the actor has stopped, or was asked to.
            MailboxFull: its mailbox is at capacity.
            NotFound: the actor has no such handler.
        """
        cell = self._cell
        try:
            cell.mailbox.put(self._envelope(message, current_envelope.get(), None))
        except MailboxFull:
            cell.runtime.observer.on_mailbox_full(cell)
            raise

    def send(self, message: Any) -> AegisFuture[Receipt]:
        """Send a `Call` of a command for good, and return the future of its receipt.

        For an actor that is a resource of a node; as `aegis.Cluster.send`, whoever owns
        it by then. Errors come out of the future.
        """
        cell = self._cell
        cluster = cell.runtime.cluster
        if cluster is None or cell.resource_id is None:
            refused: AegisFuture[Receipt] = AegisFuture()
            refused.set_exception(
                InvalidRequest(
                    f"{self.address}: only a resource of a node has a mailbox that keeps messages; "
                    "ask or tell this actor",
                    field="resource_id",
                )
            )
            return refused
        receipt: AegisFuture[Receipt] = cluster.ref(self.actor_class, cell.resource_id).send(
            message
        )
        return receipt

    def notify(self, message: Any) -> None:
        """Send ``message`` in its turn even to a full mailbox; drop it for the dead.

        For what the runtime sends, in bounded number.
        """
        with suppress(ActorDead):
            self._cell.mailbox.put_beyond_capacity(Envelope(message))

    def ask_handler(
        self, handler: HandlerSpec, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AegisFuture[Any]:
        """Ask for a call of ``handler``: what a proxy does, which has looked it up."""
        cell = self._cell
        future: AegisFuture[Any] = AegisFuture()
        future.home_loop = cell.runtime.loop
        current = current_envelope.get()
        if current is not None and current.owner is cell and not current.finished:
            future.refuse_await = _SelfWait(current)
        try:
            cell.mailbox.put(self._request(handler, args, kwargs, current, future))
        except AegisError as error:
            if type(error) is MailboxFull:
                cell.runtime.observer.on_mailbox_full(cell)
            future.try_set_exception(error)
        return future

    def stream(
        self, handler: HandlerSpec, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ReplyStream[Any]:
        """Iterate over what a query yields: what a proxy does, on the actor's own loop."""
        params = handler.params_of(args, kwargs)
        plain = evolve(handler, structure_result=_as_is)

        async def pull(wanted: Pull, _: str | None, timeout: float | None) -> Any:
            asked = {**params, STREAM: wanted.to_wire()}
            return await self.ask_handler(plain, (), asked)

        return ReplyStream(pull, handler.structure_result)

    def _envelope(
        self, message: Any, current: Envelope | None, future: AegisFuture[Any] | None
    ) -> Envelope:
        if type(message) is Call:
            handler = self._cell.spec.handler(message.method)
            return self._request(handler, message.args, dict(message.params), current, future)
        if type(message) is ProxyCall and len(message.attr_path) == 1:
            found = self._cell.spec.handler_of(message.attr_path[0])
            if found is not None:
                return self._request(found, message.args, dict(message.kwargs), current, future)
        return Envelope(message, future)

    def _request(
        self,
        handler: HandlerSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        current: Envelope | None,
        future: AegisFuture[Any] | None,
    ) -> Envelope:
        cell = self._cell
        if (
            handler.kind is Kind.COMMAND
            and current is not None
            and not current.finished
            and type(current.message) is Request
            and current.message.kind == Kind.COMMAND
        ):
            raise CommandInCommand(
                f"{current.message.method} is a command and may not call the command "
                f"{handler.name} of {cell.address}; use self.send, which happens exactly once"
            )
        params = _copied(
            handler.unstructure_params(handler.params_of(args, kwargs) if args else kwargs)
        )
        request = Request(
            handler.kind,
            "",
            0,
            0,
            cell.spec.service,
            cell.resource_id,
            handler.name,
            params,
            NO_DEADLINE_MS,
            trace=current_traceparent(),
        )
        if future is None:
            return Envelope(request)
        # Whoever asks for somebody else has no more time than that one gave.
        return Envelope(request, LocalAnswer(future, handler), deadline_of_caller(current))

    def _limit(self, envelope: Envelope, future: AegisFuture[Any], timeout: float) -> None:
        loop = self._cell.runtime.loop
        # The loop's clock may be read in any thread; its timers may not.
        deadline = loop.time() + timeout
        given = envelope.deadline
        envelope.deadline = deadline if given is None else min(deadline, given)
        if running_loop_or_none() is loop:
            _start_timer(loop, envelope, future, self.address)
        else:
            loop.call_soon_threadsafe(_start_timer, loop, envelope, future, self.address)

    # -- the rest -----------------------------------------------------------------

    @overload
    def stop(
        self, *, block: Literal[False] = False, timeout: float | None = None, now: bool = False
    ) -> AegisFuture[bool]: ...
    @overload
    def stop(
        self, *, block: Literal[True], timeout: float | None = None, now: bool = False
    ) -> bool: ...
    def stop(
        self, *, block: bool = False, timeout: float | None = None, now: bool = False
    ) -> AegisFuture[bool] | bool:
        """Ask the actor to stop; the answer is False if it was stopping or had stopped.

        What waits in the mailbox is handled first, and later messages are refused
        from this moment on. With ``now`` the stop passes ahead: only the message in
        hand is finished, and those that wait are answered with `ActorDead`.

        A supervisor starts a *permanent* child again; take it off with
        `Supervisor.stop_child`.
        """
        future: AegisFuture[bool] = AegisFuture()
        future.home_loop = self._cell.runtime.loop
        envelope = Envelope(Stop(), future)
        mailbox = self._cell.mailbox
        try:
            if now:
                mailbox.put_control(envelope)
            else:
                mailbox.put_beyond_capacity(envelope, last=True)
        except ActorDead:
            future.set(False)
        return future.get(timeout=timeout) if block else future

    def watch(self, watcher: ActorRef[Any]) -> None:
        """Send ``watcher`` a `Terminated` when this actor stops for good.

        At once if it has; a restart is none.
        """
        self._on_loop(self._cell.add_watcher, watcher)

    def unwatch(self, watcher: ActorRef[Any]) -> None:
        """Undo `watch`."""
        self._on_loop(self._cell.remove_watcher, watcher)

    def _on_loop(self, function: Callable[[ActorRef[Any]], None], watcher: ActorRef[Any]) -> None:
        runtime = self._cell.runtime
        if running_loop_or_none() is runtime.loop:
            function(watcher)
        else:
            runtime.call_soon(function, watcher)

    def proxy(self) -> A:
        """Return an object whose methods are the actor's, each giving an awaitable.

        Raises:
            ActorDead: the actor has stopped.
        """
        if not self.is_alive():
            raise ActorDead(f"{self.address}: the actor has stopped", address=self.address)
        return cast("A", LocalProxy(self))


class LocalProxy:
    """The actor as an object, through its mailbox.

    Handlers travel as requests. Other public methods and attributes work as with
    Pykka's proxies; attributes are read as futures.
    """

    def __init__(self, ref: ActorRef[Any]) -> None:
        self._ref = ref

    def __repr__(self) -> str:
        return f"<proxy of {self._ref}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        ref = self._ref
        cell = ref.cell
        handler = cell.spec.handler_of(name)
        if handler is not None or callable(getattr(ref.actor_class, name, None)):
            method = ProxyMethod(ref, name, handler)
        elif name in cell.actor.__dict__ or hasattr(ref.actor_class, name):
            return ref.ask(ProxyGetAttr(attr_path=(name,)))
        else:
            raise NotFoundAttribute(
                f"{ref.actor_class.__qualname__} has no handler or attribute {name!r}"
            )
        self.__dict__[name] = method  # Found without this method from now on.
        return method


def call_of(message: Any) -> Call | None:
    """Return the call of a method that ``message`` stands for, or None if it is none."""
    if isinstance(message, ProxyCall) and len(message.attr_path) == 1:
        return Call(message.attr_path[0], dict(message.kwargs), tuple(message.args))
    return message if isinstance(message, Call) else None


class NotFoundAttribute(AttributeError, NotFound):
    """The actor has nothing of that name: for `getattr`, and as status 404."""

    def __init__(self, message: str) -> None:
        NotFound.__init__(self, message)


class _SelfWait:
    """Finds a handler that is about to wait for its own actor, which would be for ever."""

    __slots__ = ("_envelope",)

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope

    def __call__(self) -> BaseException | None:
        envelope = self._envelope
        if envelope.finished or current_envelope.get() is not envelope:
            return None
        # Another task that the handler started may wait: the handler will end.
        if (
            running_loop_or_none() is not None
            and envelope.task is not None
            and asyncio.current_task() is not envelope.task
        ):
            return None
        owner = envelope.owner
        address = "" if owner is None else owner.address
        return RuntimeError(
            f"{address}: the handler waits for a message to its own actor, which is handled only "
            "after it; call the method directly, or tell instead of ask"
        )


def _start_timer(
    loop: asyncio.AbstractEventLoop, envelope: Envelope, future: AegisFuture[Any], address: str
) -> None:
    if future.done() or envelope.deadline is None:
        return
    timer = loop.call_at(envelope.deadline, _expire, envelope, future, address)

    def cancel(_: AegisFuture[Any]) -> None:
        # In another thread the timer stays, and finds the future set.
        if running_loop_or_none() is loop:
            timer.cancel()

    future.add_done_callback(cancel)


def _expire(envelope: Envelope, future: AegisFuture[Any], address: str) -> None:
    message = envelope.message
    what = message.method if isinstance(message, Request) else type(message).__name__
    error: AegisError
    if envelope.owner is None:
        error = DeadlineExpired(f"{address}: {what} did not begin in time", address=address)
    else:
        error = OutcomeUnknown(
            f"{address}: {what} began, and did not end in time", address=address, message_id=""
        )
    future.try_set_exception(error)


def _as_is(value: Any) -> Any:
    return value


_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64


def _copied(params: dict[str, Any]) -> dict[str, Any]:
    """Return ``params`` as they would arrive over the wire."""
    for value in params.values():
        kind = value.__class__
        if kind is str:
            if value.isascii():
                continue
        elif kind is int:
            if _INT_MIN <= value < _INT_MAX:
                continue
        elif kind is bool or kind is float or value is None or kind is bytes:
            continue
        return cast("dict[str, Any]", decode_value(encode_value(params)))
    return params
