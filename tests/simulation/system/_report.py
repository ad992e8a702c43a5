"""What some hundred seeds of the whole system must have exercised."""

from __future__ import annotations

from collections import Counter
from typing import Final

__all__ = ["EXERCISED", "missing"]

EXERCISED: Final = (
    "acknowledgement: copied",
    "acknowledgement: late",
    "acknowledgement: lost",
    "answer to a beat: late",
    "append: again",
    "append: copied",
    "append: late",
    "append: lost",
    "applied: 200",
    "applied: 422",
    "applied: 500",
    "caller frozen",
    "caller killed",
    "clock jumped",
    "command ended: 200",
    "command ended: 404",
    "command ended: 504",
    "cut: between two",
    "cut: both ways",
    "cut: outward",
    "evicted",
    "feed: broken",
    "false disconnect event",
    "fence",
    "group of several entries",
    "leader changed",
    "message: copied",
    "message: late",
    "message: lost",
    "message: stopped by a cut",
    "node frozen",
    "node killed",
    "owner left alone",
    "query ended: 200",
    "query ended: 504",
    "read: late",
    "read: lost",
    "reconnected",
    "send ended: 200",
    "send ended: 504",
    "send: posted",
    "send: took effect",
    "server restarted",
    "snapshot record",
    "split",
    "start failed: 409",
    "taken by force",
    "unhealthy: died",
    "unhealthy: silence",
)
"""Each of these happens at least ten times in a hundred seeds, on average."""


def missing(counters: Counter[str]) -> list[str]:
    """Return what should have been exercised and was not."""
    return [name for name in EXERCISED if not counters[name]]
