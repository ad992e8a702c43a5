"""How long messages took lately (sans-I/O), from what nodes count in buckets.

The buckets of a node count from its start, so two looks at it are needed, and each message
is in one difference and no other.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, Final, cast

from aegis.ops._histogram import BOUNDS, Histogram

__all__ = ["Latency"]

COMMITS: Final = ""
"""Takes the place of a service's name for the commits of all."""

type _Buckets = Sequence[int]
type _Key = tuple[str, str]  # node, service


class Latency:
    """What all nodes have timed between the last two `turn`s; quantiles are milliseconds."""

    def __init__(self) -> None:
        self._seen: dict[_Key, _Buckets] = {}
        self._known: set[str] = set()
        self._growing: dict[_Key, list[int]] = {}
        self._last: dict[_Key, list[int]] = {}

    def heard(self, node_id: str, observed: Any) -> None:
        """Take over what a node has observed; one of another release may count otherwise."""
        if not isinstance(observed, Mapping):
            return
        for service, buckets in _services(cast("Mapping[str, Any]", observed)).items():
            key = (node_id, service)
            before = self._seen.get(key)
            self._seen[key] = buckets
            if before is None:
                if node_id not in self._known:
                    continue
                before = [0] * len(buckets)
            growing = self._growing.setdefault(key, [0] * len(buckets))
            for index, (count, had) in enumerate(zip(buckets, before, strict=True)):
                growing[index] += max(0, count - had)
        self._known.add(node_id)

    def turn(self, nodes: Container[str]) -> None:
        """Begin to count anew; what was counted can be read. Other nodes are forgotten."""
        self._last, self._growing = self._growing, {}
        self._seen = {key: seen for key, seen in self._seen.items() if key[0] in nodes}
        self._known = {name for name in self._known if name in nodes}

    def of_handlers(
        self, share: float, *, service: str | None = None, node_id: str | None = None
    ) -> float | None:
        """Return a quantile of handlers: of all, or of one service, or one node."""
        chosen = [
            buckets
            for (node, name), buckets in self._last.items()
            if name != COMMITS and node_id in (None, node) and service in (None, name)
        ]
        return _quantile(chosen, share)

    def of_commits(self, share: float) -> float | None:
        """Return a quantile of all commits."""
        return _quantile([b for (_, name), b in self._last.items() if name == COMMITS], share)


def _services(observed: Mapping[str, Any]) -> dict[str, _Buckets]:
    handled = observed.get("handled")
    told: dict[str, Any] = dict(handled) if isinstance(handled, Mapping) else {}  # pyright: ignore
    told[COMMITS] = observed.get("commits")
    size = len(BOUNDS) + 1
    return {
        name: found
        for name, found in told.items()
        if isinstance(found, list | tuple) and len(found) == size  # pyright: ignore
    }


def _quantile(histograms: Sequence[_Buckets], share: float) -> float | None:
    together = [sum(counts) for counts in zip(*histograms, strict=True)]
    seconds = Histogram.quantile(together, share)
    # Three digits tell a person enough, and what does not change is not sent.
    return None if seconds is None else float(f"{1000 * seconds:.3g}")
