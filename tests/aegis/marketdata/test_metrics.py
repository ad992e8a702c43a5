"""The metrics of a feed: from what its pipeline counts to what Prometheus reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from aegis import Role
from aegis.marketdata._bridge import Bridge
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._contract import UniverseFilter
from aegis.marketdata._figures import LAG_BOUNDS, Durations, Figures, added
from aegis.marketdata._gateway_host import GatewayHost
from aegis.marketdata._gateway_process import status_of
from aegis.marketdata._metrics import FeedMetrics
from aegis.marketdata._page_view import status_view
from aegis.marketdata._pipeline import FeedPipeline
from aegis.marketdata._ports import GatewayFailure, GatewayState, GatewayStatistics
from tests.aegis.marketdata.test_pipeline import CU, RB, Gateway, Publisher
from tests.support.marketdata import ns, raw_tick, tick

FEED = {"market", "feed"}
EXCHANGE = {*FEED, "exchange"}
NAMES = {
    "aegis_feed_subscribed": EXCHANGE,
    "aegis_feed_covered": EXCHANGE,
    "aegis_feed_missing": EXCHANGE,
    "aegis_feed_stalled": EXCHANGE,
    "aegis_feed_exchange_silent": EXCHANGE,
    "aegis_feed_trading": EXCHANGE,
    "aegis_feed_ticks_total": {*EXCHANGE, "outcome"},
    "aegis_feed_lag_seconds": EXCHANGE,
    "aegis_feed_bridge_seconds": FEED,
    "aegis_feed_event_queue": FEED,
    "aegis_feed_bridge_depth": FEED,
    "aegis_feed_state": {*FEED, "state"},
    "aegis_feed_publishing": FEED,
    "aegis_feed_role": {*FEED, "role"},
    "aegis_feed_reconnects_total": {*FEED, "reason"},
    "aegis_feed_login_failures_total": {*FEED, "code"},
    "aegis_feed_rate_limited_total": {*FEED, "kind"},
    "aegis_feed_contracts": FEED,
    "aegis_feed_due": FEED,
    "aegis_feed_calendar_days_left": FEED,
    "aegis_feed_contracts_load_seconds": FEED,
    "aegis_feed_epoch": FEED,
    "aegis_feed_promotions_total": {*FEED, "cause"},
    "aegis_feed_escalations_total": {*EXCHANGE, "kind"},
}
"""All metrics of a feed with their labels; alerts and dashboards are made of these."""


class MeasuredGateway(Gateway):
    """One that tells of its queue and of its front's limits."""

    def statistics(self) -> GatewayStatistics:
        return GatewayStatistics(17, {"per_second": 2})


