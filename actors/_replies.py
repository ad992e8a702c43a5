"""The reply to a durable message as a message of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from aegis.actors._handlers import ActorSpec, HandlerSpec
from aegis.contracts import OK, Kind, Request
from aegis.errors import HandlerFailed, InvalidRequest
from aegis.transport._codec import decode_value

__all__ = ["ANSWER_PARAMETER", "answer_params", "answer_taker"]

ANSWER_PARAMETER = "answer"
"""The parameter of a command that takes the reply to a message; see `contracts.Answer`."""


def answer_taker(spec: ActorSpec, method: str) -> HandlerSpec:
    """Return the command ``method`` of a class, to which an answer can come.

    Raises:
        NotFound: there is none.
        InvalidRequest: it is a query, or what it takes is not an answer alone.
    """
    handler = spec.handler(method, Kind.COMMAND)
    wanted = {parameter.name for parameter in handler.parameters if parameter.required}
    if wanted - {ANSWER_PARAMETER} or not any(
        parameter.name == ANSWER_PARAMETER for parameter in handler.parameters
    ):
        raise InvalidRequest(
            f"reply_to: {spec.service}.{method} cannot be called with an answer; it must take one "
            "parameter, answer: aegis.Answer",
            field="reply_to",
        )
    return handler


def answer_params(request: Request, status: int, value: bytes) -> Iterator[dict[str, Any]]:
    """Give the parameters of the command that takes the reply; then, what else would do.

    The second one is for a reply that is too large to be sent.
    """
    about: dict[str, Any] = {
        "message_id": request.message_id,
        "service": request.service,
        "resource_id": request.resource or "",
        "method": request.method,
    }
    if status == OK:
        yield {ANSWER_PARAMETER: {**about, "status": status, "value": decode_value(value)}}
    else:
        yield {ANSWER_PARAMETER: {**about, "status": status, **_error(decode_value(value))}}
    text = f"it ended with {status}, but its reply of {len(value)} bytes is too large to be sent"
    failed = {"status": HandlerFailed.code, "error": text, "facts": {"status": status}}
    yield {ANSWER_PARAMETER: {**about, **failed}}


def _error(value: Any) -> dict[str, Any]:
    facts = dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else {}
    return {"error": str(facts.pop("message", "")), "facts": facts}
