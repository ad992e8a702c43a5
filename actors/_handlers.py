"""What an actor's class offers: its handlers, its state and its events.

`describe` reads a class once, checks it, and compiles what every message needs:
parameters are structured and results unstructured by their type hints.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Mapping,
)
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Final, Literal, Protocol, cast, overload

from attrs import evolve, frozen

from aegis.actors._handler_types import Handler
from aegis.actors._schema import Schema, Upcaster, check_static, versioned_state
from aegis.actors._source import Source
from aegis.actors._topic import DEFAULT_QUEUE_SIZE, OWN_RESOURCE, Overflow, pattern_problem
from aegis.contracts import Kind, check_id
from aegis.errors import ConfigurationError, InvalidRequest, NotFound
from aegis.transport._convert import structurer, to_plain, unstructurer

if TYPE_CHECKING:
    from aegis.actors._reply_stream import ReplyStream

__all__ = [
    "ActorSpec",
    "DurableSpec",
    "EventSpec",
    "HandlerSpec",
    "Parameter",
    "SubscriptionSpec",
    "applies",
    "command",
    "describe",
    "query",
    "subscribes",
    "upcasts",
]

MISSING: Final = inspect.Parameter.empty
"""The default of a parameter that has none."""

_DURABLE_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_MARK: Final = "__aegis_handler__"
_ROOT_MARK: Final = "_aegis_root"


@frozen
class _Mark:
    """What a decorator leaves on the function."""

    kind: Kind | None
    name: str | None = None
    event: type | None = None
    version: int = 1
    topics: tuple[_Topic, ...] = ()
    from_version: int | None = None
    """Of an upcaster: what it takes; ``event`` is then an event or the state."""

    @property
    def is_durable(self) -> bool:
        """Whether all that it subscribes to, if anything, it does durably."""
        return bool(self.topics) and all(topic.durable for topic in self.topics)

    @property
    def decorator(self) -> str:
        """The decorator that left it."""
        if self.kind is not None:
            return self.kind
        if self.from_version is not None:
            return "upcasts"
        return "subscribes" if self.topics else "applies"


@frozen
class _Topic:
    """One ``@subscribes``."""

    pattern: str
    queue_size: int
    overflow: Overflow
    durable: str = ""
    begins_with_new: bool = False
    source: Source | None = None


# -- decorators -----------------------------------------------------------------------


class _Decorator(Protocol):
    @overload
    def __call__[**P, R](
        self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> Handler[P, R]: ...
    @overload
    def __call__[**P, R](self, function: Callable[Concatenate[Any, P], R], /) -> Handler[P, R]: ...


@overload
def command[**P, R](
    function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
) -> Handler[P, R]: ...
@overload
def command[**P, R](function: Callable[Concatenate[Any, P], R], /) -> Handler[P, R]: ...
@overload
def command(*, name: str | None = None) -> _Decorator: ...
def command(function: Any = None, /, *, name: str | None = None) -> Any:
    """Mark a method as a command: it may change state, and takes effect exactly once.

    ``name`` is what callers say, if it is not the method's own. An ``async def``
    runs on the event loop, a plain ``def`` in a worker thread. Callers see both as
    awaitable.
    """
    return _marked(function, _Mark(Kind.COMMAND, name))


class _QueryDecorator(Protocol):
    @overload
    def __call__[**P, R](
        self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> Handler[P, R]: ...
    @overload
    def __call__[S, **P, R](  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[S, P], AsyncIterator[R]], /
    ) -> Callable[Concatenate[S, P], ReplyStream[R]]: ...
    @overload
    def __call__[**P, R](self, function: Callable[Concatenate[Any, P], R], /) -> Handler[P, R]: ...


@overload
def query[**P, R](
    function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
) -> Handler[P, R]: ...
@overload
def query[S, **P, R](  # type: ignore[overload-overlap]  # an iterator is no plain result
    function: Callable[Concatenate[S, P], AsyncIterator[R]], /
) -> Callable[Concatenate[S, P], ReplyStream[R]]: ...
@overload
def query[**P, R](function: Callable[Concatenate[Any, P], R], /) -> Handler[P, R]: ...
@overload
def query(*, name: str | None = None) -> _QueryDecorator: ...
def query(function: Any = None, /, *, name: str | None = None) -> Any:
    """Mark a method as a query: it only reads. Else as `command`.

    An ``async def`` that yields answers item by item, and its callers iterate. It runs
    from one ``yield`` to the next; other messages may be handled in between, so what is
    to be of one moment must be copied before the first.
    """
    return _marked(function, _Mark(Kind.QUERY, name))


def applies[E, F: Callable[..., None]](event: type[E], /, *, version: int = 1) -> Callable[[F], F]:
    """Mark the method that changes the state as an event of class ``event`` says.

    It is called with the event when it is emitted and again at each recovery, so it
    must do the same each time: no clock, no randomness, no I/O. ``version`` is
    journaled with the event.
    """
    given = cast("object", event)
    if not isinstance(given, type):
        raise ConfigurationError(
            f"@applies needs the event's class, as in @applies(Deposited), not {event!r}"
        )

    def decorate(function: F) -> F:
        return cast("F", _marked(function, _Mark(None, event=event, version=version)))

    return decorate


def upcasts[F: Callable[..., Any]](kind: type, /, *, from_version: int) -> Callable[[F], F]:
    """Mark the function that turns version ``from_version`` of an event or state into the next.

    It is a ``@staticmethod``, takes the old value and returns the new one: plain maps, or
    of classes that its hints name. Several are applied one after another, up to the
    ``version`` of `applies`, or ``state_version`` of the class::

        @staticmethod
        @upcasts(Deposited, from_version=1)
        def with_currency(old: dict[str, Any]) -> dict[str, Any]:
            return {**old, "currency": "EUR"}
    """
    where = "@upcasts"
    if not isinstance(cast("object", kind), type):
        raise ConfigurationError(
            f"{where} needs the class of an event or state, as in "
            f"@upcasts(Deposited, from_version=1), not {kind!r}"
        )
    if type(from_version) is not int or from_version < 1:
        raise ConfigurationError(f"{where}: from_version must be a whole number from 1")

    def decorate(function: F) -> F:
        # A staticmethod shows what it wraps as its `__func__`.
        marked: object = getattr(function, "__func__", function)
        _marked(marked, _Mark(None, event=kind, from_version=from_version))
        return function

    return decorate


def subscribes[F: Callable[..., Any]](
    topic: str | Source,
    /,
    *,
    queue_size: int | None = None,
    overflow: Overflow | str | None = None,
    durable: str | None = None,
    start: Literal["first", "new"] = "first",
) -> Callable[[F], F]:
    """Mark a method that hears what is published to ``topic``, at most once each.

    In ``topic`` the level ``*`` stands for any one, ``>`` at the end for one or more,
    and ``{resource_id}`` for the resource's own name. Each actor of the class hears it
    by itself: that of every instance, and every resource that the instance owns.

    The method takes the value, structured by its type hint, and, if it wants them,
    ``topic: str`` and ``missed: int``. It is like a query: it reads ``self.state`` and does
    not change it.

    What comes while the actor is busy waits in a queue of ``queue_size`` messages for
    this method alone; when it is full, ``overflow`` says what is dropped, and counted.
    ``missed`` is how many were dropped since the method was last called.
    Several decorators may stand above one method.

    What is no topic, since other programs publish it in a form of their own, is heard by a
    `Subject` in its place. The value is then what that makes of a message, whatever the
    hint, and ``topic`` is the subject.

    With ``durable``, the name of the subscription, it stands at a `command`, and what is
    published takes effect there exactly once::

        @command
        @subscribes("trades.*", durable="ledger")
        async def book(self, trade: Trade) -> None: ...

    The topic is then a *kept* one: a JetStream stream stores what is published to it,
    for everybody, also while nobody subscribes. Each resource of the class reads that
    stream by itself, in order, from a cursor that its journal carries: the record that
    commits the effect of a message moves the cursor, and a new owner goes on behind it.
    Instances without a resource have no journal, and read nothing. A new resource begins
    with the ``first`` message that the stream still has, or with ``start="new"`` with
    those to come. Beside its own mail, a resource takes in as much as it can commit.

    Unless a stream keeps the topic already, a node that serves the class makes one for
    all topics with the same first level: ``<namespace>_topic_<level>``. It lets go of the
    oldest messages by age and size (``topic_max_age``, ``topic_max_bytes``). A resource
    that comes back later than that goes on with what is there, and says so: by a line in
    the log, an event, a metric and an entry in its journal. What a message does if the
    command raises `Rejected` is nothing. If it fails, it is tried three times; then it is
    a dead letter, like one whose value is of another type or that nobody can decode.
    """
    where = f"@subscribes({topic!r})"
    source: Source | None = None
    if isinstance(topic, Source):
        source, pattern = topic, topic.name
    elif (problem := pattern_problem(topic)) is not None:
        raise ConfigurationError(f"{where}: the topic {problem}")
    else:
        pattern = topic
    if durable is not None and source is not None:
        raise ConfigurationError(
            f"{where}: no stream of ours keeps what is no topic; leave durable out"
        )
    if durable is not None:
        kept = _durable(where, pattern, durable, start, queue_size, overflow)
        added = _Mark(None, topics=(kept,))
    elif start != "first":
        raise ConfigurationError(f"{where}: start is for durable subscriptions")
    else:
        added = _Mark(None, topics=(_live(where, pattern, queue_size, overflow, source),))

    def decorate(function: F) -> F:
        mark = getattr(function, _MARK, None)
        if isinstance(mark, _Mark) and (mark.topics or (durable is not None and mark.kind)):
            setattr(function, _MARK, evolve(mark, topics=added.topics + mark.topics))
            return function
        return cast("F", _marked(function, added))

    return decorate


def _live(
    where: str,
    topic: str,
    queue_size: int | None,
    overflow: Overflow | str | None,
    source: Source | None,
) -> _Topic:
    size = DEFAULT_QUEUE_SIZE if queue_size is None else queue_size
    if type(size) is not int or size < 1:
        raise ConfigurationError(f"{where}: queue_size must be a whole number from 1")
    try:
        policy = Overflow(Overflow.DROP_OLDEST if overflow is None else overflow)
    except ValueError:
        known = " or ".join(repr(str(one)) for one in Overflow)
        raise ConfigurationError(f"{where}: overflow must be {known}, not {overflow!r}") from None
    return _Topic(topic, size, policy, source=source)


def _durable(
    where: str,
    topic: str,
    durable: object,
    start: object,
    queue_size: int | None,
    overflow: Overflow | str | None,
) -> _Topic:
    if not isinstance(durable, str) or not _DURABLE_NAME.fullmatch(durable):
        raise ConfigurationError(
            f"{where}: durable must be a name of 1 to 64 letters, digits, -, _ or ., as in "
            f'durable="ledger", not {durable!r}'
        )
    if start not in ("first", "new"):
        raise ConfigurationError(f"{where}: start must be 'first' or 'new', not {start!r}")
    if queue_size is not None or overflow is not None:
        raise ConfigurationError(
            f"{where}: a durable subscription drops nothing: it has neither queue_size nor overflow"
        )
    return _Topic(topic, 0, Overflow.DROP_OLDEST, durable, start == "new")


def _marked(function: Any, mark: _Mark) -> Any:
    if function is None:
        return partial(_marked, mark=mark)
    if not inspect.isfunction(function):
        raise ConfigurationError(
            f"@{mark.decorator} marks methods, not {function!r}; put it directly above the def"
        )
    earlier = getattr(function, _MARK, None)
    if isinstance(earlier, _Mark) and mark.kind and not earlier.kind and earlier.is_durable:
        mark = evolve(mark, topics=earlier.topics)
    elif isinstance(earlier, _Mark):
        raise ConfigurationError(
            f"{function.__qualname__}: is marked @{mark.decorator} and @{earlier.decorator}; "
            "a method is one of them"
        )
    setattr(function, _MARK, mark)
    return function


# -- the description ------------------------------------------------------------------


@frozen
class Parameter:
    """One parameter of a handler; ``default`` is `MISSING` if callers must give it."""

    name: str
    hint: Any
    default: Any
    structure: Callable[[Any], Any]
    unstructure: Callable[[Any], Any]

    @property
    def required(self) -> bool:
        """Whether callers must give it."""
        return self.default is MISSING


@frozen(eq=False)
class HandlerSpec:
    """One command or query of a class."""

    name: str
    kind: Kind
    function: Callable[..., Any]
    is_async: bool
    parameters: tuple[Parameter, ...]
    result: Any
    bind: Callable[[Mapping[str, Any]], dict[str, Any]]
    """Return the arguments that plain parameters stand for.

    Raises `InvalidRequest`, naming the field, if one is missing, unknown or of the
    wrong type.
    """
    unstructure_result: Callable[[Any], Any]
    structure_result: Callable[[Any], Any]
    is_stream: bool = False
    """Whether the result comes item by item; the converters are those of one item."""

    def params_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by name.

        Raises:
            InvalidRequest: there are too many, or one is given twice.
        """
        if not args:
            return dict(kwargs)
        if len(args) > len(self.parameters):
            raise InvalidRequest(
                f"{self.name} takes {len(self.parameters)} arguments, not {len(args)}", field=""
            )
        params = {
            parameter.name: value for parameter, value in zip(self.parameters, args, strict=False)
        }
        for name, value in kwargs.items():
            if name in params:
                raise InvalidRequest(f"{name}: is given twice", field=name)
            params[name] = value
        return params

    def unstructure_params(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments as the plain values that travel to the handler.

        ``params`` stay as they are, and are returned themselves if they are plain.

        An argument that does not fit its hint is written as what it is, so that the
        handler's side finds and names the mistake, whoever the caller is.

        Raises:
            InvalidRequest: a value has no plain form, whatever the hint.
        """
        plain: dict[str, Any] | None = None
        for parameter in self.parameters:
            value = params.get(parameter.name)
            if value is None or type(value) in _PLAIN_TYPES:
                continue
            if plain is None:
                plain = dict(params)
            try:
                plain[parameter.name] = parameter.unstructure(value)
            except InvalidRequest:
                try:
                    plain[parameter.name] = to_plain(value)
                except Exception as error:
                    raise InvalidRequest(
                        f"{parameter.name}: cannot be sent: {error}", field=parameter.name
                    ) from error
        return params if plain is None else plain


_PLAIN_TYPES: Final = frozenset({bool, int, float, str, bytes})


@frozen(eq=False)
class EventSpec:
    """One event of an event-sourced class: how it is written, read and applied."""

    name: str
    version: int
    event: type
    apply: Callable[[Any, Any], None]
    read: Callable[[int, Any], Any]
    """Return the event that a plain value of a version, this or an earlier one, stands for."""
    unstructure: Callable[[Any], Any]


@frozen(eq=False)
class SubscriptionSpec:
    """One topic, or pattern of topics, that a method of the class hears."""

    pattern: str
    name: str
    function: Callable[..., Any]
    is_async: bool
    wants: tuple[str, ...]
    """What the method takes besides the value: ``topic``, ``missed``."""
    structure: Callable[[Any], Any]
    queue_size: int
    overflow: Overflow
    source: Source | None = None
    """Where its messages come from, if not from a topic."""

    @property
    def own_level(self) -> int | None:
        """Which level (from 0) has to be the resource's own name, if one has."""
        if self.source is not None:
            return None
        levels = self.pattern.split(".")
        return levels.index(OWN_RESOURCE) if OWN_RESOURCE in levels else None


@frozen(eq=False)
class DurableSpec:
    """One topic, or pattern of topics, that a command of the class reads from a stream.

    ``value_parameter`` is the command's parameter that takes what was published.
    """

    pattern: str
    durable: str
    method: str
    value_parameter: str
    wants_topic: bool
    begins_with_new: bool


@frozen(eq=False)
class ActorSpec:
    """All that the runtime has to know of an actor's class.

    ``service`` is empty for a class that has no handlers and gives no name.
    """

    actor_class: type
    service: str
    handlers: Mapping[str, HandlerSpec]
    state_type: Any
    events: Mapping[str, EventSpec]
    structure_state: Callable[[Any], Any]
    unstructure_state: Callable[[Any], Any]
    subscriptions: tuple[SubscriptionSpec, ...] = ()
    durable_subscriptions: tuple[DurableSpec, ...] = ()

    @property
    def has_state(self) -> bool:
        """Whether the class keeps state, in snapshots or by events."""
        return self.state_type is not None

    @property
    def is_event_sourced(self) -> bool:
        """Whether only `applies` methods change the state."""
        return bool(self.events)

    def new_state(self) -> Any:
        """Return the state of a new resource, or None for a class without."""
        return None if self.state_type is None else self.state_type()

    def handler(self, method: str, kind: str | None = None) -> HandlerSpec:
        """Return the handler called ``method``, of ``kind`` if that is given.

        Raises:
            NotFound: there is none.
            InvalidRequest: it is of the other kind.
        """
        handler = self.handlers.get(method)
        if handler is None:
            known = ", ".join(sorted(self.handlers)) or "none"
            raise NotFound(
                f"{self.service} has no method {method!r}; it has {known}", method=method
            )
        if kind is not None and handler.kind != kind:
            raise InvalidRequest(
                f"kind: {self.service}.{method} is a {handler.kind}, not a {kind}", field="kind"
            )
        return handler

    def handler_of(self, attribute: str) -> HandlerSpec | None:
        """Return the handler that the method ``attribute`` is, under whatever name."""
        function = getattr(self.actor_class, attribute, None)
        found = self.handlers.get(attribute)
        if found is not None and found.function is function:
            return found
        return next((h for h in self.handlers.values() if h.function is function), None)

    def event_for(self, event: object) -> EventSpec:
        """Return how to write and apply ``event``.

        Raises:
            ConfigurationError: no `applies` method takes events of its class.
        """
        found = self.events.get(type(event).__name__)
        if found is None or type(event) is not found.event:
            name = type(event).__name__
            raise ConfigurationError(
                f"{self.actor_class.__qualname__}: no method is marked @applies({name}); add one, "
                "or emit one of: " + (", ".join(sorted(self.events)) or "none")
            )
        return found


def describe(actor_class: type) -> ActorSpec:
    """Return what ``actor_class`` offers; read and checked once, then remembered.

    Raises:
        ConfigurationError: the class cannot be served; one line names the class, the
            method and what to do.
    """
    # The class remembers it itself, so that a class that goes away takes it along.
    cached = getattr(actor_class, "__dict__", {}).get("_aegis_spec")
    if cached is None:
        cached = _describe(actor_class)
        actor_class._aegis_spec = cached  # type: ignore[attr-defined]
    return cast("ActorSpec", cached)


def _describe(cls: Any) -> ActorSpec:
    root = next((base for base in getattr(cls, "__mro__", ()) if _ROOT_MARK in base.__dict__), None)
    if not isinstance(cls, type) or root is None or cls is root:
        raise ConfigurationError(
            f"{getattr(cls, '__qualname__', repr(cls))} is no actor; subclass aegis.AegisActor"
        )
    reserved = frozenset(dir(root))
    handlers: dict[str, HandlerSpec] = {}
    appliers: list[tuple[Callable[..., Any], _Mark]] = []
    subscriptions: list[SubscriptionSpec] = []
    durables: list[DurableSpec] = []
    upcasters: dict[type | None, list[Upcaster]] = {}
    for attribute in dir(cls):
        function, mark = _marked_method(cls, attribute)
        if mark is None:
            continue
        where = f"{cls.__qualname__}.{attribute}"
        if attribute in reserved:
            raise ConfigurationError(f"{where}: the name belongs to AegisActor; rename the method")
        if mark.topics and not any(topic.durable for topic in mark.topics):
            subscriptions += _subscriptions(where, attribute, mark, function)
            continue
        if mark.topics and (mark.kind is not Kind.COMMAND or not mark.is_durable):
            raise ConfigurationError(
                f"{where}: a durable subscription takes effect, so it stands at a command, with "
                "no other kind of subscription: mark it @command and @subscribes(..., durable=...)"
            )
        if mark.from_version is not None:
            upcasters.setdefault(mark.event, []).append(_upcaster(where, cls, attribute, mark))
            continue
        if mark.kind is None:
            appliers.append((function, mark))
            continue
        handler = _handler(where, mark.name or attribute, mark.kind, function)
        if handler.name in handlers:
            raise ConfigurationError(
                f"{where}: another method is called {handler.name!r}; give one another name"
            )
        handlers[handler.name] = handler
        for durable in _durable_subscriptions(where, mark, handler):
            if any(durable.durable == other.durable for other in durables):
                raise ConfigurationError(
                    f"{where}: another subscription of the class is called {durable.durable!r}; "
                    "each has a cursor of its own, by its name"
                )
            durables.append(durable)
    service = _service(cls, required=bool(handlers or appliers or subscriptions))
    state_type = _state_type(cls, reserved)
    structure_state, unstructure_state = _state_converters(cls, state_type, upcasters)
    events = _events(cls, appliers, upcasters)
    for kind in upcasters:
        raise ConfigurationError(
            f"{cls.__qualname__}: @upcasts({getattr(kind, '__name__', kind)}) is for an event that "
            "the class applies, or for its state; it has no such one"
        )
    if events and state_type is None:
        raise ConfigurationError(
            f"{cls.__qualname__}: @applies methods change self.state, but the class has none; "
            "declare it in the class body, as in state: AccountState"
        )
    return ActorSpec(
        cls,
        service,
        handlers,
        state_type,
        events,
        structure_state,
        unstructure_state,
        tuple(subscriptions),
        tuple(durables),
    )


def _marked_method(cls: type, attribute: str) -> tuple[Any, _Mark | None]:
    function = inspect.getattr_static(cls, attribute, None)
    mark = getattr(function, _MARK, None) if inspect.isfunction(function) else None
    if isinstance(mark, _Mark):
        return function, mark
    inner = getattr(function, "__func__", None) or getattr(function, "__wrapped__", None)
    mark = getattr(inner, _MARK, None)
    if isinstance(mark, _Mark) and mark.from_version is not None:
        return inner, mark
    if getattr(inner, _MARK, None) is not None:
        raise ConfigurationError(
            f"{cls.__qualname__}.{attribute}: another decorator hides its mark; "
            "put @command or @query topmost, on a method of the instance"
        )
    for base in cls.__mro__[1:]:
        inherited = base.__dict__.get(attribute)
        if getattr(inherited, _MARK, None) is not None:
            raise ConfigurationError(
                f"{cls.__qualname__}.{attribute}: {base.__qualname__}.{attribute} is marked and this "
                "method, which replaces it, is not; add the same decorator"
            )
    return None, None


def _service(cls: Any, *, required: bool) -> str:
    service = getattr(cls, "service", "")
    if not service and not required:
        return ""
    if not isinstance(service, str) or not service:
        raise ConfigurationError(
            f'{cls.__qualname__}: the class has no service name; add service = "..." to it'
        )
    if (problem := check_id(service)) is not None:
        raise ConfigurationError(f"{cls.__qualname__}: the service name {service!r} {problem}")
    return service


def _hints(where: str, function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception as error:
        raise ConfigurationError(
            f"{where}: a type hint cannot be read ({error}); "
            "define or import the type at the top level of the module"
        ) from error


def _converters(where: str, hint: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    try:
        return structurer(hint), unstructurer(hint)
    except Exception as error:
        raise ConfigurationError(f"{where}: {error}") from error


def _handler(where: str, name: str, kind: Kind, function: Callable[..., Any]) -> HandlerSpec:
    is_stream = inspect.isasyncgenfunction(function)
    if inspect.isgeneratorfunction(function) or (is_stream and kind is not Kind.QUERY):
        raise ConfigurationError(
            f"{where}: only a query that is async def can yield; return a list instead"
        )
    if (problem := check_id(name)) is not None or name.startswith("_"):
        raise ConfigurationError(
            f"{where}: the name {name!r} {problem or 'must not begin with an underscore'}"
        )
    hints = _hints(where, function)
    declared = list(inspect.signature(function).parameters.values())
    if not declared:
        raise ConfigurationError(f"{where}: a handler is a method; add self as first parameter")
    parameters: list[Parameter] = []
    for parameter in declared[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ConfigurationError(
                f"{where}: {parameter} cannot cross the wire; name each parameter"
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ConfigurationError(
                f"{where}: parameter {parameter.name!r} is positional-only, but parameters travel "
                "by name; remove the /"
            )
        if parameter.name not in hints:
            raise ConfigurationError(
                f"{where}: parameter {parameter.name!r} has no type hint; add one, "
                f"as in {parameter.name}: int"
            )
        hint = hints[parameter.name]
        at = f"{where}: parameter {parameter.name!r}"
        _, unstructure = _converters(at, hint)
        structure = structurer(hint, field=parameter.name)
        parameters.append(
            Parameter(parameter.name, hint, parameter.default, structure, unstructure)
        )
    if "return" not in hints:
        raise ConfigurationError(f"{where}: the result has no type hint; add one, as in -> None")
    result = _item_hint(where, hints["return"]) if is_stream else hints["return"]
    structure_result, unstructure_result = _converters(f"{where}: the result", result)
    return HandlerSpec(
        name=name,
        kind=kind,
        function=function,
        is_async=inspect.iscoroutinefunction(function),
        parameters=tuple(parameters),
        result=result,
        bind=_binder(parameters),
        unstructure_result=unstructure_result,
        structure_result=structure_result,
        is_stream=is_stream,
    )


def _item_hint(where: str, hint: Any) -> Any:
    """Return the type of what a generator yields."""
    if typing.get_origin(hint) in (AsyncIterator, AsyncIterable, AsyncGenerator):
        return typing.get_args(hint)[0]
    raise ConfigurationError(
        f"{where}: a query that yields needs the type of its items as hint, "
        "as in -> AsyncIterator[int]"
    )


def _subscriptions(
    where: str, name: str, mark: _Mark, function: Callable[..., Any]
) -> list[SubscriptionSpec]:
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise ConfigurationError(f"{where}: a @subscribes method cannot yield")
    declared = [p.name for p in inspect.signature(function).parameters.values()][1:]
    if not declared or not set(declared[1:]) <= {"topic", "missed"}:
        raise ConfigurationError(
            f"{where}: a @subscribes method takes self, the value and, if it wants them, "
            "topic: str and missed: int"
        )
    hints = _hints(where, function)
    if declared[0] not in hints:
        raise ConfigurationError(
            f"{where}: parameter {declared[0]!r} has no type hint; add one, "
            f"as in {declared[0]}: int"
        )
    if any(topic.source is None for topic in mark.topics):
        _converters(f"{where}: parameter {declared[0]!r}", hints[declared[0]])
    return [
        SubscriptionSpec(
            pattern=topic.pattern,
            name=name,
            function=function,
            is_async=inspect.iscoroutinefunction(function),
            wants=tuple(declared[1:]),
            structure=(
                structurer(hints[declared[0]], field=declared[0])
                if topic.source is None
                else _as_it_is
            ),
            queue_size=topic.queue_size,
            overflow=topic.overflow,
            source=topic.source,
        )
        for topic in mark.topics
    ]


def _as_it_is(value: Any) -> Any:
    return value


def _durable_subscriptions(where: str, mark: _Mark, handler: HandlerSpec) -> list[DurableSpec]:
    if not mark.topics:
        return []
    names = [parameter.name for parameter in handler.parameters]
    others = [parameter.name for parameter in handler.parameters[1:] if parameter.required]
    if not names or names[0] == "topic" or others not in ([], ["topic"]):
        raise ConfigurationError(
            f"{where}: a command that subscribes takes self, the value and, if it wants it, "
            "topic: str"
        )
    return [
        DurableSpec(
            topic.pattern,
            topic.durable,
            handler.name,
            names[0],
            "topic" in names,
            topic.begins_with_new,
        )
        for topic in mark.topics
    ]


def _binder(parameters: list[Parameter]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    fields = [(p.name, p.structure, p.required) for p in parameters]
    names = frozenset(p.name for p in parameters)

    def refuse_unknown(params: Mapping[str, Any]) -> None:
        unknown = next((str(name) for name in params if name not in names), None)
        if unknown is not None:
            known = ", ".join(p.name for p in parameters) or "none"
            raise InvalidRequest(
                f"{unknown}: is unknown; the parameters are: {known}", field=unknown
            )

    def bind(params: Mapping[str, Any]) -> dict[str, Any]:
        bound: dict[str, Any] = {}
        for name, structure, required in fields:
            if name in params:
                bound[name] = structure(params[name])
            elif required:
                refuse_unknown(params)  # A name that is mistyped is missing, too.
                raise InvalidRequest(f"{name}: is missing", field=name)
        if len(bound) != len(params) or not names.issuperset(params):
            refuse_unknown(params)
        return bound

    return bind


def _state_type(cls: type, reserved: frozenset[str]) -> Any:
    for base in cls.__mro__:
        if "state" not in inspect.get_annotations(base) or "state" in reserved:
            continue
        where = f"{cls.__qualname__}.state"
        try:
            hint = inspect.get_annotations(base, eval_str=True)["state"]
        except Exception as error:
            raise ConfigurationError(
                f"{where}: the type hint cannot be read ({error}); "
                "define or import the type at the top level of the module"
            ) from error
        if "state" in cls.__dict__:
            raise ConfigurationError(
                f"{where}: a value in the class would be shared by all resources; declare only the "
                "type, and give its fields defaults"
            )
        try:
            hint()
        except Exception as error:
            name = getattr(hint, "__name__", hint)
            raise ConfigurationError(
                f"{where}: {name}() is the state of a new resource, but it fails ({error}); "
                "give every field a default"
            ) from error
        return hint
    return None


def _upcaster(where: str, cls: type, attribute: str, mark: _Mark) -> Upcaster:
    function = check_static(where, inspect.getattr_static(cls, attribute))
    hints = _hints(where, function)
    (parameter,) = inspect.signature(function).parameters
    structure, _ = _converters(f"{where}: the old value", hints.get(parameter, Any))
    _, unstructure = _converters(f"{where}: the new value", hints.get("return", Any))
    assert mark.from_version is not None
    return Upcaster(mark.from_version, function, structure, unstructure)


def _state_converters(
    cls: Any, state_type: Any, upcasters: dict[type | None, list[Upcaster]]
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    if state_type is None:
        return _same, _same
    where = f"{cls.__qualname__}.state"
    structure, unstructure = _converters(where, state_type)
    name = getattr(state_type, "__name__", str(state_type))
    steps = upcasters.pop(state_type, [])
    schema = Schema.of(where, name, getattr(cls, "state_version", 1), structure, steps)
    return versioned_state(schema, unstructure)


def _events(
    cls: type,
    appliers: list[tuple[Callable[..., Any], _Mark]],
    upcasters: dict[type | None, list[Upcaster]],
) -> dict[str, EventSpec]:
    events: dict[str, EventSpec] = {}
    for function, mark in appliers:
        assert mark.event is not None
        where = f"{cls.__qualname__}.{function.__name__}"
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise ConfigurationError(f"{where}: an @applies method must be a plain def")
        if len(inspect.signature(function).parameters) != 2:
            raise ConfigurationError(f"{where}: an @applies method takes self and the event")
        name = mark.event.__name__
        if name in events:
            raise ConfigurationError(f"{where}: two methods apply events called {name}; keep one")
        structure, unstructure = _converters(f"{where}: the event", mark.event)
        steps = upcasters.pop(mark.event, [])
        schema = Schema.of(where, name, mark.version, structure, steps)
        events[name] = EventSpec(name, mark.version, mark.event, function, schema.read, unstructure)
    return events


def _same(value: Any) -> Any:
    return value
