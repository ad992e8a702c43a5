"""The owner of a gateway's process: it goes on whatever becomes of one, and ends when told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from aegis.marketdata import _gateway_host
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._gateway_host import GatewayHost
from tests.support.poll import wait_until

pytestmark = pytest.mark.asyncio


class Pipe:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def write(self, line: bytes) -> None:
        self.said.append(json.loads(line))


class Process:
    """A gateway's process that ends only when it is killed."""

    pid = 1

    def __init__(self, *lines: bytes) -> None:
        self.returncode: int | None = None
        self.stdin = Pipe()
        self.stdout = asyncio.StreamReader()
        self.stdout.feed_data(b"".join(line + b"\n" for line in lines))
        self._ended = asyncio.Event()

    def kill(self) -> None:
        self.returncode = -9
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode


class Processes:
    """What there is to be started, one after another: processes, or why there is none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *there: Process | OSError) -> None:
        self.left = list(there)
        monkeypatch.setattr(asyncio, "create_subprocess_exec", self.start)
        monkeypatch.setattr(_gateway_host, "FIRST_PAUSE", 0.0)

    async def start(self, *_: Any, **__: Any) -> Process:
        found = self.left.pop(0)
        if isinstance(found, OSError):
            raise found
        return found


FAILED = {"told": "failed", "reason": "a test", "code": 0, "permanent": False}
STATUS = {"told": "status", "status": {"state": "ready"}}


async def test_a_gateway_is_started_again_when_no_process_could_be_had_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processes = Processes(
        monkeypatch, BlockingIOError(11, "too many processes"), Process(json.dumps(STATUS).encode())
    )
    host = GatewayHost(Path("market.toml"), "a")
    host.start()
    await wait_until(lambda: host.status != {}, what="the second has told how it stands")
    assert (host.restarts, processes.left) == (1, [])
    monkeypatch.setattr(_gateway_host, "STOP_TIMEOUT", 0.0)
    await host.stop()


async def test_a_gateway_is_started_again_when_it_said_what_makes_no_sense(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_gateway_host, "STOP_TIMEOUT", 0.0)
    torn = Process(b'{"told": "sta')
    Processes(monkeypatch, torn, Process(json.dumps(STATUS).encode()))
    host = GatewayHost(Path("market.toml"), "a")
    host.start()
    await wait_until(lambda: host.status != {}, what="the second has told how it stands")
    assert torn.returncode == -9
    await host.stop()


async def test_it_can_be_stopped_while_a_failed_process_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stuck = Process(json.dumps(FAILED).encode())
    Processes(monkeypatch, stuck)
    host = GatewayHost(Path("market.toml"), "a")
    host.start()
    await wait_until(lambda: {"do": "stop"} in stuck.stdin.said, what="it is told to end")
    await host.stop()
    assert stuck.returncode == -9
    assert not host.alive


async def test_two_feeds_that_know_the_same_contracts_tell_them_as_one_list() -> None:
    lists: list[tuple[int, list[str]]] = []
    rows = [["SHFE", "rb2701", "rb", "futures"], ["DCE", "m2701", "m", "futures"]]
    for contracts in (rows, rows[::-1], rows[:1]):
        host = GatewayHost(Path("market.toml"), "a")
        host.hear({"told": "contracts", "contracts": contracts})
        lists.append((host.contracts_version, [contract.key for contract in host.contracts]))
    assert lists[0] == lists[1]
    assert lists[0][1] == ["DCE.m2701", "SHFE.rb2701"]
    assert lists[0][0] != lists[2][0]


@pytest.mark.parametrize(("hours", "due"), [(["00:00-12:00", "12:00-00:00"], True), ([], False)])
async def test_a_feed_tells_whether_a_session_is_near(hours: list[str], due: bool) -> None:
    tables: dict[str, Any] = {
        "timezone": "UTC",
        "every_day": True,
        "holidays": {},
        "sessions": [{"contracts": ["*"], "day": hours}],
    }
    host = GatewayHost(Path("m.toml"), "a", calendar=Calendar.from_tables(tables))
    assert host.standing().due is due
