"""The ledger of `aegis chaos`: what callers are about to do and what they were told.

One file a caller, outside of Aegis, written ahead: a line is on the disk before the caller
goes on, so whatever the caller does after it was killed, it finds what it had begun. The
same files are what the verdict is made from.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import define, field

from aegis.ops._chaos_mail_ledger import MailStory

__all__ = ["Entry", "Ledger", "Read", "Story", "Transfer", "read_story"]


class Ledger:
    """Writes one caller's file. Belongs to one event loop."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writing = False
        # A caller that was killed may have left a line that it could not end.
        os.write(self._descriptor, b"\n")

    async def write(self, *line: Any) -> None:
        """Write a line; return when it is on the disk. Lines of one moment share an fsync."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((json.dumps(line).encode() + b"\n", done))
        if not self._writing:
            self._writing = True
            try:
                while self._waiting:
                    await self._write_all()
            finally:
                self._writing = False
        await done

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    async def _write_all(self) -> None:
        lines, self._waiting = self._waiting, []
        await asyncio.to_thread(self._put, b"".join(text for text, _ in lines))
        for _, done in lines:
            done.set_result(None)

    def _put(self, text: bytes) -> None:
        os.write(self._descriptor, text)
        os.fsync(self._descriptor)


# -- what is read back --------------------------------------------------------------------


@define
class Entry:
    """One entry of a caller at a resource, as its ledger tells it."""

    service: str
    resource: str
    number: int
    what: str
    """What it was first asked for."""
    value: int
    asked_at: float
    transfer: int = 0
    role: str = ""
    attempts: dict[int, str] = field(factory=dict[int, str])
    """What each attempt asked for."""
    told: dict[int, tuple[str, int, int]] = field(factory=dict[int, tuple[str, int, int]])
    """What attempts were told: how it was decided, its place, the value then."""
    failed: dict[int, str] = field(factory=dict[int, str])
    told_at: float = 0.0

    @property
    def outcome(self) -> tuple[str, int, int] | None:
        """How it was decided, or None if its caller was not told."""
        return next(iter(self.told.values()), None)


@define
class Transfer:
    """One transfer; ``end`` is how it ended, or empty."""

    number: int
    service: str
    source: str
    target: str
    amount: int
    end: str = ""


@define
class Read:
    """One read of a register that was answered."""

    resource: str
    called_at: float
    told_at: float
    value: int


@define
class Story:
    """All that a caller's ledger tells."""

    caller: str
    entries: dict[tuple[str, str, int], Entry] = field(factory=dict[tuple[str, str, int], Entry])
    transfers: dict[int, Transfer] = field(factory=dict[int, Transfer])
    reads: list[Read] = field(factory=list[Read])
    mail: MailStory = field(factory=MailStory)
    errors: dict[str, int] = field(factory=dict[str, int])

    def open_entries(self) -> Iterator[Entry]:
        """Yield the entries whose outcome the caller does not know."""
        return (entry for entry in self.entries.values() if entry.outcome is None)

    def note(self, line: list[Any]) -> None:
        """Take note of one line of the file."""
        kind, *rest = line
        match kind:
            case "ask":
                asked_at, service, resource, number, attempt, what, value, transfer, role = rest
                entry = self.entries.setdefault(
                    (service, resource, number),
                    Entry(service, resource, number, what, value, asked_at, transfer, role),
                )
                entry.attempts[attempt] = what
            case "told":
                told_at, service, resource, number, attempt, took, place, value = rest
                entry = self.entries[service, resource, number]
                entry.told[attempt] = (took, place, value)
                entry.told_at = entry.told_at or told_at
            case "failed":
                service, resource, number, attempt, error = rest
                self.entries[service, resource, number].failed[attempt] = error
                self._count(error)
            case "read":
                self.reads.append(Read(*rest))
            case "unread":
                self._count(rest[0])
            case "transfer":
                self.transfers[rest[0]] = Transfer(*rest)
            case "end":
                self.transfers[rest[0]].end = rest[1]
            case _:
                if not self.mail.note(line):
                    raise ValueError(f"the ledger has a line of an unknown kind: {kind}")

    def _count(self, error: str) -> None:
        name = error.partition(":")[0]
        self.errors[name] = self.errors.get(name, 0) + 1


def read_story(caller: str, file: Path) -> Story:
    """Read a ledger; a line that its caller could not end is not there."""
    story = Story(caller)
    text = file.read_text() if file.exists() else ""
    for line in text.splitlines(keepends=True):
        # The end of a torn line is the line break that the caller began anew with.
        if not line.endswith("\n") or not line.strip():
            continue
        try:
            parsed = json.loads(line)
        except ValueError:
            continue
        story.note(parsed)
    return story
