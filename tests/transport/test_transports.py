"""What holds for NATS and for its in-memory twin alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from attrs import evolve

from aegis.errors import (
    ConfigurationError,
    ConnectionClosed,
    NoResponders,
    NotFound,
    TooLarge,
)
from aegis.transport import (
    Append,
    Appended,
    AppendOutcome,
    Message,
    Refused,
    Stored,
    StreamConfig,
    Transport,
)
from tests.support.poll import wait_until
from tests.transport.conftest import World

pytestmark = pytest.mark.timeout(30)


class Inbox:
    """A handler that keeps what it gets, and can be waited for."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()

    def __call__(self, message: Message) -> None:
        self.messages.put_nowait(message)

    async def next(self) -> Message:
        async with asyncio.timeout(5):
            return await self.messages.get()

    async def payloads(self, count: int) -> list[bytes]:
        return [(await self.next()).payload for _ in range(count)]


def _sequence(outcome: AppendOutcome) -> int:
    assert isinstance(outcome, Appended), outcome
    return outcome.sequence


async def _append(transport: Transport, append: Append) -> int:
    return _sequence(await transport.append(append, timeout=5))


async def _read(items: AsyncIterator[Stored]) -> list[tuple[int, bytes]]:
    async with asyncio.timeout(10):
        return [(item.sequence, item.payload) async for item in items]


async def _take(items: AsyncIterator[Stored], count: int) -> list[Stored]:
    taken: list[Stored] = []
    async with asyncio.timeout(10):
        while len(taken) < count:
            taken.append(await anext(items))
    return taken


# -- publish and subscribe ------------------------------------------------------------


async def test_a_message_reaches_every_subscriber_in_order(
    world: World, one: Transport, two: Transport
) -> None:
    first, second = Inbox(), Inbox()
    await one.subscribe(world.plain("a"), first)
    await two.subscribe(world.plain("a"), second)
    for number in range(100):
        one.publish(world.plain("a"), b"%d" % number)
    expected = [b"%d" % number for number in range(100)]
    assert await first.payloads(100) == expected
    assert await second.payloads(100) == expected


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("*", {"a", "b"}),
        (">", {"a", "b", "a.b", "a.b.c"}),
        ("a.*", {"a.b"}),
        ("a.>", {"a.b", "a.b.c"}),
        ("*.b.c", {"a.b.c"}),
        ("a", {"a"}),
    ],
)
async def test_wildcards_match_as_in_nats(
    world: World, one: Transport, pattern: str, matched: set[str]
) -> None:
    inbox, end = Inbox(), Inbox()
    await one.subscribe(world.plain(pattern), inbox)
    await one.subscribe(f"{world.namespace}.end", end)
    for subject in ("a", "b", "a.b", "a.b.c"):
        one.publish(world.plain(subject), subject.encode())
    one.publish(f"{world.namespace}.end", b"")
    await end.next()
    seen: set[str] = set()
    while not inbox.messages.empty():
        seen.add(inbox.messages.get_nowait().payload.decode())
    assert seen == matched


async def test_one_member_of_a_queue_group_gets_each_message(
    world: World, one: Transport, two: Transport
) -> None:
    first, second, everyone = Inbox(), Inbox(), Inbox()
    await one.subscribe(world.plain("a"), first, queue="group")
    await two.subscribe(world.plain("a"), second, queue="group")
    await two.subscribe(world.plain("a"), everyone)
    for number in range(200):
        one.publish(world.plain("a"), b"%d" % number)
    await one.flush()
    assert len(set(await everyone.payloads(200))) == 200
    await two.flush()
    await one.flush()
    got = [
        inbox.messages.get_nowait().payload
        for inbox in (first, second)
        for _ in range(inbox.messages.qsize())
    ]
    assert sorted(got) == sorted(b"%d" % number for number in range(200))
    assert not first.messages.empty() or not second.messages.empty() or got


async def test_many_messages_go_in_their_order_between_others(
    world: World, one: Transport, two: Transport
) -> None:
    inbox = Inbox()
    await two.subscribe(world.plain(">"), inbox)
    one.publish(world.plain("a"), b"first")
    one.publish_all((world.plain("ab"[n % 2]), b"%d\r\n" % n) for n in range(1_000))
    one.publish_all([])
    one.publish(world.plain("a"), b"last")
    got = [await inbox.next() for _ in range(1_002)]
    assert got[0].payload == b"first"
    assert [message.payload for message in got[1:-1]] == [b"%d\r\n" % n for n in range(1_000)]
    assert [message.subject for message in got[1:3]] == [world.plain("a"), world.plain("b")]
    assert got[-1].payload == b"last"


