"""Real processes, a real server, real signals: nothing is lost and nothing done twice."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import msgpack
import pytest

from aegis._config import ConnectOptions, RunOptions
from aegis._connection import open_connection
from aegis._node import Node
from aegis.transport import Credentials
from tests.support.embedded import clean_folder, connected_to
from tests.support.nats import NatsServer
from tests.support.nodes import (
    ROOT,
    SERVICES,
    Account,
    Books,
    Host,
    NodeProcess,
    Traffic,
    check_journal,
)
from tests.support.poll import wait_until
from tests.support.services import Ledger, Vault

pytestmark = pytest.mark.timeout(240)


def node_arguments(number: int) -> tuple[str, ...]:
    """Return how to start a node with instances of this number."""
    return (
        *(f"{SERVICES}:Vault", "--instance-id", f"vault-{number}"),
        *("--resource", "V-1", "--resource", "V-2"),
        *(f"{SERVICES}:Ledger", "--instance-id", f"ledger-{number}", "--resource", "L-1"),
    )


NODE = node_arguments(1)
ACCOUNTS = (("vault", "V-1"), ("vault", "V-2"), ("ledger", "L-1"))
CALLS = 900


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with Host.open(tmp_path / "nats") as host:
        yield host


async def test_a_node_killed_under_load_and_started_again_loses_and_repeats_nothing(
    host: Host,
) -> None:
    node = await host.start_node(*NODE)
    async with host.caller() as cluster:
        books = Books(*ACCOUNTS)
        traffic = Traffic(cluster, books, calls=CALLS, seed=1)
        for done in (150, 450):
            await traffic.reached(done, node.kill)
            assert await node.wait_end() == -signal.SIGKILL
            node = await host.start_node(*NODE)
        await traffic.finish()
        await books.check(host, cluster)
    assert await node.stop() == 0


async def test_a_server_killed_under_load_loses_and_repeats_nothing(host: Host) -> None:
    node = await host.start_node(*NODE)
    async with host.caller() as cluster:
        books = Books(*ACCOUNTS)
        traffic = Traffic(cluster, books, calls=CALLS, seed=2)
        for done in (150, 450):
            pid = host.server.pid
            await traffic.reached(done, host.kill_server)
            await wait_until(partial(host.is_replaced, pid), what="the server is back", timeout=60)
        await traffic.finish()
        await books.check(host, cluster)
    assert node.process.returncode is None
    assert await node.stop() == 0


async def test_a_frozen_owner_that_was_replaced_writes_nothing_when_it_wakes_up(
    host: Host,
) -> None:
    options = ConnectOptions(data_dir=host.folder)
    async with await open_connection(options, name="heir") as connection, host.caller() as cluster:
        heir = Node(RunOptions(connect=options), connection.transport)
        await heir.start()
        await heir.add_service(Vault, instance_id="heir-v")
        await heir.add_service(Ledger, instance_id="heir-l")
        zombie = await host.start_node(*NODE, "--no-supervisor")
        books = Books(*ACCOUNTS)
        traffic = Traffic(cluster, books, calls=CALLS, seed=3)
        await traffic.reached(200, zombie.pause)
        await heir.add_resources("heir-v", ["V-1", "V-2"], force=True)
        await heir.add_resources("heir-l", ["L-1"], force=True)
        await traffic.finish()
        zombie.resume()
        # It handles what reached it meanwhile, finds itself replaced, and says so.
        for account in books.accounts:
            assert await host.status_of_a_deposit(f"{account.service}-1", account) == 421
        await books.check(host, cluster)
        assert await zombie.stop() == 0
        await heir.stop()


CALLER = """
import asyncio, sys
from pathlib import Path
import aegis

async def main():
    async with aegis.connect(data_dir=Path(sys.argv[1]), timeout=60) as cluster:
        async def deposit(name):
            while True:
                print("sent", name, flush=True)
                answer = await cluster.call("vault", "deposit", {"amount": 1}, resource_id=name)
                print("told", name, answer, flush=True)
        await asyncio.gather(*(deposit(name) for name in ("V-1", "V-2") for _ in range(4)))

