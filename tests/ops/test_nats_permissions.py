"""The accounts and permissions of ``ops/nats``, on the real server: who may do what.

Two nodes, a supervisor and callers run as the users of the template. What a normal system
does is denied nothing, and what a role must not do is refused by the server.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from typer.testing import CliRunner, Result

import aegis
from aegis import AccessDenied
from aegis._cluster import Cluster
from aegis.ops import cli
from aegis.transport import Append, NatsOptions, NatsTransport, Refused, connect_nats
from tests.support.nats_template import PASSWORDS, TemplateServer, environ_of, template_server
from tests.support.node_process import NodeProcess
from tests.support.poll import wait_until

SERVICES = """
from collections.abc import AsyncIterator
from decimal import Decimal
from attrs import define, field
from aegis import AegisActor, command, query, subscribes

@define
class AccountState:
    cash: Decimal = Decimal(0)

class Account(AegisActor):
    service = "account"
    state: AccountState

    @command
    async def deposit(self, amount: Decimal) -> Decimal:
        self.state.cash += amount
        return self.state.cash

    @command
    async def pay(self, to: str, amount: Decimal) -> None:
        self.state.cash -= amount
        self.send(Account, to, "deposit", amount=amount)
        await self.publish("payments", amount)

    @command
    async def die_at(self) -> None:
        raise SystemExit("on purpose")

    @query
    async def hello(self) -> str:
        return f"hello from {self.instance_id}"

    @query
    async def balance(self) -> Decimal:
        return self.state.cash

    @query
    async def numbers(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

class Risk(AegisActor):
    service = "risk"
    state: AccountState

    @command
    async def check(self) -> str:
        return "checked"
"""

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("logging_restored")]


@frozen
class Site:
    """A system under the template."""

    server: TemplateServer
    folder: Path
    nodes: dict[str, NodeProcess]

    def start(self, name: str, role: str, arguments: str) -> NodeProcess:
        """Start a node as the user ``role``."""
        node = NodeProcess(
            arguments,
            folder=self.folder,
            environ={"AEGIS_NATS_URL": self.server.url, "AEGIS_LOG_FORMAT": "json"}
            | environ_of(role)
            | {"AEGIS_SYSTEM_USER": "system", "AEGIS_SYSTEM_PASSWORD": PASSWORDS["system"]},
        )
        self.nodes[name] = node
        return node

    def run(self, role: str, *arguments: str) -> Result:
        """Run a command as the user ``role``."""
        environ = environ_of(role) | {"AEGIS_NATS_URL": self.server.url}
        return CliRunner().invoke(cli.app, list(arguments), env=environ)

    @asynccontextmanager
    async def cluster(self, role: str) -> AsyncGenerator[Cluster]:
        """Connect as the user ``role``."""
        async with aegis.connect(
            self.server.url, user=role, password=PASSWORDS[role], timeout=20.0
        ) as cluster:
            yield cluster


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    folder = tmp_path_factory.mktemp("permissions")
    (folder / "services.py").write_text(SERVICES)
    with template_server(folder / "server") as server:
        site = Site(server, folder, {})
        try:
            site.start("supervisor", "supervisor", "--supervisor-only").wait_event("leads")
            for name, role in (("acct-1", "active"), ("acct-2", "standby")):
                arguments = (
                    f"services.py:Account --no-supervisor --instance-id {name} "
                    f"--resource A --resource B --role {role}"
                )
                site.start(name, "account", arguments).wait_event("node_started")
            yield site
        finally:
            for node in reversed(site.nodes.values()):
                node.end()


@asynccontextmanager
async def raw(site: Site, role: str) -> AsyncGenerator[NatsTransport]:
    transport = await connect_nats(
        NatsOptions(
            site.server.url, user=role, password=PASSWORDS[role], inbox_prefix=f"_INBOX.{role}"
        )
    )
    try:
        yield transport
    finally:
        await transport.close()


# -- what a normal system does --------------------------------------------------------------


async def test_everything_that_a_normal_system_does_is_let_through(site: Site) -> None:
    before = len(site.server.violations())
    async with raw(site, "operator") as listening, site.cluster("caller") as cluster:
        heard: asyncio.Queue[object] = asyncio.Queue()
        await listening.subscribe("aegis.topic.payments", heard.put_nowait)
        one, two = cluster.actor("account", "A"), cluster.actor("account", "B")
        assert await one.deposit(amount=Decimal(10)) == "10"
        receipt = await cluster.send("account", "deposit", {"amount": "5"}, resource_id="A")
        assert await cluster.result(receipt) == "15"
        assert str(await cluster.call("account", "hello")).startswith("hello from acct-")
        numbers = cluster.stream("account", "numbers", {"count": 3}, resource_id="A")
        assert [number async for number in numbers] == [0, 1, 2]
        await one.pay(to="B", amount=Decimal(4))
        await wait_until(balance_is(two, "4"), what="what A sent has arrived")
        await asyncio.wait_for(heard.get(), 20)
    assert site.server.violations()[before:] == []


def test_the_command_line_of_an_operator_is_let_through(site: Site) -> None:
    before = len(site.server.violations())
    system = ("--system-user", "system", "--system-password", PASSWORDS["system"])
    for arguments in (
        ("call", "account/A", "balance"),
        ("send", "account/A", "deposit", "amount=1", "--wait"),
        ("tree",),
        ("list-services",),
        ("show-route", "A"),
        ("journal", "show", "account/A"),
        ("journal", "verify"),
        ("dead-letters", "list"),
        ("doctor", *system),
    ):
        done = site.run("operator", *arguments)
        assert done.exit_code == 0, (arguments, done.stdout, done.stderr)
    assert site.server.violations()[before:] == []


async def test_an_owner_that_is_killed_fails_over_and_comes_back(site: Site) -> None:
    before = len(site.server.violations())
    async with site.cluster("caller") as cluster:
        one = cluster.actor("account", "A")
        was = Decimal(await one.balance())
        site.nodes["acct-1"].end(signal.SIGKILL)
        assert Decimal(await one.deposit(amount=Decimal(1))) == was + 1
        failed = await asyncio.to_thread(site.nodes["supervisor"].wait_event, "failed_over")
        assert failed["cause"] == "died"  # The system account told of it.
        arguments = (
            "services.py:Account --no-supervisor --instance-id acct-1 "
            "--resource A --resource B --role standby"
        )
        node = site.start("acct-1", "account", arguments)
        await asyncio.to_thread(node.wait_event, "node_started")
        done = await asyncio.to_thread(site.run, "operator", "disconnect", "acct-2")
        assert done.exit_code == 0, done.stderr
        assert Decimal(await one.deposit(amount=Decimal(1))) == was + 2
    assert site.server.violations()[before:] == []


# -- what is refused ------------------------------------------------------------------------


async def test_a_caller_that_registers_is_told_which_permission_misses(site: Site) -> None:
    async with aegis.ServiceClient(
        nats=site.server.url, user="caller", password=PASSWORDS["caller"]
    ) as client:
        with pytest.raises(AccessDenied, match=r"let this user subscribe to aegis\.health"):
            await client.register("account", "intruder")
    async with raw(site, "caller") as transport:
        for operation in ("service.register", "resource.register", "service.disconnect"):
            with pytest.raises(AccessDenied, match=rf"publish to ipc\.{operation}"):
                await transport.request(f"ipc.{operation}", b"", timeout=20)


@pytest.mark.parametrize(
    "subject",
    [
        "aegis.journal.account.A",
        "aegis.claim.account.1-x-1",
        "aegis.registry.leader",
        "aegis.deadletter.account.A.1",
    ],
)
async def test_a_caller_writes_nothing_durable_but_mail(site: Site, subject: str) -> None:
    async with raw(site, "caller") as transport:
        outcome = await transport.append(Append(subject, b"forged"), timeout=10)
        assert isinstance(outcome, Refused)
        assert outcome.code == 403
        assert subject in outcome.reason


@pytest.mark.parametrize("role", ["caller", "operator"])
async def test_only_nodes_answer_and_nobody_listens_to_others(site: Site, role: str) -> None:
    async with raw(site, role) as transport:
        for subject in ("_INBOX.account.x.call.m0", "_INBOX.x", "aegis.event.promoted"):
            transport.publish(subject, b"forged")
            await transport.flush()
            assert transport.denied(subject) == 1
        for pattern in ("aegis.instance.acct-1", "_INBOX.account.>", "ipc.service.register"):
            with pytest.raises(AccessDenied, match="subscribe to"):
                await transport.subscribe(pattern, lambda _: None)


async def test_a_caller_reads_no_journal_and_purges_nothing(site: Site) -> None:
    async with raw(site, "caller") as transport:
        with pytest.raises(AccessDenied):
            await anext(transport.read("aegis.journal.account.A"))
        with pytest.raises(AccessDenied):
            await transport.api("STREAM.PURGE.aegis", {})


async def test_a_node_reads_and_writes_the_journals_of_its_own_service_alone(site: Site) -> None:
    async with raw(site, "account") as transport:
        first = await anext(transport.read("aegis.journal.account.A"))
        assert first.subject == "aegis.journal.account.A"
        consumer = "CONSUMER.CREATE.aegis.forged.aegis.journal.risk.*"
        with pytest.raises(AccessDenied):
            await transport.api(consumer, {"stream_name": "aegis", "config": {}})
        outcome = await transport.append(Append("aegis.journal.risk.R", b"forged"), timeout=10)
        assert isinstance(outcome, Refused)
        assert outcome.code == 403
        outcome = await transport.append(Append("aegis.registry.leader", b"forged"), timeout=10)
        assert isinstance(outcome, Refused)


def test_a_node_of_another_service_does_not_start_and_says_why(site: Site) -> None:
    site.start(
        "risk", "account", "services.py:Risk --no-supervisor --instance-id acct-1x --resource R"
    )
    code, log = site.nodes.pop("risk").wait_end()
    assert code == 1
    assert "subscribe to aegis.instance.acct-1x" in log


async def test_a_call_that_is_denied_fails_long_before_its_deadline(site: Site) -> None:
    async with site.cluster("supervisor") as cluster:
        began = asyncio.get_running_loop().time()
        with pytest.raises(AccessDenied, match="mailbox"):
            await cluster.send("account", "deposit", {"amount": "1"}, resource_id="A")
        assert asyncio.get_running_loop().time() - began < 15


def test_the_command_line_says_which_permission_misses(site: Site) -> None:
    done = site.run("caller", "disconnect", "acct-2")
    assert done.exit_code == 1
    assert "ipc.service.disconnect" in done.stderr
    assert "permissions" in done.stderr
    told = site.run("caller", "disconnect", "acct-2", "--json", "--log-format", "json").stderr
    assert "ipc.service.disconnect" in json.dumps(json.loads(told.splitlines()[-1]))


def balance_is(proxy: Any, wanted: str) -> Callable[[], Coroutine[Any, Any, bool]]:
    async def is_it() -> bool:
        return str(await proxy.balance()) == wanted

    return is_it
