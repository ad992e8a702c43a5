"""The services that `aegis bench` measures: as small as services can be."""

from __future__ import annotations

from typing import Any, Final

from attrs import define

from aegis.actors._actor import AegisActor
from aegis.actors._handlers import command, query
from aegis.ops._bench_load import closed_loop

__all__ = ["HOT", "Counter", "CounterState", "Driver", "Quote", "Tally"]

HOT: Final = "HOT"
"""The one resource that all messages go to where they go to one."""


@define
class CounterState:
    """One number."""

    value: int = 0


class Counter(AegisActor):
    """A resource with snapshot state, as most are."""

    service = "bench-counter"
    state: CounterState

    @command
    async def add(self, amount: int) -> int:
        """Add to the number, and return it."""
        self.state.value += amount
        return self.state.value

    @query
    async def value(self) -> int:
        """Return the number."""
        return self.state.value


class Tally(AegisActor):
    """A counter that tells who ran each command: the old owner, or the new one."""

    service = "bench-tally"
    state: CounterState

    @command
    async def add(self) -> tuple[int, str]:
        """Add 1; return the number and the instance that did it."""
        self.state.value += 1
        return self.state.value, self.instance_id

    @query
    async def value(self) -> int:
        """Return the number."""
        return self.state.value


class Quote(AegisActor):
    """A member of a service group."""

    service = "bench-quote"

    @command
    async def price(self, amount: int) -> int:
        """Return a price."""
        return amount * 2


class Driver(AegisActor):
    """Calls another actor of its own node, and says how fast that was."""

    service = "bench-driver"

    @query
    async def drive(self, resource_id: str, concurrency: int, seconds: float) -> dict[str, Any]:
        """Query ``resource_id`` in a closed loop; return the load as plain values."""
        counter = self.actor(Counter, resource_id)
        await counter.value()

        async def call(worker: int) -> None:
            await counter.value()

        load = await closed_loop(call, concurrency=concurrency, seconds=seconds)
        return load.to_plain()
