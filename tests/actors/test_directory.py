"""Lookups of a caller's directory, while what they are about changes."""

from __future__ import annotations

import asyncio
from typing import Any

from attrs import define, field

from aegis._clock import SystemClock
from aegis._subjects import Subjects
from aegis.actors._directory import Directory, Route
from aegis.transport._base import Message
from aegis.transport._codec import decode_value, encode_value
from aegis.transport._memory import MemoryBroker, MemoryTransport

SUBJECTS = Subjects("aegis")


@define
class Supervisor:
    """Answers lookups when it is told to."""

    transport: MemoryTransport
    asked: list[Message] = field(factory=list[Message])
    more: asyncio.Event = field(factory=asyncio.Event)

    async def start(self) -> None:
        await self.transport.subscribe(SUBJECTS.resource_control("query"), self._on_query)

    def _on_query(self, message: Message) -> None:
        self.asked.append(message)
        self.more.set()

    async def next_query(self) -> tuple[Message, int]:
        async with asyncio.timeout(5):
            while not self.asked:
                self.more.clear()
                await self.more.wait()
        message = self.asked.pop(0)
        asked: Any = decode_value(message.payload)
        return message, int(asked["min_sequence"])

    def answer(self, message: Message, instance_id: str, sequence: int) -> None:
        facts = {"instance_id": instance_id, "epoch": sequence, "node_id": "", "sequence": sequence}
        self.transport.publish(message.reply_to, encode_value(facts))

    def tell_promoted(self, instance_id: str, epoch: int, resource_id: str = "A-1") -> None:
        facts = {
            "sequence": epoch,
            "service_name": "account",
            "instance_id": instance_id,
            "resource_ids": [resource_id],
            "epochs": {resource_id: epoch},
            "role": "active",
        }
        self.transport.publish(SUBJECTS.event("promoted"), encode_value(facts))


async def test_a_lookup_that_an_event_of_another_overtakes_asks_again() -> None:
    broker = MemoryBroker()
    transport = MemoryTransport(broker)
    supervisor = Supervisor(MemoryTransport(broker))
    directory = Directory(transport, SUBJECTS, SystemClock())
    await supervisor.start()
    await directory.start()
    lookup = asyncio.create_task(directory.route("account", "A-1"))
    query, _ = await supervisor.next_query()
    change = asyncio.create_task(directory.wait_change())
    await asyncio.sleep(0)
    supervisor.tell_promoted("other", epoch=8, resource_id="A-2")
    await change
    supervisor.answer(query, "old", sequence=7)
    query, min_sequence = await supervisor.next_query()
    assert min_sequence == 8
    supervisor.answer(query, "new", sequence=9)
    assert await lookup == Route("new", 9)
    assert directory.route_nowait("account", "A-1") == Route("new", 9)
    assert directory.route_nowait("account", "A-2") is None
    await directory.stop()


async def test_the_next_owner_of_what_was_lost_is_learned_from_the_event_alone() -> None:
    broker = MemoryBroker()
    transport = MemoryTransport(broker)
    supervisor = Supervisor(MemoryTransport(broker))
    directory = Directory(transport, SUBJECTS, SystemClock())
    await supervisor.start()
    await directory.start()
    lookup = asyncio.create_task(directory.route("account", "A-1"))
    query, _ = await supervisor.next_query()
    supervisor.answer(query, "old", sequence=7)
    assert await lookup == Route("old", 7)
    directory.invalidate_route("account", "A-1")
    for epoch, expected in ((7, None), (9, Route("new", 9))):
        change = asyncio.create_task(directory.wait_change())
        await asyncio.sleep(0)
        supervisor.tell_promoted("new" if epoch == 9 else "old", epoch=epoch)
        await change
        # An event of the owner that was lost brings nothing back.
        assert directory.route_nowait("account", "A-1") == expected
    assert await directory.route("account", "A-1") == Route("new", 9)
    assert not supervisor.asked
    await directory.stop()


async def test_a_lookup_that_an_event_answers_ends_at_once_and_tells_the_new_owner() -> None:
    broker = MemoryBroker()
    transport = MemoryTransport(broker)
    supervisor = Supervisor(MemoryTransport(broker))
    directory = Directory(transport, SUBJECTS, SystemClock())
    await supervisor.start()
    await directory.start()
    lookup = asyncio.create_task(directory.route("account", "A-1"))
    query, _ = await supervisor.next_query()
    supervisor.tell_promoted("new", epoch=8)
    # The supervisor has not answered.
    assert await lookup == Route("new", 8)
    change = asyncio.create_task(directory.wait_change())
    await asyncio.sleep(0)
    # This answer is older than the event: to share it would send callers to the dead.
    supervisor.answer(query, "old", sequence=7)
    supervisor.tell_promoted("other", epoch=9, resource_id="A-2")
    await change
    assert directory.route_nowait("account", "A-1") == Route("new", 8)
    assert await directory.route("account", "A-1") == Route("new", 8)
    await directory.stop()
