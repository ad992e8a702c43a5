"""What viewers of a service's page are told (sans-I/O): the newest answers, and samples since.

A viewer says which version it has. The answers are told whole, as they are short; samples
only those that it has not had.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final, cast

from attrs import asdict, field, frozen

from aegis.ops._output import to_json

__all__ = ["PageInstance", "PageMessage", "PageState"]

MAX_SAMPLES: Final = 600
"""Ten minutes of one a second, of each instance."""

MAX_INSTANCES: Final = 32
"""Instances that are told of; a page with more rows is of no use."""


@frozen
class PageInstance:
    """One instance of the service, and what it answered: null and an error if nothing."""

    instance_id: str
    node_id: str
    state: str
    told: dict[str, Any] | None = None
    error: str = ""


@frozen
class PageMessage:
    """One event: all instances, and the samples that the viewer has not had.

    Each sample begins with its time, in Unix seconds. With ``reset`` they are all.
    """

    at: float
    reset: bool
    instances: list[PageInstance] = field(factory=list[PageInstance])
    samples: dict[str, list[list[float | None]]] = field(
        factory=dict[str, list[list[float | None]]]
    )


class PageState:
    """The newest answers of one page. ``name`` tells its versions from others'."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = 0
        self._at = 0.0
        self._instances: list[PageInstance] = []
        self._samples: dict[str, deque[tuple[int, list[float | None]]]] = {}

    def advance(self, at: float, instances: Iterable[PageInstance]) -> None:
        """Begin the next version with what was answered at a time (Unix seconds)."""
        self.version += 1
        self._at = at
        self._instances = [self._sampled(one) for one in instances][:MAX_INSTANCES]
        known = {one.instance_id for one in self._instances}
        self._samples = {name: kept for name, kept in self._samples.items() if name in known}

    def _sampled(self, instance: PageInstance) -> PageInstance:
        told = dict(instance.told or {})
        sample = told.pop("sample", None)
        if isinstance(sample, list):
            kept = self._samples.setdefault(instance.instance_id, deque(maxlen=MAX_SAMPLES))
            values = [_number(value) for value in cast("list[object]", sample)]
            kept.append((self.version, [round(self._at, 1), *values]))
        return PageInstance(
            instance.instance_id,
            instance.node_id,
            instance.state,
            None if instance.told is None else told,
            instance.error,
        )

    def since(self, version: int) -> bytes:
        """Return the message, as JSON, for a viewer that has ``version``; 0 for nothing."""
        if version > self.version:
            version = 0
        samples = {
            name: [sample for number, sample in kept if number > version]
            for name, kept in self._samples.items()
        }
        message = PageMessage(self._at, version == 0, self._instances, samples)
        return to_json(asdict(message)).encode()

    def version_of(self, event_id: str) -> int:
        """Return the version that a viewer got with ``event_id``; 0 if it is none of these."""
        name, _, version = event_id.rpartition(".")
        return int(version) if name == self.name and version.isdecimal() else 0

    def event_id(self) -> str:
        """Return what `version_of` reads, for the version of now."""
        return f"{self.name}.{self.version}"


def _number(value: object) -> float | None:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    # A count stays as it is: rates are differences of it.
    return value if isinstance(value, int) and not isinstance(value, bool) else None
