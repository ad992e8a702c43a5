"""Streaming replies: a query that yields, iterated by callers here and elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any, assert_type, cast

import pytest
from attrs import define, field

from aegis import (
    AegisActor,
    AegisError,
    DeadlineExpired,
    HandlerFailed,
    InvalidRequest,
    NotFound,
    Overloaded,
    Rejected,
    ReplyStream,
    StreamBroken,
    command,
    query,
)
from aegis._node import Node
from aegis.actors._journaled import JournaledBehaviour
from aegis.actors._streams import MAX_OPEN_STREAMS, STREAM, STREAM_IDLE_SECONDS
from aegis.contracts import Kind
from aegis.testing import Hop, MemoryTransport
from tests.support.poll import wait_until
from tests.support.system import System, on_both
from tests.support.virtual import pass_time


@define
class Line:
    """One entry of a history."""

    number: int
    amount: Decimal


@define
class HistoryState:
    """What is told line by line."""

    lines: list[Line] = field(factory=list[Line])


class History(AegisActor):
    """Yields in every way there is."""

    service = "history"
    state: HistoryState

    def on_start(self) -> None:
        self.produced = 0
        self.closed = 0
        self.gate = asyncio.Event()

    @command
    async def add(self, amount: Decimal) -> int:
        self.state.lines.append(Line(len(self.state.lines), amount))
        return len(self.state.lines)

    @query
    async def lines(self) -> AsyncIterator[Line]:
        for line in list(self.state.lines):
            yield line

    @query
    async def numbers(self, count: int, start: int = 0) -> AsyncIterator[int]:
        try:
            for number in range(start, start + count):
                self.produced += 1
                yield number
        finally:
            self.closed += 1

    @query(name="as-they-are")
    async def live(self) -> AsyncIterator[int]:
        """Tell how many lines there are, at the moment of each item."""
        while True:
            self.produced += 1
            yield len(self.state.lines)

    @query
    async def until_rejected(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number
        raise Rejected("no more", last=count)

    @query
    async def until_failed(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number
        raise ValueError("cannot go on")

    @query
    async def wrong(self) -> AsyncIterator[int]:
        yield 1
        yield cast("int", object())

    @query
    async def huge(self, size: int) -> AsyncIterator[str]:
        yield "x" * size

    @query
    async def one_and_wait(self) -> AsyncIterator[int]:
        try:
            yield 1
            await self.gate.wait()
            yield 2
        finally:
            self.closed += 1

    @query
    async def at_each_gate(self) -> AsyncIterator[int]:
        for number in range(4):
            yield number
            await self.gate.wait()
            self.gate.clear()

    @query
    async def who(self) -> AsyncIterator[str]:
        while True:
            yield self.instance_id

    @query
    async def sum_of(self, other: str, count: int) -> int:
        return sum([number async for number in self.actor(History, other).numbers(count)])

    @query
    async def size(self) -> int:
        return len(self.state.lines)


def actor_of(node: Node, resource: str = "H-1") -> Any:
    """Return the actor object of a resource on a node."""
    for desk in node.dispatcher.desks.values():
        if resource in desk.resources:
            return desk.resources[resource].actor
    raise AssertionError(f"{resource} is not there")


async def ended(stream: ReplyStream[Any], items: list[object]) -> AegisError:
    """Iterate to the end, add what comes to ``items``, and return the error that ends it."""
    try:
        async for item in stream:
            items.append(item)
    except AegisError as error:
        return error
    raise AssertionError("the stream ended without an error")


@on_both
async def test_items_come_typed_and_in_order_whoever_iterates(system: System) -> None:
    await system.start_node((History, ["H-1", "H-2"]), instance_id="one")
    await system.start_node((History, ["H-3"]), instance_id="two")
    history = system.cluster.actor(History, "H-1")
    for number in range(3):
        await history.add(Decimal(number))
    expected = [Line(number, Decimal(number)) for number in range(3)]
    assert [line async for line in history.lines()] == expected
    assert [number async for number in history.numbers(1000)] == list(range(1000))
    assert [number async for number in history.numbers(0)] == []
    assert [number async for number in history.numbers(3, start=5)] == [5, 6, 7]
    by_ref = system.cluster.ref(History, "H-1").proxy()
    assert [line async for line in by_ref.lines()] == expected
    plain = system.cluster.stream("history", "lines", resource_id="H-1")
    assert [item async for item in plain] == [
        {"number": number, "amount": str(number)} for number in range(3)
    ]
    # From a handler: an actor of the same node, and one elsewhere.
    assert await history.sum_of("H-2", 100) == sum(range(100))
    assert await history.sum_of("H-3", 100) == sum(range(100))


def test_a_stream_has_the_type_of_its_items() -> None:
    async def typed(history: History) -> Decimal:
        assert_type(history.lines(), ReplyStream[Line])
        return sum([line.amount async for line in history.lines()], Decimal(0))

    # Checked by the type checkers; here it need only be there.
    assert callable(typed)


async def test_an_actor_of_the_same_process_is_iterated_by_its_ref() -> None:
    ref = History.start()
    proxy = ref.proxy()
    assert [number async for number in proxy.numbers(200)] == list(range(200))
    with pytest.raises(InvalidRequest, match="item by item"):
        await ref.ask_handler(ref.cell.spec.handlers["lines"], (), {})
    async for _ in proxy.live():
        break
    await ref.stop()


@on_both
async def test_no_more_is_produced_than_the_window_has_room_for(system: System) -> None:
    node = await system.start_node((History, ["H-1"]), instance_id="one")
    await system.cluster.actor(History, "H-1").size()
    stream = system.cluster.stream(
        "history", "numbers", {"count": 10_000}, resource_id="H-1", window=8
    )
    taken: list[int] = []
    async with stream:
        async for number in stream:
            taken.append(number)
            # Whatever is under way ends before what is ahead is counted.
            for _ in range(3):
                await system.cluster.actor(History, "H-1").size()
            assert actor_of(node).produced <= len(taken) + 8
            if len(taken) == 40:
                break
    assert taken == list(range(40))
    await wait_until(lambda: actor_of(node).closed == 1, what="the generator is closed")
    assert actor_of(node).produced <= 48


@on_both
async def test_leaving_the_loop_closes_the_generator(system: System) -> None:
    node = await system.start_node((History, ["H-1"]), instance_id="one")
    history = system.cluster.actor(History, "H-1")
    async for number in history.numbers(10_000):
        if number == 5:
            break
    await wait_until(lambda: actor_of(node).closed == 1, what="the generator is closed")
    assert actor_of(node).produced < 200


@on_both
async def test_a_cancelled_iteration_closes_the_generator(system: System) -> None:
    node = await system.start_node((History, ["H-1"]), instance_id="one")
    history = system.cluster.actor(History, "H-1")
    first = asyncio.Event()

    async def iterate() -> None:
        async for _ in history.one_and_wait():
            first.set()

    task = asyncio.ensure_future(iterate())
    await first.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    actor_of(node).gate.set()
    await wait_until(lambda: actor_of(node).closed == 1, what="the generator is closed")
    assert await history.size() == 0


@on_both
async def test_an_item_that_is_there_does_not_wait_for_the_next(system: System) -> None:
    node = await system.start_node((History, ["H-1"]), instance_id="one")
    stream = system.cluster.actor(History, "H-1").one_and_wait()
    assert await anext(stream) == 1
    assert not actor_of(node).gate.is_set()
    actor_of(node).gate.set()
    assert await anext(stream) == 2
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert actor_of(node).closed == 1


@on_both
async def test_other_messages_are_handled_between_two_items(system: System) -> None:
    await system.start_node((History, ["H-1"]), instance_id="one")
    history = system.cluster.actor(History, "H-1")
    seen: list[int] = []
    stream = system.cluster.stream("history", "as-they-are", resource_id="H-1", window=1)
    async for count in stream:
        seen.append(count)
        if len(seen) == 6:
            break
        await history.add(Decimal(1))
    assert seen[0] == 0
    assert seen[-1] >= 4
    assert seen == sorted(seen)


@on_both
async def test_what_the_handler_raises_comes_after_the_items_before_it(system: System) -> None:
    await system.start_node((History, ["H-1"]), instance_id="one")
    history = system.cluster.actor(History, "H-1")
    for stream, error, told in (
        (history.until_rejected(100), Rejected, "no more"),
        (history.until_failed(100), HandlerFailed, "ValueError: cannot go on"),
        (history.wrong(), HandlerFailed, "not what its hint says"),
        (history.huge(9_000_000), HandlerFailed, "yield smaller ones"),
    ):
        items: list[object] = []
        caught = await ended(stream, items)
        assert type(caught) is error
        assert told in str(caught)
        assert items in (list(range(100)), [1], [])
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert await history.size() == 0


@on_both
async def test_wrong_use_is_a_clear_error(system: System) -> None:
    await system.start_node((History, ["H-1"]), instance_id="one")
    cluster = system.cluster
    with pytest.raises(InvalidRequest, match=r"cluster\.stream"):
        await cluster.call("history", "lines", resource_id="H-1")
    with pytest.raises(InvalidRequest, match=r"cluster\.stream"):
        await cluster.actor("history", "H-1").lines()
    with pytest.raises(InvalidRequest, match="count: is missing"):
        await anext(cluster.stream("history", "numbers", resource_id="H-1"))
    with pytest.raises(InvalidRequest, match="unknown"):
        await anext(cluster.stream("history", "size", resource_id="H-1"))
    with pytest.raises(NotFound, match="no method"):
        await anext(cluster.stream("history", "nothing", resource_id="H-1"))
    with pytest.raises(NotFound):
        await anext(cluster.stream("history", "lines", resource_id="H-9", timeout=2))
    for window in (0, 1001, 1.5):
        with pytest.raises(InvalidRequest, match="window"):
            cluster.stream("history", "lines", resource_id="H-1", window=window)  # type: ignore[arg-type]
    good = {"id": "a", "from": 0, "credits": 1}
    for pull in (
        None,
        7,
        {},
        {**good, "id": ""},
        {**good, "id": "x" * 65},
        {**good, "id": 1},
        {**good, "from": -1},
        {**good, "from": True},
        {**good, "credits": -1},
        {**good, "credits": 10_001},
        {**good, "credits": None},
    ):
        request = system.request(
            "history", "lines", {STREAM: pull}, resource="H-1", kind=Kind.QUERY
        )
        answer = await system.ask("one", request)
        assert (answer.status, answer.value["field"]) == (400, STREAM)


@on_both
async def test_a_repeated_pull_is_answered_by_the_same_items(system: System) -> None:
    node = await system.start_node((History, ["H-1"]), instance_id="one")

    async def pull(start: int, credits: int) -> Any:
        request = system.request(
            "history",
            "numbers",
            {"count": 100, STREAM: {"id": "s", "from": start, "credits": credits}},
            resource="H-1",
            kind=Kind.QUERY,
        )
        answer = await system.ask("one", request)
        return answer.value if answer.status == 200 else (answer.status, answer.value["items"])

    assert await pull(0, 3) == [0, [0, 1, 2], False, None, "one"]
    assert await pull(0, 3) == [0, [0, 1, 2], False, None, "one"]
    assert await pull(3, 2) == [3, [3, 4], False, None, "one"]
    assert await pull(3, 2) == [3, [3, 4], False, None, "one"]
    assert await pull(5, 0) == [5, [], False, None, "one"]
    assert actor_of(node).produced == 5
    assert await pull(0, 3) == (502, 0)
    assert await pull(9, 3) == (502, 9)


@on_both
async def test_a_lost_answer_neither_loses_nor_repeats_an_item(system: System) -> None:
    if system.broker is None:
        return  # Messages can be lost in memory alone.
    await system.start_node((History, ["H-1"]), instance_id="one")
    await system.cluster.actor(History, "H-1").size()
    count = 0

    def fate(hop: Hop) -> Sequence[float]:
        nonlocal count
        if hop.kind == "message" and "_INBOX" in hop.subject.upper():
            count += 1
            return () if count % 3 == 0 else (0.0,)
        return (0.0,)

    system.broker.fate = fate
    numbers = [n async for n in system.cluster.actor(History, "H-1").numbers(500)]
    system.broker.fate = None
    assert numbers == list(range(500))
    assert count > 6


@on_both
async def test_a_failover_ends_the_iteration_with_an_error_of_its_own(system: System) -> None:
    first = await system.start_node((History, ["H-1"]), instance_id="one")
    await system.start_node((History, ["H-1"]), instance_id="two", role="standby")
    stream = system.cluster.stream("history", "who", resource_id="H-1", window=4)
    assert await anext(stream) == "one"
    await system.kill_node(first)
    items: list[object] = []
    caught = await ended(stream, items)
    assert isinstance(caught, StreamBroken)
    assert caught.code == 502
    assert caught.facts["items"] == len(items) + 1
    assert set(items) <= {"one"}
    again = system.cluster.stream("history", "who", resource_id="H-1", window=4)
    assert await anext(again) == "two"
    await again.aclose()


@on_both
async def test_a_connection_that_is_lost_for_good_breaks_the_stream(system: System) -> None:
    await system.start_node((History, ["H-1"]), instance_id="one")
    cluster = await system.caller()
    stream = cluster.stream("history", "who", resource_id="H-1", window=4, timeout=3)
    assert await anext(stream) == "one"
    if isinstance(cluster.transport, MemoryTransport):
        cluster.transport.disconnect()
    else:
        await cluster.transport.close()
    assert isinstance(await ended(stream, []), StreamBroken)


@on_both
async def test_an_owner_that_was_replaced_sends_no_item(system: System) -> None:
    await system.start_node((History, ["H-1"]), instance_id="one")
    history = system.cluster.actor(History, "H-1")
    stream = system.cluster.stream("history", "as-they-are", resource_id="H-1", window=1)
    assert await anext(stream) == 0
    new = await system.start_node(History, instance_id="two")
    await new.add_resources("two", ["H-1"], force=True)
    assert await history.add(Decimal(1)) == 1
    items: list[object] = []
    assert isinstance(await ended(stream, items), StreamBroken)
    # At most what was ahead already.
    assert items in ([], [0])


class _NoLease:
    def lease_covers(self, service: str, resource: str, epoch: int) -> bool:
        return False

    async def wait_covered(self, service: str, resource: str, epoch: int) -> None: ...

    def on_fenced(self, service: str, resource: str, epoch: int, newer_epoch: int) -> None: ...

    def hand_over(self, service: str, resource: str, epoch: int, to: str | None) -> None: ...


@on_both
async def test_no_item_leaves_without_a_lease(system: System) -> None:
    node = await system.start_node((History, ["H-1"]), instance_id="one")
    pull = {STREAM: {"id": "s", "from": 0, "credits": 1}}
    request = system.request("history", "one_and_wait", pull, resource="H-1", kind=Kind.QUERY)
    assert (await system.ask("one", request)).value[1] == [1]
    pull = {STREAM: {"id": "s", "from": 1, "credits": 1}}
    request = system.request("history", "one_and_wait", pull, resource="H-1", kind=Kind.QUERY)
    waiting = asyncio.ensure_future(system.ask("one", request))
    await wait_until(lambda: len(actor_of(node).gate._waiters) == 1, what="it runs")
    behaviour = node.dispatcher.desks["one"].resources["H-1"].behaviour
    assert isinstance(behaviour, JournaledBehaviour)
    ownership, behaviour._ownership = behaviour._ownership, _NoLease()
    # While the generator waited, the lease ran out.
    actor_of(node).gate.set()
    assert (await waiting).status == 503
    behaviour._ownership = ownership
    assert (await system.ask("one", request)).value[1] == [2]


@on_both
async def test_no_item_leaves_before_what_it_saw_is_durable(system: System) -> None:
    if system.broker is None:
        return  # The way of an append can be stopped in memory alone.
    await system.start_node((History, ["H-1"]), instance_id="one")
    history = system.cluster.actor(History, "H-1")
    await history.size()

    def fate(hop: Hop) -> Sequence[float]:
        return () if hop.kind == "append" and ".journal." in hop.subject else (0.0,)

    system.broker.fate = fate
    added = asyncio.ensure_future(history.add(Decimal(1)))
    stream = system.cluster.stream("history", "as-they-are", resource_id="H-1", window=1)
    first = asyncio.ensure_future(anext(stream))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not added.done()
    assert not first.done()
    system.broker.fate = None
    assert await first == 1
    assert await added == 1
    await stream.aclose()


@on_both
async def test_an_item_that_takes_too_long_ends_the_iteration(system: System) -> None:
    node = await system.start_node((History, ["H-1"]), instance_id="one")
    stream = system.cluster.stream("history", "one_and_wait", resource_id="H-1", timeout=1)
    assert await anext(stream) == 1
    with pytest.raises(AegisError) as caught:
        await anext(stream)
    assert isinstance(caught.value, DeadlineExpired | StreamBroken)
    actor_of(node).gate.set()
    await wait_until(lambda: actor_of(node).closed == 1, what="the generator is closed")


@on_both
async def test_streams_of_one_actor_are_bounded_and_a_closed_one_makes_room(
    system: System,
) -> None:
    await system.start_node((History, ["H-1"]), instance_id="one")
    cluster = system.cluster
    streams = [
        cluster.stream("history", "who", resource_id="H-1", window=1)
        for _ in range(MAX_OPEN_STREAMS)
    ]
    for stream in streams:
        assert await anext(stream) == "one"
    with pytest.raises(Overloaded, match=str(MAX_OPEN_STREAMS)):
        await anext(cluster.stream("history", "who", resource_id="H-1", timeout=0.5))
    await streams.pop().aclose()
    assert await anext(cluster.stream("history", "who", resource_id="H-1")) == "one"
    for stream in streams:
        await stream.aclose()


@on_both
async def test_a_caller_that_vanished_keeps_no_generator_and_one_that_thinks_keeps_its(
    system: System,
) -> None:
    if not system.is_virtual:
        return  # It takes half a minute.
    node = await system.start_node((History, ["H-1"]), instance_id="one")
    pull = {STREAM: {"id": "gone", "from": 0, "credits": 1}}
    request = system.request("history", "one_and_wait", pull, resource="H-1", kind=Kind.QUERY)
    assert (await system.ask("one", request)).value[1] == [1]
    thinking = system.cluster.actor(History, "H-1").numbers(1000)
    assert await anext(thinking) == 0
    await pass_time(4 * STREAM_IDLE_SECONDS)
    assert actor_of(node).closed == 1
    assert [number async for number in thinking] == list(range(1, 1000))


@on_both
async def test_an_item_that_takes_long_does_not_cost_its_caller_the_stream(system: System) -> None:
    if not system.is_virtual:
        return  # It takes minutes.
    node = await system.start_node((History, ["H-1"]))
    stream = system.cluster.stream(
        "history", "at_each_gate", resource_id="H-1", timeout=10 * STREAM_IDLE_SECONDS
    )
    found = [await anext(stream)]
    while len(found) < 4:
        await pass_time(2 * STREAM_IDLE_SECONDS)
        actor_of(node).gate.set()
        found.append(await anext(stream))
    assert found == [0, 1, 2, 3]


@on_both
async def test_a_stream_of_a_service_group_stays_with_one_instance(system: System) -> None:
    for name in ("one", "two", "three"):
        await system.start_node(History, instance_id=name)
    firsts: set[str] = set()
    for _ in range(3):
        stream = system.cluster.stream("history", "who", window=1)
        instances = {await anext(stream) for _ in range(10)}
        assert len(instances) == 1
        firsts |= instances
        await stream.aclose()
    assert firsts == {"one", "two", "three"}
    numbers = [n async for n in system.cluster.stream("history", "numbers", {"count": 300})]
    assert numbers == list(range(300))


@on_both
async def test_a_restart_of_the_actor_breaks_its_streams_and_closes_the_generators(
    system: System,
) -> None:
    node = await system.start_node((History, ["H-1"]), instance_id="one")
    stream = system.cluster.stream(
        "history", "numbers", {"count": 1000}, resource_id="H-1", window=1
    )
    assert await anext(stream) == 0
    old = actor_of(node)
    cell = node.dispatcher.desks["one"].resources["H-1"]
    await cell.terminate(timeout=5, for_restart=True)
    assert old.closed == 1
    assert await cell.restart() is None
    assert isinstance(await ended(stream, []), StreamBroken)
