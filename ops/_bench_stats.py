"""Exact percentiles, and medians over rounds: the arithmetic of `aegis bench`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median

from attrs import frozen

__all__ = [
    "Figures",
    "figures_of",
    "median_figures",
    "median_interval",
    "median_of",
    "percentile",
]


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest of ``ordered`` that is not below ``share`` of all (nearest rank).

    ``ordered`` is sorted; ``share`` is above 0 and at most 1. Nothing is estimated: the
    result is one of the values.

    Raises:
        ValueError: there are no values, or ``share`` is out of bounds.
    """
    if not ordered:
        raise ValueError("no values")
    if not 0 < share <= 1:
        raise ValueError(f"{share} is not above 0 and at most 1")
    return ordered[math.ceil(share * len(ordered)) - 1]


@frozen
class Figures:
    """What one measurement says: latencies in milliseconds, throughput by the second."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    per_second: float


def figures_of(latencies: Iterable[float], seconds: float) -> Figures:
    """Return the figures of ``latencies`` (seconds), measured within ``seconds``.

    With no latency at all they are infinite, and the throughput is 0.
    """
    ordered = sorted(latencies)
    if not ordered:
        return Figures(0, math.inf, math.inf, math.inf, 0.0)
    return Figures(
        count=len(ordered),
        p50_ms=percentile(ordered, 0.5) * 1000,
        p99_ms=percentile(ordered, 0.99) * 1000,
        max_ms=ordered[-1] * 1000,
        per_second=len(ordered) / seconds if seconds > 0 else 0.0,
    )


def median_figures(rounds: Sequence[Figures]) -> Figures:
    """Return the median of each figure over ``rounds``, and the sum of the counts."""
    return Figures(
        count=sum(figures.count for figures in rounds),
        p50_ms=median(figures.p50_ms for figures in rounds),
        p99_ms=median(figures.p99_ms for figures in rounds),
        max_ms=max(figures.max_ms for figures in rounds),
        per_second=median(figures.per_second for figures in rounds),
    )


def median_of(values: Sequence[float]) -> float | None:
    """Return the median of those ``values`` that are finite, None if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return median(finite) if finite else None


def median_interval(
    values: Sequence[float], *, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Return two of ``values`` between which the true median lies with ``confidence``.

    Nothing is assumed of how they are distributed: each is above the true median as likely
    as below it, so the number of those above is that of heads in as many throws of a coin.
    None if there are too few values for any such statement.
    """
    count, tail = len(values), (1 - confidence) / 2
    rank, below = 0, 0.5**count
    while below <= tail:
        rank += 1
        below += math.comb(count, rank) * 0.5**count
    if rank == 0:
        return None
    ordered = sorted(values)
    return ordered[rank - 1], ordered[count - rank]
