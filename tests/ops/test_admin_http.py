"""The admin HTTP of real nodes: every path, every refusal, and the whole system from each."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from attrs import frozen

from aegis.ops import _admin_guard
from aegis.ops._admin_guard import MAX_BODY_BYTES, Guard
from aegis.transport._ports import free_port
from tests.support.http import Answer, ask
from tests.support.node_process import NodeProcess
from tests.support.poll import wait_until
from tests.test_style import ROOT

API = "/api/v1/admin"
TOKEN = "a-token-that-nobody-guesses"
AWKWARD = "a/b ünd=c%?#&..".replace(" ", "_")
"""A legal id of a resource with all that means something in an URL."""

pytestmark = pytest.mark.timeout(180)


@frozen
class Site:
    """Two nodes of one system, each with its admin HTTP; the second wants a token."""

    folder: Path
    environ: dict[str, str]
    one: int
    two: int
    first: NodeProcess
    second: NodeProcess

    def get(self, path: str, port: int | None = None, **headers: str) -> Answer:
        """Ask the first node, or that at ``port``."""
        return ask(port or self.one, path, headers=headers)

    def run(self, arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a node that is to end by itself."""
        return subprocess.run(
            [sys.executable, "-m", "aegis", "run", *arguments.split()],
            cwd=self.folder,
            env={**os.environ, **self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    folder = tmp_path_factory.mktemp("admin")
    (folder / "accounts.py").write_text((ROOT / "examples" / "accounts.py").read_text())
    (folder / "ids").write_text(AWKWARD)
    environ = {"AEGIS_DATA_DIR": str(folder / "nats"), "AEGIS_LOG_FORMAT": "json"}
    one, two = free_port(), free_port()
    first = NodeProcess(
        "accounts.py:Account --instance-id acct-1 --resource ACC-1 --resource ACC-2 "
        f"--resource @ids --admin-port {one}",
        folder=folder,
        environ=environ,
    )
    started = [first]
    try:
        first.wait_event("node_started")
        second = NodeProcess(
            "accounts.py:Account --instance-id acct-2 --resource ACC-1 --role standby "
            f"--admin-host 0.0.0.0 --admin-port {two}",
            folder=folder,
            environ={**environ, "AEGIS_ADMIN_TOKEN": TOKEN},
        )
        started.append(second)
        second.wait_event("node_started")
        yield Site(folder, environ, one, two, first, second)
    finally:
        for node in reversed(started):
            node.end()


def problem(answer: Answer, status: int) -> dict[str, Any]:
    """Check that an answer is a problem, and return it."""
    assert (answer.status, answer.media_type) == (status, "application/problem+json")
    told: dict[str, Any] = answer.json
    assert told["status"] == status
    assert told["title"]
    assert told["detail"]
    return told


def test_services_and_instances_are_told_with_their_state(site: Site) -> None:
    (service,) = site.get(f"{API}/services").json["services"]
    assert (service["service_name"], service["instances"], service["healthy"]) == ("account", 2, 2)
    assert service["resources"] == 3
    detail = site.get(f"{API}/services/account").json
    assert [one["instance_id"] for one in detail["instances"]] == ["acct-1", "acct-2"]
    listed = site.get(f"{API}/instances").json["instances"]
    assert [(one["instance_id"], one["state"], one["role"]) for one in listed] == [
        ("acct-1", "healthy", "active"),
        ("acct-2", "healthy", "standby"),
    ]
    assert site.get(f"{API}/instances?service=none").json["instances"] == []


def test_a_resource_is_told_with_owner_epoch_and_standbys(site: Site) -> None:
    found = site.get(f"{API}/resources/account/ACC-1").json
    assert (found["instance_id"], found["state"]) == ("acct-1", "healthy")
    assert found["epoch"] > 0
    assert [one["instance_id"] for one in found["standbys"]] == ["acct-2"]


def test_a_name_may_hold_any_character_when_it_is_quoted(site: Site) -> None:
    found = site.get(f"{API}/resources/account/{quote(AWKWARD, safe='')}")
    assert (found.status, found.json["resource_id"]) == (200, AWKWARD)


def test_the_tree_shows_nodes_services_instances_and_resources(site: Site) -> None:
    tree = site.get(f"{API}/tree?resources=2").json
    assert tree["namespace"] == "aegis"
    assert [node["status"] for node in tree["nodes"]] == ["running", "running"]
    assert sum(node["leading"] for node in tree["nodes"]) == 1
    first, second = tree["services"][0]["instances"]
    assert [one["resource_id"] for one in first["held"]] == ["ACC-1", "ACC-2"]
    assert first["left_out"] == 1
    assert [(one["resource_id"], one["role"]) for one in second["held"]] == [("ACC-1", "standby")]


def test_resources_are_found_by_part_of_their_id_by_owner_and_by_condition(site: Site) -> None:
    def found(query: str) -> list[str]:
        return [
            one["resource_id"] for one in site.get(f"{API}/resources?{query}").json["resources"]
        ]

    assert found("contains=cc-1") == ["ACC-1"]
    assert found("instance=acct-1&only=alone") == ["ACC-2", AWKWARD]
    assert found("instance=acct-2") == found("only=unhealthy") == []


def test_a_node_is_told_with_its_actors(site: Site) -> None:
    node_id = site.get(f"{API}/resources/account/ACC-1").json["node_id"]
    told = site.get(f"{API}/nodes/{node_id}?actors=2").json
    assert (told["node"]["node_id"], told["node"]["status"]) == (node_id, "running")
    addresses = {one["address"]: one for one in told["actors"]}
    assert addresses["/services/account/acct-1"]["left_out"] == 2
    assert addresses["/services/account/acct-1/ACC-1"]["state"] == "running"
    problem(site.get(f"{API}/nodes/nobody"), 404)


def test_either_node_answers_the_same_for_the_whole_system(site: Site) -> None:
    for path in ("/services", "/services/account", "/resources", "/resources/account/ACC-1"):
        other = site.get(API + path, site.two, Authorization=f"Bearer {TOKEN}")
        assert other.status == 200
        here, there = site.get(API + path).json, other.json
        for found in (here, there):  # what moves between two requests
            text = json.dumps(found)
            assert "account" in text
        assert set(here) == set(there)
        if "instance_id" in here:
            assert (here["instance_id"], here["epoch"]) == (there["instance_id"], there["epoch"])


def test_long_lists_come_in_pages_that_lack_and_repeat_nothing(site: Site) -> None:
    for kind, key, count in (("instances", "instance_id", 2), ("resources", "resource_id", 3)):
        seen: list[str] = []
        after = ""
        while True:
            page = site.get(f"{API}/{kind}?limit=1{after}").json
            seen += [one[key] for one in page[kind]]
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        assert len(seen) == len(set(seen)) == count


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("/services/acount", ["account"]),
        ("/resources/account/ACC-3", ["ACC-2", "ACC-1"]),
        ("/resources/acount/ACC-1", ["account"]),
    ],
)
def test_an_unknown_name_is_404_and_names_what_is_near(
    site: Site, path: str, near: list[str]
) -> None:
    told = problem(site.get(API + path), 404)
    assert sorted(told["near"]) == sorted(near)
    assert near[0] in told["detail"]


