"""The log of failovers as the live page shows it (sans-I/O)."""

from __future__ import annotations

from itertools import islice
from typing import Final

from aegis.actors._failover_log import FailoverLog, Promotion
from aegis.ops._live_contracts import LiveFailover

__all__ = ["failover_rows"]

MAX_SHOWN: Final = 100
"""Decisions, the newest; each may have moved hundreds of resources."""

SHOWN_RESOURCES: Final = 8


def failover_rows(log: FailoverLog) -> dict[str, LiveFailover]:
    """Return the newest failovers.

    A resource that went on to yet another owner is waited for there, and no more here.
    """
    rows: dict[str, LiveFailover] = {}
    moved_on: set[tuple[str, str]] = set()
    for promotion in islice(log.newest_first(), MAX_SHOWN):
        keys = {(promotion.service, name) for name in promotion.epochs}
        open_ = {key for key in keys - moved_on if key[1] not in promotion.steps}
        if promotion.past:
            open_.clear()
        row = _row(promotion, len(open_))
        rows[row.id] = row
        moved_on |= keys
    return rows


def _row(promotion: Promotion, still_open: int) -> LiveFailover:
    steps = promotion.steps.values()
    slowest = max(steps, key=lambda one: one.covered, default=None)
    before = promotion.detected + promotion.decided
    return LiveFailover(
        id=f"{promotion.service}/{min(promotion.epochs.values(), default=0)}",
        trace_id=promotion.trace_id,
        at=promotion.at,
        service_name=promotion.service,
        cause=promotion.cause,
        old_instance_id=promotion.old_instance_id,
        new_instance_id=promotion.instance_id,
        resources=len(promotion.epochs),
        serving=len(promotion.epochs) - still_open,
        resource_ids=list(islice(promotion.epochs, SHOWN_RESOURCES)),
        detected_ms=_milliseconds(promotion.detected),
        decided_ms=_milliseconds(promotion.decided),
        fenced_ms=None if slowest is None else _milliseconds(slowest.fenced),
        replayed_ms=None if slowest is None else _milliseconds(slowest.replayed),
        covered_ms=None if slowest is None else _milliseconds(slowest.covered),
        total_ms=(
            None if slowest is None or still_open else _milliseconds(before + slowest.covered)
        ),
    )


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 1)
