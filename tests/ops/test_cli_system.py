"""The command line against a system that runs: two nodes as processes, a real server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from aegis import connect
from aegis.ops import cli, ipc_cli
from aegis.transport import Append, Appended
from tests.support.nats import NatsServer
from tests.support.node_process import NodeProcess
from tests.support.poll import wait_until

SERVICES = """
import asyncio
from pathlib import Path
from decimal import Decimal
from attrs import define
from aegis import AegisActor, Rejected, command, query

@define
class AccountState:
    cash: Decimal = Decimal(0)

class Account(AegisActor):
    service = "account"
    state: AccountState

    @command
    async def deposit(self, amount: Decimal) -> Decimal:
        if amount <= 0:
            raise Rejected("amount must be positive")
        self.state.cash += amount
        return self.state.cash

    @query
    async def balance(self) -> Decimal:
        return self.state.cash

class Echo(AegisActor):
    service = "echo"

    @command
    async def say(self, words: list[str], loud: bool = False) -> dict[str, str]:
        return {word: self.instance_id.upper() if loud else self.instance_id for word in words}

    @command
    async def fail(self) -> None:
        raise RuntimeError("on purpose")

    @command
    async def hold(self, folder: str) -> None:
        Path(folder, "held").touch()
        while not Path(folder, "free").exists():
            await asyncio.sleep(0.01)
