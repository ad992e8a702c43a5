"""Typed proxies: an actor elsewhere, called like the object it is.

``cluster.actor(Account, "ACC-1")`` reads to an editor and a type checker as an
`Account`; each of its handlers, called, gives an awaitable of the handler's result.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aegis.actors._handlers import ActorSpec, HandlerSpec
from aegis.actors._reply_stream import DEFAULT_WINDOW, ReplyStream
from aegis.actors._streams import STREAM, Pull
from aegis.contracts import Kind
from aegis.errors import InvalidRequest

__all__ = ["Address", "Caller", "RemoteProxy", "stream_of"]


class Address:
    """Where a message goes: ``service``, ``service@instance`` or ``service/resource``."""

    __slots__ = ("instance_id", "resource_id", "service")

    def __init__(
        self, service: str, resource_id: str | None = None, instance_id: str | None = None
    ) -> None:
        if not service:
            raise InvalidRequest("an address begins with a service name", field="service")
        self.service = service
        self.resource_id = resource_id
        self.instance_id = instance_id

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address that ``text`` stands for.

        The first ``/`` or ``@`` ends the service's name.
        """
        for index, character in enumerate(text):
            if character in "/@":
                service, rest = text[:index], text[index + 1 :]
                if not rest:
                    raise InvalidRequest(
                        f"{text!r}: a name must follow the {character!r}", field="address"
                    )
                return cls(service, rest) if character == "/" else cls(service, None, rest)
        return cls(text)

    def __str__(self) -> str:
        if self.resource_id is not None:
            return f"{self.service}/{self.resource_id}"
        if self.instance_id is not None:
            return f"{self.service}@{self.instance_id}"
        return self.service

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"


class Caller(Protocol):
    """What a proxy needs of whoever makes its calls."""

    async def call_handler(
        self,
        address: Address,
        method: str,
        params: dict[str, Any],
        kind: str,
        timeout: float | None,
    ) -> Any:
        """Call a handler with plain params; return its plain result."""
        ...


def stream_of[T](
    caller: Caller,
    address: Address,
    method: str,
    params: dict[str, Any],
    structure: Callable[[Any], T],
    *,
    window: int = DEFAULT_WINDOW,
    timeout: float | None = None,
) -> ReplyStream[T]:
    """Return the items that a query of ``address`` yields; ``timeout`` is for each."""

    async def pull(wanted: Pull, instance: str | None, timeout: float | None) -> Any:
        to = address
        if to.resource_id is None and instance is not None:
            # Of the instances of a service one has the generator.
            to = Address(address.service, None, instance)
        asked = {**params, STREAM: wanted.to_wire()}
        return await caller.call_handler(to, method, asked, str(Kind.QUERY), timeout)

    return ReplyStream(pull, structure, window=window, timeout=timeout)


class RemoteProxy:
    """Stands for one address; attributes are its handlers.

    With a class (``spec``) arguments may be positional and results have the types of
    the hints; without one, arguments are named and results plain values.
    """

    def __init__(
        self, caller: Caller, address: Address, spec: ActorSpec | None, timeout: float | None
    ) -> None:
        self._caller = caller
        self._address = address
        self._spec = spec
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<proxy of {self._address}>"

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any] | ReplyStream[Any]]:
        if name.startswith("_"):
            raise AttributeError(name)
        method: Callable[..., Awaitable[Any] | ReplyStream[Any]]
        if self._spec is None:
            method = self._untyped(name)
        else:
            handler = self._spec.handler_of(name)
            if handler is None:
                raise AttributeError(
                    f"{self._spec.actor_class.__qualname__} has no handler {name!r}"
                )
            method = self._stream(handler) if handler.is_stream else self._typed(handler)
        # Found once, an attribute like any other.
        self.__dict__[name] = method
        return method

    def _typed(self, handler: HandlerSpec) -> Callable[..., Awaitable[Any]]:
        caller, address, timeout = self._caller, self._address, self._timeout
        name, kind = handler.name, str(handler.kind)
        params_of, unstructure = handler.params_of, handler.unstructure_params
        structure = handler.structure_result

        async def call(*args: Any, **kwargs: Any) -> Any:
            params = unstructure(params_of(args, kwargs))
            return structure(await caller.call_handler(address, name, params, kind, timeout))

        call.__name__ = name
        call.__doc__ = handler.function.__doc__
        return call

    def _stream(self, handler: HandlerSpec) -> Callable[..., ReplyStream[Any]]:
        caller, address, timeout = self._caller, self._address, self._timeout

        def stream(*args: Any, **kwargs: Any) -> ReplyStream[Any]:
            params = handler.unstructure_params(handler.params_of(args, kwargs))
            return stream_of(
                caller, address, handler.name, params, handler.structure_result, timeout=timeout
            )

        stream.__name__ = handler.name
        stream.__doc__ = handler.function.__doc__
        return stream

    def _untyped(self, name: str) -> Callable[..., Awaitable[Any]]:
        caller, address, timeout = self._caller, self._address, self._timeout

        async def call(*args: Any, **kwargs: Any) -> Any:
            if args:
                raise InvalidRequest(
                    f"{name}: arguments of an untyped proxy are named; pass them by keyword, "
                    "or make the proxy with the actor's class",
                    field="",
                )
            # Whether it is a command or a query is the handler's to say; asked as a
            # command it is exact in either case.
            return await caller.call_handler(address, name, kwargs, "command", timeout)

        call.__name__ = name
        return call
