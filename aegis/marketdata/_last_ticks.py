"""Last ticks on request, which the active feed answers.

``md.last.<exchange>.<symbol>`` is answered by the last tick of one contract. ``md.last``
itself takes a msgpack array of patterns, as in ``SHFE.rb*``, and is answered by those of all
contracts that match, in parts: ``[number from 0, how many parts, [tick, ...]]``.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, cast

import msgpack

from aegis import Cluster, Unavailable
from aegis.marketdata._pipeline import FeedPipeline
from aegis.marketdata._subjects import LAST, key_of
from aegis.marketdata._tick import Tick, TickUnreadable

if TYPE_CHECKING:
    from aegis.transport import Message

__all__ = ["answer_last", "ask_last"]

PART: Final = 500
"""Ticks in one part of an answer: some 80 KB, and two milliseconds of the feed's time."""

ANSWER_TIMEOUT: Final = 1.0
"""Seconds of silence after which no feed is there to tell: those that stand by do not."""


@asynccontextmanager
async def answer_last(cluster: Cluster, pipeline: FeedPipeline) -> AsyncGenerator[None]:
    """Answer requests as long as this is entered; only while the feed publishes.

    A contract without a tick is answered by an empty message.
    """
    transport = cluster.transport
    answering: set[asyncio.Task[None]] = set()

    def answer(message: Message) -> None:
        if not message.reply_to or not pipeline.publishing:
            return
        exchange, _, symbol = key_of(message.subject).partition(".")
        tick = pipeline.last(exchange, symbol)
        transport.publish(message.reply_to, b"" if tick is None else tick.to_wire())

    def answer_all(message: Message) -> None:
        patterns = _patterns(message.payload)
        if not message.reply_to or not pipeline.publishing or patterns is None:
            return
        task = asyncio.ensure_future(_tell_all(cluster, pipeline, message.reply_to, patterns))
        answering.add(task)
        task.add_done_callback(answering.discard)

    subscriptions = [
        await transport.subscribe(f"{LAST}.>", answer),
        await transport.subscribe(LAST, answer_all),
    ]
    try:
        yield
    finally:
        for subscription in subscriptions:
            await subscription.unsubscribe()
        for task in answering:
            task.cancel()


def _patterns(payload: bytes) -> list[str] | None:
    try:
        asked = msgpack.unpackb(payload)
    except Exception:  # msgpack's own errors have no common class
        return None
    if not isinstance(asked, list):
        return None
    return [str(pattern) for pattern in cast("list[object]", asked)]


async def _tell_all(
    cluster: Cluster, pipeline: FeedPipeline, reply_to: str, patterns: Sequence[str]
) -> None:
    wanted = [
        (exchange, symbol)
        for exchange, symbol in pipeline.arbiter.last
        if any(fnmatchcase(f"{exchange}.{symbol}", pattern) for pattern in patterns)
    ]
    parts = [wanted[start : start + PART] for start in range(0, len(wanted), PART)] or [[]]
    for number, part in enumerate(parts):
        # As they stand at this moment: ticks go on to be published between two parts.
        ticks = [tick for key in part if (tick := pipeline.last(*key)) is not None]
        try:
            cluster.transport.publish(reply_to, msgpack.packb([number, len(parts), ticks]))
        except Unavailable:
            return
        await asyncio.sleep(0)


class _Answer:
    """The parts of one answer, as they come."""

    def __init__(self) -> None:
        self.parts: dict[int, list[Tick]] = {}
        self.came = asyncio.Event()
        self.complete = False
        self.nobody = False

    def on_message(self, message: Message) -> None:
        if message.no_responders:
            self.nobody = True
        else:
            self._take(message.payload)
        self.came.set()

    def _take(self, payload: bytes) -> None:
        try:
            number, count, ticks = msgpack.unpackb(payload, use_list=False)
            self.parts[number] = [Tick.from_fields(fields) for fields in ticks]
        except (ValueError, TypeError, TickUnreadable):
            return  # It is none of ours; without it the answer stays incomplete.
        self.complete = len(self.parts) == count


async def ask_last(cluster: Cluster, patterns: Sequence[str]) -> list[Tick] | None:
    """Return the last ticks of all contracts that match; None if no feed tells them."""
    transport, answer = cluster.transport, _Answer()
    inbox = f"{transport.inbox_prefix}.last.{secrets.token_hex(8)}"
    subscription = await transport.subscribe(inbox, answer.on_message)
    try:
        packed: Any = msgpack.packb(list(patterns))
        transport.publish(LAST, packed, reply_to=inbox)
        while not answer.complete and not answer.nobody:
            answer.came.clear()
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await answer.came.wait()
    except (TimeoutError, Unavailable):
        return None
    finally:
        await subscription.unsubscribe()
    if not answer.complete:
        return None
    return [tick for number in sorted(answer.parts) for tick in answer.parts[number]]
