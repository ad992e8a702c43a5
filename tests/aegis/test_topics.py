"""Topics: what is published reaches every subscriber at most once, and in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from attrs import define, field

from aegis import (
    AegisActor,
    Call,
    HandlerFailed,
    InvalidRequest,
    Rejected,
    TooLarge,
    applies,
    command,
    query,
    subscribes,
)
from aegis._node import Node
from aegis.actors._observer import Observer
from aegis.actors._publication import decode_publication
from aegis.actors._topics import TopicStatistics
from aegis.testing import Hop, MemoryTransport
from aegis.transport._codec import encode_value
from tests.support.poll import wait_until
from tests.support.system import System, on_both


@define
class Price:
    """A value with types of its own."""

    symbol: str
    bid: Decimal


@define
class WatcherState:
    """What a command makes of what was heard."""

    halts: list[str] = field(factory=list[str])


class Watcher(AegisActor):
    """Hears prices."""

    service = "watcher"
    state: WatcherState

    def on_start(self) -> None:
        self.heard: list[Any] = []
        self.opened = asyncio.Event()
        self.entered = asyncio.Event()

    @subscribes("prices.*")
    async def on_price(self, price: Price, topic: str) -> None:
        self.heard.append((topic, price))

    @subscribes("news.{resource_id}.>")
    def on_own_news(self, text: str) -> None:
        self.heard.append(text)

    @subscribes("halts")
    async def on_halt(self, reason: str) -> None:
        self.actor_ref.tell(Call("halt", {"reason": reason}))

    @subscribes("slow", queue_size=3)
    async def on_slow(self, number: int) -> None:
        self.entered.set()
        await self.opened.wait()
        self.heard.append(number)

    @subscribes("slow-first", queue_size=3, overflow="drop_newest")
    async def on_slow_first(self, number: int) -> None:
        self.entered.set()
        await self.opened.wait()
        self.heard.append(number)

    @subscribes("failing")
    async def on_failing(self, number: int) -> None:
        self.heard.append(number)
        raise ValueError("cannot go on")

    @subscribes("changing")
    async def on_changing(self, text: str) -> None:
        self.state.halts.append(text)

    @command
    async def halt(self, reason: str) -> None:
        self.state.halts.append(reason)
        self.heard.append(f"halt {reason}")

    @command
    async def announce(self, reason: str, fail: str = "") -> None:
        self.state.halts.append(reason)
        await self.publish("prices.HALT", Price(reason, Decimal(1)))
        if fail == "rejected":
            raise Rejected("changed its mind")
        if fail:
            raise ValueError(fail)

    @command
    async def announce_later(self, reason: str, seconds: float) -> None:
        self.remind("later", "announce", after=seconds, reason=reason)

    @command
    def announce_from_a_thread(self, reason: str) -> None:
        self.state.halts.append(reason)
        self.publish("prices.HALT", Price(reason, Decimal(1)))

    @query
    async def announce_by_query(self, reason: str) -> int:
        await self.publish("prices.HALT", Price(reason, Decimal(len(self.state.halts))))
        return len(self.state.halts)

    @query
    async def halts(self) -> list[str]:
        return self.state.halts


@define
class Ticked:
    """An event."""

    count: int


@define
class TickerState:
    """What the events add up to."""

    count: int = 0


class Ticker(AegisActor):
    """Event-sourced: a method that hears may not emit."""

    service = "ticker"
    state: TickerState

    @applies(Ticked)
    def on_ticked(self, event: Ticked) -> None:
        self.state.count += event.count

    @subscribes("ticks")
    async def on_tick(self, count: int) -> None:
        self.emit(Ticked(count))

    @command
    async def tick(self, count: int) -> int:
        self.emit(Ticked(count))
        return self.state.count


class Announcer(AegisActor):
    """A service group."""

    service = "announcer"

    def on_start(self) -> None:
        self.heard: list[str] = []

    @subscribes("words.>")
    async def on_word(self, word: str) -> None:
        self.heard.append(word)

    @command
    async def say(self, word: str) -> str:
        await self.publish("words.said", word)
        return word

    @command
    async def say_and_fail(self, word: str) -> None:
        await self.publish("words.said", word)
        raise Rejected("changed its mind")


def actor_of(node: Node, resource: str | None) -> Any:
    """Return the actor object of the node's only instance, or of a resource there."""
    (desk,) = node.dispatcher.desks.values()
    cell = desk.cell if resource is None else desk.resources[resource]
    assert cell is not None
    return cell.actor