async def test_of_many_messages_none_is_sent_if_one_cannot_be(
    world: World, one: Transport, two: Transport
) -> None:
    inbox = Inbox()
    await one.subscribe(world.plain(">"), inbox)
    large = b"x" * (two.max_payload_bytes + 1)
    with pytest.raises(TooLarge):
        two.publish_all([(world.plain("a"), b"1"), (world.plain("a"), large)])
    with pytest.raises(ValueError, match="subject"):
        two.publish_all([(world.plain("a"), b"2"), (world.plain("a b"), b"")])
    two.publish_all([(world.plain("a"), b"3")])
    assert (await inbox.next()).payload == b"3"
    await two.close()
    with pytest.raises(ConnectionClosed):
        two.publish_all([(world.plain("a"), b"4")])


async def test_headers_and_reply_subject_arrive_as_sent(
    world: World, one: Transport, two: Transport
) -> None:
    inbox = Inbox()
    await two.subscribe(world.plain("a"), inbox)
    headers = {"Trace": "00-ab-cd-01", "X-Name": "Zoë"}
    one.publish(world.plain("a"), b"\x00\r\n\xff", reply_to=world.plain("back"), headers=headers)
    message = await inbox.next()
    assert message.subject == world.plain("a")
    assert message.payload == b"\x00\r\n\xff"
    assert message.reply_to == world.plain("back")
    assert message.headers is not None
    assert dict(message.headers) == headers


async def test_no_message_comes_after_unsubscribe(world: World, one: Transport) -> None:
    inbox = Inbox()
    subscription = await one.subscribe(world.plain("a"), inbox)
    await subscription.unsubscribe()
    one.publish(world.plain("a"), b"late")
    await one.flush()
    await one.flush()
    assert inbox.messages.empty()


async def test_a_handler_that_raises_does_no_harm_to_the_others(
    world: World, one: Transport
) -> None:
    inbox = Inbox()

    def broken(_: Message) -> None:
        raise RuntimeError("on purpose")

    await one.subscribe(world.plain("a"), broken)
    await one.subscribe(world.plain("a"), inbox)
    one.publish(world.plain("a"), b"1")
    one.publish(world.plain("a"), b"2")
    assert await inbox.payloads(2) == [b"1", b"2"]


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB b 0", "a\tb", "a" * 3000])
async def test_a_malformed_subject_is_refused_before_it_is_sent(
    one: Transport, subject: str
) -> None:
    with pytest.raises(ValueError, match="subject"):
        one.publish(subject, b"")
    outcome = await one.append(Append(subject, b""), timeout=5)
    assert isinstance(outcome, Refused)
    assert not outcome.conflict
    assert outcome.code == 400
    with pytest.raises(ValueError, match="subject"):
        await one.subscribe(subject, Inbox())
    await one.flush()


@pytest.mark.parametrize("headers", [{"a b": "c"}, {"a": "b\r\nc: d"}, {"": "x"}])
async def test_a_malformed_header_is_refused_before_it_is_sent(
    world: World, one: Transport, headers: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="header"):
        one.publish(world.plain("a"), b"", headers=headers)


async def test_the_limit_counts_payload_and_headers_together(world: World, one: Transport) -> None:
    inbox = Inbox()
    await one.subscribe(world.plain("a"), inbox)
    head = len(b"NATS/1.0\r\nA: b\r\n\r\n")
    fits = b"x" * (one.max_payload_bytes - head)
    one.publish(world.plain("a"), fits, headers={"A": "b"})
    assert (await inbox.next()).payload == fits
    with pytest.raises(TooLarge) as caught:
        one.publish(world.plain("a"), fits + b"x", headers={"A": "b"})
    assert caught.value.facts == {
        "size_bytes": one.max_payload_bytes + 1,
        "limit_bytes": one.max_payload_bytes,
    }
    with pytest.raises(TooLarge):
        one.publish(world.plain("a"), fits + b"x" * (head + 1))
    await one.flush()


# -- requests -------------------------------------------------------------------------


