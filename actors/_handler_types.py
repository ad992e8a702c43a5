"""What type checkers make of handlers: of an actor's methods, and of its proxies' methods.

At run time a handler is the function that was decorated, and on a proxy it is a
`ProxyMethod` or its like. To a type checker a proxy is the actor's class, so the two have
to be one thing to it.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol, overload

from aegis.contracts import Receipt

__all__ = ["BoundHandler", "Handler"]


class BoundHandler[**P, R](Protocol):
    """A handler of one actor. ``send`` and ``defer`` are there on proxies alone."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        """Give the result of a call."""
        ...

    def send(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[Receipt]:
        """Send it as a durable message; give its receipt."""
        ...

    def defer(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Tell it; nobody waits for the result. On proxies of refs."""
        ...


class Handler[**P, R](Protocol):
    """A handler of a class. It does not say of which: a subclass may override it."""

    def __call__(self, actor: Any, /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        """Call it as a plain function."""
        ...

    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> Handler[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type[Any], /) -> BoundHandler[P, R]: ...