def counts_of(node: Node, topic: str) -> TopicStatistics:
    """Return the counts of one pattern on a node."""
    (counts,) = [counts for counts in node.topics.statistics() if counts.topic == topic]
    return counts


async def heard_by(actor: Any, count: int) -> list[Any]:
    """Return what an actor heard, once there is so much."""
    await wait_until(lambda: len(actor.heard) >= count, what=f"{count} messages were heard")
    heard: list[Any] = actor.heard
    return heard


@on_both
async def test_every_actor_that_subscribes_hears_each_message_once_and_in_order(
    system: System,
) -> None:
    one = await system.start_node((Watcher, ["W-1", "W-2"]), instance_id="one")
    two = await system.start_node((Watcher, ["W-3"]), instance_id="two")
    for number in range(20):
        await system.cluster.publish(f"prices.S{number}", Price("X", Decimal(number)))
    await system.cluster.publish("prices.too.deep", Price("X", Decimal(0)))
    await system.cluster.publish("other.X", Price("X", Decimal(0)))
    expected = [(f"prices.S{number}", Price("X", Decimal(number))) for number in range(20)]
    for node, resource in ((one, "W-1"), (one, "W-2"), (one, None), (two, "W-3"), (two, None)):
        assert await heard_by(actor_of(node, resource), 20) == expected
    assert counts_of(one, "prices.*").handled == 60
    assert counts_of(one, "prices.*").received == 20
    assert counts_of(two, "prices.*").dropped == 0


@on_both
async def test_a_resource_hears_its_own_level_alone_whatever_its_name(system: System) -> None:
    node = await system.start_node((Watcher, ["ACC/1", "ACC-2"]))
    await system.cluster.publish("news.ACC/1.today", "first")
    await system.cluster.publish("news.ACC-2.a.b", "second")
    await system.cluster.publish("news.ACC-3.a", "third")
    await system.cluster.publish("news.ACC-2.last", "fourth")
    assert await heard_by(actor_of(node, "ACC/1"), 1) == ["first"]
    assert await heard_by(actor_of(node, "ACC-2"), 2) == ["second", "fourth"]
    assert actor_of(node, None).heard == []


@on_both
async def test_a_standby_hears_nothing_until_it_is_the_owner(system: System) -> None:
    first = await system.start_node((Watcher, ["W-1"]), instance_id="one")
    second = await system.start_node((Watcher, ["W-1"]), instance_id="two", role="standby")
    await system.cluster.publish("news.W-1.a", "to the first")
    assert await heard_by(actor_of(first, "W-1"), 1) == ["to the first"]
    await system.stop_node(first)
    assert await system.cluster.actor(Watcher, "W-1").halts() == []
    await system.cluster.publish("news.W-1.a", "to the second")
    assert await heard_by(actor_of(second, "W-1"), 1) == ["to the second"]
    assert counts_of(second, "news.{resource_id}.>").handled == 1


@on_both
async def test_a_command_that_is_told_makes_durable_what_was_heard(system: System) -> None:
    node = await system.start_node((Watcher, ["W-1"]), instance_id="one")
    await system.cluster.publish("halts", "war")
    watcher = system.cluster.actor(Watcher, "W-1")

    async def is_halted() -> bool:
        return await watcher.halts() == ["war"]

    await wait_until(is_halted, what="the command has run")
    await system.kill_node(node)
    await system.start_node((Watcher, ["W-1"]), instance_id="one")
    assert await watcher.halts() == ["war"]


@on_both
async def test_a_slow_subscriber_drops_what_its_queue_cannot_hold_and_counts_it(
    system: System,
) -> None:
    for topic, kept in (("slow", [0, 7, 8, 9]), ("slow-first", [0, 1, 2, 3])):
        node = await system.start_node((Watcher, ["W-1"]))
        actor = actor_of(node, "W-1")
        await system.cluster.publish(topic, 0)
        await actor.entered.wait()
        for number in range(1, 10):
            await system.cluster.publish(topic, number)
        await wait_until(
            lambda node=node, topic=topic: counts_of(node, topic).received == 10,  # type: ignore[misc]
            what="all came",
        )
        actor_of(node, None).opened.set()
        actor.opened.set()
        assert await heard_by(actor, 4) == kept
        await heard_by(actor_of(node, None), 4)
        counts = counts_of(node, topic)
        assert (counts.handled, counts.dropped) == (8, 12)
        await system.stop_node(node)


