"""Both transports, for the suite that holds them to one protocol."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from aegis.transport import (
    MemoryBroker,
    MemoryTransport,
    NatsOptions,
    NatsTransport,
    StreamConfig,
    Transport,
    connect_nats,
)
from tests.support.nats import NatsServer

__all__ = ["World"]


class World:
    """One server with a stream of this test alone; opens transports and closes them."""

    def __init__(self, open_transport: Callable[[], Awaitable[Transport]]) -> None:
        self.namespace = f"t{secrets.token_hex(6)}"
        self.config = StreamConfig(
            self.namespace, [f"{self.namespace}.journal.>"], max_bytes=64 * 1024 * 1024
        )
        self._open = open_transport
        self.opened: list[Transport] = []

    async def transport(self) -> Transport:
        """Return one more connection."""
        transport = await self._open()
        self.opened.append(transport)
        return transport

    def journal(self, *tokens: str) -> str:
        """Return a subject that the stream keeps."""
        return ".".join([self.namespace, "journal", *tokens])

    def plain(self, *tokens: str) -> str:
        """Return a subject that no stream keeps."""
        return ".".join([self.namespace, "plain", *tokens])


@pytest.fixture(params=["memory", "nats"])
async def world(request: pytest.FixtureRequest) -> AsyncGenerator[World]:
    if request.param == "memory":
        broker = MemoryBroker()

        async def open_transport() -> Transport:
            return MemoryTransport(broker)

    else:
        server: NatsServer = request.getfixturevalue("nats_server")

        async def open_transport() -> Transport:
            return await connect_nats(NatsOptions(server.url))

    world = World(open_transport)
    first = await world.transport()
    await first.ensure_stream(world.config)
    yield world
    if isinstance(first, NatsTransport):
        for stream in await first.streams(f"{world.namespace}.>"):
            await first.api(f"STREAM.DELETE.{stream.name}")
    for transport in world.opened:
        await transport.close()


@pytest.fixture
def one(world: World) -> Transport:
    """The first connection."""
    return world.opened[0]


@pytest.fixture
async def two(world: World) -> Transport:
    """A second connection."""
    return await world.transport()
