"""Coverage (sans-I/O): what a node has been told that its lease covers, and what not yet.

It is a log of changes, numbered by versions. A node says which version it has taken
over; the answer to its beat leads from there to the newest one, or begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from attrs import define, field, frozen

from aegis.actors._registry_entries import ResourceKey

__all__ = ["Coverage", "Step"]

MAX_CHANGES: Final = 4096
"""Changes of coverage in one answer; a node beats again at once for the others."""


@frozen
class Step:
    """What leads a node from one version to another."""

    base: int
    version: int
    covers: dict[ResourceKey, int]
    revoked: tuple[ResourceKey, ...]
    more: bool


@define
class Coverage:
    """The log of one node."""

    version: int = 1
    confirmed: int = 0
    """The version that the node has taken over for certain."""
    told: int = 0
    """The version up to which it was told last, confirmed or not."""
    _log_start: int = 1
    """Changes since this version are all in ``_changed``; from before, some are missing."""
    _changed: dict[ResourceKey, int] = field(factory=dict[ResourceKey, int])

    def touch(self, key: ResourceKey) -> int:
        """Note that ``key`` is to be told anew; return the version of that."""
        self.version += 1
        self._changed.pop(key, None)
        self._changed[key] = self.version
        return self.version

    def confirm(self, version: int) -> int:
        """The node has taken over ``version``; return it if a step may build on that."""
        self.confirmed = min(version, self.version)
        if version < self._log_start or not self.confirmed:
            return 0
        self._changed = {k: v for k, v in self._changed.items() if v > self.confirmed}
        return self.confirmed

    def start_over(self, keys: Iterable[ResourceKey], *, above: int = 0) -> None:
        """Begin a log that tells everything, to a node that starts from nothing.

        What was revoked is not in it, so it is of no use to a node that reports an
        earlier version, as one may that an answer on its way has yet to reach. Its
        versions are ``above`` what the node has, which takes over no older one.
        """
        self._changed = {}
        self.version = max(self.version, above) + 1
        self._log_start = self.version
        for key in keys:
            self.touch(key)

    def step(self, base: int, wanted: Callable[[ResourceKey], int | None]) -> Step:
        """Return what follows ``base``; ``wanted`` says what a key is covered with now."""
        covers: dict[ResourceKey, int] = {}
        revoked: list[ResourceKey] = []
        version, more = base, False
        for key, changed_at in self._later_than(base):
            if len(covers) + len(revoked) >= MAX_CHANGES:
                more = True
                break
            version = changed_at
            epoch = wanted(key)
            if epoch is None:
                revoked.append(key)
            else:
                covers[key] = epoch
        self.told = version if more else self.version
        return Step(base, self.told, covers, tuple(revoked), more)

    def _later_than(self, version: int) -> list[tuple[ResourceKey, int]]:
        """Return what changed behind ``version``, in order; the dict is in that order."""
        later: list[tuple[ResourceKey, int]] = []
        for key in reversed(self._changed):
            if self._changed[key] <= version:
                break
            later.append((key, self._changed[key]))
        later.reverse()
        return later
