"""What the in-memory twin can do that a real server only does by accident."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

import pytest

from aegis.errors import ConnectionClosed, Disconnected
from aegis.transport import (
    Append,
    Appended,
    Hop,
    MemoryBroker,
    MemoryTransport,
    Message,
    Refused,
    StreamConfig,
    Unknown,
    VirtualTimeLoop,
)
from aegis.transport import _virtual_loop as virtual_loop
from tests.support.virtual import pass_time


def on_virtual_time[**P](test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run the test on a loop of its own, whose time is virtual."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        virtual_loop.run(test(*args, **kwargs))

    return run


@pytest.fixture
def broker() -> MemoryBroker:
    broker = MemoryBroker()
    broker.ensure_stream(StreamConfig("t", ["t.journal.>"]))
    return broker


@pytest.fixture
def one(broker: MemoryBroker) -> MemoryTransport:
    return MemoryTransport(broker, name="one")


@pytest.fixture
def two(broker: MemoryBroker) -> MemoryTransport:
    return MemoryTransport(broker, name="two")


def losing(kind: Literal["append", "acknowledgement"]) -> Callable[[Hop], Sequence[float]]:
    return lambda hop: [] if hop.kind == kind else [0.0]


class Listener:
    def __init__(self) -> None:
        self.told: list[str] = []

    def on_disconnected(self) -> None:
        self.told.append("disconnected")

    def on_reconnected(self) -> None:
        self.told.append("reconnected")

    def on_closed(self, reason: str) -> None:
        self.told.append(reason)


@on_virtual_time
async def test_time_is_virtual(one: MemoryTransport) -> None:
    assert isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
    await one.subscribe("t.mute", lambda _: None)
    with pytest.raises(TimeoutError):
        await one.request("t.mute", b"", timeout=3600)


@on_virtual_time
async def test_latency_delays_every_hop(
    broker: MemoryBroker, one: MemoryTransport, two: MemoryTransport
) -> None:
    loop = asyncio.get_running_loop()
    await two.subscribe("t.echo", lambda m: two.publish(m.reply_to, b""))
    broker.latency = 0.25
    start = loop.time()
    await one.request("t.echo", b"", timeout=5)
    assert loop.time() - start == pytest.approx(0.5)
    start = loop.time()
    await one.append(Append("t.journal.a", b""), timeout=5)
    assert loop.time() - start == pytest.approx(0.5)


@on_virtual_time
async def test_fate_drops_delays_and_repeats_messages(
    broker: MemoryBroker, one: MemoryTransport, two: MemoryTransport
) -> None:
    fates: dict[bytes, Sequence[float]] = {b"lost": [], b"late": [1.0], b"twice": [0.0, 0.5]}

    def fate(hop: Hop) -> Sequence[float]:
        return fates.get(hop.payload, [0.0])

    broker.fate = fate
    received: list[bytes] = []
    await two.subscribe("t.plain", lambda message: received.append(message.payload))
    for payload in (b"lost", b"late", b"twice", b"plain"):
        one.publish("t.plain", payload)
    await pass_time(2)
    assert received == [b"twice", b"plain", b"twice", b"late"]


@on_virtual_time
async def test_a_lost_acknowledgement_leaves_the_append_stored_and_unknown(
    broker: MemoryBroker, one: MemoryTransport
) -> None:
    broker.fate = losing("acknowledgement")
    outcome = await one.append(Append("t.journal.a", b"1", expect=0), timeout=1)
    assert isinstance(outcome, Unknown)
    assert broker.last_sequence("t.journal.a") == 1
    broker.fate = None
    again = await one.append(Append("t.journal.a", b"1", expect=0), timeout=1)
    assert isinstance(again, Refused)
    assert again.last_sequence == 1


@on_virtual_time
async def test_an_append_that_is_lost_or_repeated_on_its_way_is_what_it_would_be_in_nats(
    broker: MemoryBroker, one: MemoryTransport
) -> None:
    broker.fate = losing("append")
    assert isinstance(await one.append(Append("t.journal.a", b"1"), timeout=1), Unknown)
    assert broker.last_sequence("t.journal.a") == 0

    def twice(hop: Hop) -> Sequence[float]:
        return [0.0, 0.1] if hop.kind == "append" else [0.0]

    broker.fate = twice
    assert await one.append(Append("t.journal.a", b"1", expect=0), timeout=1) == Appended(1)
    await pass_time(1)
    assert broker.last_sequence("t.journal.a") == 1


@on_virtual_time
async def test_an_append_in_flight_lands_after_its_connection_is_gone(
    broker: MemoryBroker, one: MemoryTransport
) -> None:
    broker.latency = 0.1
    append = one.append(Append("t.journal.a", b"1"), timeout=5)
    one.disconnect()
    assert isinstance(await append, Unknown)
    assert broker.last_sequence("t.journal.a") == 0
    await pass_time(1)
    assert broker.last_sequence("t.journal.a") == 1


@on_virtual_time
async def test_disconnecting_fails_what_is_open_and_refuses_what_is_new(
    one: MemoryTransport, two: MemoryTransport
) -> None:
    listener = Listener()
    one.listen(listener)
    received: list[Message] = []
    await one.subscribe("t.plain", received.append)
    request = asyncio.ensure_future(one.request("t.plain", b"", timeout=60))
    await asyncio.sleep(0)
    one.disconnect()
    with pytest.raises(Disconnected):
        await request
    with pytest.raises(Disconnected):
        one.publish("t.plain", b"")
    assert isinstance(await one.append(Append("t.journal.a", b""), timeout=5), Unknown)
    two.publish("t.plain", b"missed")
    await pass_time(1)
    one.reconnect()
    two.publish("t.plain", b"seen")
    await pass_time(1)
    assert [message.payload for message in received] == [b"seen"]
    assert listener.told == ["disconnected", "reconnected"]


@on_virtual_time
async def test_a_message_on_its_way_to_a_connection_that_was_lost_does_not_arrive(
    broker: MemoryBroker, one: MemoryTransport, two: MemoryTransport
) -> None:
    received: list[Message] = []
    await two.subscribe("t.plain", received.append)
    broker.latency = 0.1
    one.publish("t.plain", b"")
    two.disconnect()
    two.reconnect()
    await pass_time(1)
    assert received == []


@on_virtual_time
async def test_a_follower_goes_on_after_a_reconnect(
    one: MemoryTransport, two: MemoryTransport
) -> None:
    following = two.follow("t.journal.>")
    await one.append(Append("t.journal.a", b"1"), timeout=5)
    assert (await anext(following)).payload == b"1"
    two.disconnect()
    await one.append(Append("t.journal.a", b"2"), timeout=5)
    waiting = asyncio.ensure_future(anext(following))
    await pass_time(10)
    assert not waiting.done()
    two.reconnect()
    assert (await waiting).payload == b"2"


@on_virtual_time
async def test_closed_for_good_is_told_and_ends_everything(one: MemoryTransport) -> None:
    listener = Listener()
    one.listen(listener)
    following = asyncio.ensure_future(anext(one.follow("t.journal.>")))
    await asyncio.sleep(0)
    one.close_for_good("maximum payload violation")
    assert listener.told == ["maximum payload violation"]
    with pytest.raises(ConnectionClosed, match="maximum payload"):
        one.publish("t.plain", b"")
    with pytest.raises(ConnectionClosed):
        await following
    one.reconnect()
    assert not one.connected


@on_virtual_time
async def test_fate_sees_who_sends_what_to_whom(
    broker: MemoryBroker, one: MemoryTransport, two: MemoryTransport
) -> None:
    hops: list[Hop] = []

    def fate(hop: Hop) -> Sequence[float]:
        hops.append(hop)
        return [0.0]

    broker.fate = fate
    await two.subscribe("t.plain", lambda _: None)
    one.publish("t.plain", b"p")
    await one.append(Append("t.journal.a", b"a"), timeout=5)
    assert hops == [
        Hop("control", "two", "broker", "t.plain", b""),
        Hop("message", "one", "two", "t.plain", b"p"),
        Hop("append", "one", "broker", "t.journal.a", b"a"),
        Hop("acknowledgement", "broker", "one", "t.journal.a", b"a"),
    ]
