"""What goes wrong with real servers, and with nats-py, and what becomes of it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from pathlib import Path

import nats.aio.errors
import nats.errors
import nats.js.errors
import pytest
from attrs import evolve

from aegis.errors import ConnectionClosed, Disconnected, NotFound, Unavailable
from aegis.transport import (
    Append,
    Appended,
    AppendOutcome,
    Message,
    NatsOptions,
    NatsTransport,
    Refused,
    Stored,
    StreamConfig,
    Unknown,
    _nats,
    connect_nats,
)
from aegis.transport._jetstream import outcome_of
from aegis.transport._nats_client import PRIVATE_NAMES, FastClient
from aegis.transport._nats_errors import TRANSLATIONS, translation
from tests.support.nats import NatsServer
from tests.support.poll import wait_until

pytestmark = pytest.mark.timeout(60)

CONFIG = StreamConfig("t", ["t.journal.>"], max_bytes=64 * 1024 * 1024)


class Listener:
    """Records what the transport tells, each as an event with a count."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._changed = asyncio.Event()

    def on_disconnected(self) -> None:
        self._tell("disconnected")

    def on_reconnected(self) -> None:
        self._tell("reconnected")

    def on_closed(self, reason: str) -> None:
        self._tell(f"closed: {reason}")

    def _tell(self, what: str) -> None:
        self.told.append(what)
        self._changed.set()

    async def wait(self, what: str, *, timeout: float = 20) -> str:
        """Return the first thing told that starts with ``what``."""
        async with asyncio.timeout(timeout):
            while True:
                for told in self.told:
                    if told.startswith(what):
                        return told
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def server(tmp_path: Path) -> Generator[NatsServer]:
    """A server of this test alone, to be harmed."""
    server = NatsServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def transport(server: NatsServer) -> AsyncGenerator[NatsTransport]:
    transport = await connect_nats(NatsOptions(server.url))
    await transport.ensure_stream(CONFIG)
    yield transport
    await transport.close()


@pytest.fixture
def listener(transport: NatsTransport) -> Listener:
    listener = Listener()
    transport.listen(listener)
    return listener


async def _take(items: AsyncIterator[Stored], count: int) -> list[bytes]:
    async with asyncio.timeout(20):
        return [(await anext(items)).payload for _ in range(count)]


async def _append(transport: NatsTransport, subject: str, payload: bytes) -> int:
    outcome = await transport.append(Append(subject, payload), timeout=5)
    assert isinstance(outcome, Appended), outcome
    return outcome.sequence


# -- losing the server ----------------------------------------------------------------


async def test_a_killed_server_resolves_open_appends_as_unknown_at_once(
    server: NatsServer, transport: NatsTransport, listener: Listener
) -> None:
    server.freeze()
    appends = [transport.append(Append("t.journal.a", b"x"), timeout=60) for _ in range(10)]
    request = asyncio.ensure_future(transport.request("t.any", b"", timeout=60))
    await asyncio.sleep(0)
    server.kill()
    await listener.wait("disconnected", timeout=5)
    async with asyncio.timeout(1):
        outcomes: list[AppendOutcome] = [await append for append in appends]
    assert all(isinstance(outcome, Unknown) for outcome in outcomes)
    with pytest.raises(Disconnected):
        await request


async def test_without_a_server_nothing_is_accepted_and_nothing_is_kept_for_later(
    server: NatsServer, transport: NatsTransport, listener: Listener
) -> None:
    received: list[Message] = []
    await transport.subscribe("t.plain", received.append)
    server.kill()
    await listener.wait("disconnected")
    assert not transport.connected
    with pytest.raises(Disconnected):
        transport.publish("t.plain", b"stale")
    with pytest.raises(Disconnected):
        await transport.request("t.plain", b"stale", timeout=5)
    with pytest.raises(Disconnected):
        await transport.subscribe("t.other", received.append)
    with pytest.raises(Disconnected):
        await transport.flush()
    assert isinstance(await transport.append(Append("t.journal.a", b"stale"), timeout=5), Unknown)
    server.start()
    await listener.wait("reconnected")
    transport.publish("t.plain", b"fresh")
    await transport.flush()
    assert [message.payload for message in received] == [b"fresh"]
    assert [stored async for stored in transport.read("t.journal.>")] == []


async def test_what_was_written_in_the_last_iteration_before_the_loss_is_not_sent_later(
    server: NatsServer, transport: NatsTransport, listener: Listener
) -> None:
    received: list[Message] = []
    await transport.subscribe("t.plain", received.append)
    server.freeze()
    for _ in range(100):
        transport.publish("t.plain", b"stale" * 1000)
    server.kill()
    await listener.wait("disconnected")
    server.start()
    await listener.wait("reconnected")
    await transport.flush()
    assert received == []


