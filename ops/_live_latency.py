"""How long messages took since the last look (sans-I/O), from what nodes count in buckets.

A node's buckets count from its start, so two looks at it are needed, and each message is in
one difference and no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from aegis.ops._histogram import BOUNDS, Histogram

__all__ = ["LiveLatency"]

COMMITS: Final = ""
"""Takes the place of a service's name for the commits of all."""

type _Buckets = Sequence[int]


class LiveLatency:
    """The times of all nodes between two `turn`s."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, _Buckets]] = {}
        self._growing: dict[str, list[int]] = {}
        self._last: dict[str, list[int]] = {}

    def heard(self, node_id: str, observed: Any) -> None:
        """Take over what a node has observed; one of another release may count otherwise."""
        if not isinstance(observed, Mapping):
            return
        facts = cast("Mapping[str, Any]", observed)
        handled = cast("Mapping[str, _Buckets]", facts.get("handled") or {})
        now: dict[str, _Buckets] = {**handled, COMMITS: facts.get("commits") or ()}
        now = {name: buckets for name, buckets in now.items() if len(buckets) == len(BOUNDS) + 1}
        before = self._seen.get(node_id)
        self._seen[node_id] = now
        for name, buckets in now.items() if before is not None else ():
            known = (before or {}).get(name) or [0] * len(buckets)
            growing = self._growing.setdefault(name, [0] * len(buckets))
            for index, (count, had) in enumerate(zip(buckets, known, strict=True)):
                growing[index] += max(0, count - had)

    def turn(self, nodes: Mapping[str, object]) -> None:
        """Begin to count anew; what was counted can be read. Other nodes are forgotten."""
        self._last, self._growing = self._growing, {}
        self._seen = {name: seen for name, seen in self._seen.items() if name in nodes}

    def of_service(self, service: str, share: float) -> float | None:
        """Return a quantile of a service's handlers, in milliseconds."""
        return _milliseconds(Histogram.quantile(self._last.get(service, ()), share))

    def of_handlers(self, share: float) -> float | None:
        """Return a quantile of all handlers, in milliseconds."""
        services = [buckets for name, buckets in self._last.items() if name != COMMITS]
        together = [sum(counts) for counts in zip(*services, strict=True)]
        return _milliseconds(Histogram.quantile(together, share))

    def of_commits(self, share: float) -> float | None:
        """Return a quantile of all commits, in milliseconds."""
        return _milliseconds(Histogram.quantile(self._last.get(COMMITS, ()), share))


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else float(f"{1000 * seconds:.3g}")
