"""Last ticks on request: ``md.last.<exchange>.<symbol>`` is answered by the active feed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aegis import Cluster
from aegis.marketdata._pipeline import FeedPipeline
from aegis.marketdata._subjects import LAST, key_of

if TYPE_CHECKING:
    from aegis.transport import Message

__all__ = ["answer_last"]


@asynccontextmanager
async def answer_last(cluster: Cluster, pipeline: FeedPipeline) -> AsyncGenerator[None]:
    """Answer requests as long as this is entered; only while the feed publishes.

    A contract without a tick is answered by an empty message.
    """

    def answer(message: Message) -> None:
        if not message.reply_to or not pipeline.publishing:
            return
        exchange, _, symbol = key_of(message.subject).partition(".")
        tick = pipeline.last(exchange, symbol)
        cluster.transport.publish(message.reply_to, b"" if tick is None else tick.to_wire())

    subscription = await cluster.transport.subscribe(f"{LAST}.>", answer)
    try:
        yield
    finally:
        await subscription.unsubscribe()