async def test_many_subjects_are_remembered_only_up_to_the_limit(
    transport: NatsTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_nats, "KNOWN_SUBJECTS", 3)
    got: list[str] = []
    await transport.subscribe("known.*", lambda message: got.append(message.subject))
    subjects = [f"known.{number % 7}" for number in range(20)]
    for subject in subjects:
        transport.publish_all([(subject, b"")])
        assert len(transport._known) <= 3
    await transport.flush()
    assert got == subjects


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_after_a_restart_of_the_server_subscriptions_and_appends_work_again(
    server: NatsServer, transport: NatsTransport, listener: Listener, how: str
) -> None:
    await transport.subscribe("t.echo", lambda m: transport.publish(m.reply_to, m.payload))
    first = await _append(transport, "t.journal.a", b"1")
    if how == "kill":
        server.kill()
    else:
        server.stop()
    await listener.wait("disconnected")
    server.start()
    await listener.wait("reconnected")
    reply = await transport.request("t.echo", b"hello", timeout=5)
    assert reply.payload == b"hello"
    await wait_until(lambda: _appended(transport, b"2"), what="an append after the restart")
    stored = [(item.sequence, item.payload) async for item in transport.read("t.journal.a")]
    assert stored == [(first, b"1"), (first + 1, b"2")]
    assert not [told for told in listener.told if told.startswith("closed")]


async def _appended(transport: NatsTransport, payload: bytes) -> bool:
    outcome = await transport.append(Append("t.journal.a", payload), timeout=2)
    return isinstance(outcome, Appended)


async def test_a_frozen_server_is_noticed_and_comes_back(
    server: NatsServer, transport: NatsTransport, listener: Listener
) -> None:
    server.freeze()
    append = transport.append(Append("t.journal.a", b"x"), timeout=60)
    await listener.wait("disconnected", timeout=6)
    async with asyncio.timeout(1):
        assert isinstance(await append, Unknown)
    server.thaw()
    await listener.wait("reconnected")
    await _append(transport, "t.journal.b", b"1")


async def test_a_frozen_server_does_not_let_the_client_buffer_without_bound(
    server: NatsServer, transport: NatsTransport
) -> None:
    server.freeze()
    sent = 0
    refused = False
    while not refused and sent < 200:
        try:
            transport.publish("t.plain", b"x" * (1024 * 1024))
        except Disconnected:
            refused = True
        sent += 1
        await asyncio.sleep(0)
    assert refused
    assert sent < 100
    # Nor does it keep the client from closing.
    async with asyncio.timeout(5):
        await transport.close()


async def test_it_looks_for_the_server_without_end(server: NatsServer) -> None:
    options = NatsOptions(server.url, reconnect_wait=0.005)
    transport = await connect_nats(options)
    listener = Listener()
    transport.listen(listener)
    server.kill()
    # nats-py by itself would give up, and close for good, after 60 attempts.
    await wait_until(
        lambda: transport.client.server_pool[0].reconnects > 80, what="80 attempts", timeout=30
    )
    server.start()
    await listener.wait("reconnected")
    await transport.close()


# -- closed for good --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"PUB t.plain 99999999\r\n", "maximum payload"),
        (b"NONSENSE\r\n", "unknown protocol"),
    ],
)
async def test_an_error_of_the_server_that_closes_the_client_for_good_is_told(
    transport: NatsTransport, listener: Listener, line: bytes, reason: str
) -> None:
    following = transport.follow("t.journal.>")
    waiting = asyncio.ensure_future(anext(following))
    await transport.flush()
    transport.client.socket.connection.push(line)
    told = await listener.wait("closed", timeout=10)
    assert reason in told
    assert not transport.connected
    with pytest.raises(ConnectionClosed, match=reason):
        transport.publish("t.plain", b"")
    with pytest.raises(ConnectionClosed):
        await waiting
    assert isinstance(await transport.append(Append("t.journal.a", b""), timeout=5), Unknown)


async def test_closing_it_oneself_is_not_told_as_closed_for_good(
    transport: NatsTransport, listener: Listener
) -> None:
    await transport.close()
    assert listener.told == []


async def test_the_error_callback_never_raises(transport: NatsTransport) -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("on purpose")

    callback = transport.client._error_cb  # pyright: ignore
    await callback(Unprintable())
    await callback(nats.errors.Error("nats: permissions violation for publish"))
    await transport.flush()


async def test_a_listener_that_raises_does_not_stop_the_reconnect(
    server: NatsServer, transport: NatsTransport
) -> None:
    class Broken(Listener):
        def on_disconnected(self) -> None:
            raise RuntimeError("on purpose")

        def on_reconnected(self) -> None:
            raise RuntimeError("on purpose")

    transport.listen(Broken())
    after = Listener()
    transport.listen(after)
    server.kill()
    await after.wait("disconnected")
    server.start()
    await after.wait("reconnected")


