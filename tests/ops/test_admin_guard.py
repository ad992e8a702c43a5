"""The guard of the admin HTTP, rule by rule: who may ask, from where, and how much."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from attrs import define, field

from aegis.ops._admin_guard import MAX_BODY_BYTES, Guard

TOKEN = "secret"
HERE = ("host", "127.0.0.1:8080")

type Message = MutableMapping[str, Any]


@define
class Site:
    """A guarded application that takes whatever is let through."""

    host: str = "127.0.0.1"
    token: str | None = None
    bodies: list[bytes] = field(factory=list[bytes])
    sent: list[Message] = field(factory=list[Message])

    async def app(self, scope: Message, receive: Any, send: Any) -> None:
        self.bodies.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    def ask(self, *headers: tuple[str, str], path: str = "/api/x", chunks: Any = (b"",)) -> int:
        """Return the status of the answer to one request."""
        waiting = list(chunks)

        async def receive() -> Message:
            chunk = waiting.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(waiting)}

        async def send(message: Message) -> None:
            self.sent.append(message)

        raw = [(name.encode(), value.encode()) for name, value in headers or (HERE,)]
        scope = {"type": "http", "scheme": "http", "raw_path": path.encode(), "headers": raw}
        guard = Guard(self.app, host=self.host, token=self.token)
        asyncio.run(guard(scope, receive, send))
        status: int = next(m["status"] for m in self.sent if m["type"] == "http.response.start")
        self.sent.clear()
        return status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:8080", 200),
        ("127.0.0.1.evil.example", 403),
        ("evil.example:8080", 403),
        ("10.0.0.1", 403),
        ("", 403),
    ],
)
def test_on_loopback_only_names_of_loopback_are_answered(host: str, status: int) -> None:
    assert Site().ask(("host", host)) == status


def test_beyond_loopback_any_name_may_lead_here() -> None:
    assert Site("0.0.0.0").ask(("host", "node-7.example")) == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("origin", "http://127.0.0.1:8080")], 200),
        ([("origin", "https://127.0.0.1:8080")], 403),
        ([("origin", "http://127.0.0.1:9090")], 403),
        ([("origin", "http://evil.example")], 403),
        ([("origin", "null")], 403),
        ([("sec-fetch-site", "same-origin")], 200),
        ([("sec-fetch-site", "none")], 200),
        ([("sec-fetch-site", "same-site")], 403),
        ([("sec-fetch-site", "cross-site")], 403),
        ([("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], 403),
        ([("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], 200),
    ],
)
def test_pages_of_other_sites_are_refused(headers: list[tuple[str, str]], status: int) -> None:
    assert Site().ask(HERE, *headers) == status


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("Bearer secret", 200),
        ("bearer  secret", 200),
        ("Bearer secre", 401),
        ("Bearer secrets", 401),
        ("Bearer ", 401),
        ("Basic secret", 401),
        ("secret", 401),
        ("", 401),
    ],
)
def test_with_a_token_only_who_has_it_is_answered(given: str, status: int) -> None:
    assert Site(token=TOKEN).ask(HERE, ("authorization", given)) == status


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/api", "/static/page.js"])
def test_what_tells_nothing_of_the_system_needs_no_token(path: str) -> None:
    assert Site(token=TOKEN).ask(HERE, path=path) == 200
    assert Site(token=TOKEN).ask(HERE, path=path.replace("/", "/x", 1)) == 401


def test_a_body_is_passed_on_whole_up_to_its_limit() -> None:
    site = Site()
    most = b"x" * MAX_BODY_BYTES
    assert site.ask(HERE, ("content-length", str(len(most))), chunks=[most[:7], most[7:]]) == 200
    assert site.bodies == [most]


@pytest.mark.parametrize("length", [str(MAX_BODY_BYTES + 1), "-1", "many"])
def test_a_length_that_is_too_large_or_none_is_refused_unread(length: str) -> None:
    assert Site().ask(HERE, ("content-length", length), chunks=[]) == 413


def test_a_body_that_grows_too_large_is_refused() -> None:
    chunks = [b"x" * MAX_BODY_BYTES, b"x"]
    assert Site().ask(HERE, ("transfer-encoding", "chunked"), chunks=chunks) == 413
    assert Site().ask(HERE, ("content-length", "5"), chunks=chunks) == 413
