"""The hazards that depend on the event loop once more, on the one that nodes run on."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from aegis.transport import NatsOptions, connect_nats
from tests.support.nats import NatsServer
from tests.transport import test_nats_connecting as connecting
from tests.transport import test_nats_hazards as hazards

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    "hazard",
    [
        hazards.test_a_killed_server_resolves_open_appends_as_unknown_at_once,
        hazards.test_what_was_written_in_the_last_iteration_before_the_loss_is_not_sent_later,
        hazards.test_a_frozen_server_is_noticed_and_comes_back,
        hazards.test_a_frozen_server_does_not_let_the_client_buffer_without_bound,
        hazards.test_a_lost_delivery_is_never_passed_over,
        hazards.test_a_reader_waits_for_a_server_that_is_away,
    ],
)
def test_it_holds_on_uvloop(hazard: Callable[..., Awaitable[None]], tmp_path: Path) -> None:
    async def main() -> None:
        transport = await connect_nats(NatsOptions(server.url))
        await transport.ensure_stream(hazards.CONFIG)
        listener = hazards.Listener()
        transport.listen(listener)
        given = {"server": server, "transport": transport, "listener": listener}
        try:
            await hazard(**{name: given[name] for name in inspect.signature(hazard).parameters})
        finally:
            await transport.close()

    server = NatsServer(tmp_path)
    server.start()
    try:
        uvloop.run(main())
    finally:
        server.stop()


def test_closed_for_good_is_told_on_uvloop(tmp_path: Path) -> None:
    async def main() -> None:
        transport = await connect_nats(NatsOptions(server.url))
        listener = hazards.Listener()
        transport.listen(listener)
        transport.client.socket.connection.push(b"PUB t.plain 99999999\r\n")
        assert "maximum payload" in await listener.wait("closed", timeout=10)

    server = NatsServer(tmp_path)
    server.start()
    try:
        uvloop.run(main())
    finally:
        server.stop()


def test_tls_works_on_uvloop(tmp_path: Path) -> None:
    uvloop.run(connecting.test_large_messages_and_a_reconnect_work_over_tls(tmp_path))
