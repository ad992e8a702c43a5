"""Real processes, a real server, real signals: nothing is lost and nothing done twice."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import msgpack
import pytest

from aegis._config import ConnectOptions, RunOptions
from aegis._connection import open_connection
from aegis._node import Node
from aegis.contracts import Request
from aegis.transport._codec import decode_reply_values, encode_request
from tests.support.nodes import ROOT, SERVICES, Account, Books, Host, Traffic, check_journal
from tests.support.poll import wait_until
from tests.support.services import Ledger, Vault

pytestmark = pytest.mark.timeout(240)

NODE = (
    *(f"{SERVICES}:Vault", "--instance-id", "vault-1", "--resource", "V-1", "--resource", "V-2"),
    *(f"{SERVICES}:Ledger", "--instance-id", "ledger-1", "--resource", "L-1"),
)
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
            await wait_until(
                lambda pid=pid: host.server.pid != pid, what="the server is back", timeout=60
            )
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
            now = heir.clock.wall_ms()
            request = Request(
                *("command", f"{now}-{account.name.replace('-', '')}", 1, 1),
                *(account.service, account.name, "deposit", {"amount": "1"}, 20_000, now),
            )
            subject = heir.subjects.instance(f"{account.service}-1")
            await connection.transport.flush()

            async def is_refused(subject: str = subject, request: Request = request) -> bool:
                try:
                    message = await connection.transport.request(
                        subject, encode_request(request), timeout=5
                    )
                except Exception:  # not connected again yet
                    return False
                ((_, status, _, _),) = decode_reply_values(message.payload)
                assert status == 421
                return True

            await wait_until(is_refused, what="the old owner answers", timeout=60)
        await books.check(host, cluster)
        assert len(zombie.events("fenced")) == len(ACCOUNTS)
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
    while line := await caller.stdout.readline():
        match line.decode().split():
            case ["sent", name]:
                sent[name] += 1
            case ["told", name, answer]:
                told[name].append(int(answer))
            case other:
                raise AssertionError(other)
        if len(told["V-1"]) == 60:
            caller.kill()
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
        for done in (150, 450):
            await traffic.reached(done, node.terminate)
            assert await node.wait_end() == 0
            assert node.events("node_stopped")
            node = await host.start_node(*NODE)
        await traffic.finish()
        await books.check(host, cluster)
    assert await node.stop() == 0