"""

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("logging_restored")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("system")
    (folder / "services.py").write_text(SERVICES)
    return folder


@pytest.fixture(scope="module")
def environ(folder: Path) -> dict[str, str]:
    return {"AEGIS_DATA_DIR": str(folder / "nats"), "AEGIS_LOG_FORMAT": "json"}


@pytest.fixture(scope="module")
def node(folder: Path, environ: dict[str, str]) -> Generator[NodeProcess]:
    node = NodeProcess(
        "services.py:Account --instance-id acct-1 --resource ACC-1 --resource a/b "
        "services.py:Echo --instance-id echo-1",
        folder=folder,
        environ=environ,
    )
    try:
        node.wait_event("node_started")
        yield node
    finally:
        node.end()


type Aegis = Callable[..., Result]


@pytest.fixture
def aegis(node: NodeProcess, environ: dict[str, str]) -> Aegis:
    def invoke(*arguments: str, app: Any = cli.app) -> Result:
        result = CliRunner().invoke(app, list(arguments), env=environ)
        assert "Traceback" not in result.output
        return result

    return invoke


def test_numbers_reach_a_decimal_exactly_as_they_were_typed(aegis: Aegis) -> None:
    start = aegis("call", "account/ACC-1", "balance").stdout.strip()
    assert start == "0"
    assert aegis("call", "account/ACC-1", "deposit", "amount=0.1").stdout == "0.1\n"
    assert aegis("call", "account/ACC-1", "deposit", "amount=0.2").stdout == "0.3\n"
    exact = "1.000000000000000000000001"
    assert aegis("call", "account/ACC-1", "deposit", f"amount={exact}").stdout == (
        "1.300000000000000000000001\n"
    )
    assert aegis("call", "account/a/b", "balance").stdout == "0\n"


def test_a_service_is_called_by_name_or_by_instance(aegis: Aegis) -> None:
    said = aegis("call", "echo", "say", 'words=["a", "b"]', "--json")
    assert json.loads(said.stdout) == {"a": "echo-1", "b": "echo-1"}
    loud = aegis("call", "echo@echo-1", "say", 'words=["a"]', "loud=true")
    assert loud.stdout == '{\n  "a": "ECHO-1"\n}\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("account/ACC-1 deposit amount=-1", "error 422: amount must be positive"),
        ("account/ACC-1 deposit amount=much", "error 400: amount: "),
        ("account/ACC-1 deposit", "error 400: amount: is missing"),
        ("account/ACC-1 deposit amount=1 x=1", "error 400: x: is unknown; the parameters are: "),
        ("account/ACC-1 withdraw amount=1", "error 404: account has no method 'withdraw'"),
        ("account/ACC-9 balance", "error 404: service 'account' has no resource 'ACC-9'"),
        ("nobody balance", "error 404: no service 'nobody'"),
        ("echo fail", "error 500: "),
    ],
)
def test_an_error_is_one_line_with_its_status(aegis: Aegis, line: str, message: str) -> None:
    result = aegis("call", *line.split())
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1


def test_a_command_line_that_is_interrupted_ends_at_once_and_quietly(
    node: NodeProcess, environ: dict[str, str], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "aegis", "call", "echo", "hold", f"folder={tmp_path}"],
        env={**os.environ, **environ, "AEGIS_TIMEOUT": "30"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        held = (tmp_path / "held").exists
        asyncio.run(wait_until(held, what="the command runs", timeout=30))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    finally:
        (tmp_path / "free").touch()
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_is_no_error(
    node: NodeProcess, environ: dict[str, str], unbuffered: str
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-m", "aegis", "tree", "--json"],
        env={**os.environ, **environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")


def test_the_tree_shows_nodes_services_instances_and_resources(aegis: Aegis) -> None:
    shown = aegis("tree")
    assert shown.exit_code == 0
    for text in ("system", "leader", "account", "acct-1  healthy  queue 0  2 active"):
        assert text in shown.stdout
    assert "ACC-1  active  queue 0  epoch" in shown.stdout
    assert "... and 1 more" in aegis("tree", "--resources", "1").stdout
    tree = json.loads(aegis("tree", "--json").stdout)
    assert tree["namespace"] == "aegis"
    assert [service["service_name"] for service in tree["services"]] == ["account", "echo"]
    held = tree["services"][0]["instances"][0]["held"]
    assert [resource["resource_id"] for resource in held] == ["ACC-1", "a/b"]
    assert held[0]["state"] == "running"
    assert held[0]["queue_depth"] == 0
    assert tree["nodes"][0]["status"] == "running"


def test_services_are_listed_with_their_instances(aegis: Aegis) -> None:
    table = aegis("list-services").stdout
    assert max(map(len, table.splitlines())) <= 80
    assert [line.split() for line in table.splitlines()[2:]] == [
        ["account", "acct-1", "healthy", "active", "2", "0", "0"],
        ["echo", "echo-1", "healthy", "active", "0", "0", "0"],
    ]
    listed = json.loads(aegis("list-services", "echo", "--json", app=ipc_cli.app).stdout)
    assert [entry["service_name"] for entry in listed["services"]] == ["echo"]
    missing = aegis("list-services", "acount")
    assert missing.exit_code == 1
    assert missing.stderr == "error 404: no service 'acount'; near it: 'account'\n"


def test_a_route_is_found_by_id_or_by_service_and_id(aegis: Aegis) -> None:
    assert "account/ACC-1   active   acct-1     healthy" in aegis("show-route", "ACC-1").stdout
    routes = json.loads(aegis("show-route", "account/a/b", "--json").stdout)["routes"]
    assert [(r["service_name"], r["resource_id"]) for r in routes] == [("account", "a/b")]
    assert aegis("show-route", "a/b", app=ipc_cli.app).exit_code == 0
    missing = aegis("show-route", "ACC-2")
    assert missing.exit_code == 1
    assert missing.stderr == "error 404: no service has a resource 'ACC-2'; near it: 'ACC-1'\n"


def test_a_call_of_a_bare_resource_id_is_told_the_address(aegis: Aegis) -> None:
    missing = aegis("call", "ACC-1", "balance")
    assert missing.exit_code == 1
    wanted = "error 404: no service 'ACC-1'; a resource stands behind its service: account/ACC-1\n"
    assert missing.stderr == wanted


def test_the_doctor_finds_nothing_wrong_with_a_system_in_order(aegis: Aegis) -> None:
    report = aegis("doctor", "--json")
    found = json.loads(report.stdout)
    assert [c for c in found["checks"] if c["status"] == "fail"] == []
    assert (report.exit_code, found["ok"]) == (0, True)
    status = {check["name"]: check["status"] for check in found["checks"]}
    for name in ("server version", "sync", "jetstream", "stream", "clock", "supervisor", "node"):
        assert status[name] == "ok", found
    advice = {check["name"]: check["found"] for check in found["checks"]}
    assert advice["candidates"].endswith("alone can lead: without it nothing fails over")
    assert advice["standbys"] == "2 of 2 resources have none, as account/ACC-1"
    assert "0 failed" in aegis("doctor").stdout.splitlines()[-1]


def test_another_namespace_is_another_system(aegis: Aegis) -> None:
    result = aegis("tree", "--namespace", "other")
    assert result.exit_code == 1
    assert "error 503: no node answers in the namespace 'other'; start one" in result.stderr
    report = json.loads(aegis("doctor", "--namespace", "other", "--json").stdout)
    found = {check["name"]: check for check in report["checks"]}
    assert found["stream"]["found"] == "other is not there yet"
    assert found["supervisor"]["status"] == "warn"


def test_an_instance_id_that_is_taken_stops_the_start_and_names_the_holder(
    node: NodeProcess, folder: Path, environ: dict[str, str]
) -> None:
    second = NodeProcess("services.py:Account --instance-id acct-1", folder=folder, environ=environ)
    code, log = second.wait_end()
    assert code == 1
    assert "error 409: instance 'acct-1'" in log.splitlines()[-1]
    assert "unregister_failed" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_that_is_told_to_stop_ends_in_good_order(
    node: NodeProcess, folder: Path, environ: dict[str, str], number: int
) -> None:
    extra = NodeProcess("services.py:Echo --namespace apart", folder=folder, environ=environ)
    extra.wait_event("node_started")
    code, log = extra.end(number)
    assert code == 0
    assert json.loads(log.splitlines()[-1])["event"] == "node_stopped"
    assert "Traceback" not in log


def test_the_file_lists_services_to_run(folder: Path, environ: dict[str, str]) -> None:
    (folder / "conf").mkdir()
    (folder / "conf" / "ids").write_text("X-1\nX-2\n")
    (folder / "conf" / "aegis.toml").write_text(
        'namespace = "listed"\n'
        '[[service]]\ntarget = "../services.py:Account"\nresources = "@ids"\n'
        '[[service]]\ntarget = "../services.py:Echo"\ninstance_id = "echo-7"\n'
    )
    node = NodeProcess("--config conf/aegis.toml", folder=folder, environ=environ)
    try:
        node.wait_event("node_started")
        shown = CliRunner().invoke(
            cli.app, ["list-services", "--namespace", "listed", "--json"], env=environ
        )
        services = json.loads(shown.stdout)["services"]
        assert [service["service_name"] for service in services] == ["account", "echo"]
        (account,) = services[0]["instances"]
        assert account["instance_id"].startswith("account-")
        assert account["resources"] == 2
        assert services[1]["instances"][0]["instance_id"] == "echo-7"
    finally:
        code, _ = node.end()
    assert code == 0


def test_the_doctor_names_each_setting_of_a_stream_that_differs(nats_server: NatsServer) -> None:
    url = ("--nats", nats_server.url)

    def report(*more: str) -> dict[str, dict[str, Any]]:
        result = CliRunner().invoke(cli.app, ["doctor", *url, "--json", *more])
        found: dict[str, Any] = json.loads(result.stdout)
        assert result.exit_code == (0 if found["ok"] else 1)
        return {check["name"]: check for check in found["checks"]}

    before = report()
    assert before["system account"]["status"] == "warn"
    assert before["sync"]["status"] == "warn"
    assert before["stream"]["found"] == "aegis is not there yet"
    nats_request(nats_server.url, "$JS.API.STREAM.CREATE.aegis", STREAM)
    after = report("--system-user", "system", "--system-password", "system")
    assert after["system account"]["status"] == "ok"
    assert after["sync"]["found"].startswith("every 120 s: a power cut loses")
    assert after["stream"]["status"] == "fail"
    assert after["max_bytes"]["found"] == "is not set"
    wrong = report("--system-user", "system", "--system-password", "guess")
    assert wrong["system account"]["status"] == "fail"


STREAM = {"name": "aegis", "subjects": ["aegis.journal.>"], "storage": "memory"}


def nats_request(url: str, subject: str, body: dict[str, Any]) -> None:
    from aegis.transport._nats import connect_nats
    from aegis.transport._nats_options import NatsOptions

    async def request() -> None:
        transport = await connect_nats(NatsOptions(servers=(url,)))
        try:
            await transport.request(subject, json.dumps(body).encode(), timeout=5)
        finally:
            await transport.close()

    asyncio.run(request())


@pytest.fixture
def pair(folder: Path, environ: dict[str, str], node: NodeProcess) -> Generator[None]:
    """An active instance, its standby and a supervisor, in a namespace of their own."""
    nodes: list[NodeProcess] = []
    held = "services.py:Account --resource ACC-1 --no-supervisor"
    try:
        for flags in (
            "--supervisor-only",
            f"{held} --instance-id first --role active",
            f"{held} --instance-id second --role standby",
        ):
            nodes.append(NodeProcess(f"{flags} --namespace pair", folder=folder, environ=environ))
            if flags == "--supervisor-only":
                nodes[-1].wait_event("leads")
            else:
                nodes[-1].wait_event("node_started")
        yield
    finally:
        for one in nodes:
            one.end()


async def test_a_standby_is_shown_with_its_lag_and_takes_over_at_a_disconnect(
    aegis: Aegis, pair: None
) -> None:
    async def run(*arguments: str, app: Any = cli.app) -> str:
        result = await asyncio.to_thread(aegis, *arguments, "--namespace", "pair", app=app)
        assert result.exit_code == 0, result.output
        return result.stdout

    async def route() -> dict[str, Any]:
        (found,) = json.loads(await run("show-route", "ACC-1", "--json"))["routes"]
        return dict(found)

    async def has_no_lag() -> bool:
        return [standby["lag"] for standby in (await route())["standbys"]] == [0]

    async def has_changed_places() -> bool:
        now = await route()
        names = [standby["instance_id"] for standby in now["standbys"]]
        return (now["instance_id"], names) == ("second", ["first"])

    assert await run("call", "account/ACC-1", "deposit", "amount=5") == "5\n"
    await wait_until(has_no_lag, what="the standby is as far as the owner")
    checks = {c["name"]: c for c in json.loads(await run("doctor", "--json"))["checks"]}
    assert checks["candidates"]["found"].endswith("alone can lead: without it nothing fails over")
    assert checks["standbys"]["found"] == "all 1 resources have one"
    epoch = (await route())["epoch"]
    shown = await run("show-route", "ACC-1")
    assert all(word in shown for word in ("active", "first", "standby", "second", "lag"))
    tree = await run("tree")
    assert f"ACC-1  active  queue 0  epoch {epoch}  standby second" in tree
    assert f"ACC-1  standby  lag 0  epoch {epoch}" in tree
    drawn = json.loads(await run("tree", "--json"))
    assert sorted((n["candidate"], n["leading"], n["instances"]) for n in drawn["nodes"]) == [
        (False, False, ["first"]),
        (False, False, ["second"]),
        (True, True, []),
    ]
    first, second = (instance["held"][0] for instance in drawn["services"][0]["instances"])
    assert (first["role"], first["epoch"], first["lag"]) == ("active", epoch, None)
    assert (second["role"], second["epoch"], second["lag"]) == ("standby", epoch, 0)
    answer = json.loads(await run("disconnect", "first", "--json", app=ipc_cli.app))
    assert answer["promoted"] == {"ACC-1": "second"}
    assert await run("call", "account/ACC-1", "balance") == "5\n"
    assert (await route())["epoch"] > epoch
    await wait_until(has_changed_places, what="the instance that was disconnected stands by")


def test_a_disconnect_of_nobody_names_who_is_there(aegis: Aegis) -> None:
    result = aegis("disconnect", "acct-11")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error 404: no instance 'acct-11'; near it: 'acct-1'" in result.stderr


def test_a_journal_is_shown_entry_by_entry(aegis: Aegis) -> None:
    aegis("call", "account/a/b", "deposit", "amount=5")
    aegis("call", "account/a/b", "deposit", "amount=-5")
    document = json.loads(aegis("journal", "show", "account/a/b", "--json").stdout)
    assert (document["service"], document["resource"]) == ("account", "a/b")
    fence, deposit, refused = document["entries"][-3:]
    assert fence["kind"] == "fence"
    assert (deposit["kind"], deposit["status"], deposit["answer"]) == ("command", 200, "5")
    assert deposit["changed"] == {"cash": [None, "5"]}
    assert deposit["sequence"] > fence["sequence"]
    assert (refused["status"], refused["changed"]) == (422, {})
    assert deposit["message_id"].count("-") == 2
    assert (fence["method"], deposit["method"], refused["method"]) == ("", "deposit", "deposit")
    lines = aegis("journal", "show", "account/a/b").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [number for number, line in enumerate(lines) if deposit["message_id"] in line]
    assert lines[row].split()[0] == str(deposit["sequence"])
    assert lines[row].split()[2:4] == ["deposit", "200"]
    assert lines[row + 1].strip() == 'cash: null -> "5"; answered "5"'
    shown = aegis("journal", "show", "account/a/b", "--last", "1")
    assert shown.exit_code == 0
    assert "422" in shown.stdout
    assert "fence" not in shown.stdout


def test_all_journals_are_verified_and_the_first_wrong_record_is_named(
    aegis: Aegis, environ: dict[str, str]
) -> None:
    checked = aegis("journal", "verify")
    assert checked.exit_code == 0, checked.stdout
    assert checked.stdout.endswith("all rules are kept\n")

    async def spoil() -> int:
        async with connect(data_dir=environ["AEGIS_DATA_DIR"]) as cluster:
            outcome = await cluster.transport.append(
                Append("aegis.journal.account.SPOILT", b"\xc1"), timeout=10
            )
            assert isinstance(outcome, Appended)
            return outcome.sequence

    sequence = asyncio.run(spoil())
    checked = aegis("journal", "verify")
    assert checked.exit_code == 1
    assert checked.stdout.startswith(f"account/SPOILT: sequence {sequence}: cannot be decoded")
    document = json.loads(aegis("journal", "verify", "account", "--json").stdout)
    assert not document["ok"]
    wrong = {j["resource"]: [f["sequence"] for f in j["findings"]] for j in document["journals"]}
    assert wrong == {"ACC-1": [], "a/b": [], "SPOILT": [sequence]}
    assert aegis("journal", "verify", "account/a/b").exit_code == 0
    shown = json.loads(aegis("journal", "show", "account/SPOILT", "--json").stdout)
    assert [entry["kind"] for entry in shown["entries"]] == ["unreadable"]


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("journal show account", 2, "a service has no journal; write service/resource"),
        ("journal show account@acct-1", 2, "an instance has no journal"),
        ("journal show account/", 2, "a name must follow"),
        ("journal show account/ACC-1 --last 0", 2, "--last must be at least 1"),
        ("journal show account/nobody", 1, "error 404: account/nobody has no journal"),
        ("journal verify nobody", 1, "error 404: nobody has no journal"),
        ("journal verify account@acct-1", 2, "an instance has no journal"),
    ],
)
def test_a_journal_that_is_not_there_is_one_line(
    aegis: Aegis, line: str, code: int, message: str
) -> None:
    result = aegis(*line.split())
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_message_is_sent_and_its_result_waited_for(aegis: Aegis) -> None:
    before = float(aegis("call", "account/a/b", "balance").stdout)
    sent = aegis("send", "account/a/b", "deposit", "amount=2", "--json")
    receipt = json.loads(sent.stdout)
    assert (receipt["service_name"], receipt["resource_id"]) == ("account", "a/b")
    assert "waits at" in aegis("send", "account/a/b", "deposit", "amount=3").stdout
    waited = aegis("send", "account/a/b", "deposit", "amount=1", "--wait")
    assert float(waited.stdout) == before + 6
    refused = aegis("send", "account/a/b", "deposit", "amount=-1", "--wait")
    assert (refused.exit_code, refused.stderr) == (1, "error 422: amount must be positive\n")


def test_a_message_to_a_service_that_nobody_registered_is_kept(aegis: Aegis) -> None:
    assert aegis("send", "never/N-1", "do", "x=1").exit_code == 0
    waiting = aegis("send", "never/N-1", "do", "--wait", "--timeout", "0.5")
    assert waiting.exit_code == 1
    assert waiting.stderr.startswith("error 504: ")


def test_dead_letters_are_listed_shown_and_dropped(aegis: Aegis, environ: dict[str, str]) -> None:
    assert aegis("dead-letters", "list").stdout == "no dead letters\n"
    asyncio.run(send_what_nobody_can_read(environ))

    async def listed() -> bool:
        found = await asyncio.to_thread(aegis, "dead-letters", "list", "--json")
        return "cannot be read" in found.stdout

    asyncio.run(wait_until(listed, what="the letter is dead", timeout=30))
    (letter,) = json.loads(aegis("dead-letters", "list", "account", "--json").stdout)
    assert (letter["resource_id"], letter["tries"], letter["method"]) == ("ACC-1", 0, "")
    number = str(letter["sequence"])
    assert f"sequence: {number}" in aegis("dead-letters", "show", number).stdout
    assert "account/ACC-1" in aegis("dead-letters", "list").stdout
    replayed = aegis("dead-letters", "replay", number)
    assert (replayed.exit_code, replayed.stdout) == (1, "")
    assert aegis("dead-letters", "drop", number).stdout == f"{number} is dropped\n"
    gone = aegis("dead-letters", "show", number)
    assert (gone.exit_code, gone.stderr) == (1, f"error 404: there is no dead letter {number}\n")
    assert aegis("dead-letters", "list").stdout == "no dead letters\n"


async def send_what_nobody_can_read(environ: dict[str, str]) -> None:
    """Put bytes that are no message into the mailbox of an account."""
    async with connect(data_dir=environ["AEGIS_DATA_DIR"]) as cluster:
        subject = cluster.subjects.mailbox("account", "ACC-1")
        outcome = await cluster.transport.append(Append(subject, b"\xc1"), timeout=10)
        assert isinstance(outcome, Appended)
