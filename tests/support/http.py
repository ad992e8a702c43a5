"""Plain HTTP to a node: what is sent is what the test says, header by header."""

from __future__ import annotations

import http.client
import json
from typing import Any

from attrs import frozen

__all__ = ["Answer", "ask"]

TIMEOUT = 30.0


@frozen
class Answer:
    """What came back; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def media_type(self) -> str:
        """What the body is, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0]


def ask(
    port: int,
    path: str,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    chunked: bool = False,
) -> Answer:
    """Make one request to 127.0.0.1."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request(
            method,
            path,
            body=iter([body]) if chunked and body is not None else body,
            headers=headers or {},
            encode_chunked=chunked,
        )
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, response.read())
    finally:
        connection.close()
