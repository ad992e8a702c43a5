"""The services that `aegis bench` measures durable messages with.

Where a message has taken effect is told by a topic: what a command publishes leaves when
the record of its effect is stored, not before.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from aegis.actors._actor import AegisActor
from aegis.actors._handlers import command, query
from aegis.ops._bench_services import CounterState

__all__ = ["EFFECTS", "Alarm", "Link", "Sink"]

EFFECTS: Final = "bench.effect"
"""The topic of the numbers of messages that have taken effect."""


class Sink(AegisActor):
    """Whom messages are sent to."""

    service = "bench-sink"
    state: CounterState

    @command
    async def take(self, number: int) -> None:
        """Count the message ``number``, and tell when that is stored."""
        self.state.value += 1
        await self.publish(EFFECTS, number)

    @query
    async def value(self) -> int:
        """Return how many messages there were."""
        return self.state.value


class Link(AegisActor):
    """One of the actors of a chain, each of which sends to the next."""

    service = "bench-link"
    state: CounterState

    @command
    async def pass_on(self, number: int, to: list[str]) -> None:
        """Send the message ``number`` on; the last of the chain tells of it."""
        self.state.value += 1
        if to:
            self.send(Link, to[0], "pass_on", number=number, to=to[1:])
        else:
            await self.publish(EFFECTS, number)

    @query
    async def value(self) -> int:
        """Return how many messages there were."""
        return self.state.value


class Alarm(AegisActor):
    """Gives itself reminders, and keeps how late each came."""

    service = "bench-alarm"
    state: CounterState

    def on_start(self) -> None:
        """Begin with no reminder heard."""
        self._late: list[float] = []

    @command
    async def set_all(self, first: datetime, every_seconds: float, count: int) -> None:
        """Set ``count`` reminders, the first of them at ``first``."""
        self._late = []
        for number in range(count):
            at = first.astimezone(UTC) + timedelta(seconds=number * every_seconds)
            self.remind(f"r{number}", "ring", at=at)

    @command
    async def ring(self) -> None:
        """Take note of a reminder."""
        self.state.value += 1
        self._late.append(self.late_seconds)

    @query
    async def late(self) -> list[float]:
        """Return how late, in seconds, each came since they were set."""
        return self._late

    @query
    async def value(self) -> int:
        """Return how many reminders ever came."""
        return self.state.value
