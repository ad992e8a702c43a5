"""One method of a proxied actor, wherever that runs: call it, tell it, or send it for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pykka.messages import ProxyCall

from aegis.actors._messages import Call

if TYPE_CHECKING:
    from aegis.actors._future import AegisFuture
    from aegis.actors._handlers import HandlerSpec
    from aegis.actors._reply_stream import ReplyStream
    from aegis.contracts import Receipt

__all__ = ["ProxyMethod", "ProxyTarget"]


class ProxyTarget(Protocol):
    """The ref behind a proxy."""

    def ask(self, message: Any, /) -> AegisFuture[Any]:
        """Send a message and return the future of its answer."""
        ...

    def ask_handler(
        self, handler: HandlerSpec, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AegisFuture[Any]:
        """Ask for a call of a handler that has been looked up."""
        ...

    def stream(
        self, handler: HandlerSpec, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ReplyStream[Any]:
        """Iterate over what a query yields."""
        ...

    def tell(self, message: Any, /) -> None:
        """Send a message that nobody waits for."""
        ...

    def send(self, message: Any, /) -> AegisFuture[Receipt]:
        """Put a command into the resource's mailbox, and return the future of its receipt."""
        ...


class ProxyMethod:
    """One method of a proxied actor; ``handler`` is None if it is no known handler.

    Called it gives the result, ``defer`` forgets the answer, and ``send`` gives the receipt
    of a durable message.
    """

    __slots__ = ("_handler", "_name", "_ref")

    def __init__(self, ref: ProxyTarget, name: str, handler: HandlerSpec | None) -> None:
        self._ref = ref
        self._name = name
        self._handler = handler

    def __call__(self, *args: Any, **kwargs: Any) -> AegisFuture[Any] | ReplyStream[Any]:
        """Ask; return the future of the result, or the iterator of what comes item by item."""
        if self._handler is not None:
            if self._handler.is_stream:
                return self._ref.stream(self._handler, args, kwargs)
            return self._ref.ask_handler(self._handler, args, kwargs)
        return self._ref.ask(self._message(args, kwargs))

    def defer(self, *args: Any, **kwargs: Any) -> None:
        """Tell; nobody waits for the result."""
        self._ref.tell(self._message(args, kwargs))

    def send(self, *args: Any, **kwargs: Any) -> AegisFuture[Receipt]:
        """Send a durable message, as `aegis.Cluster.send` does; a receipt comes at once."""
        return self._ref.send(self._message(args, kwargs))

    def _message(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._handler is not None:
            return Call(self._handler.name, kwargs, args)
        return ProxyCall(attr_path=(self._name,), args=args, kwargs=kwargs)
