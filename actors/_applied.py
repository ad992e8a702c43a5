"""How far each journal is applied, as beats tell it (sans-I/O): both ends of the report.

A node says of each resource that it holds, in whatever role, up to which sequence of the
stream its journal is applied: of an owner that is its last record, of a standby the last
that it took over. A beat holds what has changed since it was last sent, and a few
others in turn, so that what a lost beat said, and what a supervisor that is new cannot
know, comes again soon. However much there is, a beat stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import Final

from attrs import define, field

from aegis.actors._registry_entries import ResourceKey

__all__ = ["AppliedReport", "AppliedTable"]

MAX_REPORTED: Final = 256
"""Sequences in one beat: with long names about 10 KiB."""

MAX_REPEATED: Final = 32
"""Those among them that have not changed."""


class AppliedReport:
    """A node's side: what the next beat says.

    ``current`` tells the sequence of an instance's resource, None of one that is not there
    any more. What has not changed costs nothing, however much there is of it.
    """

    def __init__(self, current: Callable[[str, str], int | None]) -> None:
        self._current = current
        self._sent: dict[tuple[str, str], int] = {}
        self._news: dict[tuple[str, str], None] = {}

    def forget(self) -> None:
        """Whoever listens is new: tell everything again."""
        self._news = dict.fromkeys([*self._sent, *self._news])
        self._sent.clear()

    def renew(self, instance_id: str, resource_ids: Iterable[str]) -> None:
        """An instance holds these from now on: whoever listens knows nothing of them."""
        for resource_id in resource_ids:
            self._sent.pop((instance_id, resource_id), None)
            self._news[instance_id, resource_id] = None

    def note(self, instance_id: str, sequences: Mapping[str, int]) -> None:
        """These resources of an instance may have changed."""
        for resource_id, sequence in sequences.items():
            name = (instance_id, resource_id)
            if self._sent.get(name) != sequence:
                self._news[name] = None

    def next(self) -> dict[str, dict[str, int]]:
        """Return what to tell: instance id, resource id, sequence.

        What has waited or was told longest ago comes first.
        """
        news = list(islice(self._news, MAX_REPORTED))
        again = islice(self._sent, min(MAX_REPEATED, MAX_REPORTED - len(news)))
        told: dict[str, dict[str, int]] = {}
        for name in [*news, *again]:
            self._news.pop(name, None)
            self._sent.pop(name, None)
            sequence = self._current(*name)
            if sequence is not None:
                self._sent[name] = sequence
                told.setdefault(name[0], {})[name[1]] = sequence
        return told


@define
class _Told:
    """What one process of an instance has told."""

    node_id: str
    sequences: dict[str, int] = field(factory=dict[str, int])


class AppliedTable:
    """A supervisor's side: what the beats have told so far."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}

    def note(
        self,
        instance_id: str,
        node_id: str,
        sequences: Mapping[str, int],
        held: Collection[str],
    ) -> None:
        """Take over what a beat tells of an instance that holds the resources ``held``."""
        told = self._told.get(instance_id)
        if told is None or told.node_id != node_id:
            # What an earlier process had applied, it took with it.
            told = self._told[instance_id] = _Told(node_id)
        told.sequences.update({n: s for n, s in sequences.items() if n in held})
        if len(told.sequences) > len(held):
            told.sequences = {n: s for n, s in told.sequences.items() if n in held}

    def get(self, instance_id: str, node_id: str, resource_id: str) -> int | None:
        """Return what the process of an instance has applied; None if it told nothing."""
        told = self._told.get(instance_id)
        if told is None or told.node_id != node_id:
            return None
        return told.sequences.get(resource_id)

    def lag(self, ahead: tuple[str, str], behind: tuple[str, str], key: ResourceKey) -> int | None:
        """Return by how many sequences of the stream one (instance, node) trails another.

        They count the records of all journals: 0 is exact, more is an upper bound.
        """
        first, second = self.get(*ahead, key[1]), self.get(*behind, key[1])
        return None if first is None or second is None else max(0, first - second)

    def keep(self, instances: Collection[str]) -> None:
        """Forget all instances but these."""
        for instance_id in [name for name in self._told if name not in instances]:
            del self._told[instance_id]
