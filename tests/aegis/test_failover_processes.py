"""Failover with real processes: nodes that are killed, frozen or told to end, under load.

What was acknowledged is judged by a book that this module keeps for itself: accounts
number their entries and tell what they come to, so that an entry that is missing, or
there twice, shows in the numbers.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
from collections import defaultdict
from collections.abc import Generator
from decimal import Decimal
from pathlib import Path

import pytest

import aegis
from aegis import Cluster
from aegis._inspect import Inspector
from aegis._subjects import Subjects
from tests.support.nats import NatsServer
from tests.support.node_process import NodeProcess
from tests.support.poll import wait_until

pytestmark = pytest.mark.timeout(120)

SERVICES = """
from decimal import Decimal
from attrs import define
from aegis import AegisActor, applies, command, query

@define
class AccountState:
    entries: int = 0
    cash: Decimal = Decimal(0)

class Account(AegisActor):
    service = "account"
    state: AccountState

    @command
    async def deposit(self, amount: Decimal) -> tuple[int, Decimal]:
        self.state.entries += 1
        self.state.cash += amount
        return self.state.entries, self.state.cash

    @query
    async def balance(self) -> tuple[int, Decimal]:
        return self.state.entries, self.state.cash
"""

ACCOUNTS = [f"ACC-{number}" for number in range(8)]
CALLERS = 16
FEW = 300


class Book:
    """Callers that deposit without end, and what they were told."""

    def __init__(self, cluster: Cluster) -> None:
        self.told: dict[str, list[tuple[int, Decimal, Decimal]]] = defaultdict(list)
        self.answered = 0
        self.last_answer: dict[str, float] = {}
        self.longest = 0.0
        self.failed: list[BaseException] = []
        self._cluster = cluster
        self._going = True
        self._rng = random.Random(7)
        self._tasks = [asyncio.ensure_future(self._deposit(n)) for n in range(CALLERS)]

    async def _deposit(self, caller: int) -> None:
        account = ACCOUNTS[caller % len(ACCOUNTS)]
        loop = asyncio.get_running_loop()
        while self._going:
            amount = Decimal(self._rng.randrange(1, 1000)) / 100
            begun = loop.time()
            try:
                number, cash = await self._cluster.call(
                    "account", "deposit", {"amount": amount}, resource_id=account, timeout=30.0
                )
            except Exception as error:
                self.failed.append(error)
                return
            now = loop.time()
            self.longest = max(self.longest, now - begun)
            self.last_answer[account] = now
            self.told[account].append((number, amount, Decimal(cash)))
            self.answered += 1

    async def wait_more(self, count: int = FEW) -> None:
        wanted = self.answered + count
        await wait_until(
            lambda: self.answered >= wanted or bool(self.failed),
            what=f"{count} more deposits are acknowledged",
            timeout=40,
        )
        assert not self.failed, self.failed

    async def wait_answer_after(self, moment: float) -> float:
        """Return seconds from ``moment`` until every account has answered again."""
        await wait_until(
            lambda: all(self.last_answer.get(a, 0.0) > moment for a in ACCOUNTS)
            or bool(self.failed),
            what="every account answers again",
            timeout=40,
        )
        assert not self.failed, self.failed
        return max(self.last_answer.values()) - moment

    async def end(self) -> None:
        self._going = False
        await asyncio.wait_for(asyncio.gather(*self._tasks), 60)
        assert not self.failed, self.failed

    async def check(self) -> None:
        """Do the arithmetic again, and compare."""
        for account in ACCOUNTS:
            told = sorted(self.told[account])
            assert [number for number, _, _ in told] == list(range(1, len(told) + 1))
            sum_so_far = Decimal(0)
            for number, amount, cash in told:
                sum_so_far += amount
                assert cash == sum_so_far, f"{account}, entry {number}"
            entries, cash = await self._cluster.call("account", "balance", resource_id=account)
            assert (entries, Decimal(cash)) == (len(told), sum_so_far)


class Nodes:
    """The processes of one system; its namespace is on a server that others use, too."""

    def __init__(self, folder: Path, server: NatsServer) -> None:
        (folder / "services.py").write_text(SERVICES)
        self.started: list[NodeProcess] = []
        self.url = server.url
        self.namespace = f"t{secrets.token_hex(6)}"
        self._folder = folder
        self._environ = {
            "AEGIS_NATS_URL": server.url,
            "AEGIS_NAMESPACE": self.namespace,
            "AEGIS_SYSTEM_USER": "system",
            "AEGIS_SYSTEM_PASSWORD": "system",
            "AEGIS_LOG_FORMAT": "json",
        }

    def start(self, arguments: str) -> NodeProcess:
        node = NodeProcess(arguments, folder=self._folder, environ=self._environ)
        self.started.append(node)
        node.wait_event("node_started")
        return node

    def supervisor(self) -> NodeProcess:
        return self.start("--supervisor-only")

    def account(self, instance_id: str, role: str = "active", flags: str = "") -> NodeProcess:
        resources = " ".join(f"--resource {account}" for account in ACCOUNTS)
        service = f"services.py:Account --instance-id {instance_id} --role {role} {resources}"
        return self.start(f"{service} {flags}")

    def end(self) -> None:
        for node in self.started:
            if node.process.poll() is None:
                node.process.send_signal(signal.SIGCONT)
                node.process.kill()
            if node.process.stderr is not None and not node.process.stderr.closed:
                node.wait_end()


@pytest.fixture
def nodes(tmp_path: Path, nats_server: NatsServer) -> Generator[Nodes]:
    nodes = Nodes(tmp_path, nats_server)
    yield nodes
    nodes.end()


async def test_a_killed_process_is_replaced_with_nothing_lost_or_repeated(nodes: Nodes) -> None:
    await asyncio.to_thread(nodes.supervisor)
    active = await asyncio.to_thread(nodes.account, "a")
    standby = await asyncio.to_thread(nodes.account, "b", "standby")
    async with aegis.connect(nodes.url, namespace=nodes.namespace) as cluster:
        book = Book(cluster)
        await book.wait_more()
        killed_at = asyncio.get_running_loop().time()
        active.process.kill()
        seconds = await book.wait_answer_after(killed_at)
        print(f"SIGKILL to the first answer of all: {seconds * 1000:.0f} ms")
        await book.wait_more()
        await book.end()
        await book.check()
    promoted = await asyncio.to_thread(standby.wait_event, "promoted")
    assert promoted["instance_id"] == "b"


async def test_a_killed_process_that_led_is_replaced_with_nothing_lost_or_repeated(
    nodes: Nodes,
) -> None:
    active = await asyncio.to_thread(nodes.account, "a")
    await asyncio.to_thread(nodes.account, "b", "standby")
    async with aegis.connect(nodes.url, namespace=nodes.namespace) as cluster:
        book = Book(cluster)
        await book.wait_more()
        killed_at = asyncio.get_running_loop().time()
        active.process.kill()
        seconds = await book.wait_answer_after(killed_at)
        print(f"SIGKILL of owner and leader to the first answer of all: {seconds * 1000:.0f} ms")
        await book.wait_more()
        await book.end()
        await book.check()


async def test_a_frozen_process_is_replaced_and_wakes_up_as_a_standby(nodes: Nodes) -> None:
    await asyncio.to_thread(nodes.supervisor)
    active = await asyncio.to_thread(nodes.account, "a")
    await asyncio.to_thread(nodes.account, "b", "standby")
    async with aegis.connect(nodes.url, namespace=nodes.namespace) as cluster:
        book = Book(cluster)
        await book.wait_more()
        frozen_at = asyncio.get_running_loop().time()
        active.process.send_signal(signal.SIGSTOP)
        seconds = await book.wait_answer_after(frozen_at)
        print(f"SIGSTOP to the first answer of all: {seconds * 1000:.0f} ms")
        await book.wait_more()
        active.process.send_signal(signal.SIGCONT)

        async def stands_by() -> bool:
            inspector = Inspector(cluster.transport, Subjects(nodes.namespace))
            routes = await inspector.resources("account")
            return all(
                route["instance_id"] == "b"
                and [(s["instance_id"], s["state"]) for s in route["standbys"]]
                == [("a", "healthy")]
                for route in routes
            )

        await wait_until(stands_by, what="the process that woke up stands by", timeout=40)
        await book.wait_more()
        await book.end()
        await book.check()


@pytest.mark.parametrize("leads", [False, True])
async def test_a_process_told_to_end_hands_over_and_no_call_is_lost(
    nodes: Nodes, leads: bool
) -> None:
    if not leads:
        await asyncio.to_thread(nodes.supervisor)
    active = await asyncio.to_thread(nodes.account, "a")
    await asyncio.to_thread(nodes.account, "b", "standby")
    async with aegis.connect(nodes.url, namespace=nodes.namespace) as cluster:
        book = Book(cluster)
        await book.wait_more()
        book.longest = 0.0
        active.process.terminate()
        code, log = await asyncio.to_thread(active.wait_end)
        assert code == 0, log
        await book.wait_more()
        await book.end()
        await book.check()
    print(f"SIGTERM, leading {leads}: longest call {book.longest * 1000:.0f} ms")
