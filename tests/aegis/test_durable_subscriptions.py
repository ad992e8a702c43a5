"""Durable subscriptions: what is published takes effect once, from a cursor in the journal."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from attrs import define, field

from aegis import (
    AegisActor,
    ConfigurationError,
    Rejected,
    Role,
    applies,
    command,
    query,
    subscribes,
)
from aegis._dead_letter_office import DeadLetterOffice
from aegis.actors import _journaled
from aegis.actors._handlers import describe
from aegis.actors._inbox import INBOX_CAPACITY, MAX_TRIES
from aegis.actors._observer import Observer
from aegis.actors._owner import OwnerLimits
from aegis.actors._publication import encode_publication
from aegis.actors._record import CommandEntry, MailSkipped, MailStashed, MailTried, Subscribed
from aegis.testing import Hop, MemoryTransport
from aegis.transport import Append, Appended, StreamConfig
from aegis.transport._codec import decode_value
from tests.support.poll import wait_until
from tests.support.services import Gate
from tests.support.system import Backend, System, on_both
from tests.support.virtual import pass_time


@define
class Trade:
    """A value with a type of its own."""

    symbol: str
    size: int


@define
class LedgerState:
    """What took effect, in order."""

    lines: list[str] = field(factory=list[str])


class Ledger(AegisActor):
    """Books what is published, by two subscriptions with a cursor each."""

    service = "ledger"
    state: LedgerState
    gate: Gate | None = None

    @command
    @subscribes("trades.*", durable="ledger")
    async def book(self, trade: Trade, topic: str) -> int:
        if trade.symbol == "refused":
            raise Rejected("not that one")
        if trade.symbol == "failing":
            raise ValueError("cannot go on")
        if trade.symbol == "hanging" and self.gate is not None:
            await self.gate.pass_through()
        self.state.lines.append(f"{topic} {trade.size}")
        return len(self.state.lines)

    @subscribes("notes.{resource_id}", durable="own")
    @command
    def note(self, text: str) -> None:
        self.state.lines.append(f"{self.message_id}: {text}")

    @command
    async def write(self, line: str) -> None:
        self.state.lines.append(line)

    @query
    async def lines(self) -> list[str]:
        return self.state.lines


@define
class Booked:
    """An event."""

    line: str


class EventLedger(AegisActor):
    """The same with a state that is made of events."""

    service = "events"
    state: LedgerState

    @command
    @subscribes("trades.*", durable="ledger")
    async def book(self, trade: Trade, topic: str) -> None:
        self.emit(Booked(f"{topic} {trade.size}"))

    @applies(Booked)
    def on_booked(self, event: Booked) -> None:
        self.state.lines.append(event.line)

    @query
    async def lines(self) -> list[str]:
        return self.state.lines


class Exchange(AegisActor):
    """Publishes, and hears what it publishes as it comes."""

    service = "exchange"
    state: LedgerState

    def on_start(self) -> None:
        self.heard: list[int] = []

    @command
    async def trade(self, symbol: str, size: int, fail: bool = False) -> None:
        self.state.lines.append(symbol)
        await self.publish(f"trades.{symbol}", Trade(symbol, size))
        if fail:
            raise Rejected("changed its mind")

    @command
    def trade_in_thread(self, symbol: str, size: int) -> None:
        self.publish(f"trades.{symbol}", Trade(symbol, size))

    @query
    async def show(self, symbol: str, size: int) -> None:
        await self.publish(f"trades.{symbol}", Trade(symbol, size))

    @subscribes("trades.*")
    async def on_trade(self, trade: Trade) -> None:
        self.heard.append(trade.size)


class NewLedger(AegisActor):
    """Wants nothing that was published before it began."""

    service = "new"
    state: LedgerState

    @command
    @subscribes("trades.*", durable="ledger", start="new")
    async def book(self, trade: Trade, topic: str) -> None:
        self.state.lines.append(f"{topic} {trade.size}")

    @query
    async def lines(self) -> list[str]:
        return self.state.lines


class Listener(Observer):
    """Counts gaps."""

    def __init__(self) -> None:
        self.gaps: list[str] = []

    def on_gap(self, service: str) -> None:
        self.gaps.append(service)


async def lines_of(
    system: System, count: int, service: str = "ledger", resource: str = "L-1"
) -> list[str]:
    """Return what took effect, once there is so much."""
    found: list[str] = []

    async def is_complete() -> bool:
        nonlocal found
        found = await system.cluster.call(service, "lines", resource_id=resource)
        return len(found) >= count

    await wait_until(is_complete, what=f"{service}/{resource} has {count} lines", timeout=30)
    return found


async def publish(system: System, *sizes: int, symbol: str = "A") -> None:
    for size in sizes:
        await system.cluster.publish(f"trades.{symbol}", Trade(symbol, size))


def trades(*sizes: int, symbol: str = "A") -> list[str]:
    return [f"trades.{symbol} {size}" for size in sizes]


def stream_of(system: System) -> str:
    return system.subjects.topic_stream("trades")


def office_of(system: System) -> DeadLetterOffice:
    cluster = system.cluster
    return DeadLetterOffice(cluster.transport, cluster.subjects, cluster.sender)


# -- exactly once ---------------------------------------------------------------------


@on_both
async def test_what_is_published_takes_effect_once_at_each_resource_and_in_order(
    system: System,
) -> None:
    await system.start_node((Ledger, ["L-1", "L-2"]), (EventLedger, ["L-1"]))
    await asyncio.gather(*(publish(system, size) for size in range(100)))
    for service, resource in (("ledger", "L-1"), ("ledger", "L-2"), ("events", "L-1")):
        assert await lines_of(system, 100, service, resource) == trades(*range(100))
    entries = [entry for entry in await system.entries("ledger", "L-1") if entry.mail]
    assert [entry.source for entry in entries] == ["ledger"] * 100
    sequences = [entry.mail for entry in entries]
    assert sequences == sorted(set(sequences))


@on_both
async def test_a_resource_reads_its_own_level_alone_and_each_message_has_an_id(
    system: System,
) -> None:
    await system.start_node((Ledger, ["L-1", "L2.x>*"]))
    await system.cluster.publish("notes.L-1", "a")
    await system.cluster.publish("notes.L-1", "b")
    first, second = await lines_of(system, 2)
    assert first.endswith("|own-1: a")
    assert second.endswith("|own-2: b")
    assert await lines_of(system, 0, "ledger", "L2.x>*") == []


@on_both
async def test_what_was_published_while_nobody_was_there_is_read_later(system: System) -> None:
    node = await system.start_node((Ledger, ["L-1"]), instance_id="one")
    await publish(system, 1)
    assert await lines_of(system, 1) == trades(1)
    await system.stop_node(node)
    await system.start_node()
    await publish(system, 2, 3)
    await system.start_node((Ledger, ["L-1", "L-2"]), instance_id="one")
    assert await lines_of(system, 3) == trades(1, 2, 3)
    # A resource that is new begins with the first that the stream has.
    assert await lines_of(system, 3, "ledger", "L-2") == trades(1, 2, 3)


@on_both
async def test_a_subscription_that_wants_new_messages_alone_begins_behind_the_others(
    system: System,
) -> None:
    await system.start_node((Ledger, ["L-1"]))
    await publish(system, 1)
    await system.start_node((NewLedger, ["N-3"]))

    async def has_begun() -> bool:
        records = await system.records("new", "N-3")
        entries = [entry for _, record in records for entry in record.entries or ()]
        return any(isinstance(entry, Subscribed) for entry in entries)

    await wait_until(has_begun, what="the subscription is on record")
    await publish(system, 2)
    assert await lines_of(system, 1, "new", "N-3") == trades(2)


@on_both
async def test_a_standby_goes_on_with_the_subscription_where_the_owner_was(
    system: System,
) -> None:
    expected: list[str] = []
    for actor in (Ledger, EventLedger):
        service = actor.service
        owner = await system.start_node((actor, ["L-1"]), instance_id=f"{service}-1")
        await system.start_node((actor, ["L-1"]), instance_id=f"{service}-2", role=Role.STANDBY)
        await publish(system, *range(40), symbol=service)
        await lines_of(system, len(expected) + 20, service)
        await system.kill_node(owner)
        await publish(system, *range(40, 60), symbol=service)
        expected += trades(*range(60), symbol=service)
        assert await lines_of(system, len(expected), service) == expected


@on_both
async def test_after_a_restart_of_everything_nothing_is_lost_or_repeated(system: System) -> None:
    for turn in range(2):
        nodes = [
            await system.start_node((Ledger, ["L-1"]), instance_id="one"),
            await system.start_node((Exchange, ["X-1"]), instance_id="two"),
        ]
        exchange = system.cluster.actor(Exchange, "X-1")
        for size in range(5):
            await exchange.trade("A", 10 * turn + size)
        for node in nodes:
            await system.kill_node(node)
    await system.start_node((Ledger, ["L-1"]), instance_id="one")
    await system.start_node((Exchange, ["X-1"]), instance_id="two")
    sizes = [10 * turn + size for turn in range(2) for size in range(5)]
    assert await lines_of(system, 10) == trades(*sizes)


@pytest.mark.parametrize("step", ["before the record", "behind the record", "publishing"])
def test_an_owner_killed_at_any_step_loses_and_repeats_nothing(step: str) -> None:
    async def scenario(system: System) -> None:
        ledger = await system.start_node((Ledger, ["L-1"]), instance_id="l-1")
        await system.start_node((Ledger, ["L-1"]), instance_id="l-2", role=Role.STANDBY)
        exchange = await system.start_node((Exchange, ["X-1"]), instance_id="x-1")
        await system.start_node((Exchange, ["X-1"]), instance_id="x-2", role=Role.STANDBY)
        await publish(system, 1)
        assert await lines_of(system, 1) == trades(1)
        victim = exchange if step == "publishing" else ledger
        assert isinstance(victim.transport, MemoryTransport)
        name = victim.transport.name
        lost: list[str] = []

        def fate(hop: Hop) -> list[float]:
            kind = "acknowledgement" if step == "behind the record" else "append"
            kept = ".topic." if step == "publishing" else ".journal.ledger."
            if kind == hop.kind and name in (hop.source, hop.destination) and kept in hop.subject:
                lost.append(hop.subject)
                return []
            return [0.0001]

        assert system.broker is not None
        system.broker.fate = fate
        await system.cluster.actor(Exchange, "X-1").trade("A", 2)
        await publish(system, 3)
        await wait_until(lambda: bool(lost), what="the step is reached")
        await system.kill_node(victim)
        found = await lines_of(system, 3)
        assert sorted(found) == trades(1, 2, 3)

    Backend(None).run(scenario)


@on_both
async def test_a_copy_in_the_stream_has_no_second_effect(system: System) -> None:
    node = await system.start_node((Ledger, ["L-1"]), (Exchange, ["X-1"]))
    await system.cluster.actor(Exchange, "X-1").trade("A", 1)
    assert await lines_of(system, 1) == trades(1)
    subject = system.subjects.topic("trades.A")
    (stored,) = [one async for one in system.transport.read(subject)]
    copy = await system.transport.append(Append(subject, stored.payload), timeout=10)
    assert isinstance(copy, Appended)
    await publish(system, 2)
    assert await lines_of(system, 2) == trades(1, 2)
    # Who hears it as it comes takes the copy for what it is, too.
    (desk,) = [d for d in node.dispatcher.desks.values() if d.service == "exchange"]
    actor: Any = desk.resources["X-1"].actor
    await wait_until(lambda: len(actor.heard) == 2, what="both were heard")
    assert actor.heard == [1, 2]


class TwiceLedger(AegisActor):
    """Books each trade twice, by two subscriptions to the same topic."""

    service = "twice"
    state: LedgerState

    @command
    @subscribes("trades.*", durable="one")
    async def one(self, trade: Trade) -> None:
        self.state.lines.append(f"one {trade.size}")

    @command
    @subscribes("trades.*", durable="two")
    async def two(self, trade: Trade) -> None:
        self.state.lines.append(f"two {trade.size}")

    @query
    async def lines(self) -> list[str]:
        return self.state.lines


@on_both
async def test_each_of_two_subscriptions_to_one_topic_hears_everything_once(
    system: System,
) -> None:
    await system.start_node((TwiceLedger, ["T-1"]), (Exchange, ["X-1"]))
    await publish(system, 1)
    await system.cluster.actor(Exchange, "X-1").trade("A", 2)
    found = await lines_of(system, 4, "twice", "T-1")
    assert sorted(found) == ["one 1", "one 2", "two 1", "two 2"]


def test_an_owner_killed_between_a_message_and_its_effect_runs_it_again() -> None:
    async def scenario(system: System) -> None:
        gate = Gate()

        class Held(Ledger):
            pass

        Held.gate = gate
        node = await system.start_node((Held, ["L-1"]), instance_id="one")
        await publish(system, 1)
        await publish(system, 2, symbol="hanging")
        await gate.entered.wait()
        await pass_time(5.0)  # Whatever could be stored meanwhile is.
        await system.kill_node(node)
        await system.start_node((Ledger, ["L-1"]), instance_id="one")
        assert await lines_of(system, 2) == [*trades(1), *trades(2, symbol="hanging")]

    Backend(None).run(scenario)


def test_a_snapshot_holds_where_each_subscription_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(_: int) -> OwnerLimits:
        return OwnerLimits(snapshot_every_records=1)

    monkeypatch.setattr(_journaled, "_limits", small)

    async def scenario(system: System) -> None:
        node = await system.start_node((NewLedger, ["N-1"]), instance_id="one")
        await publish(system, 1, 2)
        assert await lines_of(system, 2, "new", "N-1") == trades(1, 2)
        await system.kill_node(node)
        _, last = (await system.records("new", "N-1"))[-1]
        assert last.is_snapshot
        await system.start_node()
        await publish(system, 3)
        # One that took itself for new would begin behind what is there.
        await system.start_node((NewLedger, ["N-1"]), instance_id="one")
        assert await lines_of(system, 3, "new", "N-1") == trades(1, 2, 3)

    Backend(None).run(scenario)


@on_both
async def test_what_is_sent_and_what_is_published_have_cursors_of_their_own(
    system: System,
) -> None:
    sizes = range(300)
    first = await system.start_node((Ledger, ["L-1"]), instance_id="one")
    await asyncio.gather(*(publish(system, size) for size in sizes))
    assert await lines_of(system, 300) == trades(*sizes)
    await system.kill_node(first)
    await system.start_node()
    sent = await system.cluster.send(Ledger, "write", {"line": "sent"}, resource_id="L-1")
    assert sent.sequence < len(sizes)  # The topic's stream has more messages by now.
    await system.start_node((Ledger, ["L-1"]), instance_id="one")
    assert await lines_of(system, 301) == [*trades(*sizes), "sent"]


# -- publishing -----------------------------------------------------------------------


@on_both
async def test_what_a_command_publishes_is_stored_if_it_happened(system: System) -> None:
    await system.start_node((Ledger, ["L-1"]), (Exchange, ["X-1"]))
    exchange = system.cluster.actor(Exchange, "X-1")
    with pytest.raises(Rejected):
        await exchange.trade("A", 1, fail=True)
    await exchange.trade("A", 2)
    await exchange.trade_in_thread("A", 3)
    await lines_of(system, 2)
    await exchange.show("A", 4)
    assert await lines_of(system, 3) == trades(2, 3, 4)
    outgoing = [
        (one.service, one.resource)
        for entry in await system.entries("exchange", "X-1")
        for one in entry.outgoing or ()
    ]
    assert outgoing == [("", "trades.A")] * 2


@on_both
async def test_what_is_published_without_knowing_that_it_is_kept_is_kept(system: System) -> None:
    await system.start_node()
    await system.cluster.publish("trades.A", Trade("A", 0))
    await system.start_node((Ledger, ["L-1"]))
    assert not system.cluster.is_kept("trades.A")
    await publish(system, 1)
    assert await lines_of(system, 1) == trades(1)


@on_both
async def test_what_others_publish_who_number_nothing_takes_effect_once_each(
    system: System,
) -> None:
    node = await system.start_node((Ledger, ["L-1"]), instance_id="one")
    subject = system.subjects.topic("trades.A")
    for size in (1, 2, 3):
        payload = encode_publication("trades.A", {"symbol": "A", "size": size}, 10_000)
        outcome = await system.transport.append(Append(subject, payload), timeout=10)
        assert isinstance(outcome, Appended)
    assert await lines_of(system, 3) == trades(1, 2, 3)
    await system.kill_node(node)
    await system.start_node((Ledger, ["L-1"]), instance_id="one")
    await publish(system, 4)
    assert await lines_of(system, 4) == trades(1, 2, 3, 4)


@on_both
async def test_an_operators_own_stream_is_read_where_there_is_one(system: System) -> None:
    subjects = [system.subjects.topic("trades.>"), system.subjects.topic("notes.>")]
    name = f"{system.namespace}_mine"
    await system.transport.ensure_stream(StreamConfig(name, subjects, max_age=60))
    await system.start_node((Ledger, ["L-1"]))
    await publish(system, 1)
    await system.cluster.publish("notes.L-1", "b")
    assert len(await lines_of(system, 2)) == 2
    assert [one.name for one in await system.transport.streams(f"{system.namespace}.topic.>")] == [
        name
    ]


# -- what the stream no longer has ------------------------------------------------------


@on_both
async def test_what_the_stream_let_go_of_is_told_and_the_rest_takes_effect(
    system: System,
) -> None:
    listener = Listener()
    node = await system.start_node((Ledger, ["L-1"]), instance_id="one")
    await publish(system, 1)
    assert await lines_of(system, 1) == trades(1)
    await system.kill_node(node)
    await system.start_node()
    await publish(system, 2, 3, 4)
    await system.transport.purge(system.subjects.topic("trades.A"), below=4)
    events = await system.overhear("event.gap")
    await system.start_node((Ledger, ["L-1"]), instance_id="one", observer=listener)
    assert await lines_of(system, 2) == trades(1, 4)
    assert listener.gaps == ["ledger"]
    await wait_until(lambda: bool(events), what="the gap was published")
    told = decode_value(events[0].payload)
    facts = (told["resource_ids"], told["stream"], told["subscription"], told["first"])
    assert facts == (["L-1"], stream_of(system), "ledger", 2)
    assert told["last"] == 3
    skipped = [
        entry
        for _, record in await system.records("ledger", "L-1")
        for entry in record.entries or ()
        if isinstance(entry, MailSkipped)
    ]
    assert [(entry.source, entry.sequence) for entry in skipped] == [("ledger", 3)]
    assert "let go of 2 to 3" in skipped[0].reason


@on_both
async def test_what_went_while_an_owner_had_no_room_for_it_is_told(system: System) -> None:
    listener, gate = Listener(), Gate()

    class Held(Ledger):
        pass

    Held.gate = gate
    await system.start_node((Held, ["L-1"]), observer=listener)
    await publish(system, 0, symbol="hanging")
    await gate.entered.wait()
    many = range(1, INBOX_CAPACITY + 100)
    await asyncio.gather(*(publish(system, size, symbol="hanging") for size in many))
    expected = trades(0, *many, symbol="hanging")
    kept_from = len(expected) - 20
    await system.transport.purge(system.subjects.topic("trades.hanging"), below=kept_from)
    gate.opened.set()

    async def is_read() -> bool:
        found = await system.cluster.call("ledger", "lines", resource_id="L-1")
        return bool(found) and found[-1] == expected[-1]

    await wait_until(is_read, what="the last is read", timeout=30)
    assert listener.gaps == ["ledger"]
    (gap,) = [
        entry
        for _, record in await system.records("ledger", "L-1")
        for entry in record.entries or ()
        if isinstance(entry, MailSkipped)
    ]
    assert gap.sequence == kept_from - 1
    found = await lines_of(system, 0)
    in_memory = len(found) - len(expected[gap.sequence :])
    assert INBOX_CAPACITY <= in_memory < gap.sequence
    assert found == expected[:in_memory] + expected[gap.sequence :]


def test_what_goes_between_a_look_at_the_stream_and_its_read_is_told() -> None:
    async def scenario(system: System) -> None:
        listener = Listener()
        node = await system.start_node((Ledger, ["L-1"]), instance_id="one")
        await publish(system, 1)
        assert await lines_of(system, 1) == trades(1)
        await system.kill_node(node)
        await system.start_node()
        await publish(system, 2, 3, 4)
        broker, reads = system.broker, 0
        assert broker is not None

        def fate(hop: Hop) -> list[float]:
            nonlocal reads
            if hop.kind == "read" and ".topic.trades" in hop.subject:
                reads += 1
                if reads == 2:  # The first follows what is new; this one reads what was there.
                    broker.purge(system.subjects.topic("trades.A"), 4)
            return [0.0001]

        broker.fate = fate
        await system.start_node((Ledger, ["L-1"]), instance_id="one", observer=listener)
        assert await lines_of(system, 2) == trades(1, 4)
        assert listener.gaps == ["ledger"]

    Backend(None).run(scenario)


@on_both
async def test_a_stream_that_was_made_anew_is_read_from_its_beginning(system: System) -> None:
    listener = Listener()
    node = await system.start_node((Ledger, ["L-1"]), instance_id="one")
    await publish(system, 1, 2, 3)
    assert await lines_of(system, 3) == trades(1, 2, 3)
    await system.kill_node(node)
    if system.broker is not None:
        gone = system.broker.streams.pop(stream_of(system))
        for pattern in gone.config.subjects:
            system.broker._captures.remove(pattern, gone)
    else:
        await system.transport.api(f"STREAM.DELETE.{stream_of(system)}")  # type: ignore[attr-defined]
    await system.start_node((Ledger, ["L-1"]), instance_id="one", observer=listener)
    await publish(system, 4)
    assert await lines_of(system, 4) == trades(1, 2, 3, 4)
    assert listener.gaps == ["ledger"]


# -- what cannot take effect -----------------------------------------------------------


@on_both
async def test_what_nobody_can_read_is_a_dead_letter_and_the_rest_goes_on(
    system: System,
) -> None:
    await system.start_node((Ledger, ["L-1", "L-2"]))
    await publish(system, 1)
    outcome = system.transport.append(
        Append(system.subjects.topic("trades.A"), b"\xc1"), timeout=10
    )
    assert isinstance(await outcome, Appended)
    await system.cluster.publish("trades.A", {"symbol": "A", "size": "many"})
    await publish(system, 2)
    for resource in ("L-1", "L-2"):
        assert await lines_of(system, 2, "ledger", resource) == trades(1, 2)
    letters = await office_of(system).all("ledger/L-1")
    assert [letter.source for letter in letters] == ["ledger", "ledger"]
    assert "cannot be read" in letters[0].reason
    assert "size" in letters[1].reason
    assert letters[1].method == "book"
    assert len({letter.sequence for letter in await office_of(system).all()}) == 4
    await office_of(system).drop(letters[0].sequence)
    assert len(await office_of(system).all("ledger/L-1")) == 1
    assert len(await office_of(system).all("ledger/L-2")) == 2


@on_both
async def test_the_next_owner_does_not_give_up_again_what_was_given_up(system: System) -> None:
    node = await system.start_node((Ledger, ["L-1"]), instance_id="one")
    outcome = system.transport.append(
        Append(system.subjects.topic("trades.A"), b"\xc1"), timeout=10
    )
    assert isinstance(await outcome, Appended)

    async def given_up() -> list[MailSkipped]:
        records = await system.records("ledger", "L-1")
        entries = [entry for _, record in records for entry in record.entries or ()]
        return [entry for entry in entries if isinstance(entry, MailSkipped)]

    async def is_given_up() -> bool:
        return bool(await given_up())

    await wait_until(is_given_up, what="it is given up")
    await system.kill_node(node)
    await system.start_node((Ledger, ["L-1"]), instance_id="one")
    await publish(system, 1)
    assert await lines_of(system, 1) == trades(1)
    assert len(await given_up()) == 1


@on_both
async def test_a_command_that_fails_is_tried_and_then_a_dead_letter_that_can_be_replayed(
    system: System,
) -> None:
    await system.start_node((Ledger, ["L-1"]))
    await publish(system, 1)
    await publish(system, 7, symbol="failing")
    await publish(system, 8, symbol="refused")
    await publish(system, 2)
    assert await lines_of(system, 2) == trades(1, 2)
    (letter,) = await office_of(system).all()
    assert (letter.method, letter.tries) == ("book", MAX_TRIES)
    assert "cannot go on" in letter.reason
    records = await system.records("ledger", "L-1")
    entries = [entry for _, record in records for entry in record.entries or ()]
    tried = [entry.sequence for entry in entries if isinstance(entry, MailTried)]
    assert tried.count(2) == MAX_TRIES
    rejected = [e for e in entries if isinstance(e, CommandEntry) and e.status == Rejected.code]
    assert len(rejected) == 1
    receipt = await office_of(system).replay(letter.sequence, timeout=10)
    with pytest.raises(Exception, match="cannot go on"):
        await system.cluster.result(receipt)
    assert await office_of(system).all() == []


@on_both
async def test_a_message_at_which_owners_die_is_given_up_after_its_tries(system: System) -> None:
    await system.start_node((Ledger, ["L-0"]))
    await publish(system, 1)
    await publish(system, 5, symbol="hanging")
    await publish(system, 2)
    gate = Gate()
    for _ in range(MAX_TRIES):
        gate = Gate()

        class Hanging(Ledger):
            pass

        Hanging.gate = gate
        node = await system.start_node((Hanging, ["L-1"]), instance_id="l")
        await gate.entered.wait()
        await system.kill_node(node)
    await system.start_node((Ledger, ["L-1"]), instance_id="l")
    assert await lines_of(system, 2) == trades(1, 2)
    (letter,) = await office_of(system).all("ledger/L-1")
    assert (letter.tries, letter.source) == (MAX_TRIES, "ledger")


class Door(AegisActor):
    """Puts aside what it reads, which fails, or sends it to itself, where it can wait."""

    service = "door"
    state: LedgerState

    @command
    @subscribes("calls.*", durable="calls")
    async def hear(self, name: str, topic: str) -> None:
        if topic == "calls.wait":
            self.stash()
        self.send(Door, "D-1", "enter", name=name)

    @command
    async def enter(self, name: str) -> None:
        if not self.state.lines:
            self.stash()
        self.state.lines.append(name)

    @command
    async def open(self) -> None:
        self.state.lines.append("open")
        self.unstash_all()

    @query
    async def lines(self) -> list[str]:
        return self.state.lines


@on_both
async def test_what_cannot_be_put_aside_says_what_to_do_and_what_it_sends_itself_can(
    system: System,
) -> None:
    await system.start_node((Door, ["D-1"]))
    await system.cluster.publish("calls.wait", "never")
    await system.cluster.publish("calls.send", "a")

    async def is_waiting() -> bool:
        records = await system.records("door", "D-1")
        entries = [entry for _, record in records for entry in record.entries or ()]
        return any(isinstance(entry, MailStashed) for entry in entries)

    await wait_until(is_waiting, what="what was sent is put aside")
    (letter,) = await office_of(system).all("door/D-1")
    assert "reads cannot be put aside; let it send itself what has to wait" in letter.reason
    await system.cluster.actor(Door, "D-1").open()
    assert await lines_of(system, 2, "door", "D-1") == ["open", "a"]


@on_both
async def test_more_than_an_owner_holds_in_memory_is_read_by_and_by(system: System) -> None:
    node = await system.start_node((Ledger, ["L-1"]), instance_id="one")
    await system.kill_node(node)
    await system.start_node()
    await asyncio.gather(*(publish(system, size) for size in range(400)))
    await system.start_node((Ledger, ["L-1", "L-2"]), instance_id="one")
    for resource in ("L-1", "L-2"):
        assert await lines_of(system, 400, "ledger", resource) == trades(*range(400))


# -- wrong use ------------------------------------------------------------------------


def test_a_durable_subscription_that_makes_no_sense_is_a_clear_error() -> None:
    with pytest.raises(ConfigurationError, match="durable must be a name of 1 to 64"):
        subscribes("a", durable="")
    with pytest.raises(ConfigurationError, match="durable must be a name of 1 to 64"):
        subscribes("a", durable="a/b")
    with pytest.raises(ConfigurationError, match="must be 'first' or 'new'"):
        subscribes("a", durable="a", start="last")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="start is for durable"):
        subscribes("a", start="new")
    with pytest.raises(ConfigurationError, match="drops nothing"):
        subscribes("a", durable="a", queue_size=5)
    with pytest.raises(ConfigurationError, match="has > before its end"):
        subscribes("a.>.b", durable="a")


def test_a_durable_subscription_stands_at_a_command_with_a_name_of_its_own() -> None:
    class OnQuery(AegisActor):
        service = "wrong"

        @query
        @subscribes("a", durable="a")
        async def ask(self, value: int) -> None: ...

    class OnNothing(AegisActor):
        service = "wrong"

        @subscribes("a", durable="a")
        async def hear(self, value: int) -> None: ...

    class Mixed(AegisActor):
        service = "wrong"

        @subscribes("a", durable="a")
        @subscribes("b")
        async def hear(self, value: int) -> None: ...

    for wrong in (OnQuery, OnNothing, Mixed):
        with pytest.raises(ConfigurationError, match="it stands at a command"):
            describe(wrong)

    class Twice(AegisActor):
        service = "wrong"

        @command
        @subscribes("a", durable="same")
        @subscribes("b", durable="same")
        async def hear(self, value: int) -> None: ...

    with pytest.raises(ConfigurationError, match="another subscription of the class"):
        describe(Twice)

    class Parameters(AegisActor):
        service = "wrong"

        @command
        @subscribes("a", durable="a")
        async def hear(self, value: int, other: int) -> None: ...

    with pytest.raises(ConfigurationError, match="takes self, the value"):
        describe(Parameters)


@on_both
async def test_a_node_does_not_start_where_no_stream_can_keep_the_topic(system: System) -> None:
    class Everything(AegisActor):
        service = "everything"

        @command
        @subscribes("*.done", durable="all")
        async def hear(self, value: int) -> None: ...

    with pytest.raises(ConfigurationError, match="name the first level, or make a stream"):
        await system.start_node((Everything, ["E-1"]))
    part = StreamConfig(f"{system.namespace}_part", [system.subjects.topic("trades.A")], max_age=60)
    await system.transport.ensure_stream(part)
    with pytest.raises(ConfigurationError, match="but not all in one stream"):
        await system.start_node((Ledger, ["L-1"]))
