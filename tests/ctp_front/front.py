"""The test's end of a fake front: what it does, and what the gateway did.

The front itself is C++ in the gateway's process, where the vendor's library would be. It
connects to this server, as the vendor's library would to the broker's, and is told here
how to behave: at the start, and at any moment after.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Self

from attrs import define, field, frozen

from tests.support.poll import wait_until

__all__ = ["FakeFront", "FrontEvent"]

WAIT = 120.0
"""Seconds; the machine may be busy with much else."""


@frozen
class FrontEvent:
    """Something that a gateway did, as in ``td``, ``login``, ``alice``."""

    kind: str
    """Which of the gateway's two connections: ``md`` or ``td``."""
    name: str
    words: tuple[str, ...]


@define(eq=False)
class _Session:
    kind: str
    pid: int
    writer: asyncio.StreamWriter
    reports: asyncio.Queue[Counter[str]] = field(factory=asyncio.Queue[Counter[str]])

    def say(self, line: str) -> None:
        self.writer.write(line.encode() + b"\n")


class FakeFront:
    """One front, with both its addresses: trading and market data are at the same."""

    def __init__(self, server: asyncio.Server, settings: dict[str, str]) -> None:
        self.events: list[FrontEvent] = []
        self.answering = True
        """Whether a connection that is taken becomes a session; else nothing follows."""
        self._server = server
        self._settings = settings
        self._sessions: list[_Session] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, **settings: object) -> AsyncGenerator[Self]:
        """Listen for the time of the block. The README names the settings."""
        # A retry at the vendor's pace would make every test of a reconnection wait.
        settings = {"retry": 0.2, **settings}
        server = await asyncio.start_server(lambda r, w: front._serve(r, w), "127.0.0.1", 0)
        front = cls(server, {name: _text(value) for name, value in settings.items()})
        try:
            yield front
        finally:
            await front.close()

    @property
    def address(self) -> str:
        """What the gateway is told."""
        host, port = self._server.sockets[0].getsockname()
        return f"tcp://{host}:{port}"

    def pids(self) -> set[int]:
        """The processes that are connected."""
        return {session.pid for session in self._sessions}

    # -- what the front does --------------------------------------------------------------

    def set(self, **settings: object) -> None:
        """Behave otherwise from now on."""
        for name, value in settings.items():
            self._settings[name] = _text(value)
            for session in self._sessions:
                session.say(f"set {name} {_text(value)}")

    def drop(self, reason: int, kind: str = "md") -> None:
        """End the sessions of a kind for a reason of the vendor's."""
        for session in self._of(kind):
            session.say(f"drop {reason}")

    def freeze(self) -> None:
        """Have the gateway's interpreter stand still for ever, as a deadlock does."""
        for session in self._of("md"):
            session.say("freeze")

    async def close(self) -> None:
        """Go away: sessions end, and nobody is there to connect to."""
        self._server.close()
        for session in self._sessions:
            session.writer.close()
        await self._server.wait_closed()

    # -- what the gateway did -------------------------------------------------------------

    def seen(self, name: str, kind: str = "") -> list[FrontEvent]:
        """Return the events of a name so far."""
        return [e for e in self.events if e.name == name and kind in ("", e.kind)]

    async def wait(self, name: str, kind: str = "", *, count: int = 1) -> list[FrontEvent]:
        """Return the events of a name, once there are so many."""
        await wait_until(
            lambda: len(self.seen(name, kind)) >= count,
            what=f"{count} times {name} at the front; it saw {self.events[-10:]}",
            timeout=WAIT,
        )
        return self.seen(name, kind)

    async def wait_sessions(self, count: int, kind: str = "md") -> None:
        """Return once so many sessions of a kind are there."""
        await wait_until(
            lambda: len(self._of(kind)) == count, what=f"{count} sessions of {kind}", timeout=WAIT
        )

    async def report(self, kind: str = "md") -> Counter[str]:
        """Return the figures of the newest session of a kind; the README names them.

        There are none of a session that is over.
        """
        sessions = self._of(kind)
        if not sessions:
            return Counter()
        session = sessions[-1]
        session.say("report")
        async with asyncio.timeout(WAIT):
            return await session.reports.get()

    def _of(self, kind: str) -> list[_Session]:
        return [session for session in self._sessions if session.kind == kind]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session: _Session | None = None
        try:
            while line := await reader.readline():
                word, *words = line.decode().split()
                if word == "hello":
                    session = self._greet(words[0], int(words[1]), writer)
                elif word == "report" and session is not None:
                    pairs = (pair.split("=") for pair in words)
                    figures = {name: int(number) for name, number in pairs}
                    session.reports.put_nowait(Counter(figures))
                elif session is not None:
                    self.events.append(FrontEvent(session.kind, word, tuple(words)))
        except ConnectionError:
            pass  # The gateway's process was killed.
        finally:
            if session is not None:
                self._sessions.remove(session)
                session.reports.put_nowait(Counter())  # For who waits for one.
            writer.close()

    def _greet(self, kind: str, pid: int, writer: asyncio.StreamWriter) -> _Session:
        session = _Session(kind, pid, writer)
        self._sessions.append(session)
        for name, value in self._settings.items():
            session.say(f"set {name} {value}")
        if self.answering:
            session.say("open")
        return session


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
