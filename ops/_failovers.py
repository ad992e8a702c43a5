"""The failovers of the whole system, put together from the events that every node hears.

The leader tells that an instance was promoted, and the new owner tells later that it
serves, with the time of each of its steps. Either may come first, or not at all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import define

from aegis._clock import Clock

__all__ = ["Failover", "FailoverLog"]

MAX_KEPT: Final = 10_000
"""Failovers that are remembered, the newest."""

type _Key = tuple[str, str, int]


@define
class Failover:
    """One resource that went from one owner to another. Durations are milliseconds.

    ``detected_ms`` is for how long the old owner had given no sign of life when that was
    noticed, ``decided_ms`` how long it took to put the new owner on record. The others run
    from the start of the promotion to the end of each step, of resources that are told
    together the longest; they are None until the new owner has told. ``total_ms`` is from the last sign of life to the first possible answer.
    """

    service_name: str
    resource_id: str
    epoch: int
    at: float
    """When this node heard of it, in Unix seconds."""
    cause: str = ""
    old_instance_id: str = ""
    new_instance_id: str = ""
    new_node_id: str = ""
    detected_ms: float = 0.0
    decided_ms: float = 0.0
    fenced_ms: float | None = None
    replayed_ms: float | None = None
    covered_ms: float | None = None

    @property
    def total_ms(self) -> float | None:
        """All of it, or None as long as the new owner does not answer."""
        if self.covered_ms is None:
            return None
        return round(self.detected_ms + self.decided_ms + self.covered_ms, 3)


class FailoverLog:
    """The failovers that were heard of; ``on_complete`` is told when one is known whole."""

    def __init__(self, clock: Clock, on_complete: Callable[[Failover], object]) -> None:
        self._clock = clock
        self._on_complete = on_complete
        self._failovers: OrderedDict[_Key, Failover] = OrderedDict()
        self._served: OrderedDict[_Key, Mapping[str, Any]] = OrderedDict()

    def newest_first(self) -> list[Failover]:
        """Return all that are remembered."""
        return list(reversed(self._failovers.values()))

    def on_event(self, facts: Mapping[str, Any]) -> None:
        """Take in an event of the system; those of other kinds are passed over.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is not as it should be.
        """
        name = facts.get("event")
        # Without an owner before there was nothing to fail.
        if name == "promoted" and facts.get("old_instance_id"):
            for resource_id, epoch in facts["epochs"].items():
                self._promoted(str(resource_id), int(epoch), facts)
        elif name == "serving":
            for resource_id, epoch in facts["epochs"].items():
                key = (str(facts["service_name"]), str(resource_id), int(epoch))
                failover = self._failovers.get(key)
                if failover is None:
                    _keep(self._served, key, facts)
                else:
                    self._complete(failover, facts)

    def _promoted(self, resource_id: str, epoch: int, facts: Mapping[str, Any]) -> None:
        key = (str(facts["service_name"]), resource_id, epoch)
        if key in self._failovers:
            return
        durations: Mapping[str, float] = facts.get("durations") or {}
        failover = Failover(
            *key,
            at=self._clock.wall_ms() / 1000,
            cause=str(facts.get("cause", "")),
            old_instance_id=str(facts["old_instance_id"]),
            new_instance_id=str(facts["instance_id"]),
            new_node_id=str(facts["node_id"]),
            detected_ms=round(1000 * float(durations.get("detected", 0.0)), 3),
            decided_ms=round(1000 * float(durations.get("decided", 0.0)), 3),
        )
        _keep(self._failovers, key, failover)
        served = self._served.pop(key, None)
        if served is not None:
            self._complete(failover, served)

    def _complete(self, failover: Failover, served: Mapping[str, Any]) -> None:
        failover.fenced_ms = float(served["fenced_ms"])
        failover.replayed_ms = float(served["replayed_ms"])
        failover.covered_ms = float(served["covered_ms"])
        self._on_complete(failover)


def _keep[T](kept: OrderedDict[_Key, T], key: _Key, value: T) -> None:
    kept[key] = value
    if len(kept) > MAX_KEPT:
        kept.popitem(last=False)
