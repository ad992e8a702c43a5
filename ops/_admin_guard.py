"""Who may ask the admin HTTP: looked at before anything else sees a request (ASGI).

- A page of another site must not reach it, neither by a request of its own (``Origin``,
  ``Sec-Fetch-Site``) nor under a name that it has led to this address (``Host``).
- With a token, everything but the probes and the static pages needs it.
- A body is read here, up to a limit, whether or not anybody wants it.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from typing import Any, Final

from aegis.errors import AegisError, TooLarge
from aegis.ops._admin_problems import (
    Forbidden,
    Unauthorized,
    problem_body,
    problem_headers,
    problem_of,
)

__all__ = ["MAX_BODY_BYTES", "Guard"]

MAX_BODY_BYTES: Final = 64 * 1024
"""No request of the admin HTTP needs a tenth of it."""

OPEN_PATHS: Final = frozenset({"/", "/healthz", "/readyz", "/api"})
"""What needs no token: probes, and pages that hold no facts of the system."""

OPEN_PREFIXES: Final = ("/static/", "/pages/")

_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)

type Scope = MutableMapping[str, Any]
type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]
type App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """Lets through to ``app`` what may pass; ``host`` is the address that is listened on."""

    def __init__(self, app: App, *, host: str, token: str | None) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        # Beyond loopback any name may lead here, and the token keeps strangers out.
        self._loopback_only = ip_address(host).is_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name: value for name, value in reversed(scope["headers"])}
        # Names may hold any character: they stay quoted until a handler takes them apart.
        path = scope["path"] = scope["raw_path"].decode("ascii")

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        try:
            self._check_site(headers, scope["scheme"])
            self._check_token(headers, path)
            body = await _body(headers, receive)
        except AegisError as error:
            problem = problem_of(error, path)
            head = {"type": "http.response.start", "status": problem.status}
            await send_safely(head | {"headers": problem_headers(problem)})
            await send_safely({"type": "http.response.body", "body": problem_body(problem)})
            return
        await self._app(scope, _replay(body, receive), send_safely)

    def _check_site(self, headers: dict[bytes, bytes], scheme: str) -> None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._loopback_only and not _is_loopback(host):
            raise Forbidden(
                f"Host: {host!r} is no name of this address; ask for 127.0.0.1 or localhost"
            )
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").lower() != f"{scheme}://{host}":
            raise Forbidden("Origin: pages of other sites may not use the admin HTTP")
        if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            if headers.get(b"sec-fetch-mode") == b"navigate":
                return  # A link that somebody followed; it shows them what they may see.
            raise Forbidden("Sec-Fetch-Site: pages of other sites may not use the admin HTTP")

    def _check_token(self, headers: dict[bytes, bytes], path: str) -> None:
        if self._token is None or path in OPEN_PATHS or path.startswith(OPEN_PREFIXES):
            return
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        # Compared in the same time, however much of it is right.
        if not hmac.compare_digest(given.strip(), self._token) or kind.lower() != b"bearer":
            raise Unauthorized("the admin HTTP needs its token: Authorization: Bearer ...")


def _is_loopback(host: str) -> bool:
    name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


async def _body(headers: dict[bytes, bytes], receive: Receive) -> bytes:
    """Return the whole body. Raises TooLarge."""
    too_large = TooLarge(
        f"the body is larger than {MAX_BODY_BYTES} bytes", limit_bytes=MAX_BODY_BYTES
    )
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > MAX_BODY_BYTES:
        raise too_large
    if length == b"0" and b"transfer-encoding" not in headers:
        return b""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise too_large
        if not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body once, and then what comes."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
