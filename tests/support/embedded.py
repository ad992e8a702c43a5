"""Embedded servers of tests: a folder of their own, plain clients, nothing left behind."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from aegis.transport import Credentials, LocalServer, stop_server
from tests.support.poll import wait_until
from tests.support.processes import processes_of

NO_SUITABLE_PEERS = 10005

__all__ = ["PlainClient", "clean_folder", "connected", "connected_to", "greets"]


class PlainClient:
    """As much of NATS as these tests need, by requests of the bare protocol."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def api(self, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what JetStream's ``name`` answers; an error fails the test."""
        message = await self.client.request(
            f"$JS.API.{name}", b"" if body is None else json.dumps(body).encode(), timeout=10
        )
        answer: dict[str, Any] = json.loads(message.data)
        assert "error" not in answer, answer
        return answer

    async def create_stream(self, name: str, *, replicas: int = 1) -> None:
        """Create a stream on file that keeps the subject ``name``."""
        config = {"name": name, "subjects": [name], "num_replicas": replicas, "storage": "file"}
        body = json.dumps(config).encode()

        async def is_created() -> bool:
            message = await self.client.request(f"$JS.API.STREAM.CREATE.{name}", body, timeout=10)
            error = json.loads(message.data).get("error")
            # Servers of a cluster that have a leader may not yet have heard of one another.
            assert error is None or error["err_code"] == NO_SUITABLE_PEERS, error
            return error is None

        await wait_until(is_created, what=f"the stream {name} has a place", timeout=30)

    async def append(self, subject: str, payload: bytes, *, timeout: float = 2.0) -> int:
        """Append, again and again while the server is away, and return the sequence."""
        stored_at: list[int] = []

        async def is_stored() -> bool:
            try:
                answer = await self.client.request(subject, payload, timeout=timeout)
            except Exception:  # nats-py has many for one thing: not now
                return False
            facts: dict[str, Any] = json.loads(answer.data)
            stored_at.extend([int(facts["seq"])] if "error" not in facts else [])
            return bool(stored_at)

        await wait_until(is_stored, what=f"an append to {subject} is stored", timeout=30)
        return stored_at[0]

    async def stored(self, name: str) -> list[bytes]:
        """Return all that the stream ``name`` keeps."""
        facts = await self.api(f"STREAM.INFO.{name}")
        payloads: list[bytes] = []
        for sequence in range(facts["state"]["first_seq"], facts["state"]["last_seq"] + 1):
            answer = await self.api(f"STREAM.MSG.GET.{name}", {"seq": sequence})
            payloads.append(base64.b64decode(answer["message"]["data"]))
        return payloads

    async def listen(self, subject: str) -> asyncio.Queue[Msg]:
        """Return a queue of what comes to ``subject`` from now on."""
        heard: asyncio.Queue[Msg] = asyncio.Queue()

        async def hear(message: Msg) -> None:
            heard.put_nowait(message)

        await self.client.subscribe(subject, cb=hear)  # pyright: ignore[reportUnknownMemberType]
        await self.client.flush()
        return heard


@asynccontextmanager
async def clean_folder(folder: Path) -> AsyncGenerator[Path]:
    """Give a data folder; at the end of the block no process may be left that uses it."""
    yield folder
    if await asyncio.to_thread(folder.is_dir):
        assert await stop_server(folder), "a server is still running"
        await wait_until(
            lambda: not processes_of(folder), what=f"no process uses {folder}", timeout=5
        )


@asynccontextmanager
async def connected(
    server: LocalServer, credentials: Credentials | None = None
) -> AsyncGenerator[PlainClient]:
    """Connect a plain client, by default to the application account."""
    async with connected_to([server.url], credentials or server.credentials) as client:
        yield client


@asynccontextmanager
async def connected_to(urls: list[str], login: Credentials) -> AsyncGenerator[PlainClient]:
    """Connect a plain client to one of the servers at ``urls``."""

    async def ignore(error: Exception) -> None:
        pass  # while a server is away there are many

    client = Client()
    await client.connect(
        servers=urls,
        user=login.user,
        password=login.password,
        reconnect_time_wait=0.02,  # type: ignore[arg-type]  # seconds, as a float too
        max_reconnect_attempts=-1,
        error_cb=ignore,
    )
    try:
        yield PlainClient(client)
    finally:
        await client.close()


async def greets(port: int) -> bool:
    """Whether something at the port says what a NATS server says first."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        return (await asyncio.wait_for(reader.readline(), 1)).startswith(b"INFO ")
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
