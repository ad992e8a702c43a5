"""Every way to reach a server, through the command line as its users type it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable
from pathlib import Path

import pytest

from aegis.transport import find_server, stop_server
from aegis.transport._guardian import CONFIG_FILE
from tests.support.nats import NatsServer, free_port
from tests.support.nats_access import MUTUAL_CONFIG, TLS, TLS_CONFIG, with_operator
from tests.support.nodes import ROOT, SERVICES, NodeProcess

pytestmark = pytest.mark.timeout(120)

VAULT = (f"{SERVICES}:Vault", "--resource", "V-1")


async def aegis(*arguments: str) -> tuple[int, str, str]:
    """Return the exit code, standard output and standard error of one command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aegis", *arguments),
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("AEGIS_")},
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


type Access = tuple[str, str, tuple[str, ...], str]
"""Configuration and scheme of a server, the options that let in, what is told without."""


def password(_: Path) -> Access:
    users = "accounts { APP { jetstream: enabled, users: [ { user: app, password: right } ] } }"
    return users, "nats", ("--user", "app", "--password", "right"), "check user and password"


def creds(folder: Path) -> Access:
    config, file = with_operator(folder)
    return config, "nats", ("--creds", str(file)), "or creds"


def tls(_: Path) -> Access:
    return TLS_CONFIG, "tls", ("--tls-ca", str(TLS / "ca.pem")), "tls_ca"


def mutual_tls(_: Path) -> Access:
    options = (
        *("--tls-ca", str(TLS / "ca.pem")),
        *("--tls-cert", str(TLS / "client.pem"), "--tls-key", str(TLS / "client-key.pem")),
    )
    return MUTUAL_CONFIG, "tls", options, "tls_ca"


@pytest.mark.parametrize("access", [password, creds, tls, mutual_tls])
async def test_a_server_of_ones_own_is_used_with_what_it_asks_for(
    tmp_path: Path, access: Callable[[Path], Access]
) -> None:
    config, scheme, options, hint = access(tmp_path)
    server = NatsServer(tmp_path, config, scheme=scheme)
    server.start()
    node: NodeProcess | None = None
    try:
        # The first of the list is not there.
        urls = f"{scheme}://127.0.0.1:{free_port()},{server.url}"
        reach = ("--nats", urls, *options)
        node = await NodeProcess.start(*VAULT, *reach)
        await node.wait_event("node_started")
        assert await aegis("call", "vault/V-1", "deposit", "amount=1.5", *reach) == (0, "1.5\n", "")
        code, out, _ = await aegis("tree", "--json", *reach)
        assert code == 0
        assert "V-1" in out
        code, out, _ = await aegis("doctor", "--json", *reach)
        assert (code, json.loads(out)["ok"]) == (0, True)
        code, out, err = await aegis("call", "vault/V-1", "total", "--nats", server.url)
        assert code != 0
        assert out == ""
        assert err.startswith("error")
        assert err.count("\n") == 1
        assert hint in err
        assert await node.stop() == 0
    finally:
        if node is not None:
            node.kill()
        server.stop()


async def test_a_server_that_is_kept_is_there_for_the_next_node(tmp_path: Path) -> None:
    folder = tmp_path / "nats"
    here = ("--data-dir", str(folder))
    try:
        node = await NodeProcess.start(*VAULT, *here, "--keep", "--sync", "2m")
        await node.wait_event("node_started")
        assert (await aegis("call", "vault/V-1", "deposit", "amount=1", *here))[0] == 0
        assert await node.stop() == 0
        assert await find_server(folder) is not None
        assert 'sync_interval: "2m"' in (folder / CONFIG_FILE).read_text()
        node = await NodeProcess.start(*VAULT, *here, "--sync", "always")
        assert await node.wait_end() in (1, 2)
        (line,) = node.lines
        assert "sync" in line
        node = await NodeProcess.start(*VAULT, *here)
        await node.wait_event("node_started")
        assert (await aegis("call", "vault/V-1", "total", *here))[1] == "1\n"
        assert await node.stop() == 0
        assert await find_server(folder) is not None
    finally:
        await stop_server(folder)


async def test_without_keep_the_last_node_ends_the_server(tmp_path: Path) -> None:
    folder = tmp_path / "nats"
    here = ("--data-dir", str(folder))
    first = await NodeProcess.start(*VAULT, *here)
    await first.wait_event("node_started")
    assert "sync_interval: always" in (folder / CONFIG_FILE).read_text().replace('"', "")
    second = await NodeProcess.start(f"{SERVICES}:Quoter", *here)
    await second.wait_event("node_started")
    assert await first.stop() == 0
    assert (await aegis("call", "quoter", "name", *here))[0] == 0
    assert await second.stop() == 0
    assert await find_server(folder) is None
