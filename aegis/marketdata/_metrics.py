"""The metrics of the feeds of this node, for Prometheus.

They are in prometheus-client's default registry, which a node exposes at ``/metrics`` with
its own. No label takes a contract: their number has no bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from math import inf
from typing import Any, Final

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from aegis import Role
from aegis.marketdata._figures import BRIDGE_BOUNDS, LAG_BOUNDS
from aegis.marketdata._gateway_host import GatewayHost
from aegis.marketdata._ports import GatewayState

__all__ = ["FeedMetrics"]

type _Report = Mapping[str, Any]
type _Sample = tuple[Sequence[str], float]
"""The values of the labels, those of `_LABELS` first, and the number."""

type _Figures = Mapping[tuple[str, str], Mapping[str, Any]]
"""By the values of `_LABELS`."""

_LABELS: Final = ("market", "feed")

_OF_FEEDS: Final[tuple[tuple[str, str, Callable[[GatewayHost], float]], ...]] = (
    ("publishing", "Whether ticks leave.", lambda host: host.status.get("publishing", False)),
    ("due", "Whether a session is near or under way, by the calendar.", lambda host: host.is_due),
    ("epoch", "Under which it publishes; 0 of a standby.", lambda host: host.epoch),
    ("contracts", "Contracts that the gateway has told of.", lambda host: len(host.contracts)),
    (
        "contracts_load_seconds",
        "How long the gateway took to tell of all contracts, the last time.",
        lambda host: host.status.get("contracts_load_seconds", 0.0),
    ),
    (
        "calendar_days_left",
        "Trading days that the calendar knows, from the one at hand on.",
        lambda host: inf if host.calendar_days_left is None else host.calendar_days_left,
    ),
    (
        "event_queue",
        "Events that wait in the gateway.",
        lambda host: host.status.get("gateway", {}).get("event_queue", 0),
    ),
    (
        "bridge_depth",
        "Ticks that wait between the gateway's thread and the loop.",
        lambda host: host.status.get("bridge", {}).get("depth", 0),
    ),
)

_OF_EXCHANGES: Final[tuple[tuple[str, str, Callable[[_Report], float]], ...]] = (
    ("subscribed", "Contracts that are wanted.", lambda report: report["wanted"]),
    ("covered", "Contracts heard of on this trading day.", lambda report: report["covered"]),
    ("missing", "Contracts not heard of yet.", lambda report: report["missing_count"]),
    ("stalled", "Contracts quiet for too long.", lambda report: report["stalled_count"]),
    (
        "exchange_silent",
        "Whether none of its contracts ticks though it is open.",
        lambda report: report["silent"],
    ),
    (
        "trading",
        "Whether there is continuous trading by the calendar.",
        lambda report: report["phase"] == "open",
    ),
)

_SINGLES: Final = (
    ("reconnects", "reason", "Connections that were lost, by the code of the reason."),
    ("login_failures", "code", "Logins that were refused, by the vendor's code."),
    ("rate_limited", "kind", "What the front refused as too much."),
)

_PAIRS: Final = (
    (
        "ticks",
        "outcome",
        "Ticks by what became of them; stale ones are published or withheld besides.",
    ),
    (
        "escalations",
        "kind",
        "Contracts that stayed missing or stalled after they had been subscribed again.",
    ),
)


class FeedMetrics(Collector):
    """Tells how the feeds of a node stand, whenever it is scraped."""

    def __init__(self, hosts: Mapping[str, GatewayHost]) -> None:
        self._hosts = hosts

    @classmethod
    def register(cls, hosts: Mapping[str, GatewayHost]) -> None:
        """Tell of these, and of those that are added later, from now on."""
        REGISTRY.register(cls(hosts))

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        hosts = list(self._hosts.values())
        yield _gauge("state", "1 for the gateway's state.", ["state"], _states(hosts))
        yield _gauge("role", "1 for the feed's role.", ["role"], _roles(hosts))
        for name, text, of_feed in _OF_FEEDS:
            yield _gauge(name, text, [], ((host.labels, of_feed(host)) for host in hosts))
        reports = [(host.labels, told) for host in hosts for told in host.exchanges]
        for name, text, of_exchange in _OF_EXCHANGES:
            samples = (((*labels, told["exchange"]), of_exchange(told)) for labels, told in reports)
            yield _gauge(name, text, ["exchange"], samples)
        figures = {host.labels: host.figures() for host in hosts}
        for name, label, text in _SINGLES:
            yield _counter(name, text, [label], _singles(figures, name))
        for name, label, text in _PAIRS:
            yield _counter(name, text, ["exchange", label], _pairs(figures, name))
        promotions = {host.labels: {"promotions": host.promotions} for host in hosts}
        yield _counter(
            "promotions",
            "How often the feed became the active one, by what had become of the one before.",
            ["cause"],
            _singles(promotions, "promotions"),
        )
        yield from _histograms(figures)


def _states(hosts: Iterable[GatewayHost]) -> Iterator[_Sample]:
    for host in hosts:
        for state in GatewayState:
            yield (*host.labels, state.value), state == host.state


def _roles(hosts: Iterable[GatewayHost]) -> Iterator[_Sample]:
    for host in hosts:
        for role in Role:
            yield (*host.labels, role.value), role == host.role


def _singles(figures: _Figures, name: str) -> Iterator[_Sample]:
    for labels, told in figures.items():
        for value, number in told.get(name, {}).items():
            yield (*labels, value), number


def _pairs(figures: _Figures, name: str) -> Iterator[_Sample]:
    for labels, told in figures.items():
        for exchange, numbers in told.get(name, {}).items():
            for value, number in numbers.items():
                yield (*labels, exchange, value), number


def _histograms(figures: _Figures) -> Iterator[Metric]:
    lags = _histogram("lag_seconds", "From the exchange's clock to the gateway's.", ["exchange"])
    bridged = _histogram("bridge_seconds", "From the gateway's callback to the publisher.", [])
    for labels, told in figures.items():
        for exchange, durations in told.get("lag", {}).items():
            _add(lags, [*labels, exchange], LAG_BOUNDS, durations)
        if "bridge" in told:
            _add(bridged, labels, BRIDGE_BOUNDS, told["bridge"])
    yield lags
    yield bridged


def _gauge(
    name: str, text: str, labels: Sequence[str], samples: Iterable[_Sample]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"aegis_feed_{name}", text, labels=[*_LABELS, *labels])
    for values, number in samples:
        family.add_metric(values, number)
    return family


def _counter(
    name: str, text: str, labels: Sequence[str], samples: Iterable[_Sample]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"aegis_feed_{name}", text, labels=[*_LABELS, *labels])
    for values, number in samples:
        family.add_metric(values, number)
    return family


def _histogram(name: str, text: str, labels: Sequence[str]) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"aegis_feed_{name}", text, labels=[*_LABELS, *labels])


def _add(
    family: HistogramMetricFamily,
    values: Sequence[str],
    bounds: Sequence[float],
    durations: Sequence[float],
) -> None:
    """Add a histogram that travelled as `Durations.plain`."""
    shown = [*(f"{bound:g}" for bound in bounds), "+Inf"]
    family.add_metric(
        values, list(zip(shown, accumulate(durations[1:]), strict=True)), durations[0]
    )
