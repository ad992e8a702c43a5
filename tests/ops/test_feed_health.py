"""The health command over a real server: its verdicts, what it costs, and what it leaves alone."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner, Result

from aegis import AegisActor, query
from aegis.ops import cli
from aegis.transport._ports import free_port
from tests.support.http import ask
from tests.support.nats import ACCOUNTS, NatsServer
from tests.support.poll import wait_until
from tests.support.prometheus import OPS
from tests.support.system import Backend, System

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("logging_restored")]

SCRIPT = OPS / "check_feed_health.py"


def exchange(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "exchange": "SHFE",
        "phase": "open",
        "wanted": 4,
        "covered": 4,
        "ratio": 1.0,
        "missing": [],
        "missing_count": 0,
        "stalled": [],
        "stalled_count": 0,
        "silent": False,
        "quiet_seconds": 0.1,
    }
    return plain | changes


def status(*exchanges: dict[str, Any], **changes: Any) -> dict[str, Any]:
    plain = {
        "feed": "a",
        "epoch": 7,
        "state": "ready",
        "publishing": True,
        "lag_p99": 0.02,
        "exchanges": list(exchanges) or [exchange()],
    }
    return plain | changes


FINE = status()
DEGRADED = status(
    exchange(stalled=["SHFE.rb2701", "SHFE.cu2701"], stalled_count=2),
    exchange(exchange="DCE"),
)
CRITICAL = status(
    exchange(
        covered=1,
        ratio=0.25,
        missing=["SHFE.cu2701", "SHFE.rb2701", "SHFE.rb2702"],
        missing_count=3,
    )
)
BREAK = status(exchange(phase="break", covered=2, ratio=0.5, missing_count=2))
NOT_YET = {"feed": "a", "epoch": 7, "failure": {"reason": "the front answers nothing"}}


class StandIn(AegisActor):
    """A feed that says what the test wants it to say, the last of it again and again."""

    service = "feed"
    answers: ClassVar[list[dict[str, Any]]] = []

    @query
    async def status(self) -> dict[str, Any]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @query
    async def contracts(self, pattern: str) -> dict[str, Any]:
        return {"total": int(pattern in ("*.rb[0-9]*", "SHFE.rb[0-9]*"))}


class Watched:
    """A server with its monitoring port."""

    def __init__(self, folder: Path) -> None:
        self.monitor = free_port()
        extra = f'{ACCOUNTS}\nhttp: "127.0.0.1:{self.monitor}"'
        self.server = NatsServer(folder, extra)

    def connections_made(self) -> int:
        count: int = ask(self.monitor, "/varz").json["total_connections"]
        return count

    def is_settled(self) -> bool:
        """Whether a node that has just started has all that it keeps open."""
        now = self.statistics()
        return now["consumers"] == 2 and now == self.statistics()

    def statistics(self) -> dict[str, int]:
        """What a command that only looks leaves as it was."""
        server, routes, store = (
            ask(self.monitor, path).json for path in ("/varz", "/subsz", "/jsz")
        )
        return {
            "connections": server["connections"],
            "subscriptions": server["subscriptions"],
            "routed": routes["num_subscriptions"],
            **{name: store[name] for name in ("streams", "consumers", "messages", "bytes")},
        }


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Generator[Watched]:
    watched = Watched(tmp_path_factory.mktemp("nats"))
    watched.server.start()
    yield watched
    watched.server.stop()


def run(
    watched: Watched,
    scenario: Callable[[System], Coroutine[Any, Any, None]],
    *answers: dict[str, Any],
) -> None:
    """Run a scenario with a feed that gives these answers."""

    async def with_feed(system: System) -> None:
        StandIn.answers = [*answers]
        await system.start_node((StandIn, ["market"]), instance_id="a")
        await scenario(system)

    Backend(watched.server.url).run(with_feed)


async def health(watched: Watched, system: System, *arguments: str) -> Result:
    reach = ("--nats", watched.server.url, "--namespace", system.namespace)
    words = ["feed", "health", *arguments, *reach]
    return await asyncio.to_thread(CliRunner().invoke, cli.app, words)


CASES: list[tuple[dict[str, Any], tuple[str, ...], int, str]] = [
    (FINE, (), 0, "fine: a, epoch 7"),
    (DEGRADED, (), 1, "stalled at SHFE: SHFE.rb2701, SHFE.cu2701"),
    (DEGRADED, ("--exchange", "DCE"), 0, "fine"),
    (DEGRADED, ("--exchange", "CFFEX"), 4, "it has SHFE, DCE"),
    (DEGRADED, ("--limit", "1"), 1, "SHFE.rb2701 and 1 more"),
    (CRITICAL, ("--product", "rb"), 2, "missing at SHFE: SHFE.rb2701, SHFE.rb2702"),
    (FINE, ("--product", "rd"), 4, "no contract of market is of this class"),
    (DEGRADED, ("--product", "rb", "--exchange", "DCE"), 4, "no contract of DCE is of this class"),
    (BREAK, (), 0, "fine"),
    (BREAK, ("--coverage", "0.9"), 2, "2 of 4 contracts are missing"),
    (BREAK, ("--coverage", "0.5"), 0, "fine"),
    (NOT_YET, (), 3, "the front answers nothing"),
    (FINE, ("--market", "nobodys"), 3, "nobodys"),
    (FINE, ("--limit", "0"), 4, "limit"),
]


def test_the_exit_code_and_the_text_say_how_the_feed_does(watched: Watched) -> None:
    async def scenario(system: System) -> None:
        for answer, arguments, code, text in CASES:
            StandIn.answers = [answer]
            done = await health(watched, system, *arguments)
            assert done.exit_code == code, (arguments, done.output)
            assert text in done.output, arguments

    run(watched, scenario, FINE)


def test_json_has_the_figures_of_each_exchange(watched: Watched) -> None:
    async def scenario(system: System) -> None:
        done = await health(watched, system, "--json", "--limit", "2")
        told = json.loads(done.stdout)
        assert (told["verdict"], told["feed"], told["epoch"]) == ("critical", "a", 7)
        assert told["findings"][0]["exchange"] == "SHFE"
        (report,) = told["exchanges"]
        assert report["missing"] == ["SHFE.cu2701", "SHFE.rb2701"]
        assert (report["missing_count"], report["covered"], report["wanted"]) == (3, 1, 4)

    run(watched, scenario, CRITICAL)


def test_waiting_asks_again_over_one_connection(watched: Watched) -> None:
    async def scenario(system: System) -> None:
        before = watched.connections_made()
        done = await health(watched, system, "--wait", "60")
        assert done.exit_code == 0, done.output
        assert StandIn.answers == [FINE]
        assert watched.connections_made() == before + 1

    run(watched, scenario, NOT_YET, CRITICAL, CRITICAL, FINE)


def test_without_a_server_nobody_can_tell() -> None:
    away = f"nats://127.0.0.1:{free_port()}"
    done = CliRunner().invoke(cli.app, ["feed", "health", "--nats", away, "--timeout", "200ms"])
    assert done.exit_code == 3
    assert done.stderr.startswith("error")


def test_the_script_changes_nothing_of_the_server(watched: Watched) -> None:
    async def scenario(system: System) -> None:
        await wait_until(watched.is_settled, what="the node follows the registry")
        before = watched.statistics()
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, str(SCRIPT), "--json"],
            env={
                **os.environ,
                "AEGIS_NATS_URL": watched.server.url,
                "AEGIS_NAMESPACE": system.namespace,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert json.loads(done.stdout)["verdict"] == "critical"
        # The server notes a moment later that the connection has ended.
        await wait_until(lambda: watched.statistics() == before, what="all is as it was before")

    run(watched, scenario, CRITICAL)
