"""How long the messages of a node take, by service, kind and status.

Timing is on the path of every message, so that does no more than append to a list: what is
in the lists goes into the buckets of histograms by the hundred.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import define, field

from aegis._clock import Clock
from aegis.actors._cell import ActorCell
from aegis.actors._observer import Observer
from aegis.ops._histogram import Histogram

__all__ = ["Handled", "Timings", "WatchedTimings"]

MAX_UNSORTED: Final = 512
"""Values of one kind that wait to be sorted. Together they stay in the processor's nearest
cache, and many more would take longer to sort, each."""

WATCHED_SECONDS: Final = 30.0
"""For so long after the last look somebody is taken to be watching."""

_NO_BUCKETS: Final = tuple(Histogram().buckets)


@define(eq=False)
class Handled:
    """The messages of one service and kind: their times, and their number by status."""

    seconds: Histogram = field(factory=Histogram)
    statuses: dict[int, int] = field(factory=dict[int, int])


class Timings(Observer):
    """Times each message and each commit."""

    def __init__(self) -> None:
        self.handled: dict[tuple[str, str], Handled] = {}
        """By service and kind, as far as they are sorted."""
        self.commits = Histogram()
        self._unsorted: dict[tuple[str, str, int], list[float]] = {}
        self._unsorted_commits: list[float] = []

    def on_message_handled(self, cell: ActorCell, kind: str, status: int, seconds: float) -> None:
        """Count it."""
        try:
            values = self._unsorted[cell.spec.service, kind, status]
        except KeyError:
            values = self._unsorted[cell.spec.service, kind, status] = []
        values.append(seconds)
        if len(values) >= MAX_UNSORTED:
            self.sort()

    def on_committed(self, seconds: float) -> None:
        """Count it."""
        self._unsorted_commits.append(seconds)
        if len(self._unsorted_commits) >= MAX_UNSORTED:
            self.sort()

    def facts(self, *, watched: bool = False) -> Mapping[str, Any]:
        """Return the buckets of all times since the start: ``handled`` of each service."""
        self.sort()
        services: dict[str, list[int]] = {}
        for (service, _), handled in self.handled.items():
            known = services.get(service, _NO_BUCKETS)
            services[service] = [a + b for a, b in zip(known, handled.seconds.buckets, strict=True)]
        return {"handled": services, "commits": list(self.commits.buckets)}

    def sort(self) -> None:
        """Put what has come since the last time into its buckets; on the event loop."""
        for (service, kind, status), values in self._unsorted.items():
            if not values:
                continue
            handled = self.handled.get((service, kind))
            if handled is None:
                # Kinds are shown, and an enumeration's member is not always its text.
                handled = self.handled[service, str(kind)] = Handled()
            handled.statuses[status] = handled.statuses.get(status, 0) + handled.seconds.take(
                values
            )
        if self._unsorted_commits:
            self.commits.take(self._unsorted_commits)


class WatchedTimings(Timings):
    """Times messages only while somebody watches, for a node whose metrics nobody scrapes."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._watched = False
        self._asked = 0.0

    def on_message_handled(self, cell: ActorCell, kind: str, status: int, seconds: float) -> None:
        """Count it, if somebody watches."""
        if self._watched:
            super().on_message_handled(cell, kind, status, seconds)

    def on_committed(self, seconds: float) -> None:
        """Count it, if somebody watches."""
        if self._watched:
            super().on_committed(seconds)

    def facts(self, *, watched: bool = False) -> Mapping[str, Any]:
        """Return the buckets; those of services that were timed at no time are missing."""
        if watched:
            self._watched, self._asked = True, self._clock.boot_seconds()
        return super().facts()

    def sort(self) -> None:
        """Sort what has come, and stop if nobody has asked for a while."""
        super().sort()
        if self._watched and self._clock.boot_seconds() - self._asked > WATCHED_SECONDS:
            self._watched = False