async def test_a_request_gets_its_own_reply(world: World, one: Transport, two: Transport) -> None:
    await two.subscribe(
        world.plain("echo"), lambda message: two.publish(message.reply_to, message.payload)
    )
    replies = await asyncio.gather(
        *(one.request(world.plain("echo"), b"%d" % n, timeout=5) for n in range(200))
    )
    assert [reply.payload for reply in replies] == [b"%d" % n for n in range(200)]


async def test_a_request_that_nobody_listens_to_fails_at_once(world: World, one: Transport) -> None:
    with pytest.raises(NoResponders):
        await one.request(world.plain("nobody"), b"", timeout=20)


async def test_a_request_without_an_answer_times_out(world: World, one: Transport) -> None:
    await one.subscribe(world.plain("mute"), Inbox())
    with pytest.raises(TimeoutError):
        await one.request(world.plain("mute"), b"", timeout=0.05)


async def test_a_short_timeout_is_not_kept_waiting_by_a_long_one(
    world: World, one: Transport
) -> None:
    await one.subscribe(world.plain("mute"), Inbox())
    long = asyncio.create_task(one.request(world.plain("mute"), b"", timeout=30))
    async with asyncio.timeout(5):
        with pytest.raises(TimeoutError):
            await one.request(world.plain("mute"), b"", timeout=0.05)
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long


async def test_a_cancelled_request_leaves_nothing_behind(world: World, one: Transport) -> None:
    held: list[Message] = []
    await one.subscribe(world.plain("slow"), held.append)
    request = asyncio.create_task(one.request(world.plain("slow"), b"", timeout=5))
    await one.flush()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    one.publish(held[0].reply_to, b"too late")
    await one.flush()


async def test_an_inbox_of_ones_own_is_told_of_missing_responders(
    world: World, one: Transport
) -> None:
    inbox = Inbox()
    await one.subscribe(f"{one.inbox_prefix}.calls.*", inbox)
    one.publish(world.plain("nobody"), b"", reply_to=f"{one.inbox_prefix}.calls.7")
    message = await inbox.next()
    assert message.no_responders
    assert message.subject == f"{one.inbox_prefix}.calls.7"


async def test_a_reply_below_the_inbox_comes_to_its_handler(
    world: World, one: Transport, two: Transport
) -> None:
    inbox = Inbox()
    await one.subscribe(f"{one.inbox_prefix}.calls.*", inbox)
    await two.subscribe(world.plain("a"), lambda m: two.publish(m.reply_to, b"answer"))
    one.publish(world.plain("a"), b"", reply_to=f"{one.inbox_prefix}.calls.8")
    message = await inbox.next()
    assert (message.payload, message.no_responders) == (b"answer", False)


async def test_no_two_connections_share_an_inbox(one: Transport, two: Transport) -> None:
    assert one.inbox_prefix != two.inbox_prefix


# -- appends --------------------------------------------------------------------------


async def test_appends_of_one_loop_iteration_keep_their_order(world: World, one: Transport) -> None:
    outcomes = await asyncio.gather(
        *(one.append(Append(world.journal("a"), b"%d" % n), timeout=5) for n in range(100))
    )
    sequences = [_sequence(outcome) for outcome in outcomes]
    assert sequences == list(range(sequences[0], sequences[0] + 100))
    stored = await _read(one.read(world.journal("a")))
    assert [payload for _, payload in stored] == [b"%d" % n for n in range(100)]


async def test_an_append_is_refused_unless_the_last_sequence_is_the_expected_one(
    world: World, one: Transport
) -> None:
    subject = world.journal("a")
    first = await _append(one, Append(subject, b"1", expect=0))
    refused = await one.append(Append(subject, b"2", expect=0), timeout=5)
    assert isinstance(refused, Refused)
    assert refused.conflict
    assert not refused.again
    assert refused.last_sequence == first
    other = await _append(one, Append(world.journal("b"), b"other", expect=0))
    assert other > first
    await _append(one, Append(subject, b"2", expect=first))
    assert [payload for _, payload in await _read(one.read(subject))] == [b"1", b"2"]


async def test_a_repeat_of_an_accepted_append_is_refused(world: World, one: Transport) -> None:
    append = Append(world.journal("a"), b"1", expect=0)
    first, second = await asyncio.gather(
        one.append(append, timeout=5), one.append(append, timeout=5)
    )
    assert isinstance(first, Appended)
    assert isinstance(second, Refused)
    assert second.last_sequence == first.sequence


