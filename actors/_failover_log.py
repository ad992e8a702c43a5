"""Failovers as a whole (sans-I/O): what the leader tells of one, and the new owner.

The leader's event ``promoted`` says why, and how long it took to detect and to decide;
the new owner's ``serving`` and ``first_answer`` say how long its own steps took. The epoch
of the resource is what all have in common. The first two may come in either order: the
new owner learns of its promotion from the registry, too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from attrs import define, evolve, field, frozen

__all__ = ["Failover", "FailoverLog", "Promotion", "Steps"]

MAX_REMEMBERED: Final = 10_000
"""Resources whose last failovers are remembered, with or without the end. More than one
failed-over instance may hold; of a resource that nobody asks for no answer ever comes."""

type _Key = tuple[str, str, int]  # service, resource, epoch


@frozen
class Steps:
    """Seconds from the beginning of the new owner's work to the end of each step."""

    fenced: float
    replayed: float
    covered: float
    """Here it serves."""


@frozen
class Failover:
    """Resources of one owner that another took over, and answers for since."""

    service: str
    instance_id: str
    node_id: str
    old_instance_id: str
    old_node_id: str
    cause: str
    epochs: Mapping[str, int]
    trace_id: str
    """What the lines of all its steps have in common."""
    durations: Mapping[str, float]
    """Seconds. ``detected`` and ``decided`` come one after the other; the steps of the
    new owner all count from when it began. ``total`` is from the last sign of life of
    the old owner to the first answer of the new one."""

    def to_wire(self) -> dict[str, Any]:
        """Return the event that is published."""
        return {
            "event": "failed_over",
            "service_name": self.service,
            "instance_id": self.instance_id,
            "node_id": self.node_id,
            "old_instance_id": self.old_instance_id,
            "old_node_id": self.old_node_id,
            "cause": self.cause,
            "resource_ids": list(self.epochs),
            "epochs": dict(self.epochs),
            "durations": dict(self.durations),
            "trace_id": self.trace_id,
        }


