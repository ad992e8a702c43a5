"""The limits that Aegis is measured against: plain nats-py, on the same server.

``python -m aegis.ops._bench_limits URL`` is the plain responder: a callback that sends
back what it gets. The server's user comes in the environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any, Final

from attrs import define, field
from nats.aio.client import Client
from nats.aio.msg import Msg

from aegis.ops._bench_loop import run

__all__ = ["ECHO_SUBJECT", "PASSWORD_VARIABLE", "USER_VARIABLE", "PlainAppends", "PlainRequests"]

ECHO_SUBJECT: Final = "bench.plain.echo"
STREAM: Final = "bench-plain"
PAYLOAD: Final = b"x" * 128
"""About the size of a small command with its envelope."""

USER_VARIABLE: Final = "AEGIS_BENCH_USER"
PASSWORD_VARIABLE: Final = "AEGIS_BENCH_PASSWORD"

EXPECT: Final = "Nats-Expected-Last-Subject-Sequence"
TIMEOUT: Final = 5.0
READY: Final = "ready"


async def connect_plain(url: str, user: str, password: str) -> Client:
    """Return a plain connection with nats-py's own settings."""
    client = Client()
    await client.connect(url, user=user, password=password)
    return client


@define
class PlainRequests:
    """``nc.request`` to the plain responder."""

    client: Client

    async def __call__(self, number: int) -> None:
        """Make one request."""
        await self.client.request(ECHO_SUBJECT, PAYLOAD, timeout=TIMEOUT)


class Refused(Exception):
    """The stream did not take an append."""


@define
class PlainAppends:
    """Appends to a stream, each with the last sequence of its subject expected."""

    client: Client
    subjects: int
    _last: list[int] = field(factory=list[int])
    _locks: list[asyncio.Lock] = field(factory=list[asyncio.Lock])

    async def prepare(self) -> None:
        """Create the stream, on file as the journals' is."""
        config = {
            "name": STREAM,
            "subjects": [f"{STREAM}.>"],
            "storage": "file",
            "num_replicas": 1,
            "discard": "new",
            "max_bytes": 4 * 1024**3,
        }
        await self._api("CREATE", config)
        self._last = [0] * self.subjects
        self._locks = [asyncio.Lock() for _ in range(self.subjects)]

    async def _api(self, verb: str, body: dict[str, Any] | None = None) -> None:
        reply = await self.client.request(
            f"$JS.API.STREAM.{verb}.{STREAM}",
            b"" if body is None else json.dumps(body).encode(),
            timeout=TIMEOUT,
        )
        answer: dict[str, Any] = json.loads(reply.data)
        if "error" in answer:
            raise Refused(str(answer["error"]))

    async def __call__(self, number: int) -> None:
        """Make one append; those of one subject follow one another."""
        index = number % self.subjects
        async with self._locks[index]:
            reply = await self.client.request(
                f"{STREAM}.{index}",
                PAYLOAD,
                timeout=TIMEOUT,
                headers={EXPECT: str(self._last[index])},
            )
            answer: dict[str, Any] = json.loads(reply.data)
            if "error" in answer:
                raise Refused(str(answer["error"]))
            self._last[index] = int(answer["seq"])


async def _respond(url: str) -> None:
    client = await connect_plain(url, os.environ[USER_VARIABLE], os.environ[PASSWORD_VARIABLE])

    async def echo(message: Msg) -> None:
        await message.respond(message.data)

    await client.subscribe(ECHO_SUBJECT, cb=echo)  # pyright: ignore[reportUnknownMemberType]
    await client.flush()
    os.write(1, f"{READY}\n".encode())
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await client.close()


if __name__ == "__main__":
    run(_respond(sys.argv[1]))
