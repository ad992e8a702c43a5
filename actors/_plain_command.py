"""A command that is to be sent: by its class, which is checked, or by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aegis.actors._handlers import HandlerSpec, describe
from aegis.contracts import Kind, check_id
from aegis.errors import InvalidRequest
from aegis.transport._convert import to_plain

__all__ = ["plain_command", "plain_named", "plain_params"]


def plain_command(
    service: Any, method: str, params: dict[str, Any]
) -> tuple[str, str, dict[str, Any]]:
    """Return service name, method and plain parameters of a command that is to be sent.

    ``service`` is a name, or an actor's class: then the parameters are checked.

    Raises:
        NotFound: the class has no such command.
        InvalidRequest: it is a query, or its name or a parameter is wrong.
    """
    if isinstance(service, str):
        if (problem := check_id(method)) is not None:
            raise InvalidRequest(f"method: {problem}", field="method")
        return service, method, plain_named(params)
    spec = describe(service)
    handler = spec.handler_of(method) or spec.handler(method)
    return spec.service, handler.name, plain_params(spec.service, handler, (), params)


def plain_named(params: Mapping[Any, Any]) -> dict[str, Any]:
    """Return parameters as plain values where no class says what they are.

    Raises:
        InvalidRequest: one has no form on the wire, or no name; the error names it.
    """
    plain: dict[str, Any] = {}
    for name, value in params.items():
        if not isinstance(name, str):
            raise InvalidRequest(f"{name!r}: the name of a parameter must be text", field=str(name))
        try:
            plain[name] = to_plain(value)
        except Exception as error:
            raise InvalidRequest(f"{name}: cannot be sent: {error}", field=name) from error
    return plain


def plain_params(
    service: str, handler: HandlerSpec, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return the plain parameters of a command that is to be sent, and has been checked.

    Raises:
        InvalidRequest: it is a query, or a parameter is wrong.
    """
    if handler.kind is not Kind.COMMAND:
        raise InvalidRequest(
            f"method: {service}.{handler.name} is a query; only commands can be sent",
            field="method",
        )
    plain = handler.unstructure_params(handler.params_of(args, kwargs))
    handler.bind(plain)
    return plain