def test_an_unknown_instance_is_not_disconnected_and_named_with_what_is_near(site: Site) -> None:
    told = problem(ask(site.one, f"{API}/instances/acct-3/disconnect", method="POST"), 404)
    assert sorted(told["near"]) == ["acct-1", "acct-2"]


def test_an_instance_that_runs_elsewhere_by_now_is_409(site: Site) -> None:
    path = f"{API}/instances/acct-2/disconnect?node_id=another"
    told = problem(ask(site.one, path, method="POST"), 409)
    assert told["facts"]["holder"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (f"{API}/instances?limit=0", "limit"),
        (f"{API}/instances?limit=many", "limit"),
        (f"{API}/resources?after=nonsense", "after"),
        (f"{API}/failovers?after=nonsense", "after"),
        (f"{API}/tree?resources=-1", "resources"),
        (f"{API}/resources?only=lonely", "only"),
        (f"{API}/resources?contains=a%20b", "contains"),
        (f"{API}/nodes/some?actors=-1", "actors"),
        (f"{API}/services/{'x' * 201}", "name"),
        (f"{API}/resources/account/a%20b", "resource_id"),
    ],
)
def test_a_malformed_parameter_is_422_and_named(site: Site, path: str, field: str) -> None:
    told = problem(site.get(path), 422)
    assert field in told["detail"]


