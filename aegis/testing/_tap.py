"""A user's class with a tap: whoever tests sees each command and query as it runs.

The class that runs is a subclass of the user's own, made here, with each handler wrapped.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, cast

from attrs import define, evolve, field

from aegis.actors._actor import AegisActor
from aegis.actors._answers import AnswerSink
from aegis.actors._handlers import HandlerSpec, describe
from aegis.actors._mailbox import Envelope, current_envelope
from aegis.actors._reminder_timer import Ring
from aegis.contracts import Kind, Request
from aegis.errors import AegisError
from aegis.transport._virtual_hosts import current_host

__all__ = ["Run", "Tap", "current_run", "tapped"]


@define(eq=False)
class Run:
    """One run of a handler."""

    actor: AegisActor
    handler: HandlerSpec
    request: Request
    sink: AnswerSink | None
    arguments: dict[str, Any]
    envelope: Envelope
    host: str = ""
    """The name of the node's life in which it runs, and of its connection."""
    learned: list[tuple[str, Any]] = field(factory=list[tuple[str, Any]])
    """What queries of other actors have answered: their names, and the values or errors."""

    @property
    def service(self) -> str:
        """The service that the actor is of."""
        return self.request.service

    @property
    def resource(self) -> str:
        """The resource that the actor is, or nothing."""
        return self.request.resource or ""

    @property
    def is_command(self) -> bool:
        """Whether it may change the state."""
        return self.handler.kind is Kind.COMMAND

    @property
    def reminder(self) -> str:
        """The name of the reminder that it comes from, or nothing."""
        return self.sink.name if isinstance(self.sink, Ring) else ""

    @property
    def late_seconds(self) -> float:
        """How late the reminder came."""
        return self.sink.late_seconds if isinstance(self.sink, Ring) else 0.0

    @property
    def key(self) -> str:
        """What the journal knows the message by."""
        return self.request.message_id


class Tap(Protocol):
    """What is told of the handlers that run."""

    def begins(self, run: Run) -> bool:
        """A handler is about to run; with False it never does, nor does anything after it."""
        ...

    def ends(self, run: Run, error: BaseException | None) -> None:
        """A handler has ended; nothing of what it did is stored yet."""
        ...


_running: Final = contextvars.ContextVar[Run | None]("aegis_testing_running", default=None)


def current_run() -> Run | None:
    """Return the run of a handler in which this is called."""
    run, envelope = _running.get(), current_envelope.get()
    return run if run is not None and run.envelope is envelope else None


class _RecordedProxy:
    """A proxy of another actor; the run that asks it keeps what it learns."""

    def __init__(self, proxy: Any) -> None:
        self._proxy = proxy

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._proxy, name)

        async def ask(asked: Awaitable[Any], run: Run) -> Any:
            try:
                value = await asked
            except AegisError as error:
                run.learned.append((name, error))
                raise
            run.learned.append((name, value))
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            asked, run = method(*args, **kwargs), current_run()
            is_plain = run is not None and inspect.isawaitable(asked)
            return ask(asked, run) if is_plain and run is not None else asked

        return call


def tapped(actor_class: type[AegisActor], tap: Tap) -> type[AegisActor]:
    """Return a subclass of ``actor_class`` whose handlers tell ``tap``.

    Raises:
        ConfigurationError: the class cannot be served.
    """
    spec = describe(actor_class)
    if spec.actor_class is not actor_class or not isinstance(spec.handlers, dict):
        return actor_class
    handlers: dict[str, HandlerSpec] = {}
    methods: dict[str, Any] = {}
    for name, handler in spec.handlers.items():
        if handler.is_stream:
            handlers[name] = handler
            continue
        wrapped = _wrapped(handler, tap)
        handlers[name] = evolve(handler, function=wrapped)
        methods[_attribute(actor_class, handler)] = wrapped

    def actor(self: AegisActor, service: Any, resource_id: str | None = None) -> Any:
        return _RecordedProxy(actor_class.actor(self, service, resource_id))

    members = {
        **methods,
        "actor": actor,
        "__module__": actor_class.__module__,
        "__qualname__": actor_class.__qualname__,
        "__doc__": actor_class.__doc__,
    }
    made = cast("type[AegisActor]", type(actor_class.__name__, (actor_class,), members))
    made._aegis_spec = evolve(spec, actor_class=made, handlers=handlers)  # type: ignore[attr-defined]
    return made


def _attribute(actor_class: type, handler: HandlerSpec) -> str:
    return next(
        name
        for name in dir(actor_class)
        if inspect.getattr_static(actor_class, name, None) is handler.function
    )


def _wrapped(handler: HandlerSpec, tap: Tap) -> Callable[..., Any]:
    function = handler.function

    def begin(actor: AegisActor, arguments: dict[str, Any]) -> Run | None:
        envelope = current_envelope.get()
        if envelope is None or not isinstance(envelope.message, Request):
            return None
        if current_run() is not None:
            return None  # A handler that another one calls is part of that.
        host = current_host()
        sink = cast("AnswerSink | None", envelope.reply_to)
        name = "" if host is None else host.name
        return Run(actor, handler, envelope.message, sink, arguments, envelope, name)

    async def run_async(actor: AegisActor, *args: Any, **arguments: Any) -> Any:
        run = begin(actor, arguments)
        if run is None:
            return await cast("Awaitable[Any]", function(actor, *args, **arguments))
        if not tap.begins(run):
            await _never()
        token = _running.set(run)
        try:
            result = await cast("Awaitable[Any]", function(actor, **arguments))
        except BaseException as error:
            tap.ends(run, error)
            raise
        finally:
            _running.reset(token)
        tap.ends(run, None)
        return result

    def run_plain(actor: AegisActor, *args: Any, **arguments: Any) -> Any:
        run = begin(actor, arguments)
        if run is None:
            return function(actor, *args, **arguments)
        if not tap.begins(run):
            raise SystemExit("its node was killed")  # The thread has to end; nobody hears it.
        token = _running.set(run)
        try:
            result = function(actor, **arguments)
        except BaseException as error:
            tap.ends(run, error)
            raise
        finally:
            _running.reset(token)
        tap.ends(run, None)
        return result

    wrapped = run_async if handler.is_async else run_plain
    wrapped.__name__ = function.__name__
    wrapped.__qualname__ = function.__qualname__
    wrapped.__module__ = function.__module__
    wrapped.__doc__ = function.__doc__
    return wrapped


async def _never() -> None:
    """Wait for what never comes: the node that waits has just been killed."""
    await asyncio.get_running_loop().create_future()
