"""The embedded server: found, started, shared, stopped."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest

from aegis.errors import ConfigurationError
from aegis.transport import (
    Credentials,
    ServerOptions,
    default_data_dir,
    ensure_server,
    find_server,
    stop_server,
)
from aegis.transport._guardian import GUARDIAN_LOCK, STATE_FILE
from tests.support.embedded import clean_folder, connected, greets
from tests.support.poll import wait_until
from tests.support.processes import is_running
from tests.support.server_user import server_user

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    async with clean_folder(tmp_path / "nats") as folder:
        yield folder


async def test_the_first_starts_a_server_with_jetstream(folder: Path) -> None:
    async with await ensure_server(ServerOptions(data_dir=folder)) as server:
        assert server.owned
        assert server.data_dir == folder
        async with connected(server.server) as client:
            assert (await client.api("INFO"))["streams"] == 0
            assert client.client.max_payload == 8 * 1024 * 1024


async def test_the_system_account_hears_of_connections(folder: Path) -> None:
    async with (
        await ensure_server(ServerOptions(data_dir=folder)) as server,
        connected(server.server, server.system_credentials) as system,
    ):
        heard = await system.listen("$SYS.ACCOUNT.AEGIS.DISCONNECT")
        async with connected(server.server):
            pass
        assert json.loads((await asyncio.wait_for(heard.get(), 10)).data)["reason"]


@pytest.mark.parametrize("login", [b"{}", b'{"user": "aegis", "pass": "guess"}'])
async def test_nobody_gets_in_without_the_password(folder: Path, login: bytes) -> None:
    async with await ensure_server(ServerOptions(data_dir=folder)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.server.port)
        assert (await reader.readline()).startswith(b"INFO ")
        writer.write(b"CONNECT " + login + b"\r\nPING\r\n")
        assert await reader.readline() == b"-ERR 'Authorization Violation'\r\n"
        writer.close()
        await writer.wait_closed()


async def test_passwords_are_not_shown_in_logs_or_addresses(folder: Path) -> None:
    async with await ensure_server(ServerOptions(data_dir=folder)) as server:
        password = server.credentials.password
        assert len(password) >= 32
        assert password != server.system_credentials.password
        for text in (server.url, repr(server.server), repr(server.credentials)):
            assert password not in text
        assert repr(Credentials("me", "secret")) == "Credentials(user='me')"


async def test_only_this_user_can_read_the_folder(folder: Path) -> None:
    async with await ensure_server(ServerOptions(data_dir=folder)):
        assert not _open_to_others(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="only there is all of 127/8 loopback")
async def test_the_server_listens_on_one_loopback_address_only(folder: Path) -> None:
    async with await ensure_server(ServerOptions(data_dir=folder)) as server:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.2", server.server.port)


async def test_a_second_use_finds_the_server(folder: Path) -> None:
    async with await ensure_server(ServerOptions(data_dir=folder)) as first:
        async with await ensure_server(ServerOptions(data_dir=folder)) as second:
            assert not second.owned
            assert second.server == first.server
        # The end of one use is not the end of the server.
        assert await find_server(folder) == first.server


async def test_many_starts_at_once_give_one_server(folder: Path) -> None:
    async with AsyncExitStack() as stack:
        users = await asyncio.gather(
            *(stack.enter_async_context(server_user(folder)) for _ in range(4))
        )
        here = await asyncio.gather(
            *(ensure_server(ServerOptions(data_dir=folder)) for _ in range(4))
        )
        pids = {user.server_pid for user in users} | {server.pid for server in here}
        owners = [user.owned for user in users] + [server.owned for server in here]
        assert len(pids) == 1
        assert owners.count(True) == 1
        await asyncio.gather(*(server.stop() for server in here))


async def test_starts_at_once_within_a_process_give_one_server(folder: Path) -> None:
    servers = await asyncio.gather(
        *(ensure_server(ServerOptions(data_dir=folder)) for _ in range(8))
    )
    assert [server.owned for server in servers].count(True) == 1
    assert len({server.pid for server in servers}) == 1
    await asyncio.gather(*(server.stop() for server in servers))
    assert await find_server(folder) is None


async def test_the_last_stop_ends_the_server(folder: Path) -> None:
    server = await ensure_server(ServerOptions(data_dir=folder))
    await server.stop()
    assert not is_running(server.pid)
    assert await find_server(folder) is None
    await server.stop()


async def test_a_start_that_meets_a_stop_gets_a_server(folder: Path) -> None:
    server = await ensure_server(ServerOptions(data_dir=folder))
    for _ in range(5):
        _, server = await asyncio.gather(
            server.stop(), ensure_server(ServerOptions(data_dir=folder))
        )
        assert await greets(server.server.port)
    await server.stop()


async def test_port_passwords_and_messages_survive_a_stop(folder: Path) -> None:
    async with (
        await ensure_server(ServerOptions(data_dir=folder)) as first,
        connected(first.server) as client,
    ):
        await client.create_stream("kept")
        assert await client.append("kept", b"here") == 1
    async with await ensure_server(ServerOptions(data_dir=folder)) as second:
        assert second.pid != first.pid
        assert second.url == first.url
        assert second.credentials == first.credentials
        async with connected(second.server) as client:
            assert await client.stored("kept") == [b"here"]


async def test_another_port_is_taken_if_the_former_one_is_not_free(folder: Path) -> None:
    async with await ensure_server(ServerOptions(data_dir=folder)) as first:
        pass
    with socket.create_server(("127.0.0.1", first.server.port)):
        async with await ensure_server(ServerOptions(data_dir=folder)) as second:
            assert second.server.port != first.server.port


async def test_a_random_port_is_none_that_outgoing_connections_get(folder: Path) -> None:
    async with await ensure_server(ServerOptions(data_dir=folder)) as server:
        assert 15000 <= server.server.port < 32768


async def test_a_given_port_is_used(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with await ensure_server(ServerOptions(data_dir=folder, port=port)) as server:
        assert server.url == f"nats://127.0.0.1:{port}"


async def test_a_server_that_is_kept_outlives_its_users(folder: Path) -> None:
    async with await ensure_server(ServerOptions(data_dir=folder, keep=True)) as server:
        pass
    assert await find_server(folder) == server.server
    assert await stop_server(folder)
    assert not is_running(server.pid)
    assert await find_server(folder) is None


async def test_keep_can_be_asked_for_later(folder: Path) -> None:
    async with (
        await ensure_server(ServerOptions(data_dir=folder)) as first,
        await ensure_server(ServerOptions(data_dir=folder, keep=True)),
    ):
        pass
    assert await find_server(folder) == first.server
    assert await stop_server(folder)


async def test_stopping_waits_for_the_users(folder: Path) -> None:
    async with await ensure_server(ServerOptions(data_dir=folder, keep=True)) as server:
        assert not await stop_server(folder, timeout=0.5)
        assert is_running(server.pid)
        watch = asyncio.create_task(server.watch())
        await server.stop()
        await watch
    assert not is_running(server.pid)


async def test_stopping_where_nothing_runs_is_no_error(folder: Path) -> None:
    assert await stop_server(folder)


async def test_fsync_is_on_unless_named_otherwise(folder: Path) -> None:
    async with await ensure_server(ServerOptions(data_dir=folder)) as server:
        assert server.server.sync == "always"
    async with await ensure_server(ServerOptions(data_dir=folder, sync="2m")) as server:
        assert server.server.sync == "2m"
        async with await ensure_server(ServerOptions(data_dir=folder)) as second:
            assert second.server.sync == "2m"


async def test_monitoring_answers_on_loopback(folder: Path) -> None:
    async with await ensure_server(ServerOptions(data_dir=folder, monitor=True)) as server:
        url = server.server.monitor_url
        assert url is not None

        def get(path: str) -> dict[str, object]:
            with urlopen(url + path, timeout=10) as response:
                return dict(json.load(response))

        assert (await asyncio.to_thread(get, "/healthz"))["status"] == "ok"
        facts = await asyncio.to_thread(get, "/varz")
        jetstream = facts["jetstream"]
        assert isinstance(jetstream, dict)
        assert jetstream["config"]["sync_always"] is True
        assert facts["ping_interval"] == 1_000_000_000
        assert facts["ping_max"] == 2


async def test_nothing_is_found_where_nothing_was_started(tmp_path: Path) -> None:
    assert await find_server(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    assert await find_server(tmp_path / "empty") is None


async def test_a_state_file_without_a_server_is_no_server(folder: Path) -> None:
    async with await ensure_server(ServerOptions(data_dir=folder)) as server:
        left = (folder / STATE_FILE).read_text()
    _write(folder / STATE_FILE, left)
    assert await find_server(folder) is None
    # A foreign program at the port, even a NATS server, is not taken for ours.
    with socket.create_server(("127.0.0.1", server.server.port)) as listener:
        listener.settimeout(10)

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b'INFO {"server_name": "another"}\r\n')

        greeting = asyncio.create_task(asyncio.to_thread(greet))
        assert await find_server(folder) is None
        await greeting


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "ready", "port": "x"}'])
async def test_a_state_file_that_is_garbage_is_replaced(folder: Path, text: str) -> None:
    _write(folder / STATE_FILE, text)
    assert await find_server(folder) is None
    async with await ensure_server(ServerOptions(data_dir=folder)) as server:
        assert await find_server(folder) == server.server


async def test_a_copy_of_a_folder_gets_a_server_of_its_own(folder: Path, tmp_path: Path) -> None:
    async with (
        clean_folder(tmp_path / "copy") as copy,
        await ensure_server(ServerOptions(data_dir=folder)) as server,
    ):
        shutil.copytree(folder, copy)
        assert await find_server(copy) is None
        async with await ensure_server(ServerOptions(data_dir=copy)) as other:
            assert other.server.port != server.server.port


async def test_a_server_that_is_starting_is_waited_for(folder: Path) -> None:
    starting = asyncio.create_task(ensure_server(ServerOptions(data_dir=folder)))
    await wait_until(lambda: (folder / GUARDIAN_LOCK).exists(), what="the start has begun")
    found = await find_server(folder)
    async with await starting as server:
        assert found == server.server


async def test_a_cancelled_start_leaves_nothing(folder: Path) -> None:
    starting = asyncio.create_task(ensure_server(ServerOptions(data_dir=folder)))
    await wait_until(lambda: (folder / GUARDIAN_LOCK).exists(), what="the start has begun")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await stop_server(folder, timeout=10)


async def test_odd_characters_in_the_path_do_no_harm(tmp_path: Path) -> None:
    async with (
        clean_folder(tmp_path / "a 'b' \"c\" $d #é \\x") as folder,
        await ensure_server(ServerOptions(data_dir=folder)) as server,
    ):
        assert server.store_dir == folder / "store"
        assert _exists(server.store_dir / "jetstream")


async def test_the_default_folder_follows_the_xdg_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_data_dir() == tmp_path / "data" / "aegis" / "nats"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_data_dir() == tmp_path / ".local" / "share" / "aegis" / "nats"
    monkeypatch.delenv("XDG_DATA_HOME")
    async with clean_folder(default_data_dir()) as folder:
        assert await find_server() is None
        async with await ensure_server() as server:
            assert server.data_dir == folder
            assert await find_server() == server.server


async def test_a_running_server_that_differs_from_an_option_is_refused(folder: Path) -> None:
    async with await ensure_server(ServerOptions(data_dir=folder)) as server:
        port = server.server.port
        with pytest.raises(ConfigurationError, match=rf"port: .* at port {port}, not 1234"):
            await ensure_server(ServerOptions(data_dir=folder, port=1234))
        with pytest.raises(ConfigurationError, match=r"sync: .* has 'always', not '1s'"):
            await ensure_server(ServerOptions(data_dir=folder, sync="1s"))
        same = ServerOptions(data_dir=folder, port=port, sync="always")
        async with await ensure_server(same) as again:
            assert again.pid == server.pid


def _open_to_others(folder: Path) -> list[Path]:
    return [
        path for path in [folder, *folder.rglob("*")] if stat.S_IMODE(path.stat().st_mode) & 0o077
    ]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def _exists(path: Path) -> bool:
    return path.exists()