@on_both
async def test_a_feed_keeps_no_command_out_of_the_mailbox(system: System) -> None:
    node = await system.start_node((Watcher, ["W-1"]), mailbox_capacity=2)
    actor = actor_of(node, "W-1")
    for number in range(200):
        await system.cluster.publish("slow", number)
    await actor.entered.wait()
    await wait_until(lambda: counts_of(node, "slow").received == 200, what="all came")
    watcher = system.cluster.actor(Watcher, "W-1")
    command = asyncio.ensure_future(watcher.halt("now"))
    await wait_until(lambda: len(actor.actor_inbox) == 2, what="the command waits in its turn")
    for each in (actor, actor_of(node, None)):
        each.opened.set()
    await command
    # Its turn came before the rest of the feed: of that, one message has a place.
    assert actor.heard.index("halt now") <= 2


@on_both
async def test_what_does_not_fit_the_hint_is_counted_and_harms_nobody(system: System) -> None:
    node = await system.start_node((Watcher, ["W-1"]))
    await system.cluster.publish("prices.X", {"symbol": "X", "bid": "not a number"})
    await system.cluster.publish("prices.X", "no price")
    subject = system.subjects.topic("prices.X")
    for payload in (
        b"",
        b"\xc1",
        encode_value("no array"),
        encode_value([2, "", 1]),
        encode_value([1, 5, 1]),
        encode_value([1, ""]),
    ):
        system.transport.publish(subject, payload)
    await system.cluster.publish("prices.X", Price("X", Decimal(1)))
    assert await heard_by(actor_of(node, "W-1"), 1) == [("prices.X", Price("X", Decimal(1)))]
    counts = counts_of(node, "prices.*")
    assert (counts.received, counts.refused) == (9, 2 * 2 + 6)


class _Failures(Observer):
    def __init__(self) -> None:
        self.told: list[str] = []

    def on_failure(self, cell: Any, failure: Any) -> None:
        self.told.append(str(failure))


@on_both
async def test_a_subscriber_that_fails_is_a_failure_of_its_actor_and_the_rest_goes_on(
    system: System,
) -> None:
    node = await system.start_node((Watcher, ["W-1"]))
    observer = node.runtime.observer = _Failures()
    for number in range(3):
        await system.cluster.publish("failing", number)
    assert await heard_by(actor_of(node, "W-1"), 3) == [0, 1, 2]
    await wait_until(lambda: len(observer.told) == 6, what="all failures were told")
    assert set(observer.told) == {"ValueError: cannot go on"}
    assert await system.cluster.actor(Watcher, "W-1").halts() == []
    assert counts_of(node, "failing").failed == 6


@on_both
async def test_a_subscriber_cannot_change_the_state(system: System) -> None:
    node = await system.start_node((Watcher, ["W-1"]), instance_id="one")
    observer = node.runtime.observer = _Failures()
    watcher = system.cluster.actor(Watcher, "W-1")
    await watcher.halt("by a command")
    await system.cluster.publish("changing", "by a subscriber")
    await wait_until(lambda: counts_of(node, "changing").failed == 1, what="it was told")
    assert "which only commands may" in observer.told[0]
    assert await watcher.halts() == ["by a command"]
    await watcher.halt("again")
    assert await watcher.halts() == ["by a command", "again"]


@on_both
async def test_a_subscriber_cannot_emit_an_event(system: System) -> None:
    node = await system.start_node((Ticker, ["T-1"]))
    ticker = system.cluster.actor(Ticker, "T-1")
    assert await ticker.tick(1) == 1
    await system.cluster.publish("ticks", 10)
    await wait_until(lambda: counts_of(node, "ticks").failed == 2, what="it was refused")
    assert await ticker.tick(1) == 2


@on_both
async def test_what_a_command_publishes_leaves_if_it_happened_and_only_once(
    system: System,
) -> None:
    node = await system.start_node((Watcher, ["W-1"]), instance_id="one")
    actor, watcher = actor_of(node, "W-1"), system.cluster.actor(Watcher, "W-1")
    with pytest.raises(Rejected):
        await watcher.announce("a", fail="rejected")
    with pytest.raises(HandlerFailed):
        await watcher.announce("b", fail="failed")
    request = system.request("watcher", "announce", {"reason": "c"}, resource="W-1")
    assert (await system.ask("one", request)).status == 200
    assert (await system.ask("one", request)).status == 200
    await watcher.announce_from_a_thread("d")
    await watcher.announce_by_query("e")
    heard = await heard_by(actor, 3)
    assert [price.symbol for _, price in heard] == ["c", "d", "e"]
    assert await watcher.halts() == ["c", "d"]


