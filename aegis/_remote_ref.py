"""Refs of actors elsewhere: ask, tell and proxy mean what they mean in one process.

``cluster.ref(Account, "ACC-1")`` names an actor by its address alone, wherever it runs
at this moment. Results and errors are those of `aegis.ActorRef`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, Literal, Protocol, cast, overload

import structlog
from attrs import frozen

from aegis._proxy import Address, Caller, stream_of
from aegis.actors._directory import Directory
from aegis.actors._future import AegisFuture
from aegis.actors._handlers import ActorSpec, HandlerSpec
from aegis.actors._mailbox import current_envelope
from aegis.actors._messages import Call
from aegis.actors._plain_command import plain_named, plain_params
from aegis.actors._proxy_method import ProxyMethod
from aegis.actors._ref import NotFoundAttribute, call_of
from aegis.actors._reply_stream import ReplyStream
from aegis.actors._workers import running_loop_or_none
from aegis.contracts import Kind, Receipt
from aegis.errors import AegisError, ConnectionClosed, InvalidRequest, MailboxFull, NotFound

__all__ = ["Background", "RefHome", "RemoteRef"]

_log = structlog.get_logger("aegis.client")

MAX_OPEN_TELLS: Final = 10_000
"""Messages told by one connection that may be under way; more are refused."""


class RefHome(Caller, Protocol):
    """What a ref needs of the connection that it was made by."""

    timeout: float
    background: Background

    @property
    def directory(self) -> Directory:
        """What is known of who owns what."""
        ...

    def check_allowed(self, address: Address, method: str, kind: str) -> None:
        """Refuse a command inside a command."""
        ...


@frozen
class _Message:
    """A call of a handler, ready to be sent; ``handler`` is None if it is not known."""

    method: str
    kind: str
    params: dict[str, Any]
    handler: HandlerSpec | None


class Background:
    """The calls of a connection that no caller's own task carries."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()
        self._tells = 0

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run ``work`` on the connection's loop, in the caller's context; any thread.

        Raises:
            ConnectionClosed: the loop has ended.
        """
        if running_loop_or_none() is self.loop:
            self._start(work)
            return
        try:
            self.loop.call_soon_threadsafe(self._start, work)
        except RuntimeError as error:
            raise ConnectionClosed("the connection's event loop has ended") from error

    def _start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self.loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def begin_tell(self, address: Address) -> None:
        """Take one of the places for told messages.

        Raises:
            MailboxFull: there is none.
        """
        with self._lock:
            if self._tells >= MAX_OPEN_TELLS:
                raise MailboxFull(
                    f"{address}: the {MAX_OPEN_TELLS} messages that may be told from here "
                    "at a time are under way"
                )
            self._tells += 1

    def end_tell(self) -> None:
        """Give the place back."""
        with self._lock:
            self._tells -= 1


class RemoteRef[A]:
    """Reference to an actor by its address, wherever it runs. Made by `Cluster.ref`.

    It stays the same when the actor moves to another node. May be used in any thread.
    """

    def __init__(
        self, home: RefHome, address: Address, spec: ActorSpec | None, timeout: float | None
    ) -> None:
        self._home = home
        self._to = address
        self._spec = spec
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<RemoteRef {self._to}>"

    def __str__(self) -> str:
        return self.address

    @property
    def address(self) -> str:
        """The address: ``service``, ``service@instance`` or ``service/resource``."""
        return str(self._to)

    def is_alive(self) -> bool:
        """Whether somebody is known here to serve the address at this moment.

        No more than what this process has heard: False before the first call, or
        `wait_started`, has looked the address up.
        """
        service, resource, instance = self._to.service, self._to.resource_id, self._to.instance_id
        directory = self._home.directory
        if resource is not None:
            return directory.route_nowait(service, resource) is not None
        providers = directory.providers_nowait(service) or ()
        return any(instance in (None, provider.instance_id) for provider in providers)

    async def wait_started(self) -> None:
        """Look the address up, and return if somebody serves it.

        Raises:
            NotFound: nobody does.
            Unavailable: nobody who knows could be reached in time.
        """
        service, resource, instance = self._to.service, self._to.resource_id, self._to.instance_id
        directory = self._home.directory
        timeout = self._home.timeout if self._timeout is None else self._timeout
        if resource is not None:
            await directory.route(service, resource, timeout=timeout)
            return
        providers = await directory.instances(service, timeout=timeout)
        if all(instance not in (None, provider.instance_id) for provider in providers):
            raise NotFound(f"{service} has no instance {instance!r}", instance_id=instance)

    @overload
    def ask(
        self, message: Any, *, block: Literal[False] = False, timeout: float | None = None
    ) -> AegisFuture[Any]: ...
    @overload
    def ask(self, message: Any, *, block: Literal[True], timeout: float | None = None) -> Any: ...
    def ask(
        self, message: Any, *, block: bool = False, timeout: float | None = None
    ) -> AegisFuture[Any] | Any:
        """Send a `Call` and return the future of its result; errors come out of it.

        ``timeout`` is in seconds; without, it is that of the ref or of the connection.
        With ``block`` the result itself is returned; not on the connection's own loop.
        """
        future: AegisFuture[Any] = AegisFuture()
        future.home_loop = self._home.background.loop
        try:
            ready = self._message(message)
            self._home.background.start(partial(self._ask, ready, timeout, future))
        except AegisError as error:
            future.try_set_exception(error)
        return future.get() if block else future

    def tell(self, message: Any) -> None:
        """Send a `Call` and forget it; what goes wrong later is only logged.

        It is repeated like any call until it is answered or the time is up.

        Raises:
            MailboxFull: too many told messages are under way already.
            NotFound: the actor has no such handler.
        """
        ready = self._message(message)
        background = self._home.background
        background.begin_tell(self._to)
        try:
            background.start(partial(self._tell, ready))
        except BaseException:
            background.end_tell()
            raise

    def send(self, message: Any, *, timeout: float | None = None) -> AegisFuture[Receipt]:
        """Send a `Call` of a command for good, and return the future of its receipt.

        It is in the resource's mailbox then and waits for an owner, as with
        `Cluster.send`, whose errors come out of the future.
        """
        future: AegisFuture[Receipt] = AegisFuture()
        future.home_loop = self._home.background.loop
        try:
            call = self._call_of(message)
            if self._to.resource_id is None:
                raise InvalidRequest(
                    f"{self._to}: a durable message goes to a resource; make the ref with its id",
                    field="resource_id",
                )
            if self._spec is None:
                params = _plain(call)
            else:
                handler = self._spec.handler(call.method)
                params = plain_params(self._spec.service, handler, call.args, call.params)
            limit = self._timeout if timeout is None else timeout
            self._home.background.start(partial(self._send, call.method, params, limit, future))
        except AegisError as error:
            future.try_set_exception(error)
        return future

    def proxy(self) -> A:
        """Return an object whose methods are the actor's, each giving an `AegisFuture`.

        Each has a ``defer`` for calls whose result nobody waits for, and a ``send`` for
        those that are to wait for the actor.
        """
        return cast("A", _RefProxy(self, self._spec))

    def ask_handler(
        self, handler: HandlerSpec, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AegisFuture[Any]:
        """Ask for a call of ``handler``: what a proxy does, which has looked it up."""
        return self.ask(Call(handler.name, kwargs, args))

    def stream(
        self, handler: HandlerSpec, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ReplyStream[Any]:
        """Iterate over what a query yields: what a proxy does, on the connection's loop."""
        params = handler.unstructure_params(handler.params_of(args, kwargs))
        return stream_of(
            self._home,
            self._to,
            handler.name,
            params,
            handler.structure_result,
            timeout=self._timeout,
        )

    # -- sending ------------------------------------------------------------------

    def _call_of(self, message: Any) -> Call:
        call = call_of(message)
        if call is None:
            raise InvalidRequest(
                f"{self._to}: a {type(message).__name__} reaches actors of this process only; "
                "send a Call of one of the handlers",
                field="",
            )
        return call

    def _message(self, message: Any) -> _Message:
        call = self._call_of(message)
        if self._spec is None:
            # Whether it is a query is the handler's to say; a command is exact either way.
            kind, handler = str(Kind.COMMAND), None
            params = _plain(call)
        else:
            handler = self._spec.handler(call.method)
            kind = str(handler.kind)
            params = handler.unstructure_params(handler.params_of(call.args, call.params))
        self._home.check_allowed(self._to, call.method, kind)
        return _Message(call.method, kind, params, handler)

    async def _call(self, message: _Message, timeout: float | None) -> Any:
        limit = self._timeout if timeout is None else timeout
        plain = await self._home.call_handler(
            self._to, message.method, message.params, message.kind, limit
        )
        return plain if message.handler is None else message.handler.structure_result(plain)

    async def _ask(
        self, message: _Message, timeout: float | None, future: AegisFuture[Any]
    ) -> None:
        try:
            future.try_set(await self._call(message, timeout))
        except asyncio.CancelledError:
            future.try_set_exception(ConnectionClosed("the connection's event loop has ended"))
            raise
        except Exception as error:
            future.try_set_exception(error)

    async def _send(
        self,
        method: str,
        params: dict[str, Any],
        timeout: float | None,
        future: AegisFuture[Receipt],
    ) -> None:
        service, resource = self._to.service, self._to.resource_id
        try:
            future.try_set(
                await self._home.send(
                    service, method, params, resource_id=resource, timeout=timeout
                )
            )
        except asyncio.CancelledError:
            future.try_set_exception(ConnectionClosed("the connection's event loop has ended"))
            raise
        except Exception as error:
            future.try_set_exception(error)

    async def _tell(self, message: _Message) -> None:
        current_envelope.set(None)  # Nobody waits for it: the teller's deadline is its own.
        try:
            await self._call(message, None)
        except Exception as error:
            _log.warning(
                "tell_failed",
                address=self.address,
                operation=message.method,
                error=str(error) or type(error).__name__,
            )
        finally:
            self._home.background.end_tell()


def _plain(call: Call) -> dict[str, Any]:
    """Return the parameters of a call by name alone, where no class says what they are."""
    if call.args:
        raise InvalidRequest(
            f"{call.method}: arguments for an untyped ref are named; pass them by keyword, or "
            "make the ref with the actor's class",
            field="",
        )
    return plain_named(call.params)


class _RefProxy:
    """The actor as an object; its attributes are its handlers."""

    def __init__(self, ref: RemoteRef[Any], spec: ActorSpec | None) -> None:
        self._ref = ref
        self._spec = spec

    def __repr__(self) -> str:
        return f"<proxy of {self._ref}>"

    def __getattr__(self, name: str) -> ProxyMethod:
        if name.startswith("_"):
            raise AttributeError(name)
        handler = None
        if self._spec is not None:
            handler = self._spec.handler_of(name)
            if handler is None:
                raise NotFoundAttribute(
                    f"{self._spec.actor_class.__qualname__} has no handler {name!r}"
                )
        method = ProxyMethod(self._ref, name, handler)
        self.__dict__[name] = method  # Found without this method from now on.
        return method
