"""Typed proxies: an actor elsewhere, called like the object it is.

``cluster.actor(Account, "ACC-1")`` reads to an editor and a type checker as an
`Account`; each of its handlers, called, gives an awaitable of the handler's result. The
``send`` of a handler gives one of the receipt of a durable message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from aegis.actors._handlers import ActorSpec, HandlerSpec
from aegis.actors._plain_command import plain_named, plain_params
from aegis.actors._reply_stream import DEFAULT_WINDOW, ReplyStream
from aegis.actors._streams import STREAM, Pull
from aegis.contracts import Kind, Receipt
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

    async def send(
        self,
        service: Any,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        resource_id: str | None = None,
        timeout: float | None = None,
    ) -> Receipt:
        """Send a command to a resource for good; return its receipt."""
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

    def __getattr__(self, name: str) -> RemoteMethod | RemoteStream:
        if name.startswith("_"):
            raise AttributeError(name)
        handler: HandlerSpec | None = None
        if self._spec is not None:
            handler = self._spec.handler_of(name)
            if handler is None:
                raise AttributeError(
                    f"{self._spec.actor_class.__qualname__} has no handler {name!r}"
                )
        kind = RemoteStream if handler is not None and handler.is_stream else RemoteMethod
        # Found once, an attribute like any other.
        method = kind(self._caller, self._address, name, handler, self._timeout)
        self.__dict__[name] = method
        return method


class _Method:
    """One handler of an actor elsewhere; ``handler`` is None if its class is not known."""

    def __init__(
        self,
        caller: Caller,
        address: Address,
        name: str,
        handler: HandlerSpec | None,
        timeout: float | None,
    ) -> None:
        self._caller = caller
        self._address = address
        self._handler = handler
        self._timeout = timeout
        self.__name__ = name if handler is None else handler.name
        self.__doc__ = None if handler is None else handler.function.__doc__

    def __repr__(self) -> str:
        return f"<{self.__name__} of {self._address}>"

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if args:
            raise InvalidRequest(
                f"{self.__name__}: arguments of an untyped proxy are named; pass them by keyword, "
                "or make the proxy with the actor's class",
                field="",
            )
        return plain_named(kwargs)


class RemoteMethod(_Method):
    """A command or query of an actor elsewhere: call it, or ``send`` it for good."""

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the result of a call."""
        handler = self._handler
        if handler is None:
            # Whether it is a command or a query is the handler's to say; asked as a
            # command it is exact in either case.
            return await self._caller.call_handler(
                self._address, self.__name__, self._named(args, kwargs), "command", self._timeout
            )
        params = handler.unstructure_params(handler.params_of(args, kwargs))
        plain = await self._caller.call_handler(
            self._address, handler.name, params, str(handler.kind), self._timeout
        )
        return handler.structure_result(plain)

    async def send(self, *args: Any, **kwargs: Any) -> Receipt:
        """Put the command into the resource's mailbox, as `Cluster.send` does."""
        handler, address = self._handler, self._address
        if handler is None:
            params = self._named(args, kwargs)
        else:
            params = plain_params(address.service, handler, args, kwargs)
        return await self._caller.send(
            str(address), self.__name__, params, resource_id=None, timeout=self._timeout
        )


class RemoteStream(_Method):
    """A query that yields, of an actor elsewhere: iterate over what a call gives."""

    def __call__(self, *args: Any, **kwargs: Any) -> ReplyStream[Any]:
        """Return the iterator of the items."""
        handler = self._handler
        assert handler is not None
        params = handler.unstructure_params(handler.params_of(args, kwargs))
        return stream_of(
            self._caller,
            self._address,
            handler.name,
            params,
            handler.structure_result,
            timeout=self._timeout,
        )
