"""TLS, credentials and secrets: a whole system over them, and nothing secret said anywhere."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Generator, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trustme
from attrs import frozen
from typer.testing import CliRunner

import aegis
from aegis import ConfigurationError
from aegis.ops import cli
from aegis.transport._ports import free_port
from examples.accounts import Account
from tests.support.http import ask
from tests.support.nats import NatsServer
from tests.support.nats_access import nkey_user
from tests.support.nats_template import (
    PASSWORDS,
    TemplateServer,
    environ_of,
    template_server,
)
from tests.support.node_process import NodeProcess
from tests.support.processes import processes_of
from tests.test_style import ROOT

TOKEN = "token-that-nobody-is-told"

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("logging_restored")]


@frozen
class Certificates:
    """Files of an authority made for the test, and of what it has signed."""

    folder: Path

    @classmethod
    def made(cls, folder: Path) -> Certificates:
        """Make an authority, a server's certificate and a client's."""
        folder.mkdir()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        for name, whose in (("server", "127.0.0.1"), ("client", "node@example.org")):
            issued = authority.issue_cert(whose)
            issued.private_key_pem.write_to_path(folder / f"{name}-key.pem")
            for part in issued.cert_chain_pems:
                part.write_to_path(folder / f"{name}.pem", append=True)
        return cls(folder)

    @property
    def environ(self) -> dict[str, str]:
        """How a process uses them."""
        return {
            "AEGIS_TLS_CA": str(self.folder / "ca.pem"),
            "AEGIS_TLS_CERT": str(self.folder / "client.pem"),
            "AEGIS_TLS_KEY": str(self.folder / "client-key.pem"),
        }


def started(
    folder: Path, server: TemplateServer, environ: dict[str, str]
) -> Generator[NodeProcess]:
    """Start a supervisor and a node, as the users of the template."""
    (folder / "accounts.py").write_text((ROOT / "examples" / "accounts.py").read_text())
    shared = {"AEGIS_NATS_URL": server.url, "AEGIS_LOG_FORMAT": "json", **environ}
    system = {"AEGIS_SYSTEM_USER": "system", "AEGIS_SYSTEM_PASSWORD": PASSWORDS["system"]}
    supervisor = NodeProcess(
        "--supervisor-only", folder=folder, environ=shared | environ_of("supervisor") | system
    )
    yield supervisor
    supervisor.wait_event("leads")
    node = NodeProcess(
        "accounts.py:Account --no-supervisor --instance-id acct-1 --resource A",
        folder=folder,
        environ=shared | environ_of("account"),
    )
    yield node
    node.wait_event("node_started")


def end(nodes: Iterable[NodeProcess]) -> str:
    """End nodes; return all that they said."""
    return "".join(node.end()[1] for node in reversed(list(nodes)))


async def test_a_system_works_over_tls_with_certificates_on_both_sides(tmp_path: Path) -> None:
    own, strange = Certificates.made(tmp_path / "own"), Certificates.made(tmp_path / "strange")
    edits = {"# include tls.conf": "include tls.conf", "/etc/nats/tls": str(own.folder)}
    nodes: list[NodeProcess] = []
    with template_server(tmp_path / "nats", edits, scheme="tls") as server:
        try:
            for node in started(tmp_path, server, own.environ):
                nodes.append(node)
            caller: dict[str, Any] = {
                "user": "caller",
                "password": PASSWORDS["caller"],
                "timeout": 20.0,
            }
            ours: dict[str, Any] = {
                "tls_ca": own.folder / "ca.pem",
                "tls_cert": own.folder / "client.pem",
                "tls_key": own.folder / "client-key.pem",
            }
            async with aegis.connect(server.url, **caller, **ours) as cluster:
                assert await cluster.actor(Account, "A").deposit(amount=Decimal(3)) == 3
            theirs = {
                "tls_ca": own.folder / "ca.pem",
                "tls_cert": strange.folder / "client.pem",
                "tls_key": strange.folder / "client-key.pem",
            }
            cases: list[tuple[dict[str, Any], str]] = [
                ({"tls_ca": own.folder / "ca.pem"}, "tls_cert: the server wants a certificate"),
                ({**ours, "tls_ca": strange.folder / "ca.pem"}, r"tls_ca: .* not trusted"),
                (theirs, "tls_cert: the server refuses this client"),
            ]
            for wrong, said in cases:
                with pytest.raises(ConfigurationError, match=said):
                    async with aegis.connect(server.url, **caller, **wrong):
                        raise AssertionError("it was let in")
        finally:
            end(nodes)


async def test_the_seed_of_an_nkey_is_as_good_as_a_password(tmp_path: Path) -> None:
    public, seed = nkey_user(tmp_path)
    server = NatsServer(tmp_path, f"authorization {{ users: [ {{ nkey: {public} }} ] }}")
    server.start()
    try:
        async with aegis.connect(server.url, creds=str(seed)) as cluster:
            assert cluster.transport.connected
        with pytest.raises(ConfigurationError):
            async with aegis.connect(server.url):
                raise AssertionError("it was let in")
    finally:
        server.stop()


# -- secrets --------------------------------------------------------------------------------


def command_lines(folder: Path, nodes: Iterable[NodeProcess]) -> str:
    """The command lines of nodes, and of all other processes that name ``folder``."""
    pids = [node.process.pid for node in nodes]
    own = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ") for pid in pids]
    return "\n".join([*(line.decode() for line in own), *processes_of(folder)])


def invoked(environ: dict[str, str], *arguments: str) -> str:
    """Run a command with all that it can say; return that."""
    told = CliRunner().invoke(
        cli.app,
        [*arguments, "--log-level", "debug", "--timeout", "3"],
        env=environ | {"AEGIS_DEBUG": "1"},
    )
    return told.output + told.stderr + repr(told.exception)


async def test_no_secret_is_logged_printed_or_shown_in_the_list_of_processes(
    tmp_path: Path,
) -> None:
    environ = {
        "AEGIS_LOG_LEVEL": "debug",
        "AEGIS_LOG_MESSAGES": "1",
        "AEGIS_ADMIN_TOKEN": TOKEN,
        "AEGIS_DEBUG": "1",
    }
    said: list[str] = []
    nodes: list[NodeProcess] = []
    port = free_port()
    with template_server(tmp_path / "nats") as server:
        try:
            # The node's password stands in a file, as containers and systemd give it.
            (tmp_path / "password").write_text(PASSWORDS["account"])
            for node in started(tmp_path, server, environ | {"AEGIS_ADMIN_PORT": "0"}):
                nodes.append(node)
            nodes.append(
                NodeProcess(
                    "accounts.py:Account --no-supervisor --instance-id acct-2 --resource A "
                    f"--role standby --admin-port {port}",
                    folder=tmp_path,
                    environ=environ
                    | {
                        "AEGIS_NATS_URL": server.url,
                        "AEGIS_LOG_FORMAT": "json",
                        "AEGIS_USER": "account",
                        "AEGIS_PASSWORD_FILE": str(tmp_path / "password"),
                    },
                )
            )
            nodes[-1].wait_event("node_started")
            said.append(await asyncio.to_thread(command_lines, tmp_path, nodes))
            assert "acct-2" in said[-1]
            assert "nats-server" in said[-1]
            bearer = {"Authorization": f"Bearer {TOKEN}"}
            for path in ("/metrics", "/api/v1/admin/tree", "/api/v1/openapi.json", "/nothing"):
                said.append(ask(port, path, headers=bearer).body.decode())
                said.append(
                    ask(port, path, headers={"Authorization": "Bearer wrong"}).body.decode()
                )
            operator = environ_of("operator") | {
                "AEGIS_NATS_URL": server.url,
                "AEGIS_SYSTEM_USER": "system",
                "AEGIS_SYSTEM_PASSWORD": PASSWORDS["system"],
            }
            in_url = {
                "AEGIS_NATS_URL": f"nats://caller:{PASSWORDS['caller']}@127.0.0.1:{server.port}",
                "AEGIS_INBOX_PREFIX": "_INBOX.caller",
            }
            nobody = {
                "AEGIS_NATS_URL": f"nats://caller:{PASSWORDS['caller']}@127.0.0.1:{free_port()}"
            }
            for who, arguments in (
                (operator, ("tree",)),
                (operator, ("doctor",)),
                (operator, ("call", "account/A", "deposit", "amount=1")),
                (operator, ("call", "account/A", "nonsense")),
                (in_url, ("call", "account/A", "balance")),
                (in_url, ("disconnect", "acct-1")),
                (nobody, ("tree",)),
                (operator | {"AEGIS_USER": "wrong"}, ("tree",)),
                (operator | {"AEGIS_TIMEOUT": "wrong"}, ("tree",)),
            ):
                said.append(await asyncio.to_thread(invoked, who, *arguments))
            nodes[1].end(signal.SIGKILL)
            said.append(await asyncio.to_thread(invoked, operator, "call", "account/A", "balance"))
        finally:
            said.append(end(nodes))
    everything = "\n".join(said)
    for spoken in ("node_started", "access_denied", "acct-1", "deposit"):
        assert spoken in everything, "what was gathered is not what was meant"
    for secret in (*PASSWORDS.values(), TOKEN):
        assert secret not in everything, f"{secret}: {_around(everything, secret)}"


def test_the_passwords_of_the_embedded_server_stay_in_its_folder(tmp_path: Path) -> None:
    data = tmp_path / "nats"
    (tmp_path / "accounts.py").write_text((ROOT / "examples" / "accounts.py").read_text())
    node = NodeProcess(
        "accounts.py:Account --instance-id acct-1 --resource A",
        folder=tmp_path,
        environ={"AEGIS_DATA_DIR": str(data), "AEGIS_LOG_LEVEL": "debug"},
    )
    said = ""
    try:
        node.wait_event("node_started")
        said += command_lines(data, [node])
        assert "nats-server" in said
        said += invoked({"AEGIS_DATA_DIR": str(data)}, "doctor")
    finally:
        said += node.end()[1]
    said += "".join(path.read_text() for path in data.glob("*.log"))
    kept = json.loads((data / "credentials.json").read_text())
    for account in ("application", "system"):
        assert kept[account]["password"] not in said
    for file in data.iterdir():
        if file.is_file():
            assert file.stat().st_mode & 0o077 == 0, f"others may read {file.name}"


def _around(text: str, secret: str) -> str:
    place = text.index(secret)
    return text[max(0, place - 200) : place].replace("\n", " ")