class Node:
    """A feed's pipeline, its owner that is told what it counts, and a scrape of that."""

    def __init__(self, calendar: Calendar, loop: asyncio.AbstractEventLoop) -> None:
        self.now = 100.0
        self.wall = ns("2026-11-23 10:00:01")
        self.host = GatewayHost(Path("market.toml"), "a", market="night")
        self._calendar = calendar
        self._loop = loop
        self.expose()
        self.begin_life()

    def expose(self) -> None:
        """Have the present owner scraped."""
        self._registry = CollectorRegistry()
        self._registry.register(FeedMetrics({"a": self.host}))

    def begin_life(self) -> None:
        """Go on with another process of the gateway."""
        self.host.end_life()
        self.gateway = MeasuredGateway()
        self.pipeline = FeedPipeline(
            self.gateway,
            Publisher(),
            self._calendar,
            UniverseFilter(("*",)),
            now=lambda: self.now,
            wall_ns=lambda: self.wall,
        )
        self.bridge = Bridge(self._loop, self.pipeline, bound=1)

    def connect(self) -> None:
        self.pipeline.on_state(GatewayState.LOADING_CONTRACTS, None)
        self.now += 1.5
        self.pipeline.on_contract(RB)
        self.pipeline.on_contract(CU)
        self.pipeline.on_state(GatewayState.READY, None)

    def tell(self) -> None:
        """Have the owner hear what its process says twice a second."""
        status = status_of(self.pipeline, self.gateway, self.bridge, connected=True)
        self.host.hear(json.loads(json.dumps({"told": "status", "status": status})))

    def labels(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(self.exposition()):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            for sample in family.samples:
                found.setdefault(name, set()).update(set(sample.labels) - {"le"})
        return found

    def exposition(self) -> str:
        return generate_latest(self._registry).decode()

    def value(self, name: str, **labels: str) -> float:
        """Return one sample, or -1 if there is none."""
        known = {"market": "night", "feed": "a"}
        for family in text_string_to_metric_families(self.exposition()):
            for sample in family.samples:
                if sample.name == f"aegis_feed_{name}" and sample.labels == {**known, **labels}:
                    return sample.value
        return -1.0


@pytest.fixture
def node(calendar: Calendar) -> Iterator[Node]:
    loop = asyncio.new_event_loop()
    yield Node(calendar, loop)
    loop.close()


def test_every_metric_is_there_with_its_labels_and_no_contract(node: Node) -> None:
    node.connect()
    node.pipeline.activate(7, 1.5)
    node.pipeline.on_ticks([raw_tick(), raw_tick(volume=200)], False)
    node.pipeline.on_state(GatewayState.CONNECTING, GatewayFailure("cut", 8193))
    node.pipeline.on_state(GatewayState.LOGGING_IN, None)
    node.pipeline.on_state(GatewayState.FAILED, GatewayFailure("wrong password", 3, permanent=True))
    node.pipeline.figures.escalations["SHFE", "missing"] += 1
    node.host.promotions["silence"] += 1
    node.tell()
    assert node.labels() == NAMES
    assert "rb2701" not in node.exposition()


def test_ticks_are_counted_by_exchange_and_what_became_of_them(node: Node) -> None:
    node.connect()
    node.pipeline.activate(7, 1.5)
    node.pipeline.on_ticks([raw_tick(), raw_tick(), raw_tick(volume=1)], False)
    node.pipeline.on_ticks([raw_tick(exchange="NYSE"), raw_tick(symbol="cu2701")], False)
    node.bridge.on_tick(raw_tick())
    for _ in range(3):
        node.bridge.on_tick(raw_tick(symbol="cu2701"))
    node.tell()
    outcomes = {
        outcome: node.value("ticks_total", exchange="SHFE", outcome=outcome)
        for outcome in ("published", "duplicate", "older", "conflated", "lost")
    }
    assert outcomes == {
        "published": 2,
        "duplicate": 1,
        "older": 1,
        "conflated": 2,
        "lost": -1,
    }
    # The name of no exchange becomes no label, whatever a vendor sends.
    assert node.value("ticks_total", exchange="other", outcome="invalid") == 1
    assert node.value("bridge_depth") == 2


def test_how_late_ticks_are_is_told_in_buckets(node: Node) -> None:
    node.connect()
    node.pipeline.activate(7, 1.5)
    node.wall = raw_tick().received_ns + 7_000_000
    node.pipeline.on_ticks([raw_tick(), raw_tick(volume=200)], False)
    node.tell()
    # The first of a contract is how it stood, and tells no lag; the other has 20 ms.
    assert node.value("lag_seconds_count", exchange="SHFE") == 1
    assert node.value("lag_seconds_bucket", exchange="SHFE", le="0.01") == 0
    assert node.value("lag_seconds_bucket", exchange="SHFE", le="0.025") == 1
    assert node.value("lag_seconds_sum", exchange="SHFE") == pytest.approx(0.02)
    assert node.value("bridge_seconds_bucket", le="0.005") == 0
    assert node.value("bridge_seconds_bucket", le="0.01") == 2
    assert node.value("bridge_seconds_sum") == pytest.approx(0.014)


def test_what_one_life_of_the_gateway_counted_is_not_lost_with_it(node: Node) -> None:
    for _ in range(2):
        node.connect()
        node.pipeline.activate(7, 1.5)
        node.pipeline.on_ticks([raw_tick(), raw_tick(volume=200)], False)
        node.pipeline.on_state(GatewayState.CONNECTING, GatewayFailure("cut", 8193))
        node.tell()
        node.begin_life()
    assert node.value("ticks_total", exchange="SHFE", outcome="published") == 4
    assert node.value("lag_seconds_count", exchange="SHFE") == 2
    assert node.value("reconnects_total", reason="8193") == 2
    assert node.value("rate_limited_total", kind="per_second") == 4
    # What is so at the moment is not told while there is nobody to tell it.
    assert node.value("covered", exchange="SHFE") == -1
    assert node.value("state", state="stopped") == 1


def test_it_is_told_how_the_feed_stands(node: Node) -> None:
    node.host.role, node.host.epoch = Role.ACTIVE, 7
    node.connect()
    node.pipeline.activate(7, 1.5)
    node.pipeline.on_ticks([raw_tick()], False)
    node.tell()
    told = {
        "event_queue": 17,
        "contracts_load_seconds": 1.5,
        "publishing": 1,
        "epoch": 7,
    }
    assert {name: node.value(name) for name in told} == told
    assert node.value("role", role="active") == 1
    assert node.value("role", role="standby") == 0
    assert node.value("state", state="ready") == 1
    assert node.value("state", state="failed") == 0
    shfe = ("subscribed", "covered", "missing", "stalled", "trading", "exchange_silent")
    assert [node.value(name, exchange="SHFE") for name in shfe] == [2, 1, 1, 0, 1, 0]


def test_the_days_that_a_calendar_still_knows_are_told(node: Node) -> None:
    assert node.value("calendar_days_left") == float("inf")
    ended = Calendar.from_tables(
        {"timezone": "Asia/Shanghai", "holidays": {"2000": []}, "sessions": []}
    )
    node.host = GatewayHost(Path("market.toml"), "a", market="night", calendar=ended)
    node.expose()
    assert node.value("calendar_days_left") == 0
    assert status_view(node.host)["calendar_days_left"] == 0


def test_a_refused_login_is_counted_by_its_code_and_no_disconnect_is(node: Node) -> None:
    node.pipeline.on_state(GatewayState.LOGGING_IN, None)
    node.pipeline.on_state(GatewayState.FAILED, GatewayFailure("wrong password", 3, permanent=True))
    node.tell()
    assert node.value("login_failures_total", code="3") == 1
    assert "reconnects_total{" not in node.exposition()


def test_durations_beyond_all_bounds_and_below_zero_are_counted() -> None:
    durations = Durations(LAG_BOUNDS)
    durations.take([100.0, -5.0, 0.01])
    total, *buckets = durations.plain()
    assert total == pytest.approx(100.01)
    assert (buckets[0], buckets[-1], sum(buckets)) == (2, 1, 3)


def test_percentiles_are_those_of_the_newest_ticks_alone() -> None:
    figures = Figures()
    figures.lags["SHFE"] += [5.0] * 10_000
    figures.fill()
    assert figures.lag(0.5, 0.99) == [5.0, 5.0]
    for _ in range(9):
        figures.fill()
    assert figures.lag(0.99) == [5.0]
    figures.fill()
    assert figures.lag(0.99) == [None]


def test_figures_are_added_key_by_key() -> None:
    assert added({"a": {"x": 1}, "b": [1.0, 2]}, {"a": {"x": 2, "y": 3}, "c": 4}) == {
        "a": {"x": 3, "y": 3},
        "b": [1.0, 2],
        "c": 4,
    }


def test_counting_looks_at_every_tick() -> None:
    figures = Figures()
    figures.count("published", [tick(), tick(exchange="DCE"), tick()])
    assert figures.outcomes() == {"published": 3}
    assert figures.ticks["SHFE", "published"] == 2
