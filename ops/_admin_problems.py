"""Errors of the admin HTTP as problem+json (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import structlog
from attrs import asdict
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from aegis.errors import AegisError
from aegis.ops._admin_contracts import Problem
from aegis.ops._output import to_json

__all__ = [
    "HANDLERS",
    "Forbidden",
    "Unauthorized",
    "problem_body",
    "problem_headers",
    "problem_of",
]

MEDIA_TYPE: Final = "application/problem+json"

_log = structlog.get_logger("aegis.admin")


class Unauthorized(AegisError):
    """The request has not the token, or a wrong one."""

    code = 401


class Forbidden(AegisError):
    """The request comes from a page of another site."""

    code = 403


def problem_of(error: AegisError, path: str) -> Problem:
    """Return an error of ours as a problem with what was asked for at ``path``."""
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    # A field is wrong, not the request as such.
    status = HTTPStatus.UNPROCESSABLE_ENTITY if status == HTTPStatus.BAD_REQUEST else status
    facts = {name: value for name, value in error.facts.items() if name != "near"}
    near = [str(name) for name in error.facts.get("near", ())]
    return Problem(
        _title(status), int(status), error.message, instance=path, near=near, facts=facts
    )


def problem_body(problem: Problem) -> bytes:
    """Return a problem as JSON."""
    return to_json(asdict(problem)).encode()


def problem_headers(problem: Problem) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer that tells a problem, as ASGI has them."""
    headers = {"content-type": MEDIA_TYPE, "content-length": str(len(problem_body(problem)))}
    headers |= _extra_headers(problem.status)
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def _response(problem: Problem) -> Response[bytes]:
    return Response(
        content=problem_body(problem),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=_extra_headers(problem.status),
    )


def _extra_headers(status: int) -> dict[str, str]:
    return {"www-authenticate": 'Bearer realm="aegis"'} if status == HTTPStatus.UNAUTHORIZED else {}


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _on_aegis(request: Request[Any, Any, Any], error: AegisError) -> Response[bytes]:
    return _response(problem_of(error, request.url.path))


def _on_http(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    status = error.status_code
    facts: dict[str, Any] = {}
    detail = error.detail
    if isinstance(error, ValidationException):
        status = HTTPStatus.UNPROCESSABLE_ENTITY
        wrong: Any = error.extra if isinstance(error.extra, list) else []
        facts = {"fields": {str(one.get("key")): str(one.get("message")) for one in wrong}}
        spelled = [f"{key}: {message}" for key, message in facts["fields"].items()]
        detail = "; ".join(spelled) or detail
    elif status == HTTPStatus.NOT_FOUND:
        detail = "there is no such path; see /api for all that there are"
    path = request.url.path
    return _response(Problem(_title(status), int(status), detail, instance=path, facts=facts))


def _on_other(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    _log.error("admin_request_failed", path=request.url.path, exc_info=error)
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    detail = f"{type(error).__name__}; the node's log has more"
    return _response(Problem(status.phrase, int(status), detail, instance=request.url.path))


HANDLERS: Final[dict[Any, Any]] = {
    AegisError: _on_aegis,
    HTTPException: _on_http,
    Exception: _on_other,
}
