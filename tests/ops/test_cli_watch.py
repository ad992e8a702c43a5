"""Commands that go on: `events --follow` and `--watch`; and what stands near a wrong name."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import queue
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Generator
from pathlib import Path
from typing import IO

import pytest
from attrs import frozen

from tests.support.node_process import NodeProcess
from tests.support.system import CALL_TIMEOUT
from tests.test_style import ROOT

pytestmark = pytest.mark.timeout(180)


class Command:
    """One `aegis` that runs on, and its lines as they come."""

    def __init__(self, arguments: str, environ: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aegis", *arguments.split()],
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._readers: list[threading.Thread] = []
        self.out: queue.Queue[str] = queue.Queue()
        self.err: queue.Queue[str] = queue.Queue()
        for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err)):
            assert stream is not None
            reader = threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            self._readers.append(reader)
            reader.start()

    @staticmethod
    def _read(stream: IO[str], lines: queue.Queue[str]) -> None:
        with stream:
            for line in stream:
                lines.put(line)

    def wait_line(self, word: str) -> str:
        """Return the next line with ``word``; on a busy host others may stand before it."""
        while word not in (line := self.out.get(timeout=60)):
            pass
        return line

    def interrupt(self) -> int:
        """Press Ctrl-C; return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for reader in self._readers:
            reader.join(timeout=60)


@frozen
class Place:
    """A node that runs, and what commands need to find it."""

    folder: Path
    environ: dict[str, str]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "aegis", *arguments],
            env={**os.environ, **self.environ},
            capture_output=True,
            text=True,
            timeout=CALL_TIMEOUT,
            check=False,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Generator[Place]:
    folder = tmp_path_factory.mktemp("watch")
    (folder / "accounts.py").write_text((ROOT / "examples" / "accounts.py").read_text())
    environ = {"AEGIS_DATA_DIR": str(folder / "nats"), "AEGIS_LOG_FORMAT": "json"}
    node = NodeProcess(
        "accounts.py:Account --instance-id acct-1 --resource ACC-1 --resource ACC-2",
        folder=folder,
        environ=environ,
    )
    try:
        node.wait_event("node_started")
        yield Place(folder, environ)
    finally:
        node.end()


def another_node(place: Place) -> NodeProcess:
    return NodeProcess(
        "accounts.py:Account --instance-id acct-2 --resource ACC-1 --role standby",
        folder=place.folder,
        environ=place.environ,
    )


@pytest.mark.parametrize("form", ["", "--json"])
def test_events_are_shown_as_they_happen_until_interrupted(place: Place, form: str) -> None:
    with Command(f"events --follow {form}", place.environ) as events:
        assert "listening" in events.err.get(timeout=60)
        node = another_node(place)
        try:
            node.wait_event("node_started")
            lines = [events.wait_line("registered") for _ in range(2)]
        finally:
            node.end()
        if form:
            told = [json.loads(line) for line in lines]
            assert [one["event"] for one in told] == ["registered", "registered"]
            assert told[1]["resource_ids"] == ["ACC-1"]
            assert told[1]["timestamp"]
            assert told[0]["trace_id"] == told[1]["trace_id"]
        else:
            assert "registered" in lines[0]
            assert "account@acct-2" in lines[0]
            assert "ACC-1 as standby" in lines[1]
        events.wait_line("gone")
        assert events.interrupt() == 130


def test_events_without_follow_end_after_as_many_as_were_asked_for(place: Place) -> None:
    with Command("events --count 2 --json", place.environ) as events:
        assert "listening" in events.err.get(timeout=60)
        node = another_node(place)
        try:
            node.wait_event("node_started")
            assert events.process.wait(timeout=60) == 0
        finally:
            node.end()


@pytest.mark.parametrize("command", ["tree", "list-services"])
def test_watching_shows_the_system_again_as_it_changes(place: Place, command: str) -> None:
    with Command(f"{command} --watch --every 0.2 --json", place.environ) as watched:
        first = json.loads(watched.out.get(timeout=60))
        assert [one["instance_id"] for one in first["services"][0]["instances"]] == ["acct-1"]
        node = another_node(place)
        try:
            node.wait_event("node_started")
            while len(json.loads(watched.out.get(timeout=60))["services"][0]["instances"]) < 2:
                pass
        finally:
            node.end()
        while len(json.loads(watched.out.get(timeout=60))["services"][0]["instances"]) > 1:
            pass
        assert watched.interrupt() == 130


