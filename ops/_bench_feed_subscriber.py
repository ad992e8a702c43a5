"""A subscriber under `aegis bench feed`, in a process of its own.

``python -m aegis.ops._bench_feed_subscriber FORM...`` takes ticks as ``ticks`` (each on its
subject), as ``batches`` or both, and answers a request on `TALLY` with what it has counted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Any, Final

import msgpack

from aegis._cluster import connect
from aegis.marketdata._subjects import BATCH, TICK
from aegis.ops._bench_feed_tally import Tally
from aegis.ops._bench_loop import run
from aegis.transport._base import Message, Transport

__all__ = ["BATCHES", "READY", "RPC", "TALLY", "TICKS", "answer_tallies"]

TICKS: Final = "ticks"
BATCHES: Final = "batches"
RPC: Final = "rpc"
"""As events of vnpy: see `aegis.ops._bench_feed_rpc`."""

TALLY: Final = "bench.feed.tally"
READY: Final = "ready"


async def answer_tallies(transport: Transport, tallies: dict[str, Tally]) -> None:
    """Answer whoever asks what was counted, say so, and go on until told to end."""

    def answer(message: Message) -> None:
        counted: Any = {form: tally.to_plain() for form, tally in tallies.items()}
        transport.publish(message.reply_to, msgpack.packb(counted))

    await transport.subscribe(TALLY, answer)
    await transport.flush()
    os.write(1, f"{READY}\n".encode())
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


async def _subscribe(forms: list[str]) -> None:
    tallies = {form: Tally() for form in forms}
    async with connect() as cluster:
        for form, tally in tallies.items():
            if form == TICKS:
                await cluster.transport.subscribe(f"{TICK}.>", _taking_ticks(tally))
            else:
                await cluster.transport.subscribe(f"{BATCH}.>", _taking_batches(tally))
        await answer_tallies(cluster.transport, tallies)


def _taking_ticks(tally: Tally) -> Any:
    unpack, take, clock = msgpack.unpackb, tally.take, time.time_ns

    def on_tick(message: Message) -> None:
        take(unpack(message.payload), clock())

    return on_tick


def _taking_batches(tally: Tally) -> Any:
    unpack, take, clock = msgpack.unpackb, tally.take, time.time_ns

    def on_batch(message: Message) -> None:
        batch = unpack(message.payload)
        now_ns = clock()
        for fields in batch:
            take(fields, now_ns)

    return on_batch


if __name__ == "__main__":
    run(_subscribe(sys.argv[1:]))
