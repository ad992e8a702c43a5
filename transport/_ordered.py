"""Reading the stream in order, with no gap passed over.

A consumer of ours is short-lived: it delivers from a sequence on, numbering what it
delivers, with a heartbeat when it has nothing. A number left out, a heartbeat that
does not come, a lost connection: the consumer is dropped and the next one starts
behind the last message that was yielded. nats-py's own ordered consumer is not used,
since it can stay blind for many seconds after a restart of the server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

import structlog

from aegis.errors import AegisError, Disconnected, NoResponders, NotFound, Unavailable
from aegis.transport._base import Stored
from aegis.transport._jetstream import STREAM_NOT_FOUND, ApiError
from aegis.transport._wire import RawHeaders, status_of

if TYPE_CHECKING:
    from aegis.transport._nats import NatsTransport

__all__ = ["ordered_read"]

HEARTBEAT_SECONDS: Final = 0.25
SILENCE_SECONDS: Final = 3 * HEARTBEAT_SECONDS
"""A consumer that is silent for so long is gone."""

FIRST_RETRY_SECONDS: Final = 0.05
LAST_RETRY_SECONDS: Final = 1.0
CREATE_TIMEOUT_SECONDS: Final = 2.0

MAX_WAITING: Final = 4096
"""Messages received and not yet yielded, above which the server is held back."""

_log = structlog.get_logger("aegis.transport")


async def ordered_read(
    transport: NatsTransport, pattern: str, start: int, until: int | None, *, endless: bool
) -> AsyncIterator[Stored]:
    """Yield what the stream has of ``pattern``; see `Transport.read` and `follow`."""
    position = max(start, 1)
    if until is not None and until < position:
        return
    left: int | None = None
    delay = 0.0
    while True:
        await transport.wait_connected()
        if delay:
            await asyncio.sleep(delay)
        consumer = _Consumer(transport, pattern, position)
        try:
            pending = await consumer.create()
            if pending is None:
                delay = min(max(delay * 2, FIRST_RETRY_SECONDS), LAST_RETRY_SECONDS)
                continue
            delay = 0.0
            if not endless and until is None:
                left = pending if left is None else min(left, pending)
                if left == 0:
                    return
            while await consumer.wait_ready():
                while consumer.ready:
                    stored, behind = consumer.next()
                    position = stored.sequence + 1
                    yield stored
                    if until is not None:
                        if stored.sequence >= until:
                            return
                    elif left is not None:
                        left -= 1
                        if left <= 0 or behind == 0:
                            return
                if left is not None and consumer.idle:
                    # What was left has been deleted meanwhile.
                    return
                if until is not None and consumer.idle and consumer.passed >= until:
                    # The message was deleted, or is of another subject.
                    return
        finally:
            consumer.stop()


class _Consumer:
    """One consumer on the server, from its creation to the first thing amiss."""

    def __init__(self, transport: NatsTransport, pattern: str, start: int) -> None:
        self._transport = transport
        self._pattern = pattern
        self._start = start
        self._loop = asyncio.get_running_loop()
        number = transport.next_token()
        self._name = f"{transport.inbox_prefix.rpartition('.')[2]}-{number}"
        self._inbox = f"{transport.inbox_prefix}._c.{number}"
        self._stream = ""
        self._sid: int | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._heard_at = 0.0
        self._delivered = 0
        self._flow_reply = b""
        self.ready: deque[tuple[Stored, int]] = deque()
        self.broken = ""
        self.idle = False
        self.passed = 0
        """The sequence up to which the server has looked, and sent all that there was."""

    async def create(self) -> int | None:
        """Create it; return how many messages it will deliver, or None to try later.

        Raises:
            NotFound: no stream keeps such subjects.
            ConnectionClosed: the client is closed for good.
            Unavailable: the server will not have such a consumer.
        """
        try:
            self._stream = await self._transport.stream_of(self._pattern)
            self._transport.consumers.add(self)
            self._sid = self._transport.client.add_subscription(self._inbox, "", self._on_message)
            reply = await self._transport.api(
                f"CONSUMER.CREATE.{self._stream}.{self._name}.{self._pattern}",
                {
                    "stream_name": self._stream,
                    "action": "create",
                    "config": {
                        "name": self._name,
                        "deliver_subject": self._inbox,
                        "deliver_policy": "by_start_sequence",
                        "opt_start_seq": self._start,
                        "filter_subject": self._pattern,
                        "ack_policy": "none",
                        "max_deliver": 1,
                        "replay_policy": "instant",
                        "flow_control": True,
                        "idle_heartbeat": int(HEARTBEAT_SECONDS * 1e9),
                        "mem_storage": True,
                        "num_replicas": 1,
                    },
                },
                timeout=CREATE_TIMEOUT_SECONDS,
            )
        except ApiError as error:
            if error.error_code == STREAM_NOT_FOUND:
                self._transport.forget_stream(self._stream)
                raise NotFound(f"the stream {self._stream} is gone") from error
            if error.code == 400:
                raise Unavailable(f"{self._pattern} cannot be read: {error}") from error
            _log.warning("consumer not created", subject=self._pattern, reason=str(error))
            return None
        except (Disconnected, NoResponders, ConnectionResetError, TimeoutError):
            # The server is away, or JetStream is not up yet.
            return None
        self._heard_at = self._loop.time()
        self._watch = self._loop.call_later(SILENCE_SECONDS, self._check_silence)
        # What the first answer counts as waiting is there before any delivery of it.
        return int(reply.get("num_pending", 0)) + self._delivered_at_creation(reply)

    @staticmethod
    def _delivered_at_creation(reply: dict[str, object]) -> int:
        delivered = reply.get("delivered")
        if isinstance(delivered, dict):
            return int(delivered.get("consumer_seq", 0))  # pyright: ignore
        return 0

    def next(self) -> tuple[Stored, int]:
        """Return the next message and how many are stored behind it."""
        item = self.ready.popleft()
        if self._flow_reply and len(self.ready) < MAX_WAITING // 2:
            self._answer_flow()
        return item

    async def wait_ready(self) -> bool:
        """Wait for a message or for idleness; return False if the consumer is gone."""
        self.idle = False
        while not self.ready and not self.idle:
            if self.broken:
                return False
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return True

    def fail(self, reason: str) -> None:
        """Give up this consumer; what it delivered in order is still good."""
        if not self.broken:
            self.broken = reason
            self._wake()

    def stop(self) -> None:
        """Remove it from the server."""
        self._transport.consumers.discard(self)
        if self._watch is not None:
            self._watch.cancel()
        if self._sid is not None:
            self._transport.client.drop_subscription(self._sid)
            self._sid = None
            try:
                self._transport.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}", b"")
            except AegisError:
                # Without our interest the server removes it by itself.
                return

    def _on_message(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        self._heard_at = self._loop.time()
        if self.broken:
            return
        if headers and not payload:
            status = status_of(headers)
            if status:
                self._on_status(status, reply, headers)
                return
        # $JS.ACK.<stream>.<consumer>.<tries>.<stream seq>.<consumer seq>.<ns>.<pending>,
        # with domain and account before the stream on servers that have them.
        words = reply.split(b".")
        numbers = words[5:9] if len(words) == 9 else words[7:11]
        try:
            sequence, number, timestamp, behind = map(int, numbers)
        except ValueError:
            self.fail("a delivery without its numbers")
            return
        if number != self._delivered + 1:
            self.fail(f"delivery {self._delivered + 1} is missing")
            return
        self._delivered = number
        stored = Stored(
            subject.decode(),
            sequence,
            payload,
            RawHeaders(headers) if headers else None,
            timestamp // 1_000_000,
        )
        self.ready.append((stored, behind))
        self._wake()

    def _on_status(self, status: int, reply: bytes, headers: bytes) -> None:
        if status != 100:
            self.fail(f"status {status}")
            return
        if reply:
            self._flow_reply = reply
            if len(self.ready) < MAX_WAITING:
                self._answer_flow()
            return
        facts = RawHeaders(headers)
        stalled = facts.get("Nats-Consumer-Stalled")
        if stalled:
            self._flow_reply = stalled.encode()
            if len(self.ready) < MAX_WAITING:
                self._answer_flow()
            return
        last = facts.get("Nats-Last-Consumer", "")
        if last.isdecimal() and int(last) > self._delivered:
            self.fail(f"deliveries {self._delivered + 1} to {last} are missing")
            return
        passed = facts.get("Nats-Last-Stream", "")
        self.passed = int(passed) if passed.isdecimal() else 0
        self.idle = True
        self._wake()

    def _answer_flow(self) -> None:
        reply, self._flow_reply = self._flow_reply, b""
        try:
            self._transport.publish(reply.decode(), b"")
        except AegisError as error:
            self.fail(error.message)

    def _check_silence(self) -> None:
        waited = self._loop.time() - self._heard_at
        if waited >= SILENCE_SECONDS:
            self.fail("no heartbeat")
            return
        self._watch = self._loop.call_later(SILENCE_SECONDS - waited, self._check_silence)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
