"""The metrics of the recorders of this node, for Prometheus.

They are in prometheus-client's default registry, which a node exposes at ``/metrics`` with
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from aegis.marketdata._recorder import RecorderState

__all__ = ["RecorderMetrics"]

LABELS = ("market", "recorder", "target")


class RecorderMetrics(Collector):
    """How the recorders do: ``statuses`` are what their query ``status`` answers."""

    def __init__(self, statuses: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        self._statuses = statuses

    @classmethod
    def register(cls, statuses: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        """Tell of these from now on."""
        REGISTRY.register(cls(statuses))

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        ticks = CounterMetricFamily(
            "aegis_recorder_ticks", "Ticks by what became of them.", labels=[*LABELS, "outcome"]
        )
        waiting = GaugeMetricFamily(
            "aegis_recorder_waiting", "Ticks that wait in memory.", labels=LABELS
        )
        behind = GaugeMetricFamily(
            "aegis_recorder_behind_seconds",
            "How long the oldest ticks that should be recorded by now are not.",
            labels=LABELS,
        )
        state = GaugeMetricFamily(
            "aegis_recorder_state", "1 for the state it is in.", labels=[*LABELS, "state"]
        )
        for status in self._statuses():
            for target in ("folder", "stream"):
                told: Mapping[str, Any] | None = status[target]
                if told is None:
                    continue
                labels = (str(status["market"]), str(status["recorder"]), target)
                for outcome, count in told["ticks"].items():
                    ticks.add_metric([*labels, outcome], count)
                waiting.add_metric(labels, told["waiting"])
                behind.add_metric(labels, told["behind_seconds"])
                for one in RecorderState:
                    state.add_metric([*labels, one.value], one == told["state"])
        yield from (ticks, waiting, behind, state)
