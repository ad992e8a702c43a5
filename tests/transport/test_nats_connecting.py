"""The first connect: who we are, how we get there, and what is said when it fails."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from nats.aio.client import Client

from aegis.errors import AccessDenied, ConfigurationError, Unavailable
from aegis.transport import (
    Append,
    Appended,
    Message,
    NatsOptions,
    Refused,
    StreamConfig,
    connect_nats,
)
from aegis.transport._jetstream import check_server
from tests.support.nats import NatsServer, free_port
from tests.support.nats_access import (
    MUTUAL_CONFIG,
    TLS,
    TLS_CONFIG,
    nkey_user,
    with_operator,
)

pytestmark = pytest.mark.timeout(60)

CONFIG = StreamConfig("t", ["t.journal.>"], max_bytes=64 * 1024 * 1024)


@contextmanager
def running(folder: Path, extra: str, *, scheme: str = "nats") -> Generator[NatsServer]:
    server = NatsServer(folder, extra, scheme=scheme)
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def _works(options: NatsOptions) -> None:
    transport = await connect_nats(options)
    try:
        await transport.ensure_stream(CONFIG)
        outcome = await transport.append(Append("t.journal.a", b"1"), timeout=5)
        assert isinstance(outcome, Appended)
        assert [item.payload async for item in transport.read("t.journal.a")] == [b"1"]
    finally:
        await transport.close()


# -- nobody there -------------------------------------------------------------------------


async def test_with_no_server_there_it_says_where_it_looked_and_what_to_do() -> None:
    port = free_port()
    options = NatsOptions(f"nats://user:secret@127.0.0.1:{port}", connect_timeout=0.5)
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable) as caught:
            await connect_nats(options)
    assert f"nats://127.0.0.1:{port}" in caught.value.message
    assert "start one" in caught.value.message
    assert "secret" not in caught.value.message


async def test_a_server_that_says_nothing_does_not_keep_the_connect_waiting() -> None:
    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await closed.wait()
        writer.close()

    closed = asyncio.Event()
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable):
            await connect_nats(NatsOptions(f"nats://127.0.0.1:{port}", connect_timeout=0.5))
    closed.set()
    server.close()
    await server.wait_closed()


async def test_the_first_server_of_the_list_that_answers_is_taken(
    nats_server: NatsServer,
) -> None:
    options = NatsOptions(f"nats://127.0.0.1:{free_port()},{nats_server.url}")
    transport = await connect_nats(options)
    assert transport.connected
    assert transport.client_id > 0
    assert transport.server_info["server_name"] == "test"
    await transport.close()


# -- user and password --------------------------------------------------------------------

USERS = "authorization { user: app, password: right }"


async def test_user_and_password_let_us_in(tmp_path: Path) -> None:
    with running(tmp_path, USERS) as server:
        await _works(NatsOptions(server.url, user="app", password="right"))
        await _works_in_url(server)


async def _works_in_url(server: NatsServer) -> None:
    transport = await connect_nats(NatsOptions(f"nats://app:right@127.0.0.1:{server.port}"))
    await transport.flush()
    await transport.close()


async def test_a_wrong_password_fails_at_once_and_names_the_option(tmp_path: Path) -> None:
    with running(tmp_path, USERS) as server:
        async with asyncio.timeout(3):
            with pytest.raises(ConfigurationError, match="password"):
                await connect_nats(
                    NatsOptions(server.url, user="app", password="wrong", connect_timeout=30)
                )


DENIED = """
authorization { users: [ {
  user: app, password: right,
  permissions: { subscribe: { deny: ["secret.>"] }, publish: { deny: ["secret.>"] } }
} ] }
"""


async def test_a_subject_that_is_denied_is_an_error_and_the_connection_lives(
    tmp_path: Path,
) -> None:
    with running(tmp_path, DENIED) as server:
        transport = await connect_nats(NatsOptions(server.url, user="app", password="right"))
        received: list[Message] = []
        with pytest.raises(AccessDenied, match=r"subscribe to secret\.X"):
            await transport.subscribe("secret.X", received.append)
        transport.publish("secret.Y", b"")
        await transport.flush()
        assert (transport.denied("secret.Y"), transport.denied("secret.y")) == (1, 0)
        with pytest.raises(AccessDenied, match=r"publish to secret\.z"):
            await transport.request("secret.z", b"", timeout=50)
        outcome = await transport.append(Append("secret.z", b"1"), timeout=50)
        assert isinstance(outcome, Refused)
        assert (outcome.code, outcome.again, outcome.conflict) == (403, False, False)
        await transport.subscribe("open.x", received.append)
        transport.publish("open.x", b"1")
        await transport.flush()
        assert len(received) == 1
        await transport.close()


# -- credentials file -----------------------------------------------------------------------


async def test_a_credentials_file_lets_us_in(tmp_path: Path) -> None:
    config, creds = with_operator(tmp_path)
    with running(tmp_path, config) as server:
        await _works(NatsOptions(server.url, creds=creds))


async def test_credentials_of_a_stranger_fail_at_once_and_name_the_option(tmp_path: Path) -> None:
    config, _ = with_operator(tmp_path)
    (tmp_path / "other").mkdir()
    _, stranger = with_operator(tmp_path / "other")
    with running(tmp_path, config) as server:
        async with asyncio.timeout(3):
            with pytest.raises(ConfigurationError, match="creds"):
                await connect_nats(NatsOptions(server.url, creds=stranger, connect_timeout=30))


async def test_the_seed_of_an_nkey_lets_us_in(tmp_path: Path) -> None:
    public, seed = nkey_user(tmp_path)
    config = f"authorization {{ users: [ {{ nkey: {public} }} ] }}"
    with running(tmp_path, config) as server:
        await _works(NatsOptions(server.url, creds=seed))
        _, stranger = nkey_user(tmp_path)
        with pytest.raises(ConfigurationError, match="creds"):
            await connect_nats(NatsOptions(server.url, creds=stranger, connect_timeout=30))


# -- TLS ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_tls_works_with_the_authority_named(tmp_path: Path, scheme: str) -> None:
    with running(tmp_path, TLS_CONFIG, scheme=scheme) as server:
        await _works(NatsOptions(server.url, tls_ca=TLS / "ca.pem"))


async def test_tls_with_a_certificate_of_ones_own_works(tmp_path: Path) -> None:
    with running(tmp_path, MUTUAL_CONFIG, scheme="tls") as server:
        await _works(
            NatsOptions(
                server.url,
                tls_ca=TLS / "ca.pem",
                tls_cert=TLS / "client.pem",
                tls_key=TLS / "client-key.pem",
            )
        )


async def test_a_server_that_wants_a_certificate_is_not_taken_for_one_that_let_us_in(
    tmp_path: Path,
) -> None:
    with running(tmp_path, MUTUAL_CONFIG, scheme="tls") as server:
        async with asyncio.timeout(10):
            with pytest.raises(ConfigurationError, match="tls_cert: the server wants"):
                await connect_nats(
                    NatsOptions(server.url, tls_ca=TLS / "ca.pem", connect_timeout=30)
                )


async def test_large_messages_and_a_reconnect_work_over_tls(tmp_path: Path) -> None:
    with running(tmp_path, TLS_CONFIG, scheme="tls") as server:
        transport = await connect_nats(NatsOptions(server.url, tls_ca=TLS / "ca.pem"))
        received: asyncio.Queue[bytes] = asyncio.Queue()
        await transport.subscribe("t.big", lambda m: received.put_nowait(m.payload))
        big = os.urandom(5_000_000)
        transport.publish("t.big", big)
        assert await received.get() == big
        back = asyncio.Event()

        class Listener:
            def on_disconnected(self) -> None: ...

            def on_reconnected(self) -> None:
                back.set()

            def on_closed(self, reason: str) -> None: ...

        transport.listen(Listener())
        server.kill()
        server.start()
        async with asyncio.timeout(20):
            await back.wait()
        transport.publish("t.big", b"again")
        assert await received.get() == b"again"
        await transport.close()


async def test_a_certificate_that_is_not_trusted_fails_at_once_and_names_the_option(
    tmp_path: Path,
) -> None:
    with running(tmp_path, TLS_CONFIG, scheme="tls") as server:
        async with asyncio.timeout(3):
            with pytest.raises(ConfigurationError, match="tls_ca"):
                await connect_nats(NatsOptions(server.url, connect_timeout=30))


async def test_credentials_never_leave_in_the_clear_when_tls_is_asked_for() -> None:
    received = bytearray()
    info = json.dumps({"server_id": "x", "version": "2.12.0", "headers": True, "max_payload": 1})

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"INFO {info}\r\n".encode())
        while data := await reader.read(1000):
            received.extend(data)
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    options = NatsOptions(f"tls://127.0.0.1:{port}", user="app", password="hush")
    async with asyncio.timeout(3):
        with pytest.raises(ConfigurationError, match="TLS"):
            await connect_nats(options)
    assert b"hush" not in received
    server.close()
    await server.wait_closed()


# -- options --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"servers": "http://host:4222"}, "nats: "),
        ({"servers": "nats://:4222"}, "nats: "),
        ({"servers": "nats://host:port"}, "nats: "),
        ({"servers": ""}, "nats: "),
        ({"user": "me"}, "password: "),
        ({"password": "x"}, "user: "),
        ({"creds": "/does/not/exist"}, "creds: "),
        ({"creds": __file__, "user": "a", "password": "b"}, "creds and user"),
        ({"tls_ca": "/does/not/exist"}, "tls_ca: "),
        ({"tls_ca": TLS / "README.md"}, "tls_ca: "),
        ({"tls_cert": TLS / "client.pem"}, "tls_key: "),
        ({"tls_key": TLS / "client-key.pem"}, "tls_cert: "),
        (
            {"tls_cert": TLS / "client.pem", "tls_key": TLS / "server-key.pem"},
            "tls_cert: ",
        ),
    ],
)
async def test_a_wrong_option_is_named_before_anything_is_tried(
    options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await connect_nats(NatsOptions(**options))
    assert caught.value.message.startswith(named)


def test_an_empty_file_is_no_credentials_file(tmp_path: Path) -> None:
    creds = tmp_path / "empty.creds"
    creds.touch()
    with pytest.raises(ConfigurationError, match="creds"):
        NatsOptions(creds=creds).connect_arguments()


def test_the_password_is_not_shown() -> None:
    options = NatsOptions("nats://a:b-secret@host:1", user="u", password="c-secret")
    assert "c-secret" not in repr(options)
    assert options.shown_servers == "nats://host:1"


# -- what the server is ---------------------------------------------------------------------


async def test_a_server_without_jetstream_is_refused_with_advice(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, "")
    path = tmp_path / "server.conf"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("jetstream")]
    path.write_text("\n".join(lines))
    server.start()
    try:
        transport = await connect_nats(NatsOptions(server.url))
        with pytest.raises(ConfigurationError, match="JetStream"):
            await transport.ensure_stream(CONFIG)
        await transport.close()
    finally:
        server.stop()


@pytest.mark.parametrize("version", ["2.11.9", "2.9.0", "1.4.1", "", "beta"])
def test_a_server_that_is_too_old_is_refused(version: str) -> None:
    with pytest.raises(ConfigurationError, match=r"2\.12"):
        check_server({"version": version, "jetstream": True})


async def test_replicas_without_a_cluster_are_refused_with_advice(
    nats_server: NatsServer,
) -> None:
    transport = await connect_nats(NatsOptions(nats_server.url))
    config = StreamConfig("replicated", ["replicated.>"], replicas=3, max_bytes=1 << 20)
    with pytest.raises(ConfigurationError, match="cluster"):
        await transport.ensure_stream(config)
    await transport.close()


async def test_a_stream_set_up_by_others_is_refused_with_each_difference(
    nats_server: NatsServer,
) -> None:
    client = Client()
    await client.connect(nats_server.url)
    body = {
        "name": "foreign", "subjects": ["foreign.journal.>"],
        "max_age": 10**12, "discard": "old", "storage": "memory",
    }  # fmt: skip
    await client.request("$JS.API.STREAM.CREATE.foreign", json.dumps(body).encode(), timeout=5)
    transport = await connect_nats(NatsOptions(nats_server.url))
    config = StreamConfig("foreign", ["foreign.journal.>"], max_bytes=64 * 1024 * 1024)
    with pytest.raises(ConfigurationError) as caught:
        await transport.ensure_stream(config)
    with pytest.raises(ConfigurationError, match=r"num_replicas is 1, not 3: give replicas = 1"):
        await transport.ensure_stream(evolve(config, replicas=3))
    for name in ("storage", "max_age", "discard", "max_bytes", "allow_rollup_hdrs", "allow_atomic"):
        assert name in caught.value.message
    await client.request("$JS.API.STREAM.DELETE.foreign", b"", timeout=5)
    await client.close()
    await transport.close()
