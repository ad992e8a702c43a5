"""vnpy's own way to other processes under `aegis bench feed`: ZeroMQ with pickled objects.

``python -m aegis.ops._bench_feed_rpc publish URL REP PUB FUTURES OPTIONS RATE EVEN`` sends every
event of vnpy's engine through vnpy's ``RpcServer`` under the empty topic, as its RPC service
does; ``... subscribe REP PUB`` is the subscriber with its ``RpcClient``.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from aegis._cluster import connect
from aegis.marketdata._tick import VERSION
from aegis.ops._bench_feed_plain import Switch
from aegis.ops._bench_feed_subscriber import RPC, answer_tallies
from aegis.ops._bench_feed_tally import Tally
from aegis.ops._bench_feed_vnpy import VNPY_GATEWAY
from aegis.ops._bench_limits import PASSWORD_VARIABLE, USER_VARIABLE, connect_plain

__all__: list[str] = []

EPOCH: Final = 1
NUMBER: Final = "number"
"""Key of a tick's number among those of its exchange."""


async def _publish(url: str, rep: str, pub: str, setting: dict[str, Any]) -> None:
    events = importlib.import_module("vnpy.event")
    kinds = importlib.import_module("vnpy.trader.event")
    requests = importlib.import_module("vnpy.trader.object")
    server = importlib.import_module("vnpy.rpc").RpcServer()
    module, _, name = VNPY_GATEWAY.partition(":")
    engine = events.EventEngine()
    client = await connect_plain(url, os.environ[USER_VARIABLE], os.environ[PASSWORD_VARIABLE])
    switch = Switch()
    numbers: Counter[str] = Counter()
    gateway: Any = None

    def on_event(event: Any) -> None:
        data = event.data
        if event.type == kinds.EVENT_CONTRACT:
            request = requests.SubscribeRequest(symbol=data.symbol, exchange=data.exchange)
            gateway.subscribe(request)
        elif event.type.startswith(kinds.EVENT_TICK) and switch.on:
            if event.type == kinds.EVENT_TICK:
                number = numbers[data.exchange] = numbers[data.exchange] + 1
                data.extra = {NUMBER: number}
                switch.published += 1
            server.publish("", event)

    server.start(rep, pub)
    engine.register_general(on_event)
    engine.start()
    gateway = getattr(importlib.import_module(module), name)(engine, RPC)
    gateway.connect(setting)
    await switch.answer(client)
    os._exit(0)  # vnpy's threads take seconds to end.


async def _subscribe(rep: str, pub: str) -> None:
    rpc = importlib.import_module("vnpy.rpc")
    kinds = importlib.import_module("vnpy.trader.event")
    tally, clock = Tally(), time.time_ns

    def callback(topic: str, event: Any) -> None:
        now_ns = clock()
        if event.type != kinds.EVENT_TICK:
            return
        tick = event.data
        received_ns = int(tick.localtime.timestamp() * 1e9)
        head = (VERSION, RPC, EPOCH, tick.extra[NUMBER], tick.exchange.value, tick.symbol)
        tally.take((*head, 0, 0, received_ns, 0), now_ns)

    client = rpc.RpcClient()
    client.callback = callback
    client.subscribe_topic("")
    client.start(rep, pub)
    async with connect() as cluster:
        await answer_tallies(cluster.transport, {RPC: tally})
    os._exit(0)


def _main(arguments: list[str]) -> None:
    # vnpy makes a folder for its files at home, unless the working folder has one.
    Path(".vntrader").mkdir(exist_ok=True)
    if arguments[0] == "subscribe":
        asyncio.run(_subscribe(*arguments[1:]))
        return
    url, rep, pub, futures, options, rate, even = arguments[1:]
    setting = {
        "futures": int(futures),
        "options": int(options),
        "rate": float(rate),
        "even": even == "even",
    }
    asyncio.run(_publish(url, rep, pub, setting))


if __name__ == "__main__":
    _main(sys.argv[1:])
