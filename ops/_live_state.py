"""What viewers of the live page are told (sans-I/O): rows with the version of their last change.

A viewer says which version it has, and is told all that changed since, in one message. So
one that is slow, or was away, misses nothing and makes nothing pile up: between two of its
messages there may be one version or a hundred. Viewers at the same version, which is
nearly all of them, share the bytes of their message.
"""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any, Final

from attrs import asdict, fields

from aegis.ops._live_contracts import LiveTables, Sample

__all__ = ["LiveState"]

MAX_SAMPLES: Final = 600
"""Ten minutes of one a second."""

MAX_GONE: Final = 1_000
"""Removals that are remembered, of each table. Who has not heard of an older one is told
everything anew."""

_TABLES: Final = tuple(field.name for field in fields(LiveTables))


class _Table:
    """Rows, the one that changed last at the end."""

    def __init__(self) -> None:
        self._rows: OrderedDict[str, tuple[int, object, dict[str, Any]]] = OrderedDict()
        self._gone: OrderedDict[str, int] = OrderedDict()
        self.forgotten = 0
        """The version of the newest removal that is not remembered."""

    def replace(self, rows: Mapping[str, Any], version: int) -> bool:
        """Take over what the rows are by now; return whether anything changed."""
        changed = False
        for key in [key for key in self._rows if key not in rows]:
            del self._rows[key]
            self._gone.pop(key, None)
            self._gone[key] = version
            changed = True
        while len(self._gone) > MAX_GONE:
            _, self.forgotten = self._gone.popitem(last=False)
        for key, row in rows.items():
            known = self._rows.get(key)
            if known is None or known[1] != row:
                self._rows[key] = (version, row, asdict(row))
                self._rows.move_to_end(key)
                self._gone.pop(key, None)
                changed = True
        return changed

    def since(self, version: int) -> tuple[dict[str, Any], list[str]]:
        """Return the rows that changed after ``version``, and the keys that went."""
        rows: dict[str, Any] = {}
        for key, (changed, _, plain) in reversed(self._rows.items()):
            if changed <= version:
                break
            rows[key] = plain
        gone: list[str] = []
        for key, went in reversed(self._gone.items()):
            if went <= version:
                break
            gone.append(key)
        return rows, gone


class LiveState:
    """The rows and samples of one node's page. ``name`` tells its versions from others'."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = 0
        self._at = 0.0
        self._tables = {name: _Table() for name in _TABLES}
        self._samples: deque[tuple[int, Sample]] = deque(maxlen=MAX_SAMPLES)
        self._made: dict[tuple[int, int], bytes] = {}

    def advance(
        self, at: float, rows: LiveTables | None = None, sample: Sample | None = None
    ) -> None:
        """Begin the next version: with these rows instead of all before, if they are given."""
        self.version += 1
        self._at = at
        self._made = {}
        if rows is not None:
            for name, table in self._tables.items():
                table.replace(getattr(rows, name), self.version)
        if sample is not None:
            self._samples.append((self.version, sample))

    def since(self, version: int) -> bytes:
        """Return the message, as JSON, for a viewer that has ``version``; 0 for nothing."""
        if not all(table.forgotten <= version for table in self._tables.values()):
            version = 0
        if version > self.version or (self._samples and version < self._samples[0][0] - 1):
            version = 0
        made = self._made.get((version, self.version))
        if made is None:
            made = self._made[version, self.version] = self._make(version)
        return made

    def version_of(self, event_id: str) -> int:
        """Return the version that a viewer got with ``event_id``; 0 if it is none of these."""
        name, _, version = event_id.rpartition(".")
        return int(version) if name == self.name and version.isdecimal() else 0

    def event_id(self) -> str:
        """Return what `version_of` reads, for the version of now."""
        return f"{self.name}.{self.version}"

    def _make(self, version: int) -> bytes:
        rows: dict[str, dict[str, Any]] = {}
        gone: dict[str, list[str]] = {}
        for name, table in self._tables.items():
            changed, went = table.since(version)
            if changed:
                rows[name] = changed
            if went and version:
                gone[name] = went
        samples: list[Sample] = []
        for number, sample in reversed(self._samples):
            if number <= version:
                break
            samples.append(sample)
        message = {
            "at": self._at,
            "reset": version == 0,
            "rows": rows,
            "gone": gone,
            "samples": samples[::-1],
        }
        return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