@define(eq=False)
class Promotion:
    """What one decision of the leader moved from one owner to another, and how far that is.

    ``at`` is when it was heard of, in the caller's clock. ``detected`` is for how many
    seconds the old owner had given no sign of life, ``decided`` how many it took from there
    until the new owner was on record. ``steps`` has the resources that are served again,
    ``answered`` those that somebody has had an answer from since.
    """

    service: str
    instance_id: str
    node_id: str
    old_instance_id: str
    old_node_id: str
    cause: str
    epochs: Mapping[str, int]
    detected: float
    decided: float
    at: float
    trace_id: str = ""
    past: bool = False
    """Whether it is so long ago that nobody waits for its end any more."""
    steps: dict[str, Steps] = field(factory=dict[str, Steps])
    answered: set[str] = field(factory=set[str])

    def marks(self) -> list[_Key]:
        """Return what tells it from others, of each of its resources."""
        return [(self.service, name, epoch) for name, epoch in self.epochs.items()]

    def away(self, resource_id: str) -> float | None:
        """From the last sign of life of the old owner until the new one serves; or None."""
        steps = self.steps.get(resource_id)
        return None if steps is None else self.detected + self.decided + steps.covered

    def to_record(self) -> dict[str, Any]:
        """Return it as plain values: the leader's event, with ``at`` and the ``steps`` known."""
        return {
            "service_name": self.service,
            "instance_id": self.instance_id,
            "node_id": self.node_id,
            "old_instance_id": self.old_instance_id,
            "old_node_id": self.old_node_id,
            "cause": self.cause,
            "epochs": dict(self.epochs),
            "durations": {"detected": self.detected, "decided": self.decided},
            "trace_id": self.trace_id,
            "at": self.at,
            "steps": {
                name: (one.fenced, one.replayed, one.covered) for name, one in self.steps.items()
            },
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Promotion:
        """Return what `to_record` has described.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: it is not as it should be.
        """
        steps: Mapping[str, Any] = record["steps"]
        return evolve(
            _promotion(record, float(record["at"])),
            steps={str(name): Steps(*map(float, one)) for name, one in steps.items()},
        )


class FailoverLog:
    """The last failovers, the newest last."""

    def __init__(self) -> None:
        self._promotions: OrderedDict[_Key, Promotion] = OrderedDict()
        self._early: OrderedDict[_Key, Steps] = OrderedDict()

    def __len__(self) -> int:
        return len(self._promotions)

    def newest_first(self) -> Iterator[Promotion]:
        """Yield each promotion of which something is remembered."""
        last: Promotion | None = None
        for promotion in reversed(self._promotions.values()):
            if promotion is not last:
                yield promotion
            last = promotion

    def promoted(self, event: Mapping[str, Any], at: float) -> Promotion | None:
        """Take over the leader's event; return what it tells, if that is a failover.

        Without an owner before there was nothing to fail.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: it is not as it should be. This
                holds for all events.
        """
        if not event.get("old_instance_id"):
            return None
        promotion = _promotion(event, at)
        for key in promotion.marks():
            if key in self._promotions:  # Told again.
                return None
            self._add(key, promotion)
        return promotion

    def _add(self, key: _Key, promotion: Promotion) -> None:
        _keep(self._promotions, key, promotion)
        steps = self._early.pop(key, None)
        if steps is not None:
            promotion.steps.setdefault(key[1], steps)

    def recall(self, promotions: Iterable[Promotion], *, past: float = 0.0) -> int:
        """Take over what others remember; return how many of these were not known here.

        Their ``at`` puts them in their place. Those from before ``past`` have ended,
        whatever is known of their end.
        """
        new = 0
        for told in promotions:
            known = [self._promotions.get(key) for key in told.marks()]
            if not any(known):
                new += 1
                told.past = told.at < past
                for key in told.marks():
                    self._add(key, told)
            for name, promotion in zip(told.epochs, known, strict=True):
                if promotion is not None and name in told.steps:
                    promotion.steps.setdefault(name, told.steps[name])
        if new:
            self._promotions = OrderedDict(
                sorted(self._promotions.items(), key=lambda item: item[1].at)
            )
        return new

    def serving(self, event: Mapping[str, Any]) -> dict[str, Promotion]:
        """Take over that a new owner serves; return the promotion of each resource.

        Those of which the leader has told nothing yet are left out.
        """
        steps = _steps(event)
        told: dict[str, Promotion] = {}
        for key in _keys(event):
            promotion = self._promotions.get(key)
            if promotion is None:
                _keep(self._early, key, steps)
            elif key[1] not in promotion.steps:
                promotion.steps[key[1]] = steps
                told[key[1]] = promotion
        return told

    def answered(self, event: Mapping[str, Any]) -> list[Failover]:
        """Take over a new owner's first answers; return the failovers complete by them."""
        together: dict[int, tuple[Promotion, dict[str, int]]] = {}
        for key in _keys(event):
            _, resource_id, epoch = key
            promotion = self._promotions.get(key)
            if promotion is None or resource_id in promotion.answered:
                continue
            promotion.answered.add(resource_id)
            promotion.steps.setdefault(resource_id, _steps(event))
            together.setdefault(id(promotion), (promotion, {}))[1][resource_id] = epoch
        return [_joined(promotion, event, epochs) for promotion, epochs in together.values()]


def _promotion(event: Mapping[str, Any], at: float) -> Promotion:
    durations: Mapping[str, float] = event["durations"]
    return Promotion(
        service=str(event["service_name"]),
        instance_id=str(event["instance_id"]),
        node_id=str(event["node_id"]),
        old_instance_id=str(event["old_instance_id"]),
        old_node_id=str(event["old_node_id"]),
        cause=str(event["cause"]),
        epochs={str(name): int(epoch) for name, epoch in event["epochs"].items()},
        detected=float(durations["detected"]),
        decided=float(durations["decided"]),
        at=at,
        trace_id=str(event.get("trace_id", "")),
    )


def _keys(event: Mapping[str, Any]) -> list[_Key]:
    service = str(event["service_name"])
    return [(service, str(name), int(epoch)) for name, epoch in event["epochs"].items()]


def _steps(event: Mapping[str, Any]) -> Steps:
    return Steps(*(float(event[f"{step}_ms"]) / 1000 for step in ("fenced", "replayed", "covered")))


def _joined(promotion: Promotion, event: Mapping[str, Any], epochs: Mapping[str, int]) -> Failover:
    steps, first_answer = _steps(event), float(event["first_answer_ms"]) / 1000
    return Failover(
        service=promotion.service,
        instance_id=promotion.instance_id,
        node_id=promotion.node_id,
        old_instance_id=promotion.old_instance_id,
        old_node_id=promotion.old_node_id,
        cause=promotion.cause,
        epochs=epochs,
        trace_id=promotion.trace_id,
        durations={
            "detected": promotion.detected,
            "decided": promotion.decided,
            "fenced": steps.fenced,
            "replayed": steps.replayed,
            "covered": steps.covered,
            "first_answer": first_answer,
            "total": promotion.detected + promotion.decided + first_answer,
        },
    )


def _keep[T](kept: OrderedDict[_Key, T], key: _Key, value: T) -> None:
    kept[key] = value
    if len(kept) > MAX_REMEMBERED:
        kept.popitem(last=False)