def test_unknown_paths_and_methods_are_problems_too(site: Site) -> None:
    problem(site.get("/api/v2"), 404)
    problem(ask(site.one, f"{API}/services", method="DELETE"), 405)


def test_the_description_is_whole_and_its_page_needs_no_other_site(site: Site) -> None:
    described = site.get("/api/v1/openapi.json").json
    for path in (
        *("/services", "/services/{name}", "/instances", "/resources/{service}/{resource_id}"),
        *("/tree", "/failovers", "/instances/{instance_id}/disconnect"),
    ):
        assert API + path in described["paths"]
    schemas = described["components"]["schemas"]
    assert set(schemas["Instance"]["properties"]) >= {"instance_id", "state", "role"}
    page = site.get("/api")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    text = page.body.decode()
    assert "//" not in text.replace("<!--", "")
    for name in ("style.css", "icon.svg", "reference.js"):
        assert f"/static/{name}" in text
        file = site.get(f"/static/{name}")
        assert file.status == 200
        assert b"http" not in file.body.replace(b"http://www.w3.org/2000/svg", b"")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    problem(site.get("/static/..%2F_admin_api.py"), 404)


def test_metrics_and_probes_answer_on_every_node(site: Site) -> None:
    for port, headers in ((site.one, {}), (site.two, {"Authorization": f"Bearer {TOKEN}"})):
        metrics = ask(port, "/metrics", headers=headers)
        assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert b'ipc_instances_online{service_name="account"} 1.0' in metrics.body
        assert ask(port, "/healthz").json["status"] == "ok"
        assert ask(port, "/readyz").json == {"ready": True, "reasons": []}


# -- who may ask -----------------------------------------------------------------------------


def test_beyond_loopback_nothing_is_told_without_the_token(site: Site) -> None:
    for path in (f"{API}/services", "/metrics", "/api/v1/openapi.json", f"{API}/tree"):
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": TOKEN},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": f"Bearer {TOKEN}x"},
        ):
            refused = ask(site.two, path, headers=headers)
            problem(refused, 401)
            assert refused.headers["www-authenticate"].startswith("Bearer")
            assert TOKEN.encode() not in refused.body
        assert ask(site.two, path, headers={"Authorization": f"Bearer {TOKEN}"}).status == 200


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    class Watched:
        @staticmethod
        def compare_digest(given: bytes, wanted: bytes) -> bool:
            compared.append((given, wanted))
            return hmac.compare_digest(given, wanted)

    monkeypatch.setattr(_admin_guard, "hmac", Watched)
    statuses: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    guard = Guard(app, host="127.0.0.1", token=TOKEN)
    for given in (b"Bearer a", f"Bearer {TOKEN}".encode()):
        scope = {"type": "http", "scheme": "http", "path": "/x", "raw_path": b"/x"}
        headers = [(b"host", b"localhost"), (b"authorization", given)]
        asyncio.run(guard({**scope, "headers": headers}, receive, send))
    assert statuses == [401, 200]
    assert compared == [(b"a", TOKEN.encode()), (TOKEN.encode(), TOKEN.encode())]


def test_a_start_beyond_loopback_without_a_token_is_refused(site: Site) -> None:
    result = site.run(f"accounts.py:Account --admin-host 0.0.0.0 --admin-port {free_port()}")
    assert result.returncode == 2
    assert "--admin-host: 0.0.0.0 can be reached from other hosts" in result.stderr
    assert "AEGIS_ADMIN_TOKEN" in result.stderr


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "rebound.example"},
        {"Host": ""},
    ],
)
def test_pages_of_other_sites_reach_nothing(site: Site, headers: dict[str, str]) -> None:
    path = f"{API}/instances/acct-1/disconnect"
    problem(ask(site.one, path, method="POST", headers=headers), 403)
    problem(ask(site.one, f"{API}/services", headers=headers), 403)
    still = site.get(f"{API}/resources/account/ACC-1").json
    assert still["instance_id"] == "acct-1"


