"""Bad options of the embedded server: one clear line each, and nothing left half done."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from aegis.errors import ConfigurationError
from aegis.transport import (
    ServerOptions,
    default_data_dir,
    ensure_server,
    find_binary,
    find_server,
)
from aegis.transport._data_folder import FileLock, describe_folder_error, prepare_data_dir
from aegis.transport._guardian import CONFIG_FILE, GUARDIAN_LOCK, GUARDIAN_LOG, STATE_FILE
from aegis.transport._server_binary import BINARY_VARIABLE, is_supported_version
from tests.support.embedded import clean_folder
from tests.support.processes import processes_of

pytestmark = pytest.mark.timeout(60)

NOBODY = 65534


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    async with clean_folder(tmp_path / "nats") as folder:
        yield folder


@contextmanager
def as_ordinary_user() -> Generator[None]:
    """Give up root's rights for the time of the block, if we have them."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def let_others_in(folder: Path) -> None:
    """Open what pytest makes for one user only."""
    for path in [folder, *folder.parents]:
        if not path.stat().st_mode & 0o001:
            path.chmod(0o755)


async def assert_refused(options: ServerOptions, match: str) -> None:
    """The start stops with one line that matches, and leaves no process."""
    with pytest.raises(ConfigurationError, match=match) as caught:
        await ensure_server(options)
    assert "\n" not in str(caught.value)
    if options.data_dir is not None:
        assert not processes_of(options.data_dir)


async def test_a_file_is_no_data_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    make_file(file)
    await assert_refused(ServerOptions(data_dir=file), rf"data_dir: {file} is not a folder")
    below = file / "below"
    await assert_refused(ServerOptions(data_dir=below), rf"data_dir: {below} is not a folder")


def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    let_others_in(tmp_path)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    with as_ordinary_user():
        with pytest.raises(ConfigurationError, match="cannot be written by this user"):
            prepare_data_dir(locked)
        with pytest.raises(ConfigurationError, match="cannot be written by this user"):
            prepare_data_dir(locked / "new")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "read-only file system"),
        (errno.EACCES, "change its owner"),
        (errno.ENOSPC, "full disk; free some space"),
        (errno.EDQUOT, "disk quota"),
        (errno.ENOLCK, "without file locks"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_each_error_of_the_folder_is_told_in_one_line(number: int, words: str) -> None:
    error = describe_folder_error(Path("/data"), OSError(number, os.strerror(number)))
    assert str(error).startswith("data_dir: /data ")
    assert words in str(error)


async def test_a_disk_that_is_nearly_full_is_refused(folder: Path) -> None:
    wanted = 2**60
    await assert_refused(
        ServerOptions(data_dir=folder, min_free_bytes=wanted),
        r"data_dir: .* has \d+ MiB left and the server wants \d+ MiB; free some space",
    )
    async with (
        await ensure_server(ServerOptions(data_dir=folder)),
        # The check is for starting: a server that runs is used.
        await ensure_server(ServerOptions(data_dir=folder, min_free_bytes=wanted)),
    ):
        pass


async def test_a_folder_with_control_characters_is_refused(tmp_path: Path) -> None:
    await assert_refused(ServerOptions(data_dir=tmp_path / "a\nb"), "do not print")


@pytest.mark.parametrize("name", [STATE_FILE, CONFIG_FILE, GUARDIAN_LOG, GUARDIAN_LOCK])
async def test_a_file_of_the_folder_that_cannot_be_written_is_told(folder: Path, name: str) -> None:
    (folder / name).mkdir(parents=True)
    await assert_refused(ServerOptions(data_dir=folder), f"data_dir: {folder} cannot be used: ")
    shutil.rmtree(folder / name)
    async with await ensure_server(ServerOptions(data_dir=folder)):
        pass


async def test_a_folder_locked_by_something_that_does_not_answer_is_refused(folder: Path) -> None:
    with locked_folder(folder), structlog.testing.capture_logs() as logs:
        await assert_refused(
            ServerOptions(data_dir=folder, start_timeout=0.3),
            r"data_dir: .* is locked by another server .* did not answer within 0\.3 s",
        )
        assert await find_server(folder, wait_restart=0.1) is None
    (told,) = [line for line in logs if line["event"] == "nats_server_awaited"]
    assert told["data_dir"] == str(folder)
    assert "does not answer; it is waited for 0.3 s" in told["action"]
    async with await ensure_server(ServerOptions(data_dir=folder)):
        pass


async def test_a_folder_shared_with_another_host_is_refused(folder: Path) -> None:
    with locked_folder(folder):
        state = {"state": "ready", "host": "elsewhere", "data_dir": str(folder)}
        make_file(folder / STATE_FILE, json.dumps(state))
        await assert_refused(
            ServerOptions(data_dir=folder), "in use by a server on the host elsewhere"
        )


async def test_another_users_server_is_not_taken_over(folder: Path) -> None:
    async with await ensure_server(ServerOptions(data_dir=folder, keep=True)):
        pass
    let_others_in(folder.parent)
    if os.geteuid() == 0:
        with as_ordinary_user():
            with pytest.raises(ConfigurationError, match="belongs to another user"):
                await find_server(folder)
            with pytest.raises(ConfigurationError, match="cannot be written by this user"):
                await ensure_server(ServerOptions(data_dir=folder))
    assert await find_server(folder) is not None


async def test_a_port_that_is_taken_is_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        await assert_refused(
            ServerOptions(data_dir=folder, port=port), f"port: {port} is taken by another program"
        )
        async with await ensure_server(ServerOptions(data_dir=folder)) as server:
            assert server.server.port != port


@pytest.mark.parametrize("port", [0, -1, 65536])
async def test_a_port_out_of_range_is_refused(folder: Path, port: int) -> None:
    await assert_refused(ServerOptions(data_dir=folder, port=port), "between 1 and 65535")
    assert not folder.exists()  # noqa: ASYNC240


@pytest.mark.parametrize("sync", ["", "2", "sometimes", "2 m", "always\n", '2m" }'])
async def test_a_sync_interval_that_is_none_is_refused(folder: Path, sync: str) -> None:
    await assert_refused(ServerOptions(data_dir=folder, sync=sync), "sync: ")
    assert not folder.exists()  # noqa: ASYNC240


def test_without_a_home_folder_the_data_folder_must_be_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ConfigurationError, match="name a data folder"):
        default_data_dir()