async def test_an_append_without_expectation_is_always_taken(world: World, one: Transport) -> None:
    await _append(one, Append(world.journal("a"), b"1"))
    await _append(one, Append(world.journal("a"), b"2"))


async def test_the_condition_can_be_on_another_subject(world: World, one: Transport) -> None:
    leader, record = world.journal("leader"), world.journal("record")
    held = await _append(one, Append(leader, b"me"))
    await _append(one, Append(record, b"1", expect=held, expect_subject=leader))
    await _append(one, Append(leader, b"another"))
    refused = await one.append(Append(record, b"2", expect=held, expect_subject=leader), timeout=5)
    assert isinstance(refused, Refused)
    assert refused.conflict
    assert [payload for _, payload in await _read(one.read(record))] == [b"1"]


async def test_rollup_replaces_all_that_was_there(world: World, one: Transport) -> None:
    subject = world.journal("a")
    await _append(one, Append(subject, b"1"))
    second = await _append(one, Append(subject, b"2"))
    other = await _append(one, Append(world.journal("b"), b"other"))
    rolled = await _append(one, Append(subject, b"all", expect=second, rollup=True))
    assert await _read(one.read(subject)) == [(rolled, b"all")]
    assert await _read(one.read(world.journal("b"))) == [(other, b"other")]
    await _append(one, Append(subject, b"3", expect=rolled))


async def test_a_refused_rollup_removes_nothing(world: World, one: Transport) -> None:
    subject = world.journal("a")
    await _append(one, Append(subject, b"1"))
    await _append(one, Append(subject, b"2"))
    refused = await one.append(Append(subject, b"all", expect=1, rollup=True), timeout=5)
    assert isinstance(refused, Refused)
    assert [payload for _, payload in await _read(one.read(subject))] == [b"1", b"2"]


async def test_a_message_with_a_ttl_goes_when_it_is_over(world: World, one: Transport) -> None:
    subject = world.journal("claim")
    await _append(one, Append(subject, b"1", expect=0, ttl=1))
    kept = await _append(one, Append(world.journal("kept"), b"2", ttl=3600))
    assert len(await _read(one.read(subject))) == 1

    async def gone() -> bool:
        return not await _read(one.read(subject))

    await wait_until(gone, what="the message is gone")
    await _append(one, Append(subject, b"3", expect=0))
    assert await _read(one.read(world.journal("kept"))) == [(kept, b"2")]


