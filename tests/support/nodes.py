"""Nodes as real processes on a real server with fsync, and books kept outside of Aegis.

The books rest on what callers were told alone: amounts are positive, so the answers to
the deposits of one account, put in order, must grow by exactly the amounts acknowledged.
What stands in the journals is read by plain nats-py and plain msgpack.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgpack
import nats.errors
from attrs import define, field

import aegis
from aegis import NotFound, OutcomeUnknown, Rejected
from aegis._cluster import Cluster
from aegis.transport import EmbeddedServer, ServerOptions, ensure_server
from tests.support.embedded import clean_folder, connected
from tests.support.poll import wait_until

__all__ = ["Account", "Books", "Host", "NodeProcess", "Traffic"]

ROOT = Path(__file__).resolve().parents[2]
SERVICES = "tests/support/services.py"

START_TIMEOUT = 60.0
CALL_TIMEOUT = 90.0
"""Seconds; the machine may be busy with much else."""

_COMMAND = 0
_OK, _REJECTED = 200, 422


class NodeProcess:
    """One ``aegis run``; its log lines as they come."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls,
        *arguments: str,
        folder: Path | None = None,
        command: tuple[str, ...] = ("run",),
        environ: Mapping[str, str] | None = None,
    ) -> NodeProcess:
        """Start ``aegis run`` with these arguments; does not wait until it serves."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AEGIS_")}
        environment |= environ or {}
        if folder is not None:
            environment["XDG_DATA_HOME"] = str(folder)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "aegis", *command, *arguments, "--log-format", "json"),
            cwd=ROOT,
            env=environment,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        return cls(process)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.lines.append(line.decode().rstrip())

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one event so far."""
        told = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [facts for facts in told if facts.get("event") == name]

    async def wait_event(self, name: str) -> dict[str, Any]:
        """Return the first log line of an event, once there is one."""
        await wait_until(
            lambda: bool(self.events(name)) or self._reading.done(),
            what=f"the node logs {name}",
            timeout=START_TIMEOUT,
        )
        assert self.events(name), "\n".join(self.lines)
        return self.events(name)[0]

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process is there."""
        if self.process.returncode is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP."""
        self.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.send_signal(signal.SIGCONT)

    async def wait_end(self) -> int:
        """Return the exit code, once the process has ended and all its lines are read."""
        async with asyncio.timeout(START_TIMEOUT):
            code = await self.process.wait()
            await self._reading
        return code

    async def stop(self) -> int:
        """End it in good order; return its exit code."""
        self.resume()
        self.terminate()
        return await self.wait_end()


class Host:
    """A data folder with its server, which the test keeps up, and nodes as processes."""

    def __init__(self, folder: Path, server: EmbeddedServer) -> None:
        self.folder = folder
        self.server = server
        self._nodes: list[NodeProcess] = []

    async def start_node(
        self,
        *arguments: str,
        command: tuple[str, ...] = ("run",),
        environ: Mapping[str, str] | None = None,
    ) -> NodeProcess:
        """Start a node on this host's server and wait until it serves."""
        where = ("--data-dir", str(self.folder))
        node = await NodeProcess.start(*arguments, *where, command=command, environ=environ)
        self._nodes.append(node)
        await node.wait_event("node_started")
        return node

    def kill_server(self) -> None:
        """SIGKILL for the NATS server; its guardian starts it again."""
        os.kill(self.server.pid, signal.SIGKILL)

    def is_replaced(self, pid: int) -> bool:
        """Whether another server process than ``pid`` serves now."""
        return self.server.pid != pid

    async def status_of_a_deposit(self, instance_id: str, account: Account) -> int:
        """Send one deposit straight to an instance and return the status of its answer."""
        now = int(time.time() * 1000)
        envelope = [1, "command", f"{now}-{secrets.token_hex(8)}", 1, 1, account.service]
        envelope += [account.name, "deposit", {"amount": "1"}, 20_000, now, 1, ""]
        statuses: list[int] = []

        async def is_answered() -> bool:
            async with connected(self.server.server) as plain:
                try:
                    reply = await plain.client.request(
                        f"aegis.instance.{instance_id}", msgpack.packb(envelope), timeout=5
                    )
                except nats.errors.Error:  # it is not connected again yet
                    return False
                statuses.append(msgpack.unpackb(reply.data)[2])
                return True

        await wait_until(is_answered, what=f"{instance_id} answers", timeout=60)
        return statuses[0]

    @asynccontextmanager
    async def caller(self) -> AsyncGenerator[Cluster]:
        """Connect as any caller would."""
        async with aegis.connect(data_dir=self.folder, timeout=CALL_TIMEOUT) as cluster:
            yield cluster

    async def journal(self, account: Account) -> list[list[Any]]:
        """Return the records of an account's journal, as msgpack has them."""
        subject = f"aegis.journal.{account.service}.{account.name}"
        async with connected(self.server.server) as plain:
            stream = plain.client.jetstream()  # pyright: ignore[reportUnknownMemberType]
            subscription = await stream.subscribe(subject, ordered_consumer=True)
            records: list[list[Any]] = []
            pending: int | None = None
            while pending != 0:  # an account that was used has one record at least
                message = await subscription.next_msg(timeout=20)
                records.append(msgpack.unpackb(message.data))
                pending = message.metadata.num_pending
            return records

    async def close(self) -> None:
        """End what is left of the nodes."""
        for node in self._nodes:
            node.kill()
            await node.wait_end()

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncGenerator[Host]:
        """Run a server for the time of the block; at its end no process may be left."""
        async with (
            clean_folder(folder) as folder,
            await ensure_server(ServerOptions(data_dir=folder)) as server,
        ):
            watching = asyncio.create_task(server.watch())
            host = cls(folder, server)
            try:
                yield host
            finally:
                await host.close()
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)


