"""The embedded server under SIGKILL: of itself, its users, its guardian."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from aegis.errors import Unavailable
from aegis.transport import EmbeddedServer, ServerOptions, ensure_server, find_server
from aegis.transport import _server as server_module
from aegis.transport._guardian import CONFIG_FILE, GUARDIAN_LOG
from tests.support.embedded import clean_folder, connected, greets
from tests.support.poll import wait_until
from tests.support.processes import is_running
from tests.support.server_user import server_user

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    async with clean_folder(tmp_path / "nats") as folder:
        yield folder


@asynccontextmanager
async def watched(
    options: ServerOptions,
) -> AsyncGenerator[tuple[EmbeddedServer, asyncio.Task[None]]]:
    """Use a server and watch it, as a node does."""
    async with await ensure_server(options) as server:
        watch = asyncio.create_task(server.watch())
        try:
            yield server, watch
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError, Unavailable):
                await watch


async def wait_replaced(server: EmbeddedServer, pid: int) -> None:
    """Return when ``server`` knows of a server process other than ``pid``."""
    await wait_until(lambda: server.pid != pid, what="a new server process is seen")
    assert not is_running(pid)


async def test_a_killed_server_is_back_at_its_port_with_all_that_was_stored(folder: Path) -> None:
    async with watched(ServerOptions(data_dir=folder)) as (server, _):
        async with connected(server.server) as client:
            await client.create_stream("kept")
            former = server.server
            for number in range(1, 6):
                assert await client.append("kept", b"%d" % number) == number
                killed = server.pid
                os.kill(killed, signal.SIGKILL)
                await wait_replaced(server, killed)
            assert await client.stored("kept") == [b"1", b"2", b"3", b"4", b"5"]
        assert server.url == former.url
        assert server.server.guardian_pid == former.guardian_pid
        assert server.server.restarts == 5


async def test_a_restart_is_logged(folder: Path) -> None:
    with capture_logs() as lines:
        async with watched(ServerOptions(data_dir=folder)) as (server, _):
            former = server.pid
            os.kill(former, signal.SIGKILL)
            await wait_replaced(server, former)
    restarts = [line for line in lines if line["event"] == "nats_server_restarted"]
    assert restarts == [
        {
            "event": "nats_server_restarted",
            "log_level": "warning",
            "pid": server.pid,
            "former_pid": former,
        }
    ]


async def test_the_server_does_not_notice_that_who_started_it_is_killed(folder: Path) -> None:
    async with (
        server_user(folder) as owner,
        await ensure_server(ServerOptions(data_dir=folder)) as server,
        connected(server.server) as client,
    ):
        assert owner.owned
        owner.kill()
        await owner.wait()
        assert await find_server(folder) == server.server
        await client.client.flush()
        assert client.client.stats["reconnects"] == 0
    assert not is_running(server.pid)


async def test_the_server_ends_when_its_only_user_is_killed(folder: Path) -> None:
    async with server_user(folder) as user:
        user.kill()
        await user.wait()
        await wait_until(lambda: not is_running(user.server_pid), what="the server has ended")
    assert await find_server(folder) is None


async def test_the_server_ends_when_all_users_are_killed_at_once(folder: Path) -> None:
    async with server_user(folder) as one, server_user(folder) as two:
        assert one.server_pid == two.server_pid
        one.kill()
        two.kill()
        await wait_until(lambda: not is_running(one.server_pid), what="the server has ended")


async def test_a_kept_server_outlives_users_that_are_killed(folder: Path) -> None:
    async with server_user(folder, keep=True) as user:
        user.kill()
        await user.wait()
    server = await find_server(folder)
    assert server is not None
    assert server.pid == user.server_pid
    os.kill(server.pid, signal.SIGKILL)
    await wait_until(lambda: not is_running(server.pid), what="the server has ended")
    again = await find_server(folder, wait_restart=30)
    assert again is not None, (folder / GUARDIAN_LOG).read_text()
    assert again.port == server.port


async def test_a_user_that_ends_by_sigterm_takes_the_server_with_it(folder: Path) -> None:
    async with server_user(folder) as user:
        user.process.terminate()
        assert await user.wait() == 0
    assert not is_running(user.server_pid)


async def test_a_killed_guardian_takes_the_server_with_it_and_a_user_restarts_both(
    folder: Path,
) -> None:
    async with watched(ServerOptions(data_dir=folder)) as (server, _):
        former = server.server
        async with connected(former) as client:
            await client.create_stream("kept")
            await client.append("kept", b"before")
            os.kill(former.guardian_pid, signal.SIGKILL)
            await wait_replaced(server, former.pid)
            assert server.url == former.url
            assert await client.append("kept", b"after") == 2
            assert await client.stored("kept") == [b"before", b"after"]


async def test_one_of_many_users_takes_over_when_the_guardian_is_killed(folder: Path) -> None:
    async with (
        server_user(folder) as one,
        server_user(folder) as two,
        watched(ServerOptions(data_dir=folder)) as (server, _),
    ):
        for _ in range(3):
            former = server.server
            os.kill(former.guardian_pid, signal.SIGKILL)
            await wait_replaced(server, former.pid)
            assert server.server.port == one.port == two.port
            assert not is_running(former.pid)


async def test_a_killed_guardian_without_users_leaves_no_server(folder: Path) -> None:
    async with await ensure_server(ServerOptions(data_dir=folder, keep=True)) as server:
        pass
    os.kill(server.server.guardian_pid, signal.SIGKILL)
    await wait_until(lambda: not is_running(server.pid), what="the server has ended")
    assert await find_server(folder) is None


async def test_killing_everything_at_once_leaves_a_folder_that_starts_again(folder: Path) -> None:
    async with server_user(folder) as user:
        server = await find_server(folder)
        assert server is not None
        async with connected(server) as client:
            await client.create_stream("kept")
            await client.append("kept", b"here")
        for pid in (user.process.pid, server.guardian_pid, server.pid):
            os.kill(pid, signal.SIGKILL)
        await user.wait()
    assert await find_server(folder) is None
    async with await ensure_server(ServerOptions(data_dir=folder)) as again:
        assert again.url == server.url
        async with connected(again.server) as client:
            assert await client.stored("kept") == [b"here"]


async def test_a_frozen_server_without_a_guardian_is_killed_before_the_next_one(
    folder: Path,
) -> None:
    async with watched(ServerOptions(data_dir=folder)) as (server, _):
        former = server.server
        os.kill(former.pid, signal.SIGSTOP)
        os.kill(former.guardian_pid, signal.SIGKILL)
        await wait_replaced(server, former.pid)
        assert server.url == former.url


async def test_a_server_that_hangs_is_restarted(folder: Path) -> None:
    async with watched(ServerOptions(data_dir=folder, hang_timeout=2.0)) as (server, _):
        former = server.server
        os.kill(former.pid, signal.SIGSTOP)
        await wait_replaced(server, former.pid)
        assert await greets(former.port)


async def test_a_server_that_hangs_for_a_moment_is_left_alone(folder: Path) -> None:
    async with watched(ServerOptions(data_dir=folder)) as (server, watch):
        os.kill(server.pid, signal.SIGSTOP)
        done, _ = await asyncio.wait({watch}, timeout=1.5)
        assert not done
        os.kill(server.pid, signal.SIGCONT)
        assert await greets(server.server.port)
        assert server.server.restarts == 0


async def test_a_server_that_dies_again_and_again_is_given_up(folder: Path) -> None:
    async with watched(ServerOptions(data_dir=folder, max_restarts=2)) as (server, watch):
        for _ in range(2):
            former = server.pid
            os.kill(former, signal.SIGKILL)
            await wait_replaced(server, former)
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match=r"3 times in 60 s: killed by SIGKILL .*server\.log"):
            await asyncio.wait_for(watch, 15)
    # Whoever comes next tries anew.
    async with await ensure_server(ServerOptions(data_dir=folder)) as again:
        assert again.url == server.url


async def test_a_guardian_that_dies_again_and_again_is_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_TAKEOVERS", 1)
    async with watched(ServerOptions(data_dir=folder)) as (server, watch):
        former = server.pid
        os.kill(server.server.guardian_pid, signal.SIGKILL)
        await wait_replaced(server, former)
        os.kill(server.server.guardian_pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match="guardian ended 2 times in a minute"):
            await asyncio.wait_for(watch, 15)


async def test_a_server_that_cannot_come_back_is_reported_with_its_own_words(
    folder: Path,
) -> None:
    async with watched(ServerOptions(data_dir=folder, max_restarts=1)) as (server, watch):
        break_config(folder)
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match="2 times in 60 s: Parse error"):
            await asyncio.wait_for(watch, 15)


async def test_stop_ends_the_watch(folder: Path) -> None:
    server = await ensure_server(ServerOptions(data_dir=folder))
    watch = asyncio.create_task(server.watch())
    await server.stop()
    await asyncio.wait_for(watch, 5)
    assert not is_running(server.pid)


def break_config(folder: Path) -> None:
    (folder / CONFIG_FILE).write_text("port: [")
