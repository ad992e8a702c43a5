"""What appends and headers look like in NATS's protocol."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from aegis.transport._base import Append

__all__ = [
    "RawHeaders",
    "append_head",
    "append_headers",
    "encode_headers",
    "encoded_headers_size",
    "status_of",
]

_HEADER_LINE: Final = b"NATS/1.0"
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

EXPECT: Final = "Nats-Expected-Last-Subject-Sequence"
EXPECT_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
ROLLUP: Final = "Nats-Rollup"
TTL: Final = "Nats-TTL"


def append_headers(append: Append) -> dict[str, str] | None:
    """Return the headers that say how ``append`` is to be stored."""
    if append.expect is None and not append.rollup and append.ttl is None:
        return None
    headers: dict[str, str] = {}
    if append.expect is not None:
        headers[EXPECT] = str(append.expect)
        if append.expect_subject is not None:
            headers[EXPECT_SUBJECT] = append.expect_subject
    if append.rollup:
        headers[ROLLUP] = "sub"
    if append.ttl is not None:
        headers[TTL] = str(append.ttl)
    return headers


_PLAIN_EXPECT: Final = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: %d\r\n\r\n"


def append_head(append: Append) -> bytes:
    """Return the header block of ``append``, empty if it needs none."""
    if append.expect is not None and not (
        append.rollup or append.ttl is not None or append.expect_subject is not None
    ):
        return _PLAIN_EXPECT % append.expect
    headers = append_headers(append)
    return encode_headers(headers) if headers else b""


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Return ``headers`` as a header block.

    Raises:
        ValueError: a name or a value could not be told from the protocol around it.
    """
    lines = [_HEADER_LINE]
    for name, value in headers.items():
        if _NAME.fullmatch(name) is None or "\r" in value or "\n" in value:
            raise ValueError(f"not a valid header: {name[:80]!r}")
        lines.append(f"{name}: {value}".encode())
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def encoded_headers_size(headers: Mapping[str, str] | None) -> int:
    """Return how many bytes ``headers`` take, which count against the size limit."""
    return len(encode_headers(headers)) if headers else 0


def status_of(block: bytes) -> int:
    """Return the status of the server's own notices, 0 for any other header block."""
    if block[8:9] == b" " and block[9:12].isdigit():
        return int(block[9:12])
    return 0


class RawHeaders(Mapping[str, str]):
    """The headers of a message, parsed when somebody asks for them."""

    __slots__ = ("_block", "_parsed")

    def __init__(self, block: bytes) -> None:
        self._block = block
        self._parsed: dict[str, str] | None = None

    def _headers(self) -> dict[str, str]:
        if self._parsed is None:
            parsed: dict[str, str] = {}
            for line in self._block.split(b"\r\n")[1:]:
                name, colon, value = line.partition(b":")
                if colon:
                    # The first of several with the same name counts, as in the server.
                    parsed.setdefault(
                        name.decode("utf-8", "replace"), value.strip().decode("utf-8", "replace")
                    )
            self._parsed = parsed
        return self._parsed

    def __getitem__(self, name: str) -> str:
        return self._headers()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers())

    def __len__(self) -> int:
        return len(self._headers())

    def __repr__(self) -> str:
        return repr(self._headers())
