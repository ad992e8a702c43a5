"""Prometheus and Grafana: rules and dashboards, on a real Prometheus that scrapes real nodes."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import AsyncGenerator, Generator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

import aegis
from aegis.transport._ports import free_port
from examples.accounts import Account
from tests.aegis.marketdata.test_metrics import NAMES as FEED_NAMES
from tests.aegis.marketdata.test_recorder import NAMES as RECORDER_NAMES
from tests.ops.test_metrics import NAMES
from tests.support.node_process import NodeProcess
from tests.support.poll import wait_until
from tests.support.prometheus import OPS, Prometheus, needs_prometheus, prometheus, promtool

ROOT = OPS.parent
RUNBOOKS = {"aegis": "docs/alerts.md", "feed": "ops/runbooks/feed-alerts.md"}
"""Where the alerts of each file of rules have their runbook."""

RULES = {name: OPS / "prometheus" / f"{name}.rules.yaml" for name in RUNBOOKS}
RULE_TESTS = {name: OPS / "prometheus" / f"{name}.rules.test.yaml" for name in RUNBOOKS}
DASHBOARDS = sorted((OPS / "grafana" / "dashboards").glob("*.json"))
TOKEN = "a-token-that-nobody-guesses"

LOSS = ("AegisNodeDown", "AegisFailover", "AegisNoStandby")
"""What fires when the node of an owner is killed that had one standby."""

MUTE = ("AegisFeedNotPublishing", "AegisFeedCoverageLost", "AegisFeedExchangeSilent")
"""What would fire at a feed that stands by, if that were not meant."""

MARKET = """
calendar = "always"
[universe]
include = ["SHFE.*"]
[feeds.a.simulated]
futures = 300
options = 0
rate = 4.0
[feeds.b.simulated]
futures = 300
options = 0
rate = 4.0
"""

pytestmark = pytest.mark.timeout(300)


def alerts(name: str) -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES[name].read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def panels(board: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(board.read_text(encoding="utf-8"))["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def queries(board: Path) -> dict[str, str]:
    """Every query of a dashboard, as Grafana would send it, by where it stands."""
    document = json.loads(board.read_text(encoding="utf-8"))
    found = {
        f"{panel['title']}/{target['refId']}": target["expr"]
        for panel in panels(board)
        for target in panel["targets"]
    }
    found |= {f"annotation {one['name']}": one["expr"] for one in document["annotations"]["list"]}
    return {
        place: re.sub(r"\$(job|service|market|feed)\b", ".*", expression).replace(
            "$__rate_interval", "1m"
        )
        for place, expression in found.items()
    }


def metrics_of(expression: str) -> set[str]:
    """The metrics that an expression is about."""
    return {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name in re.findall(
            r"\b(?:ipc|process|aegis_feed|aegis_recorder)_[a-z_]+\b",
            re.sub(r'"[^"]*"', "", expression),
        )
    }


# -- what needs no Prometheus ---------------------------------------------------------------


@pytest.mark.parametrize("rules", RUNBOOKS)
def test_each_alert_says_what_is_wrong_and_leads_to_its_runbook(rules: str) -> None:
    page = (ROOT / RUNBOOKS[rules]).read_text(encoding="utf-8")
    headings = re.findall(r"^## (\w+)$", page, re.MULTILINE)
    assert headings == list(alerts(rules))
    for name, rule in alerts(rules).items():
        notes = rule["annotations"]
        assert set(notes) == {"summary", "description", "runbook"}, name
        assert notes["runbook"] == f"{RUNBOOKS[rules]}#{name.lower()}"
        assert rule["labels"]["severity"] in ("warning", "critical")


@pytest.mark.parametrize("rules", RUNBOOKS)
def test_each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not(rules: str) -> None:
    seen: set[tuple[str, bool]] = set()
    for group in yaml.safe_load(RULE_TESTS[rules].read_text(encoding="utf-8"))["tests"]:
        for case in group["alert_rule_test"]:
            seen.add((case["alertname"], bool(case["exp_alerts"])))
    assert {name for name, fires in seen if fires} == set(alerts(rules))
    assert {name for name, fires in seen if not fires} == set(alerts(rules))


@pytest.mark.parametrize("source", [*RULES.values(), *DASHBOARDS], ids=lambda path: path.name)
def test_every_metric_that_is_asked_for_is_one_that_nodes_have(source: Path) -> None:
    if source in RULES.values():
        expressions = [rule["expr"] for rule in alerts(source.name.partition(".")[0]).values()]
    else:
        expressions = list(queries(source).values())
    of_processes = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
    known = (
        set(NAMES)
        | set(FEED_NAMES)
        | set(RECORDER_NAMES)
        | {"ipc_dead_letters_total"}
        | of_processes
    )
    asked = {metric for expression in expressions for metric in metrics_of(expression)}
    assert asked
    assert asked - known == set()


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_uses_the_data_source_that_is_provisioned(board: Path) -> None:
    provisioned = OPS / "grafana" / "provisioning" / "datasources" / "prometheus.yaml"
    (source,) = yaml.safe_load(provisioned.read_text(encoding="utf-8"))["datasources"]
    document = json.loads(board.read_text(encoding="utf-8"))
    used = set(re.findall(r'"uid": "([^"]+)"', json.dumps(document)))
    assert used == {source["uid"], document["uid"]}
    assert document["uid"] == board.stem
    numbers = [panel["id"] for panel in document["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in panels(board):
        assert panel["description"], panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24


# -- what Prometheus says -------------------------------------------------------------------


@needs_prometheus
def test_prometheus_takes_the_rules_and_the_configuration() -> None:
    folder = OPS / "prometheus"
    for arguments in (
        ("check", "rules", *(path.name for path in RULES.values())),
        ("check", "config", "--syntax-only", "prometheus.yaml"),
    ):
        done = promtool(*arguments, folder=folder)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_each_alert_fires_for_what_it_is_about_and_not_for_what_is_near() -> None:
    names = [path.name for path in RULE_TESTS.values()]
    done = promtool("test", "rules", *names, folder=OPS / "prometheus")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def nodes(tmp_path: Path) -> Generator[dict[str, tuple[NodeProcess, int]]]:
    """An owner and a standby of accounts, and of a market, each with its admin HTTP."""
    (tmp_path / "market.toml").write_text(MARKET)
    (tmp_path / "accounts.py").write_text((ROOT / "examples" / "accounts.py").read_text())
    environ = {
        "AEGIS_DATA_DIR": str(tmp_path / "nats"),
        "AEGIS_LOG_FORMAT": "json",
        "AEGIS_ADMIN_TOKEN": TOKEN,
        "AEGIS_FEED_CONFIG": str(tmp_path / "market.toml"),
    }
    accounts, market = "accounts.py:Account --resource A --resource B", "aegis.marketdata:Feed"
    started: dict[str, tuple[NodeProcess, int]] = {}
    try:
        for name, service, role in (
            ("acct-1", accounts, "active"),
            ("acct-2", accounts, "standby"),
            ("a", f"{market} --resource market", "active"),
            ("b", f"{market} --resource market", "standby"),
        ):
            port = free_port()
            node = NodeProcess(
                f"{service} --instance-id {name} "
                f"--role {role} --admin-port {port} --admin-host 127.0.0.1 --keep",
                folder=tmp_path,
                environ=environ,
            )
            started[name] = node, port
            node.wait_event("node_started", timeout=60)
        yield started
    finally:
        for node, _ in reversed(started.values()):
            node.end()


@pytest.fixture
async def scraping(
    tmp_path: Path, nodes: dict[str, tuple[NodeProcess, int]]
) -> AsyncGenerator[Prometheus]:
    targets = [f"127.0.0.1:{port}" for _, port in nodes.values()]
    async with prometheus(tmp_path / "prometheus", targets, TOKEN) as server:
        yield server


def has_values(scraping: Prometheus, expression: str) -> bool:
    return bool(scraping.query(expression))


@needs_prometheus
async def test_a_real_prometheus_scrapes_nodes_draws_the_dashboards_and_sees_a_failover(
    tmp_path: Path, nodes: dict[str, tuple[NodeProcess, int]], scraping: Prometheus
) -> None:
    await wait_until(
        lambda: scraping.value("sum(up)") == 4, what="all nodes are scraped", timeout=60
    )
    async with aegis.connect(data_dir=str(tmp_path / "nats"), timeout=30.0) as cluster:
        account = cluster.actor(Account, "A")
        for _ in range(20):
            await account.deposit(amount=Decimal(1))
            await account.balance()
        counted = 'sum(ipc_messages_total{kind="command", status="200"})'
        await wait_until(
            lambda: (scraping.value(counted) or 0) >= 20, what="what was handled is scraped"
        )
        assert scraping.value("sum(ipc_leading)") == 1
        assert scraping.value("sum(ipc_resources_without_standby)") == 0
        covered = "sum(aegis_feed_covered) == 144 and sum(aegis_feed_publishing) == 1"
        await wait_until(
            partial(has_values, scraping, covered), what="the market is covered", timeout=60
        )
        # A rate needs two samples.
        sampled = "min(count_over_time(ipc_processing_seconds_count[1m]))"
        await wait_until(
            lambda: (scraping.value(sampled) or 0) >= 2, what="there are samples enough"
        )
        for board in DASHBOARDS:
            for place, expression in queries(board).items():
                # What has not happened yet is not there: no failover, no conflict, ...
                quiet = re.search(
                    r"failover|Failover|Refused|Releases|conflicts|fenced|Registry|Reconnects|romotions",
                    place,
                )
                if not quiet:
                    # The other node may have been scraped once only so far.
                    await wait_until(
                        partial(has_values, scraping, expression),
                        what=f"{board.name}, {place} has values: {expression}",
                    )
        assert {rule["health"] for rule in scraping.rules().values()} == {"ok"}
        # Not more: on a busy machine commits are slow, and that rule waits for nothing here.
        firing = {name for name, rule in scraping.rules().items() if rule["state"] == "firing"}
        assert firing & {*LOSS, *MUTE} == set()

        nodes["acct-1"][0].end(signal.SIGKILL)
        await account.deposit(amount=Decimal(1))

    def fires(*names: str) -> bool:
        rules = scraping.rules()
        return all(rules[name]["state"] == "firing" for name in names)

    await wait_until(
        lambda: fires(*LOSS),
        what="the alerts of a lost node fire",
        timeout=60,
    )
    (alert,) = scraping.rules()["AegisFailover"]["alerts"]
    assert alert["labels"]["cause"] == "died"
    assert alert["annotations"]["summary"].startswith("account failed over")
    # Another may have to be elected first, and no rule waits here.
    await wait_until(lambda: not fires("AegisNoLeader"), what="another leads", timeout=60)
    assert not fires("AegisNoInstances")

    nodes["a"][0].end(signal.SIGKILL)
    await wait_until(
        lambda: fires("AegisFeedPromoted"), what="the standby of the market is promoted", timeout=60
    )
    (alert,) = scraping.rules()["AegisFeedPromoted"]["alerts"]
    assert (alert["labels"]["feed"], alert["labels"]["cause"]) == ("b", "node")
