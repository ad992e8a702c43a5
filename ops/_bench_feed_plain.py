"""Plain nats-py under `aegis bench feed`: the same made-up market, published by hand.

``python -m aegis.ops._bench_feed_plain URL FUTURES OPTIONS RATE EVEN`` publishes what its
gateway tells, one message for each tick, with nothing in between that a feed does: no
normaliser, no arbiter, no coverage, no batches. The server's user comes in the environment.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Sequence
from datetime import date
from typing import Any, Final

import msgpack
from nats.aio.client import Client
from nats.aio.msg import Msg

from aegis.marketdata._bridge import Bridge
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._contract import Contract
from aegis.marketdata._ports import GatewayFailure, GatewayState, RawTick
from aegis.marketdata._simulated_universe import SimulatedUniverse
from aegis.marketdata._subjects import tick_subject
from aegis.marketdata._tick import VERSION
from aegis.marketdata.adapters._simulated import SimulatedGateway
from aegis.ops._bench_feed_subscriber import READY
from aegis.ops._bench_limits import PASSWORD_VARIABLE, USER_VARIABLE, connect_plain

__all__ = ["BEGIN", "END", "SOURCE", "Switch"]

SOURCE: Final = "bench.feed.source"
"""Is told to begin and to end, and answers with how many ticks it has published."""

BEGIN: Final = b"begin"
END: Final = b"end"


class Switch:
    """Whether a source publishes, as the bench tells it, and how much it has."""

    def __init__(self) -> None:
        self.on = False
        self.published = 0

    async def answer(self, client: Client) -> None:
        """Obey and answer until told to end."""

        async def obey(message: Msg) -> None:
            self.on = message.data == BEGIN
            await message.respond(b"%d" % self.published)

        await client.subscribe(SOURCE, cb=obey)  # pyright: ignore[reportUnknownMemberType]
        await client.flush()
        os.write(1, f"{READY}\n".encode())
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()


class _Publisher:
    """Takes what the bridge brings; a coroutine publishes it."""

    def __init__(self, client: Client, switch: Switch) -> None:
        self._client = client
        self._switch = switch
        self._waiting: deque[RawTick] = deque()
        self._more = asyncio.Event()
        self._numbers: Counter[str] = Counter()

    def on_state(self, state: GatewayState, failure: GatewayFailure | None) -> None:
        pass

    def on_contract(self, contract: Contract) -> None:
        pass

    def on_subscribed(self, key: str, failure: GatewayFailure | None) -> None:
        pass

    def on_ticks(self, ticks: Sequence[RawTick], conflated: bool) -> None:
        if self._switch.on:
            self._waiting.extend(ticks)
            self._more.set()

    async def publish(self) -> None:
        client, switch, numbers = self._client, self._switch, self._numbers
        pack: Any = msgpack.Packer().pack
        while True:
            await self._more.wait()
            self._more.clear()
            while self._waiting:
                raw = self._waiting.popleft()
                number = numbers[raw.exchange] = numbers[raw.exchange] + 1
                # Numbered like ticks of a feed, so that the subscriber can be the same.
                head = (VERSION, "plain", 1, number, raw.exchange, raw.symbol)
                fields = (*head, 0, 0, raw.received_ns, 0, *raw[5:])
                await client.publish(tick_subject(raw.exchange, raw.symbol), pack(fields))
                switch.published += 1


async def _run(url: str, futures: int, options: int, rate: float, even: bool) -> None:
    calendar = Calendar.load("always")
    contracts = SimulatedUniverse(date.today(), futures, options).contracts()
    gateway = SimulatedGateway("plain", contracts, zone=calendar.zone, rate=rate, even=even)
    client = await connect_plain(url, os.environ[USER_VARIABLE], os.environ[PASSWORD_VARIABLE])
    switch = Switch()
    publisher = _Publisher(client, switch)
    publishing = asyncio.create_task(publisher.publish())
    gateway.start(Bridge(asyncio.get_running_loop(), publisher))
    gateway.subscribe(contracts)
    await switch.answer(client)
    publishing.cancel()
    gateway.stop()
    await client.close()


if __name__ == "__main__":
    asyncio.run(
        _run(
            sys.argv[1],
            int(sys.argv[2]),
            int(sys.argv[3]),
            float(sys.argv[4]),
            sys.argv[5] == "even",
        )
    )