def test_the_bundled_program_is_found() -> None:
    binary = find_binary()
    assert binary.name == "nats-server"
    assert binary.is_absolute()


def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"option nats_server: {tmp_path}/no does not"):
        find_binary(tmp_path / "no")


def test_a_program_must_be_executable(tmp_path: Path) -> None:
    make_file(tmp_path / "plain", "#!/bin/sh\n")
    for path in (tmp_path / "plain", tmp_path):
        with pytest.raises(ConfigurationError, match="is not an executable file"):
            find_binary(path)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("#!/bin/sh\necho 'nats-server: v2.11.9'\n", "is nats-server 2.11.9; 2.12 or newer"),
        ("#!/bin/sh\necho hello\n", "is no nats-server"),
        ("#!/bin/sh\nexit 1\n", "is no nats-server"),
        ("#!/nothing\n", "cannot be run"),
        ("\x7fELF", "cannot be run"),
    ],
)
def test_a_program_must_be_a_nats_server_that_is_new_enough(
    tmp_path: Path, script: str, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        find_binary(make_program(tmp_path / "program", script))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("version", "supported"),
    [("2.12.0", True), ("2.15.1-beta", True), ("3.0", True), ("2.11.99", False), ("x", False)],
)
def test_versions_are_compared_as_numbers(version: str, supported: bool) -> None:
    assert is_supported_version(version) is supported


async def test_the_variable_names_the_program(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BINARY_VARIABLE, str(tmp_path / "no"))
    await assert_refused(ServerOptions(data_dir=folder), f"{BINARY_VARIABLE}: .* does not exist")
    monkeypatch.delenv(BINARY_VARIABLE)
    own = tmp_path / "my-nats"
    shutil.copy(find_binary(), own)
    monkeypatch.setenv(BINARY_VARIABLE, str(own))
    async with await ensure_server(ServerOptions(data_dir=folder)):
        assert any(command.startswith(str(own)) for command in processes_of(folder))


async def test_a_program_that_fails_to_start_is_quoted(folder: Path, tmp_path: Path) -> None:
    program = make_program(
        tmp_path / "program",
        "#!/bin/sh\n"
        "[ \"$1\" = --version ] && echo 'nats-server: v2.99.0' && exit\n"
        "echo 'nats-server: the moon is full' >&2; exit 1\n",
    )
    await assert_refused(
        ServerOptions(data_dir=folder, nats_server=program),
        r"does not start: the moon is full \(see .*server\.log\)",
    )


async def test_a_program_that_starts_and_never_answers_is_ended(
    folder: Path, tmp_path: Path
) -> None:
    program = make_program(
        tmp_path / "program",
        "#!/bin/sh\n"
        "[ \"$1\" = --version ] && echo 'nats-server: v2.99.0' && exit\n"
        "exec tail -f /dev/null\n",
    )
    with pytest.raises(ConfigurationError, match="not answer within"):
        await ensure_server(ServerOptions(data_dir=folder, nats_server=program, start_timeout=0.3))


@contextmanager
def locked_folder(folder: Path) -> Generator[None]:
    """Hold the guardian's lock, as one does that hangs."""
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / GUARDIAN_LOCK)
    assert lock.acquire_nowait()
    try:
        yield
    finally:
        fcntl.flock(lock.descriptor, fcntl.LOCK_UN)
        lock.close()


def make_file(path: Path, text: str = "") -> None:
    path.write_text(text)


def make_program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path
