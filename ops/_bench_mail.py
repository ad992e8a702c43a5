"""Durable messages under `aegis bench`: sends, chains of actors that send, reminders.

A send ends for its sender when the server has it. What is measured goes on to the effect:
the receiver publishes the message's number when the record of it is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aegis._cluster import Cluster
from aegis._subjects import Subjects
from aegis.ops._bench_load import DRAIN_SECONDS, Load, Operation
from aegis.ops._bench_mail_services import EFFECTS, Alarm, Link, Sink
from aegis.ops._bench_services import HOT
from aegis.transport._base import Message, Transport
from aegis.transport._codec import decode_value

__all__ = ["ALARMS", "LINKS", "SINKS", "Effects", "mail_operations", "measure_reminders"]

SINKS: Final = (*(f"S-{number}" for number in range(64)), HOT)
LINKS: Final = ("L-1", "L-2", "L-3")
ALARMS: Final = tuple(f"A-{number}" for number in range(64))

SETTING_SECONDS: Final = 0.2
SETTING_SECONDS_EACH: Final = 0.0001
"""How long before the first is due reminders are set: far longer than that takes."""

EFFECT_TIMEOUT: Final = 8.0
"""A message that takes longer to its effect has failed; less than what loads wait for."""

_POLL_SECONDS: Final = 0.05


class Effects:
    """Tells when a numbered message has taken effect."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._open: dict[int, asyncio.Future[None]] = {}

    async def listen(self) -> None:
        """Begin to hear of effects."""
        await self._transport.subscribe(Subjects().topic(EFFECTS), self._on_message)

    def expect(self) -> tuple[int, asyncio.Future[None]]:
        """Return a new number, and what is done when the message of that has its effect."""
        self._number += 1
        effect = self._open[self._number] = self._loop.create_future()
        return self._number, effect

    async def wait(self, number: int, effect: asyncio.Future[None]) -> None:
        """Wait for the effect of a message that was sent."""
        # `asyncio.timeout` would take a tenth of what the sender does for a message.
        timer = self._loop.call_later(EFFECT_TIMEOUT, _give_up, effect)
        try:
            await effect
        finally:
            timer.cancel()
            self._open.pop(number, None)

    def _on_message(self, message: Message) -> None:
        _, _, number = decode_value(message.payload)
        effect = self._open.get(number)
        if effect is not None and not effect.done():
            effect.set_result(None)


def _give_up(effect: asyncio.Future[None]) -> None:
    if not effect.done():
        effect.set_exception(TimeoutError())


def mail_operations(cluster: Cluster, effects: Effects) -> Mapping[str, Operation]:
    """Return what is measured, by the key of its case."""

    async def send(resource: str) -> None:
        number, effect = effects.expect()
        await cluster.send(Sink, "take", {"number": number}, resource_id=resource)
        await effects.wait(number, effect)

    async def send_to_some(number: int) -> None:
        await send(SINKS[number % (len(SINKS) - 1)])

    async def send_to_one(number: int) -> None:
        await send(HOT)

    first, *others = LINKS
    head: Any = cluster.actor(Link, first)

    async def along_the_chain(worker: int) -> None:
        number, effect = effects.expect()
        await head.pass_on(number=number, to=others)
        await effects.wait(number, effect)

    return {"send": send_to_some, "hot-send": send_to_one, "chain": along_the_chain}


async def measure_reminders(cluster: Cluster, rate: int, seconds: float) -> Load:
    """Let ``rate`` reminders a second be due, evenly; their latencies are how late they came."""
    count = max(1, round(rate * seconds / len(ALARMS)))
    apart = 1 / rate
    load = Load(sent=count * len(ALARMS))
    first = datetime.now(UTC) + timedelta(
        seconds=SETTING_SECONDS + load.sent * SETTING_SECONDS_EACH
    )
    alarms = [cluster.actor(Alarm, name, timeout=DRAIN_SECONDS) for name in ALARMS]
    await asyncio.gather(
        *(
            alarm.set_all(first + timedelta(seconds=index * apart), apart * len(ALARMS), count)
            for index, alarm in enumerate(alarms)
        )
    )
    due = first + timedelta(seconds=seconds)
    await asyncio.sleep(max(0.0, (due - datetime.now(UTC)).total_seconds()))
    for alarm in alarms:
        load.latencies.extend(await _heard(alarm, count))
    load.lost = load.sent - len(load.latencies)
    load.seconds = seconds + max(load.latencies, default=0.0)
    return load


async def _heard(alarm: Any, count: int) -> list[float]:
    """Return how late all reminders of an actor came, or those that came at all."""
    late: list[float] = []
    give_up = asyncio.get_running_loop().time() + DRAIN_SECONDS
    while len(late) < count and asyncio.get_running_loop().time() < give_up:
        await asyncio.sleep(_POLL_SECONDS if late else 0.0)
        late = await alarm.late()
    return late