# -- appends ------------------------------------------------------------------------------


async def test_a_refused_append_is_answered_and_leaves_no_slot_behind(
    transport: NatsTransport,
) -> None:
    await _append(transport, "t.journal.a", b"1")
    outcomes = await asyncio.gather(
        *(transport.append(Append("t.journal.a", b"2", expect=0), timeout=5) for _ in range(500))
    )
    assert all(isinstance(outcome, Refused) and outcome.conflict for outcome in outcomes)
    assert not transport._appends


async def test_an_append_that_is_not_answered_is_unknown_and_leaves_no_slot_behind(
    server: NatsServer, transport: NatsTransport
) -> None:
    server.freeze()
    outcome = await transport.append(Append("t.journal.a", b"1"), timeout=0.05)
    server.thaw()
    assert isinstance(outcome, Unknown)
    assert not transport._appends
    # It was stored all the same: that is what Unknown means.
    await wait_until(lambda: _stored(transport, 1), what="the append is stored")


async def _stored(transport: NatsTransport, count: int) -> bool:
    return len([item async for item in transport.read("t.journal.>")]) == count


@pytest.mark.parametrize(
    ("payload", "outcome"),
    [
        (b'{"stream":"t","seq":7}', Appended(7)),
        (b'{"stream":"t", "domain":"hub", "seq":7}', Appended(7)),
        (b'{"stream":"t","seq":7,"duplicate":true}', Appended(7)),
        (
            b'{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 5"},'
            b'"stream":"t","seq":0}',
            Refused(True, 5, False, 10071, "wrong last sequence: 5"),
        ),
        (
            b'{"error":{"code":400,"err_code":10164,"description":"wrong last sequence"},"seq":0}',
            Refused(True, None, True, 10164, "wrong last sequence"),
        ),
        (
            b'{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}',
            Refused(False, None, False, 10077, "maximum bytes exceeded"),
        ),
    ],
)
def test_acknowledgements_are_told_by_their_error_not_by_their_sequence(
    payload: bytes, outcome: AppendOutcome
) -> None:
    assert outcome_of(payload) == outcome


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"7",
        b'{"stream":"t","seq":0}',
        b'{"error":7}',
        b"\xff",
        b'{"seq":"7"}',
    ],
)
def test_an_answer_that_cannot_be_read_leaves_the_append_unknown(payload: bytes) -> None:
    assert isinstance(outcome_of(payload), Unknown)


# -- reading in order ---------------------------------------------------------------------


async def test_follow_goes_on_after_its_consumer_was_deleted(transport: NatsTransport) -> None:
    following = transport.follow("t.journal.>")
    await _append(transport, "t.journal.a", b"1")
    assert await _take(following, 1) == [b"1"]
    names = (await transport.api("CONSUMER.NAMES.t"))["consumers"]
    for name in names:
        await transport.api(f"CONSUMER.DELETE.t.{name}")
    await _append(transport, "t.journal.a", b"2")
    await _append(transport, "t.journal.a", b"3")
    assert await _take(following, 2) == [b"2", b"3"]


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_follow_goes_on_after_a_restart_of_the_server(
    server: NatsServer, transport: NatsTransport, listener: Listener, how: str
) -> None:
    following = transport.follow("t.journal.>")
    await _append(transport, "t.journal.a", b"1")
    assert await _take(following, 1) == [b"1"]
    if how == "kill":
        server.kill()
    else:
        server.stop()
    server.start()
    await listener.wait("reconnected")
    await wait_until(lambda: _appended(transport, b"2"), what="an append after the restart")
    async with asyncio.timeout(5):
        assert (await anext(following)).payload == b"2"