async def test_an_append_that_is_too_large_is_refused_and_the_connection_lives(
    world: World, one: Transport
) -> None:
    head = len(b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: 0\r\n\r\n")
    room = one.max_payload_bytes - head
    outcome = await one.append(Append(world.journal("a"), b"x" * (room + 1), expect=0), timeout=5)
    assert isinstance(outcome, Refused)
    assert not outcome.conflict
    assert outcome.code == 413
    await _append(one, Append(world.journal("a"), b"x" * room, expect=0))


async def test_a_full_stream_refuses_without_a_conflict(world: World, one: Transport) -> None:
    piece = b"x" * (7 * 1024 * 1024)
    for _ in range(20):
        outcome = await one.append(Append(world.journal("big"), piece), timeout=10)
        if isinstance(outcome, Refused):
            break
        assert isinstance(outcome, Appended)
    else:
        pytest.fail("the stream never filled up")
    assert not outcome.conflict
    assert not outcome.again
    assert outcome.reason
    await _append(one, Append(world.journal("small"), b"still room"))


async def test_an_append_that_no_stream_keeps_is_refused(world: World, one: Transport) -> None:
    outcome = await one.append(Append(world.plain("a"), b""), timeout=5)
    assert isinstance(outcome, Refused)
    assert not outcome.conflict
    assert outcome.code == 503


async def test_an_append_reaches_those_who_subscribe_to_its_subject(
    world: World, one: Transport, two: Transport
) -> None:
    inbox = Inbox()
    await two.subscribe(world.journal("a"), inbox)
    await _append(one, Append(world.journal("a"), b"1", expect=0))
    assert (await inbox.next()).payload == b"1"


# -- batches --------------------------------------------------------------------------


async def test_a_batch_is_stored_as_a_whole(world: World, one: Transport) -> None:
    subjects = [world.journal(name) for name in ("a", "b", "c")]
    outcome = await one.append_batch(
        [Append(subject, b"x", expect=0) for subject in subjects], timeout=5
    )
    last = _sequence(outcome)
    stored = await _read(one.read(world.journal(">")))
    assert [sequence for sequence, _ in stored] == [last - 2, last - 1, last]


@pytest.mark.parametrize("bad", [0, 1, 2])
async def test_a_batch_with_one_bad_condition_stores_nothing(
    world: World, one: Transport, bad: int
) -> None:
    appends = [Append(world.journal(name), b"x", expect=0) for name in ("a", "b", "c")]
    appends[bad] = Append(appends[bad].subject, b"x", expect=77)
    outcome = await one.append_batch(appends, timeout=5)
    assert isinstance(outcome, Refused)
    assert outcome.conflict
    assert await _read(one.read(world.journal(">"))) == []


async def test_a_batch_of_one_and_a_batch_without_conditions_work(
    world: World, one: Transport
) -> None:
    first = _sequence(await one.append_batch([Append(world.journal("a"), b"1")], timeout=5))
    second = _sequence(
        await one.append_batch(
            [Append(world.journal("a"), b"2"), Append(world.journal("a"), b"3")], timeout=5
        )
    )
    assert second == first + 2


async def test_a_batch_that_is_too_large_is_refused_before_it_is_sent(
    world: World, one: Transport
) -> None:
    many = [Append(world.journal("a"), b"x")] * 1001
    outcome = await one.append_batch(many, timeout=5)
    assert isinstance(outcome, Refused)
    assert outcome.code == 413
    big = [Append(world.journal("a"), b"x"), Append(world.journal("a"), b"x" * (9 << 20))]
    outcome = await one.append_batch(big, timeout=5)
    assert isinstance(outcome, Refused)
    assert outcome.code == 413
    assert await _read(one.read(world.journal("a"))) == []


# -- reads ----------------------------------------------------------------------------


async def test_a_read_ends_with_what_was_stored_when_it_began(world: World, one: Transport) -> None:
    for number in range(5):
        await _append(one, Append(world.journal("a"), b"%d" % number))
    await _append(one, Append(world.journal("b"), b"other"))
    stored = [item async for item in one.read(world.journal("a"))]
    assert [item.payload for item in stored] == [b"0", b"1", b"2", b"3", b"4"]
    assert [item.subject for item in stored] == [world.journal("a")] * 5
    assert all(item.timestamp_ms > 0 for item in stored)


async def test_a_read_of_nothing_ends_at_once(world: World, one: Transport) -> None:
    assert await _read(one.read(world.journal("nothing"))) == []
    await _append(one, Append(world.journal("a"), b"1"))
    assert await _read(one.read(world.journal("a"), start=1000)) == []
    assert await _read(one.read(world.journal("a"), start=5, until=4)) == []


async def test_a_read_starts_at_the_sequence_asked_for(world: World, one: Transport) -> None:
    sequences = [await _append(one, Append(world.journal("a"), b"%d" % n)) for n in range(5)]
    stored = await _read(one.read(world.journal("a"), start=sequences[3]))
    assert stored == [(sequences[3], b"3"), (sequences[4], b"4")]


async def test_a_read_until_a_sequence_waits_for_it(world: World, one: Transport) -> None:
    first = await _append(one, Append(world.journal("a"), b"1"))
    reading = asyncio.create_task(_read(one.read(world.journal("a"), until=first + 1)))
    await one.flush()
    await one.flush()
    assert not reading.done()
    await _append(one, Append(world.journal("a"), b"2"))
    await _append(one, Append(world.journal("a"), b"3"))
    assert await reading == [(first, b"1"), (first + 1, b"2")]


async def test_a_read_until_a_sequence_ends_where_the_stream_has_nothing_for_it(
    world: World, one: Transport
) -> None:
    first = await _append(one, Append(world.journal("a"), b"1"))
    gone = await _append(one, Append(world.journal("b"), b"2"))
    last = await _append(one, Append(world.journal("b"), b"3"))
    await one.purge(world.journal("b"), below=last)
    assert await _read(one.read(world.journal("a"), until=last)) == [(first, b"1")]
    assert await _read(one.read(world.journal("a"), start=gone, until=last)) == []
    assert await _read(one.read(world.journal("nothing"), until=gone)) == []


async def test_a_wildcard_read_is_in_the_order_of_the_stream(world: World, one: Transport) -> None:
    expected: list[tuple[int, bytes]] = []
    for number in range(30):
        subject = world.journal(f"s{number % 3}", "x")
        expected.append((await _append(one, Append(subject, b"%d" % number)), b"%d" % number))
    assert await _read(one.read(world.journal("*", "x"))) == expected
    assert await _read(one.read(world.journal(">"))) == expected


async def test_stored_headers_can_be_read_back(world: World, one: Transport) -> None:
    await _append(one, Append(world.journal("a"), b"1", expect=0, rollup=True))
    (stored,) = await _take(one.read(world.journal("a")), 1)
    assert stored.headers is not None
    assert stored.headers["Nats-Rollup"] == "sub"
    assert "Nothing" not in stored.headers


async def test_follow_goes_on_with_what_is_appended_later(
    world: World, one: Transport, two: Transport
) -> None:
    await _append(one, Append(world.journal("a"), b"1"))
    following = two.follow(world.journal(">"))
    assert [item.payload for item in await _take(following, 1)] == [b"1"]
    for number in range(2, 50):
        await _append(one, Append(world.journal("a"), b"%d" % number))
    items = await _take(following, 48)
    assert [item.payload for item in items] == [b"%d" % number for number in range(2, 50)]


async def test_a_long_read_is_complete_and_in_order(world: World, one: Transport) -> None:
    payload = b"x" * 200
    outcomes = await asyncio.gather(
        *(one.append(Append(world.journal("a"), payload), timeout=20) for _ in range(20_000))
    )
    sequences = [_sequence(outcome) for outcome in outcomes]
    assert [item.sequence async for item in one.read(world.journal("a"))] == sequences


async def test_a_reader_that_is_slow_still_gets_everything(world: World, one: Transport) -> None:
    outcomes = await asyncio.gather(
        *(one.append(Append(world.journal("a"), b"x" * 1000), timeout=20) for _ in range(12_000))
    )
    sequences = [_sequence(outcome) for outcome in outcomes]
    seen: list[int] = []
    async for item in one.read(world.journal("a")):
        seen.append(item.sequence)
        if len(seen) % 1000 == 0:
            await one.flush()
    assert seen == sequences


async def test_reading_what_no_stream_keeps_is_an_error(world: World, one: Transport) -> None:
    with pytest.raises(NotFound):
        await _read(one.read(world.plain("a")))


# -- purge ----------------------------------------------------------------------------


async def test_purge_removes_what_is_below_and_keeps_the_expected_sequence(
    world: World, one: Transport
) -> None:
    subject = world.journal("a")
    sequences = [await _append(one, Append(subject, b"%d" % n)) for n in range(5)]
    other = await _append(one, Append(world.journal("b"), b"other"))
    assert await one.purge(subject, below=sequences[3]) == 3
    assert await _read(one.read(subject)) == [(sequences[3], b"3"), (sequences[4], b"4")]
    assert await _read(one.read(world.journal("b"))) == [(other, b"other")]
    await _append(one, Append(subject, b"5", expect=sequences[4]))


async def test_purge_never_removes_the_last_message(world: World, one: Transport) -> None:
    subject = world.journal("a")
    await _append(one, Append(subject, b"1"))
    last = await _append(one, Append(subject, b"2"))
    assert await one.purge(subject, below=last + 1000) == 1
    refused = await one.append(Append(subject, b"3", expect=0), timeout=5)
    assert isinstance(refused, Refused)
    assert refused.last_sequence == last


async def test_purge_of_nothing_removes_nothing(world: World, one: Transport) -> None:
    assert await one.purge(world.journal("nothing"), below=100) == 0
    await _append(one, Append(world.journal("a"), b"1"))
    assert await one.purge(world.journal("a"), below=1) == 0
    assert await one.purge(world.journal("a"), below=0) == 0


# -- the last message -----------------------------------------------------------------


async def test_the_last_sequence_is_that_of_one_subject_or_of_all_of_a_pattern(
    world: World, one: Transport
) -> None:
    assert await one.last_sequence(world.journal("a")) == 0
    first = await _append(one, Append(world.journal("a"), b"1"))
    second = await _append(one, Append(world.journal("b"), b"2", rollup=True))
    assert await one.last_sequence(world.journal("a")) == first
    assert await one.last_sequence(world.journal("b")) == second
    assert await one.last_sequence(world.journal("*")) == second
    with pytest.raises(NotFound):
        await one.last_sequence("nobody.keeps.this")


# -- how full the stream is -----------------------------------------------------------


async def test_the_usage_of_a_stream_grows_with_what_is_stored(
    world: World, one: Transport
) -> None:
    empty = await one.usage(world.namespace)
    assert (empty.size_bytes, empty.max_bytes) == (0, world.config.max_bytes)
    last = await _append(one, Append(world.journal("a"), b"x" * 10_000))
    usage = await one.usage(world.namespace)
    assert usage.last_sequence == last
    assert 10_000 <= usage.size_bytes <= 10_300


async def test_a_stream_is_found_by_any_of_what_it_keeps(world: World, one: Transport) -> None:
    (found,) = await one.streams(world.journal("a", "*"))
    assert (found.name, found.subjects) == (world.namespace, world.config.subjects)
    assert found.batches
    assert await one.streams(f"{world.namespace}.>") == [found]
    assert await one.streams(world.plain(">")) == []


async def test_a_stream_with_an_age_lets_go_of_what_is_oldest(world: World, one: Transport) -> None:
    subject = f"{world.namespace}.topic.a"
    name = f"{world.namespace}_topic"
    config = StreamConfig(name, [subject], max_bytes=20_000, max_age=60)
    await one.ensure_stream(config)
    assert (await one.usage(name)).first_sequence == 1
    payload = b"x" * 1_000
    sequences = [await _append(one, Append(subject, payload)) for _ in range(30)]
    usage = await one.usage(name)
    assert usage.last_sequence == sequences[-1] == 30
    assert 10 < usage.first_sequence < 30
    left = [sequence for sequence, _ in await _read(one.read(subject))]
    assert left == list(range(usage.first_sequence, 31))
    # What another node asks for is the same, however long it is kept by now.
    await one.ensure_stream(evolve(config, max_age=5))
    with pytest.raises(ConfigurationError):
        await one.ensure_stream(evolve(config, subjects=[subject, f"{subject}.>"]))


async def test_the_first_message_of_a_stream_is_what_a_purge_has_left(
    world: World, one: Transport
) -> None:
    *_, last = [await _append(one, Append(world.journal("a"), b"x")) for _ in range(3)]
    await one.purge(world.journal("a"), below=last)
    assert (await one.usage(world.namespace)).first_sequence == last


async def test_the_usage_of_a_stream_that_is_none_is_not_found(one: Transport) -> None:
    with pytest.raises(NotFound):
        await one.usage("none-such")


# -- the stream -----------------------------------------------------------------------


async def test_the_same_stream_may_be_ensured_by_everyone(
    world: World, one: Transport, two: Transport
) -> None:
    await asyncio.gather(one.ensure_stream(world.config), two.ensure_stream(world.config))


async def test_a_stream_that_differs_is_refused_with_each_difference(
    world: World, two: Transport
) -> None:
    config = StreamConfig(
        world.namespace, [f"{world.namespace}.journal.>", f"{world.namespace}.x"], replicas=3
    )
    with pytest.raises(ConfigurationError) as caught:
        await two.ensure_stream(config)
    assert "subjects" in caught.value.message
    assert "replicas" in caught.value.message


async def test_a_stream_may_have_another_bound_on_its_size(world: World, two: Transport) -> None:
    await two.ensure_stream(evolve(world.config, max_bytes=1 << 20))


# -- the end --------------------------------------------------------------------------


async def test_a_closed_transport_says_so(world: World) -> None:
    transport = await world.transport()
    await transport.close()
    await transport.close()
    assert not transport.connected
    with pytest.raises(ConnectionClosed):
        transport.publish(world.plain("a"), b"")
    with pytest.raises(ConnectionClosed):
        await transport.request(world.plain("a"), b"", timeout=1)
    with pytest.raises(ConnectionClosed):
        await transport.subscribe(world.plain("a"), Inbox())
    with pytest.raises(ConnectionClosed):
        await _read(transport.read(world.journal("a")))


async def test_what_was_published_before_close_arrives(world: World, one: Transport) -> None:
    inbox = Inbox()
    await one.subscribe(world.plain("a"), inbox)
    transport = await world.transport()
    for number in range(100):
        transport.publish(world.plain("a"), b"%d" % number)
    await transport.close()
    assert await inbox.payloads(100) == [b"%d" % number for number in range(100)]
