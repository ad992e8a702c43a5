"""The files of ``ops``: what can be checked of them without Docker or systemd at work.

Compose files and workflows are held against their schemas, the NATS server reads its own
files, and what the compose file starts is started, as processes.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import aegis
from aegis.ops import cli
from aegis.transport._ports import free_port
from aegis.transport._server_binary import find_binary
from tests.support.http import ask
from tests.support.nats import NatsServer
from tests.support.nats_template import template_server
from tests.support.node_process import NodeProcess
from tests.support.poll import wait_until
from tests.support.prometheus import OPS

ROOT = OPS.parent
COMPOSE = OPS / "docker-compose.yaml"
CLUSTER = OPS / "docker-compose.cluster.yaml"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
UNIT = OPS / "systemd" / "aegis-node@.service"

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("logging_restored")]


def loaded(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def variables() -> dict[str, str]:
    """A value for each variable of ``.env.example``."""
    names = re.findall(r"^(\w+)=", (OPS / ".env.example").read_text(), re.MULTILINE)
    return {name: f"p{secrets.token_hex(10)}" for name in names}


def filled(value: Any, given: dict[str, str]) -> Any:
    """Put variables in, as compose does; one that misses and has no default fails."""
    if isinstance(value, dict):
        return {k: filled(v, given) for k, v in value.items()}  # pyright: ignore
    if isinstance(value, list):
        return [filled(item, given) for item in value]  # pyright: ignore
    if not isinstance(value, str):
        return value

    def put(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if name in given:
            return given[name]
        assert str(default).startswith("-"), f"{name} is not in .env.example"
        return str(default)[1:]

    return re.sub(r"\$\{(\w+)(?::(-[^}]*|\?[^}]*))?\}", put, value)


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ("vendor.compose-spec", COMPOSE),
        ("vendor.compose-spec", CLUSTER),
        *(("vendor.github-workflows", path) for path in WORKFLOWS),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_file_is_of_the_form_that_its_schema_asks_for(schema: str, path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_check_finds_what_is_wrong(tmp_path: Path) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text(COMPOSE.read_text().replace("stop_grace_period", "stop_grace"))
    with pytest.raises(AssertionError, match="stop_grace"):
        test_a_file_is_of_the_form_that_its_schema_asks_for("vendor.compose-spec", broken)


@pytest.mark.parametrize("path", [COMPOSE, CLUSTER], ids=lambda path: path.name)
def test_what_a_compose_file_names_is_there(path: Path) -> None:
    document = filled(loaded(path), variables())
    volumes = set(loaded(COMPOSE)["volumes"]) | set(document["volumes"])
    for name, service in document["services"].items():
        for mount in service.get("volumes", ()):
            source = mount.partition(":")[0]
            if source.startswith("."):
                assert (OPS / source).resolve().exists(), f"{name}: {source}"
            else:
                assert source in volumes, f"{name}: {source}"
        image = service.get("image", "aegis:local")
        assert re.search(r":[\w.-]+$", image), f"{name}: {image} has no version"
        assert not image.endswith(":latest")
    if path == COMPOSE:
        build = document["services"]["node-1"]["build"]
        assert (OPS / build["context"] / build["dockerfile"]).is_file()


@pytest.mark.parametrize("name", ["nats-server.conf", "nats-cluster.conf"])
def test_the_nats_server_takes_its_files_with_the_environment_of_the_compose_file(
    name: str, tmp_path: Path
) -> None:
    path = COMPOSE if name == "nats-server.conf" else CLUSTER
    service = filled(loaded(path), variables())["services"]["nats"]
    assert service["command"] == ["--config", f"/etc/nats/{name}"]
    done = subprocess.run(
        [str(find_binary()), "-t", "-c", str(OPS / "nats" / name)],
        env={**os.environ, **service["environment"], "NATS_STORE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "is valid" in done.stderr


def test_prometheus_scrapes_every_node_of_the_compose_file() -> None:
    (scrape,) = loaded(OPS / "prometheus" / "prometheus.yaml")["scrape_configs"]
    targets = {target.partition(":")[0] for target in scrape["static_configs"][0]["targets"]}
    services = loaded(COMPOSE)["services"]
    nodes = {name for name, one in services.items() if one.get("command", [""])[0] == "run"}
    assert targets == nodes
    assert scrape["authorization"]["credentials_file"] == "/run/secrets/aegis_admin_token"


# -- what the compose file starts -----------------------------------------------------------


class Composed:
    """The services of the compose file as processes of this host."""

    def __init__(self, folder: Path, server: NatsServer, given: dict[str, str]) -> None:
        self.folder = folder
        self.given = given
        self.services = filled(loaded(COMPOSE), given)["services"]
        self.ports: dict[str, int] = {}
        self.nodes: dict[str, NodeProcess] = {}
        self._url = server.url
        (folder / "token").write_text(given["AEGIS_ADMIN_TOKEN"])

    def environ(self, name: str) -> dict[str, str]:
        """The variables of a service, with the addresses and files that it finds here."""
        environ = {key: str(value) for key, value in self.services[name]["environment"].items()}
        assert environ["AEGIS_NATS_URL"] == "nats://nats:4222"
        environ["AEGIS_NATS_URL"] = self._url
        if "AEGIS_ADMIN_TOKEN_FILE" in environ:
            assert environ["AEGIS_ADMIN_TOKEN_FILE"] == "/run/secrets/aegis_admin_token"
            environ["AEGIS_ADMIN_TOKEN_FILE"] = str(self.folder / "token")
        return environ | {"AEGIS_LOG_FORMAT": "json"}

    def start(self, name: str) -> NodeProcess:
        """Start a service that is a node."""
        command = list(self.services[name]["command"])
        assert command.pop(0) == "run"
        port = self.ports[name] = free_port()
        place = command.index("--admin-port") + 1
        assert command[place] == "8080"
        command[place] = str(port)
        node = NodeProcess(" ".join(command), folder=self.folder, environ=self.environ(name))
        self.nodes[name] = node
        node.wait_event("node_started", timeout=60)
        return node

    def ready(self, name: str) -> bool:
        """Whether its health check would pass."""
        return ask(self.ports[name], "/readyz").status == 200


@pytest.fixture
def composed(tmp_path: Path) -> Generator[Composed]:
    given = variables()
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    with template_server(tmp_path / "nats", environ=given) as server:
        composed = Composed(tmp_path, server, given)
        try:
            yield composed
        finally:
            for node in reversed(composed.nodes.values()):
                node.end()


async def test_what_the_compose_file_starts_works_as_processes(composed: Composed) -> None:
    for name in ("supervisor", "node-1", "node-2"):
        composed.start(name)
        await wait_until(lambda name=name: composed.ready(name), what=f"{name} is ready")  # type: ignore[misc]
    token = {"Authorization": f"Bearer {composed.given['AEGIS_ADMIN_TOKEN']}"}
    assert ask(composed.ports["node-1"], "/metrics").status == 401
    assert ask(composed.ports["node-1"], "/metrics", headers=token).status == 200
    environ = composed.environ("cli")
    async with aegis.connect(
        environ["AEGIS_NATS_URL"],
        user="caller",
        password=composed.given["AEGIS_CALLER_PASSWORD"],
        timeout=30.0,
    ) as cluster:
        deposit = ("account", "deposit", {"amount": "5"})
        assert await cluster.call(*deposit, resource_id="ACC-1") == "5"
        # node-1 stood by for a moment, and owns; its engine stops it and starts it again.
        code, log = composed.nodes.pop("node-1").end()
        assert code == 0, log
        assert await cluster.call(*deposit, resource_id="ACC-1") == "10"
        # With the same command as before: no role has to be changed by hand.
        composed.start("node-1")
        await wait_until(lambda: composed.ready("node-1"), what="node-1 is ready again")
    done = await asyncio.to_thread(
        CliRunner().invoke, cli.app, ["show-route", "ACC-1"], env=environ
    )
    assert done.exit_code == 0, done.output
    assert "acct-1" in done.stdout
    assert "acct-2" in done.stdout


# -- systemd --------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_unit_and_finds_it_well_confined(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/aegis/bin/aegis", "/bin/true"))
    for arguments in (("verify",), ("security", "--offline=yes", "--threshold=30")):
        done = subprocess.run(
            ["systemd-analyze", *arguments, str(unit)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r"Unknown|ignoring", done.stderr)


# -- GitHub Actions and pre-commit ----------------------------------------------------------


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_may_only_read(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    used = re.findall(r"uses: (\S+)(.*)", text)
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), f"{action} is not pinned"
        assert re.fullmatch(r" # v\d+(\.\d+)*", comment), f"{action} does not tell its version"
    assert loaded(path)["permissions"] == {"contents": "read"}


def test_the_targets_that_workflows_and_hooks_use_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    for path in WORKFLOWS:
        for words in re.findall(r"run: make ([\w ]+)", path.read_text(encoding="utf-8")):
            assert set(words.split()) <= targets
    hooks = loaded(ROOT / ".pre-commit-config.yaml")
    commands = [hook["entry"].split()[0] for repo in hooks["repos"] for hook in repo["hooks"]]
    assert commands
    for command in commands:
        assert (ROOT / command).is_file(), f"{command} is not there; `make setup` makes it"


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_steps_of_the_dockerfile_work_in_a_clean_folder(tmp_path: Path) -> None:
    from tests.support.dockerfile import build

    folders = build(OPS / "Dockerfile", context=ROOT, folder=tmp_path)
    command = [str(folders.path("/opt/aegis/bin/aegis"))]
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    for arguments in (["--help"], ["run", "--help"]):
        done = subprocess.run(
            command + arguments, cwd=tmp_path, env=environ, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert folders.entrypoint == ["aegis"]
    assert folders.user == "aegis"
    imported = subprocess.run(
        [str(folders.path("/opt/aegis/bin/python")), "-c", "import aegis; print(aegis.__file__)"],
        cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert str(tmp_path) in imported.stdout