async def test_a_lost_delivery_is_never_passed_over(transport: NatsTransport) -> None:
    following = transport.follow("t.journal.>")
    await _append(transport, "t.journal.a", b"0")
    assert await _take(following, 1) == [b"0"]
    (sid,) = _consumer_sids(transport)
    handlers = transport.client.socket.handlers
    deliver = handlers[sid]
    count = 0

    def lossy(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        nonlocal count
        count += 1
        if count != 3:
            deliver(subject, reply, headers, payload)

    handlers[sid] = lossy
    for number in range(1, 11):
        await _append(transport, "t.journal.a", b"%d" % number)
    assert await _take(following, 10) == [b"%d" % number for number in range(1, 11)]


async def test_the_last_delivery_lost_is_noticed_by_the_heartbeat(
    transport: NatsTransport,
) -> None:
    following = transport.follow("t.journal.>")
    await _append(transport, "t.journal.a", b"0")
    assert await _take(following, 1) == [b"0"]
    (sid,) = _consumer_sids(transport)
    handlers = transport.client.socket.handlers
    deliver = handlers[sid]

    def status_only(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        if not payload:
            deliver(subject, reply, headers, payload)

    handlers[sid] = status_only
    await _append(transport, "t.journal.a", b"1")
    async with asyncio.timeout(3):
        assert (await anext(following)).payload == b"1"


async def test_a_consumer_that_falls_silent_is_replaced_within_a_second_or_two(
    transport: NatsTransport,
) -> None:
    following = transport.follow("t.journal.>")
    await _append(transport, "t.journal.a", b"0")
    assert await _take(following, 1) == [b"0"]
    (sid,) = _consumer_sids(transport)
    transport.client.socket.handlers[sid] = _deaf
    await _append(transport, "t.journal.a", b"1")
    async with asyncio.timeout(3):
        assert (await anext(following)).payload == b"1"


def _deaf(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
    """Take a delivery and do nothing."""


def _consumer_sids(transport: NatsTransport) -> list[bytes]:
    return [b"%d" % consumer._sid for consumer in transport.consumers]


async def test_a_read_that_is_given_up_removes_its_consumer(transport: NatsTransport) -> None:
    for number in range(10):
        await _append(transport, "t.journal.a", b"%d" % number)
    reading = transport.read("t.journal.a")
    await anext(reading)
    await reading.aclose()  # type: ignore[attr-defined]
    assert not transport.consumers
    await wait_until(lambda: _no_consumers(transport), what="no consumer is left")


async def _no_consumers(transport: NatsTransport) -> bool:
    return not (await transport.api("CONSUMER.NAMES.t"))["consumers"]


async def test_a_read_ends_though_what_was_left_is_deleted_under_it(
    transport: NatsTransport,
) -> None:
    for number in range(20_000):
        transport.publish("t.journal.a", b"%d" % number)
        if number % 1000 == 0:
            await transport.flush()
    await transport.flush()
    reading = transport.read("t.journal.a")
    first = await anext(reading)
    await transport.api("STREAM.PURGE.t")
    async with asyncio.timeout(10):
        rest = [item.sequence async for item in reading]
    assert rest == sorted(set(rest))
    assert first.sequence == 1


async def test_a_stream_that_is_gone_is_not_looked_for_under_its_old_name(
    transport: NatsTransport,
) -> None:
    subject = "t.journal.gone"
    assert [stored async for stored in transport.read(subject)] == []
    await transport.api(f"STREAM.DELETE.{CONFIG.name}")
    with pytest.raises(NotFound):
        [stored async for stored in transport.read(subject)]
    await transport.ensure_stream(evolve(CONFIG, name="other"))
    transport.forget_stream("other")  # Another connection made it.
    await transport.append(Append(subject, b"1"), timeout=5)
    assert [stored.payload async for stored in transport.read(subject)] == [b"1"]


async def test_a_reader_waits_for_a_server_that_is_away(
    server: NatsServer, transport: NatsTransport, listener: Listener
) -> None:
    await _append(transport, "t.journal.a", b"1")
    server.kill()
    await listener.wait("disconnected")
    reading = asyncio.ensure_future(_take(transport.read("t.journal.a"), 1))
    await asyncio.sleep(0)
    server.start()
    async with asyncio.timeout(20):
        assert await reading == [b"1"]


# -- nats-py itself -----------------------------------------------------------------------


def test_the_release_of_nats_py_is_the_one_whose_private_parts_are_used() -> None:
    assert importlib.metadata.version("nats-py").startswith(
        "2.16."
    ), "check aegis.transport._nats_client against the new release, then change this test"
    client = FastClient(lambda: None)
    missing = [name for name in PRIVATE_NAMES if not hasattr(client, name)]
    assert missing == []


def test_every_error_of_nats_py_is_translated() -> None:
    found: set[type[Exception]] = set()
    for module in (nats.errors, nats.js.errors):
        for value in vars(module).values():
            if (
                inspect.isclass(value)
                and issubclass(value, Exception)
                and value.__module__ == module.__name__
            ):
                found.add(value)
    assert found - TRANSLATIONS.keys() == set()
    deprecated = [
        value
        for value in vars(nats.aio.errors).values()
        if inspect.isclass(value) and issubclass(value, Exception)
    ]
    assert all(set(value.__mro__) & TRANSLATIONS.keys() for value in deprecated)


def test_an_error_that_nobody_knows_becomes_unavailable() -> None:
    assert type(translation(ValueError("odd"))) is Unavailable
    assert type(translation(ConnectionResetError("gone"))) is Disconnected
    assert type(translation(nats.errors.ConnectionClosedError())) is ConnectionClosed