def test_the_nodes_own_page_may_ask(site: Site) -> None:
    for host in (f"127.0.0.1:{site.one}", f"localhost:{site.one}"):
        headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        assert ask(site.one, f"{API}/services", headers=headers).status == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_413(site: Site, chunked: bool) -> None:
    path = f"{API}/instances/nobody/disconnect"
    large = b"x" * (MAX_BODY_BYTES + 1)
    problem(ask(site.one, path, method="POST", body=large, chunked=chunked), 413)
    problem(ask(site.one, path, method="POST", body=large[1:], chunked=chunked), 404)


def test_a_port_in_use_stops_the_start_and_says_so(site: Site) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = site.run(f"accounts.py:Account --instance-id late --admin-port {port}")
    assert result.returncode == 2
    assert f"127.0.0.1:{port} is in use; give another port" in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_the_extra_the_start_says_what_to_install(site: Site, tmp_path: Path) -> None:
    blocked = "import sys; sys.modules['litestar'] = None; from aegis.ops.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", blocked, "run", "accounts.py:Account", "--admin-port", "1"],
        cwd=site.folder,
        env={**os.environ, **site.environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert "install aegis-actors[admin]" in result.stderr


def test_a_node_without_admin_port_imports_nothing_of_it() -> None:
    looked = (
        "import sys; import aegis.ops.cli, aegis.ops._run, aegis._launch, aegis._node\n"
        "print([n for n in ('litestar', 'uvicorn', 'prometheus_client', 'httpx') "
        "if n in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", looked], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == "[]\n"


# -- what changes: last, since the others look at the system as it was -----------------------


async def test_a_disconnect_moves_what_the_instance_held_and_both_nodes_log_the_failover(
    site: Site,
) -> None:
    answer = ask(site.one, f"{API}/instances/acct-1/disconnect", method="POST")
    assert answer.status == 200
    assert answer.json["promoted"] == {"ACC-1": "acct-2"}
    assert sorted(answer.json["released"]) == sorted(["ACC-2", AWKWARD])

    for port in (site.one, site.two):

        def told(port: int = port) -> list[dict[str, Any]]:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            found: list[dict[str, Any]] = ask(port, f"{API}/failovers", headers=headers).json[
                "failovers"
            ]
            return [one for one in found if one["total_ms"] is not None]

        await wait_until(lambda: bool(told()), what="the failover is told")
        failover = told()[-1]
        assert failover["resource_id"] == "ACC-1"
        assert failover["old_instance_id"] == "acct-1"
        assert failover["new_instance_id"] == "acct-2"
        assert failover["cause"] == "disconnected"
    assert site.get(f"{API}/resources/account/ACC-1").json["instance_id"] == "acct-2"


async def test_a_signal_drains_the_node_which_answers_until_it_has_gone(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "slow.py").write_text(SLOW)
    environ = {"AEGIS_DATA_DIR": str(tmp_path / "nats"), "AEGIS_LOG_FORMAT": "json"}
    node = NodeProcess(
        f"slow.py:Slow --instance-id slow-1 --admin-port {port}", folder=tmp_path, environ=environ
    )
    caller: asyncio.subprocess.Process | None = None
    try:
        await asyncio.to_thread(node.wait_event, "node_started")
        caller = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "aegis", "call", "slow", "hold", f"folder={tmp_path}"),
            env={**os.environ, **environ, "AEGIS_TIMEOUT": "60"},
            stdout=asyncio.subprocess.DEVNULL,
        )
        await wait_until((tmp_path / "held").exists, what="the command runs", timeout=60)
        assert ask(port, "/readyz").status == 200
        node.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(node.wait_event, "draining")
        await wait_until(lambda: ask(port, "/readyz").status == 503, what="it is not ready")
        assert "the node is draining" in ask(port, "/readyz").json["reasons"]
        assert ask(port, "/healthz").status == 200
        (tmp_path / "free").touch()
        assert await asyncio.to_thread(node.process.wait, 60) == 0
        assert await caller.wait() == 0
    finally:
        (tmp_path / "free").touch()
        node.end()
        if caller is not None and caller.returncode is None:
            caller.kill()


SLOW = """
import asyncio
from pathlib import Path
from aegis import AegisActor, command

class Slow(AegisActor):
    service = "slow"

    @command
    async def hold(self, folder: str) -> None:
        Path(folder, "held").touch()
        while not Path(folder, "free").exists():
            await asyncio.sleep(0.01)
"""
