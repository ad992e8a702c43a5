"""What a run of many seeds has exercised."""

from __future__ import annotations

from collections import Counter
from typing import Final

__all__ = ["EXERCISED", "coverage_table", "missing"]

EXERCISED: Final = (
    "a late fence of another owner passed over",
    "acknowledgement: copied",
    "acknowledgement: late",
    "acknowledgement: lost",
    "actor restarted",
    "answer after the end",
    "append unknown: repeated",
    "append: again",
    "append: copied",
    "append: late",
    "append: lost",
    "append: refused",
    "applied: 200",
    "applied: 422",
    "applied: 500",
    "call repeated",
    "call: copied",
    "call: late",
    "call: lost",
    "caller crashed",
    "claim made",
    "command ended: 200",
    "command ended: 400",
    "command ended: 404",
    "command ended: 410",
    "command ended: 422",
    "command ended: 429",
    "command ended: 500",
    "command ended: 503",
    "command ended: 504",
    "control: copied",
    "control: late",
    "control: lost",
    "crash at: acknowledged, not answered",
    "crash at: after the handler",
    "crash at: append under way",
    "crash at: attempt under way",
    "crash at: before the claim",
    "crash at: before the handler",
    "crash at: between two answers",
    "crash at: claim under way",
    "crash at: claimed, not answered",
    "crash at: epoch record under way",
    "crash at: replay",
    "demoted",
    "duplicate answered from the table",
    "expired in the mailbox",
    "fence of a lower epoch landed late",
    "fenced",
    "group call: copied",
    "group call: late",
    "group call: lost",
    "group cut",
    "group ended: 200",
    "group ended: 404",
    "group ended: 410",
    "group ended: 422",
    "group ended: 504",
    "group of several entries",
    "group: an outcome is not pursued",
    "group: another claim stands",
    "group: silence",
    "group: the clock is too far",
    "journal begun",
    "journal record",
    "late acknowledgement",
    "no responders",
    "node crashed",
    "node paused",
    "node reconnected",
    "own append found in the tail",
    "owner found itself fenced",
    "promotion",
    "query ended: 200",
    "query ended: 404",
    "query ended: 408",
    "query ended: 421",
    "query ended: 429",
    "query ended: 503",
    "query without a lease",
    "read lagged",
    "refused by the table: done",
    "refused by the table: too old",
    "session begun anew",
    "session dropped",
    "snapshot record",
    "state reloaded from the journal",
    "stood down: a newer epoch",
    "store unavailable",
    "two promotions at once",
    "waited for an earlier lease",
    "window of the caller full",
)
"""What a run of some hundred seeds must have met at least once each."""


def coverage_table(counters: Counter[str]) -> str:
    """Return the counters as lines of text."""
    return "\n".join(f"{count:12,}  {name}" for name, count in sorted(counters.items()))


def missing(counters: Counter[str]) -> list[str]:
    """Return what a full run should have exercised and did not."""
    return [name for name in EXERCISED if not counters[name]]
