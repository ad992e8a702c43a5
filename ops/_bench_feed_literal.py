"""The obvious bridge, to be measured beside the one that is used: one coroutine per tick.

``python -m aegis.ops._bench_feed_literal`` is a feed's gateway process with it. Its queue
has a bound, but the coroutines that wait to put something into it have none.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aegis.marketdata._bridge import Bridge, BridgeConsumer
from aegis.marketdata._gateway_process import main
from aegis.marketdata._ports import RawTick

__all__ = ["LiteralBridge"]


class LiteralBridge(Bridge):
    """Puts each tick into a queue by a coroutine of its own."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, consumer: BridgeConsumer, **options: Any
    ) -> None:
        super().__init__(loop, consumer, **options)
        self._queue: asyncio.Queue[RawTick] = asyncio.Queue(self._bound)
        self._taking = loop.create_task(self._take())

    def on_tick(self, tick: RawTick) -> None:
        """Take a tick."""
        asyncio.run_coroutine_threadsafe(self._queue.put(tick), self._loop)

    def close(self) -> None:
        """Hand on nothing any more."""
        super().close()
        self._taking.cancel()

    async def _take(self) -> None:
        while True:
            self._consumer.on_ticks([await self._queue.get()], False)


if __name__ == "__main__":
    main(LiteralBridge)