@on_both
async def test_what_mail_and_a_reminder_publish_leaves_once(system: System) -> None:
    await system.start_node((Watcher, ["W-1"]), instance_id="one")
    heard = await system.overhear("topic.>")
    for reason, fail in (("mail", ""), ("refused", "rejected"), ("failed", "oops")):
        params = {"reason": reason, "fail": fail}
        receipt = await system.cluster.send("watcher/W-1", "announce", params)
        with suppress(Rejected, HandlerFailed):
            await system.cluster.result(receipt)
    watcher = system.cluster.actor(Watcher, "W-1")
    await watcher.announce_later("reminder", 0.1)
    await wait_until(lambda: len(heard) == 2, what="both were published")
    await watcher.announce("call")
    await wait_until(lambda: len(heard) == 3, what="all were published")
    values = [decode_publication(message.payload).value for message in heard]
    assert [value["symbol"] for value in values] == ["mail", "reminder", "call"]
    assert await watcher.halts() == ["mail", "reminder", "call"]


@on_both
async def test_nothing_is_published_before_what_it_tells_of_is_stored(system: System) -> None:
    if system.broker is None:
        return  # The way of an append can be stopped in memory alone.
    node = await system.start_node((Watcher, ["W-1"]), instance_id="one")
    watcher = system.cluster.actor(Watcher, "W-1")
    assert await watcher.halts() == []
    topics = await system.overhear("topic.>")
    lost: list[Hop] = []

    def fate(hop: Hop) -> Sequence[float]:
        if hop.kind == "append" and ".journal." in hop.subject:
            lost.append(hop)
            return ()
        return (0.0,)

    system.broker.fate = fate
    calls: list[asyncio.Future[Any]] = [asyncio.ensure_future(watcher.announce("a"))]
    await wait_until(lambda: bool(lost), what="the append is under way")
    # It has seen what the command did, which nobody may hear of yet.
    calls.append(asyncio.ensure_future(watcher.announce_by_query("b")))
    for _ in range(50):
        await asyncio.sleep(0)
    assert topics == []
    assert isinstance(node.transport, MemoryTransport)
    await system.kill_node(node)
    system.broker.fate = None
    await system.start_node((Watcher, ["W-1"]), instance_id="one")
    await asyncio.gather(*calls)
    await wait_until(lambda: len(topics) == 2, what="both were published by the next owner")


@on_both
async def test_an_instance_publishes_what_a_claimed_command_did(system: System) -> None:
    nodes = [await system.start_node(Announcer, instance_id=name) for name in ("one", "two")]
    announcer = system.cluster.actor(Announcer)
    with pytest.raises(Rejected):
        await announcer.say_and_fail("never")
    for number in range(4):
        await announcer.say(f"word {number}")
    for node in nodes:
        assert await heard_by(actor_of(node, None), 4) == [f"word {n}" for n in range(4)]


@on_both
async def test_a_topic_or_value_that_cannot_be_sent_is_a_clear_error(system: System) -> None:
    for topic, told in (
        ("", "empty"),
        ("a..b", "empty level"),
        ("a.*", "wildcard"),
        ("a b", "spaces"),
        ("x" * 300, "300 bytes"),
    ):
        with pytest.raises(InvalidRequest, match=told) as caught:
            await system.cluster.publish(topic, 1)
        assert caught.value.facts["field"] == "topic"
    with pytest.raises(InvalidRequest, match="value") as caught:
        await system.cluster.publish("a", object())
    assert caught.value.facts["field"] == "value"
    limit = system.cluster.transport.max_payload_bytes
    with pytest.raises(TooLarge, match=str(limit)):
        await system.cluster.publish("a", b"x" * limit)
    await system.cluster.publish("a", b"x")


async def test_an_actor_outside_of_a_node_has_no_topics() -> None:
    ref = Announcer.start()
    with pytest.raises(HandlerFailed, match="in a node only"):
        await ref.ask(Call("say", {"word": "x"}))
    await ref.stop()
