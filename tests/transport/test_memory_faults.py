"""Half-open connections, stores that refuse and readers that miss something, in memory."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from aegis.errors import Disconnected, NoResponders
from aegis.transport import (
    Append,
    Appended,
    Hop,
    MemoryBroker,
    MemoryTransport,
    Message,
    Refused,
    Stored,
    StreamConfig,
    Unknown,
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


@on_virtual_time
async def test_a_connection_that_the_server_has_given_up_is_silent_until_it_is_noticed(
    broker: MemoryBroker, one: MemoryTransport, two: MemoryTransport
) -> None:
    received: list[Message] = []
    await one.subscribe("t.plain", received.append)
    one.detach()
    assert one.connected
    with pytest.raises(NoResponders):
        await two.request("t.plain", b"", timeout=5)
    with pytest.raises(TimeoutError):
        await one.request("t.nobody", b"", timeout=5)
    assert await one.append(Append("t.journal.a", b"1"), timeout=5) == Unknown("no answer in time")
    with pytest.raises(Disconnected, match="does not answer"):
        await one.subscribe("t.other", received.append)
    assert broker.last_sequence("t.journal.a") == 0
    one.disconnect()
    one.reconnect()
    two.publish("t.plain", b"")
    await pass_time(1)
    assert len(received) == 1


@on_virtual_time
async def test_the_notice_that_nobody_listens_may_be_lost_like_any_message(
    broker: MemoryBroker, one: MemoryTransport
) -> None:
    with pytest.raises(NoResponders):
        await one.request("t.nobody", b"", timeout=5)

    def fate(hop: Hop) -> Sequence[float]:
        return [] if hop.source == "broker" else [0.0]

    broker.fate = fate
    with pytest.raises(TimeoutError):
        await one.request("t.nobody", b"", timeout=5)


@on_virtual_time
async def test_a_store_that_is_away_refuses_or_says_nothing(
    broker: MemoryBroker, one: MemoryTransport
) -> None:
    away = Refused(conflict=False, again=True, code=503, reason="no leader")
    broker.store_fate = lambda _: away
    assert await one.append(Append("t.journal.a", b"1"), timeout=5) == away
    broker.store_fate = lambda _: Unknown()
    assert await one.append(Append("t.journal.a", b"1"), timeout=5) == Unknown("no answer in time")
    broker.store_fate = lambda _: None
    assert await one.append(Append("t.journal.a", b"1"), timeout=5) == Appended(1)


@on_virtual_time
async def test_a_delivery_that_is_lost_comes_again_and_leaves_no_gap(
    broker: MemoryBroker, one: MemoryTransport
) -> None:
    lost = 3

    def fate(hop: Hop) -> Sequence[float]:
        nonlocal lost
        if hop.kind == "read" and lost:
            lost -= 1
            return []
        return [0.0]

    for number in range(5):
        await one.append(Append("t.journal.a", b"%d" % number), timeout=5)
    broker.fate = fate
    assert [stored.payload async for stored in one.read("t.journal.>", start=2)] == [
        b"1",
        b"2",
        b"3",
        b"4",
    ]
    assert lost == 0


@on_virtual_time
async def test_a_follower_is_shown_the_subjects_it_asked_for_in_the_order_of_the_stream(
    broker: MemoryBroker, one: MemoryTransport, two: MemoryTransport
) -> None:
    following = two.follow("t.journal.*.x")
    waiting = asyncio.ensure_future(anext(following))
    for subject in ("t.journal.a.y", "t.journal.b.x", "t.journal.a.x", "t.journal.b.x"):
        await one.append(Append(subject, b""), timeout=5)
    assert [(await waiting).sequence] + [(await anext(following)).sequence for _ in range(2)] == [
        2,
        3,
        4,
    ]


@on_virtual_time
async def test_whoever_watches_the_store_sees_each_message_and_whose_it_is(
    broker: MemoryBroker, one: MemoryTransport, two: MemoryTransport
) -> None:
    seen: list[tuple[str, int]] = []

    def on_stored(source: str, stored: Stored) -> None:
        seen.append((source, stored.sequence))

    broker.on_stored = on_stored
    await one.append(Append("t.journal.a", b""), timeout=5)
    await two.append(Append("t.journal.a", b"", expect=7), timeout=5)
    await two.append(Append("t.journal.a", b""), timeout=5)
    assert seen == [("one", 1), ("two", 2)]