@define(eq=False)
class Account:
    """What a caller knows of one account: each amount acknowledged, and the answer."""

    service: str
    name: str
    acknowledged: list[tuple[int, int]] = field(factory=list[tuple[int, int]])
    rejected: int = 0
    unknown: list[str] = field(factory=list[str])
    """Names of the messages of which nobody knows whether they took effect."""

    @property
    def total(self) -> int:
        """The sum of all amounts acknowledged."""
        return sum(amount for amount, _ in self.acknowledged)

    def check_answers(self) -> None:
        """Compare the answers with one another: nothing lost, nothing done twice."""
        assert not self.unknown
        total = 0
        for amount, answer in sorted(self.acknowledged, key=lambda one: one[1]):
            total += amount
            assert answer == total, f"{self.name}: {answer} was answered where {total} is right"


class Books:
    """The accounts of a run."""

    def __init__(self, *accounts: tuple[str, str]) -> None:
        self.accounts = [Account(service, name) for service, name in accounts]

    async def check(self, host: Host, cluster: Cluster) -> None:
        """Compare answers, journals and balances."""
        for account in self.accounts:
            account.check_answers()
            entries = await check_journal(host, account)
            replies = [int(msgpack.unpackb(e[5])) for e in entries if e[4] == _OK]
            answers = sorted(answer for _, answer in account.acknowledged)
            missing, more = set(answers) - set(replies), set(replies) - set(answers)
            assert not missing, f"{account.name}: not in the journal: {missing}"
            assert not more, f"{account.name}: in the journal alone: {more}"
            assert sum(entry[4] == _REJECTED for entry in entries) == account.rejected
            total = await cluster.call(account.service, "total", resource_id=account.name)
            assert int(total) == account.total


async def check_journal(host: Host, account: Account) -> list[list[Any]]:
    """Check what must hold of every journal; return its commands in order."""
    records = await host.journal(account)
    epochs = [record[1] for record in records]
    assert epochs == sorted(epochs), f"{account.name}: an epoch fell"
    assert all(len(record) == 5 for record in records), "there is a snapshot: too many calls"
    entries = [entry for record in records for entry in record[2] or () if entry[0] == _COMMAND]
    names = [(entry[1], entry[2]) for entry in entries]
    assert len(names) == len(set(names)), f"{account.name}: a command took effect twice"
    return entries


class Traffic:
    """Deposits by several callers at once, drawn by a seed, until a number of calls is made.

    Beside them one caller only reads, and may never read less than was acknowledged.

    With ``may_be_gone`` an account that nobody owns for a time is waited for: that is a
    definite answer, and none that a killed owner's callers may get.
    """

    def __init__(
        self,
        cluster: Cluster,
        books: Books,
        *,
        calls: int,
        seed: int,
        callers: int = 8,
        may_be_gone: bool = False,
    ) -> None:
        self._may_be_gone = may_be_gone
        self.made = 0
        self.done = 0
        self._cluster = cluster
        self._books = books
        self._calls = calls
        self._chance = random.Random(seed)
        self._at: dict[int, Callable[[], None]] = {}
        self._reached: dict[int, asyncio.Event] = {}
        self._tasks = [asyncio.create_task(self._call_on()) for _ in range(callers)]
        self._reader = asyncio.create_task(self._read_on())

    async def reached(self, done: int, action: Callable[[], None]) -> None:
        """Do ``action`` the moment that so many calls are answered, and return then."""
        self._at[done] = action
        event = self._reached[done] = asyncio.Event()
        await event.wait()
        if done in self._at:
            await self.finish()

    async def finish(self) -> None:
        """Wait until all calls are made and answered."""
        await asyncio.gather(*self._tasks, self._reader)
        assert not self._at, "too few calls: a fault was never injected"

    async def _call_on(self) -> None:
        try:
            while self.made < self._calls:
                self.made += 1
                account = self._chance.choice(self._books.accounts)
                amount = self._chance.randint(1, 100)
                if self._chance.random() < 0.05:
                    amount = -amount
                await self._call(account, amount)
                self.done += 1
                action = self._at.pop(self.done, None)
                if action is not None:
                    action()
                    self._reached[self.done].set()
        finally:
            for event in self._reached.values():
                event.set()

    async def _call(self, account: Account, amount: int) -> None:
        try:
            answer = await self._cluster.call(
                account.service, "deposit", {"amount": Decimal(amount)}, resource_id=account.name
            )
        except Rejected:
            assert amount < 0
            account.rejected += 1
        except NotFound:
            if not self._may_be_gone:
                raise
            await wait_until(
                lambda: self._is_owned(account), what=f"{account.name} is owned", timeout=60
            )
            await self._call(account, amount)
        except OutcomeUnknown as error:
            account.unknown.append(str(error.facts["message_id"]))
        else:
            account.acknowledged.append((amount, int(answer)))

    async def _read_on(self) -> None:
        while not all(task.done() for task in self._tasks):
            account = self._chance.choice(self._books.accounts)
            known = max((answer for _, answer in account.acknowledged), default=0)
            try:
                total = await self._cluster.call(account.service, "total", resource_id=account.name)
            except NotFound:
                if not self._may_be_gone:
                    raise
            else:
                assert int(total) >= known, f"{account.name}: {total} was read after {known}"
            await asyncio.sleep(0)

    async def _is_owned(self, account: Account) -> bool:
        try:
            await self._cluster.call(account.service, "total", resource_id=account.name)
        except NotFound:
            return False
        return True