asyncio.run(main())
"""


async def test_a_caller_killed_in_flight_leaves_journals_that_add_up(host: Host) -> None:
    node = await host.start_node(*NODE)
    caller = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CALLER, str(host.folder)), cwd=ROOT, stdin=DEVNULL, stdout=PIPE
    )
    assert caller.stdout is not None
    told: dict[str, list[int]] = {"V-1": [], "V-2": []}
    sent = dict.fromkeys(told, 0)
    killed = False
    while (line := await caller.stdout.readline()).endswith(b"\n"):  # The last may be torn.
        match line.decode().split():
            case ["sent", name]:
                sent[name] += 1
            case ["told", name, answer]:
                told[name].append(int(answer))
            case other:
                raise AssertionError(other)
        if len(told["V-1"]) >= 60 and not killed:
            caller.kill()
            killed = True
    assert await caller.wait() == -signal.SIGKILL
    async with host.caller() as cluster:
        for name, answers in told.items():
            # A query behind all that was under way.
            total = int(await cluster.call("vault", "total", resource_id=name))
            entries = await check_journal(host, Account("vault", name))
            assert [int(msgpack.unpackb(entry[5])) for entry in entries] == list(
                range(1, total + 1)
            )
            assert set(answers) <= set(range(1, total + 1))
            assert len(answers) <= total <= sent[name]
    assert await node.stop() == 0


async def test_a_node_told_to_stop_under_load_drains_and_another_goes_on(host: Host) -> None:
    node = await host.start_node(*NODE)
    async with host.caller() as cluster:
        books = Books(*ACCOUNTS)
        traffic = Traffic(cluster, books, calls=CALLS, seed=4, may_be_gone=True)
        for number, done in ((2, 150), (3, 450)):
            await traffic.reached(done, node.terminate)
            assert await node.wait_end() == 0
            assert node.events("node_stopped")
            # Nothing is held any more: others may have it at once.
            node = await host.start_node(*node_arguments(number))
        await traffic.finish()
        await books.check(host, cluster)
    assert await node.stop() == 0


# -- nodes that cannot go on, or not even begin -------------------------------------------

USERS = """
accounts {{ APP {{ jetstream: enabled, users: [ {{ user: app, password: {password} }} ] }} }}
"""


async def test_a_node_whose_access_is_revoked_ends_with_code_1_and_says_why(
    tmp_path: Path,
) -> None:
    server = NatsServer(tmp_path, USERS.format(password="right"))
    server.start()
    try:
        node = await NodeProcess.start(
            *(f"{SERVICES}:Vault", "--resource", "V-1", "--nats", server.url),
            *("--user", "app", "--password", "right"),
        )
        await node.wait_event("node_started")
        server.configure(USERS.format(password="other"))
        server.process.send_signal(signal.SIGHUP)
        assert await node.wait_end() == 1
        (line,) = node.events("connection_closed")
        assert "authorization" in line["reason"].lower()
        assert line["level"] == "error"
        assert line["action"]
    finally:
        server.stop()


async def test_a_node_whose_server_cannot_be_kept_ends_with_code_1_and_says_why(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "nats"
    node = await NodeProcess.start(f"{SERVICES}:Vault", "--data-dir", str(folder))
    try:
        await node.wait_event("node_started")
        shutil.rmtree(folder)
        assert await node.wait_end() == 1
        assert node.events("server_given_up")
        assert str(folder) in node.events("connection_closed")[0]["reason"]
    finally:
        node.kill()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            ("--nats", "nats://127.0.0.1:1", "--timeout", "1"),
            1,
            "no NATS server answers at nats://127.0.0.1:1",
        ),
        (("--nats", "http://127.0.0.1"), 2, "--nats: 'http://127.0.0.1' does not begin with"),
        (("--data-dir", "/dev/null/aegis"), 2, "/dev/null/aegis is not a folder"),
        (("--data-dir", "/dev/null"), 2, "--data-dir: /dev/null is not a folder"),
    ],
)
async def test_a_node_that_cannot_begin_says_so_in_one_line(
    arguments: tuple[str, ...], code: int, words: str
) -> None:
    node = await NodeProcess.start(f"{SERVICES}:Vault", *arguments)
    assert await node.wait_end() == code
    (line,) = node.lines
    assert line.startswith("error")
    assert words in line


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("Entry", "Entry is no actor; let it subclass aegis.AegisActor"),
        ("Nothing", "has no class 'Nothing'"),
    ],
)
async def test_a_class_that_is_no_actor_stops_the_start(
    tmp_path: Path, target: str, words: str
) -> None:
    async with clean_folder(tmp_path / "nats") as folder:
        node = await NodeProcess.start(f"{SERVICES}:{target}", "--data-dir", str(folder))
        assert await node.wait_end() == 2
        (line,) = node.lines
        assert words in line
        assert not folder.exists()


async def test_a_stream_that_is_set_up_otherwise_stops_the_start_and_names_the_setting(
    tmp_path: Path,
) -> None:
    server = NatsServer(tmp_path)
    server.start()
    try:
        async with connected_to([server.url], Credentials("app", "app")) as plain:
            config = {"name": "aegis", "subjects": ["aegis.journal.>"], "max_age": 10**12}
            await plain.api("STREAM.CREATE.aegis", config)
        node = await NodeProcess.start(f"{SERVICES}:Vault", "--nats", server.url)
        assert await node.wait_end() == 2
        last = node.lines[-1]
        assert last.startswith("error")
        assert "max_age" in last
    finally:
        server.stop()


async def test_a_resource_that_another_holds_stops_the_start_and_names_the_holder(
    host: Host,
) -> None:
    node = await host.start_node(*NODE)
    second = await NodeProcess.start(
        *(f"{SERVICES}:Vault", "--instance-id", "vault-2", "--resource", "V-2"),
        *("--data-dir", str(host.folder)),
    )
    assert await second.wait_end() == 1
    assert "error 409" in second.lines[-1]
    assert "V-2 by vault-1" in second.lines[-1]
    async with host.caller() as cluster:
        assert await cluster.call("vault", "deposit", {"amount": 1}, resource_id="V-2") == "1"
    assert await node.stop() == 0