def test_on_a_terminal_watching_draws_in_place(place: Place) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "aegis", "list-services", "--watch", "--every", "0.2"],
        env={**os.environ, **place.environ, "TERM": "xterm", "COLUMNS": "100"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    try:
        seen = b""
        while seen.count(b"acct-1") < 2:
            seen += os.read(master, 65536)
        assert b"\x1b[?1049h" in seen  # the alternate screen: nothing scrolls away
        process.send_signal(signal.SIGINT)
        while b"\x1b[?1049l" not in seen:
            seen += os.read(master, 65536)
        assert process.wait(timeout=60) == 130
    finally:
        os.close(master)
        if process.poll() is None:
            process.kill()
            process.wait()


def test_top_is_printed_once_where_there_is_no_terminal(place: Place) -> None:
    result = place.run("top")
    assert (result.returncode, result.stderr) == (0, "")
    headline, *_ = result.stdout.splitlines()
    assert headline.startswith("aegis  nodes 1  instances 1  resources 2")
    assert "acct-1" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    told = json.loads(place.run("top", "--json").stdout)
    assert [one["instance_id"] for one in told["instances"]] == ["acct-1"]
    assert [one["resource_id"] for one in told["resources"]] == ["ACC-1", "ACC-2"]
    assert (told["totals"]["nodes"], told["failovers"]) == (1, [])


def test_top_fills_a_terminal_until_it_is_left(place: Place) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "aegis", "top", "--every", "0.2"],
        env={**os.environ, **place.environ, "TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    try:
        seen = b""
        while b"acct-1" not in seen:
            seen += os.read(master, 65536)
        assert b"\x1b[?1049h" in seen  # the alternate screen
        os.write(master, b"3")
        while b"account/ACC-2" not in seen:
            seen += os.read(master, 65536)
        os.write(master, b"q")
        while b"\x1b[?1049l" not in seen:
            seen += os.read(master, 65536)
        assert process.wait(timeout=60) == 0
    finally:
        os.close(master)
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        ("call account/ACC-3 balance", ["ACC-1", "ACC-2"]),
        ("call acount/ACC-1 balance", ["account"]),
        ("call account@acct-9 balance", ["acct-1"]),
        ("list-services acount", ["account"]),
        ("list-services acount --watch", ["account"]),
        ("show-route ACC-3", ["ACC-1", "ACC-2"]),
        ("disconnect acct-9", ["acct-1"]),
    ],
)
def test_a_name_that_is_not_there_is_answered_with_those_near_it(
    place: Place, arguments: str, near: list[str]
) -> None:
    result = place.run(*arguments.split(), "--timeout", "10")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error 404: ")
    assert result.stderr.count("\n") == 1
    # Those that are equally near in the order of their names.
    assert result.stderr.endswith(f"; near it: {' or '.join(map(repr, near))}\n")


def test_nobody_is_said_to_have_no_such_resource_who_is_not_there(place: Place) -> None:
    result = place.run("call", "acount/ACC-1", "balance", "--timeout", "10")
    assert result.stderr == "error 404: no service 'acount'; near it: 'account'\n"


@pytest.mark.parametrize("command", ["call account/ACC-1 balance --timeout 1", "tree", "top"])
def test_a_namespace_without_nodes_is_told_as_such(place: Place, command: str) -> None:
    result = place.run(*command.split(), "--namespace", "other")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error 503: no node answers in the namespace 'other'; start")


def test_a_method_that_is_not_there_is_answered_with_those_that_are(place: Place) -> None:
    result = place.run("call", "account/ACC-1", "balanse")
    assert result.returncode == 1
    assert "'balanse'" in result.stderr
    assert "balance" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "tree",
        "tree --watch",
        "list-services",
        "top",
        "show-route X",
        "disconnect X",
        "events",
        "call a b",
    ],
)
def test_without_a_server_each_command_says_what_to_do(tmp_path: Path, arguments: str) -> None:
    place = Place(tmp_path, {"AEGIS_DATA_DIR": str(tmp_path / "nats")})
    result = place.run(*arguments.split())
    assert (result.returncode, result.stdout) == (1, "")
    assert "start one with `aegis run`" in result.stderr
    result = place.run(*arguments.split(), "--nats", "nats://127.0.0.1:1")
    assert (result.returncode, result.stdout) == (1, "")
    assert "no NATS server answers at nats://127.0.0.1:1" in result.stderr
    assert "start one there, or name another" in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell: str, tmp_path: Path) -> None:
    script = subprocess.run(
        [sys.executable, "-m", "aegis", "--help"], capture_output=True, text=True, check=True
    )
    assert "--install-completion" in script.stdout

    def completed(words: str) -> str:
        position = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        typed = {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        return subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; sys.argv[0] = 'aegis'; " "from aegis.ops.cli import main; main()",
            ],
            env={**os.environ, "_AEGIS_COMPLETE": f"complete_{shell}", **position, **typed},
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    assert "list-services" in completed("aegis list")
    assert "--watch" in completed("aegis tree --wa")
