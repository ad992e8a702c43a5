"""The process of one gateway: ``python -m aegis.marketdata._gateway_process``.

A vendor's library may freeze or abort the interpreter that it lives in, so it gets one of
its own, which can be killed. Its owner talks to it in JSON lines over stdin and stdout; it
ends when stdin does, which is at the latest when its owner dies. What the vendor prints
goes to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgpack
import structlog
from attrs import astuple, define

import aegis
from aegis.marketdata._bridge import Bridge
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._config import MarketConfig
from aegis.marketdata._contract import UniverseFilter
from aegis.marketdata._escalation import ESCALATED
from aegis.marketdata._failover import told_to_others
from aegis.marketdata._gateways import make_gateway
from aegis.marketdata._last_ticks import answer_last
from aegis.marketdata._pipeline import FeedPipeline
from aegis.marketdata._ports import (
    GatewayFailure,
    GatewayState,
    GatewayStatistics,
    MarketDataGatewayPort,
    MeasuredGateway,
    RecordedGatewayPort,
)
from aegis.marketdata.adapters._nats_publisher import NatsTickPublisher

if TYPE_CHECKING:
    from aegis.transport import Transport

__all__ = ["STANDING", "GatewayProcess", "status_of"]

WORK_INTERVAL: Final = 0.05
STATUS_INTERVAL: Final = 0.5
RESUBSCRIBE_INTERVAL: Final = 30.0

REPLAY_INTERVAL: Final = 0.02
REPLAY_WINDOW: Final = 20_000
"""Ticks of a recording that may be on their way to the server at any time."""

START_SECONDS: Final = 60.0
STUCK_SECONDS: Final = 10.0
"""A loop that has not come round for so long never will: the interpreter stands still."""

NEW_OBJECTS: Final = 50_000
"""So many more have to be there than before, until the garbage collector looks at them. A
burst makes some thousands that die right after it by themselves; the default would look
through them, and through the states of all contracts, dozens of times a second."""

SWITCH_SECONDS: Final = 0.001
"""How long a thread may keep the interpreter while another waits for it: the vendor's are not
to wait for the loop, nor the loop for them, as long as Python lets them by default."""

MAX_ORDER_BYTES: Final = 64 * 1024 * 1024
"""Of one order: a universe may name every contract of the market."""

STANDING: Final = "feed.standing"
"""With the market behind it, the topic on which its feeds tell one another how they stand."""

_log = structlog.get_logger("aegis.feed")


@define(eq=False)
class _Parts:
    """What a gateway's process is made of."""

    config: MarketConfig
    cluster: aegis.Cluster
    gateway: MarketDataGatewayPort
    bridge: Bridge
    pipeline: FeedPipeline

    def status(self) -> dict[str, Any]:
        """Return how all of it stands."""
        connected = self.cluster.transport.connected
        return status_of(self.pipeline, self.gateway, self.bridge, connected=connected)

    async def tell_others(self, status: Mapping[str, Any]) -> None:
        """Tell the active feed how this one stands; without a server nobody is told."""
        with contextlib.suppress(aegis.AegisError):
            await self.cluster.publish(f"{STANDING}.{self.config.resource}", told_to_others(status))

    def tell_notices(self) -> None:
        """Tell of what persists although it was subscribed to again, and of what is over."""
        notices, self.pipeline.notices = self.pipeline.notices, []
        for notice in notices:
            log = _log.error if notice.event == ESCALATED else _log.info
            log(notice.event, feed=self.gateway.name, **notice.facts())
            self.announce(notice.event, {"instance_id": self.gateway.name, **notice.facts()})

    def announce(self, event: str, facts: Mapping[str, Any]) -> None:
        """Tell of an event, as `aegis events` shows them."""
        payload = msgpack.packb({"event": event, "service_name": "feed", **facts})
        with contextlib.suppress(aegis.AegisError):
            self.cluster.transport.publish(self.cluster.subjects.event(event), payload)


class GatewayProcess:
    """One gateway with all that belongs to it, driven by what its owner says.

    ``gets_on`` is called again and again while its loop does, with the seconds until it is
    called again at the latest.
    """

    def __init__(
        self,
        tell: Callable[[dict[str, Any]], None],
        bridge: type[Bridge] = Bridge,
        gets_on: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._tell = tell
        self._bridge = bridge
        self._gets_on = gets_on
        self._told_contracts = 0

    async def run(self, config: MarketConfig, feed: str, orders: asyncio.Queue[str]) -> None:
        """Run a feed until its owner says stop, or is gone.

        Raises:
            ConfigurationError: the feed cannot be made, or the calendar does not know today.
            Unavailable: there is no server.
        """
        calendar = config.load_calendar()
        if config.feed(feed).kind != "replay":
            # Before anybody logs in: without today nothing that comes could be dated.
            calendar.trading_day(datetime.now(UTC))
        gateway = await self._made(config, feed, calendar)
        recorded = gateway if isinstance(gateway, RecordedGatewayPort) else None
        async with aegis.connect() as cluster:
            publisher = NatsTickPublisher(
                cluster,
                singles=config.publish != "batches",
                batches=config.publish != "ticks",
            )
            pipeline = FeedPipeline(
                gateway,
                publisher,
                calendar if recorded is None else recorded.calendar,
                config.universe,
                now=time.monotonic,
                wall_ns=time.time_ns if recorded is None else recorded.market_ns,
                pace=config.pace,
                deadlines=config.deadlines,
                patience=config.patience,
            )
            bridge = self._bridge(asyncio.get_running_loop(), pipeline, bound=config.bridge_bound)
            async with answer_last(cluster, pipeline):
                gateway.start(bridge)
                parts = _Parts(config, cluster, gateway, bridge, pipeline)
                working = [asyncio.create_task(self._work(parts, orders))]
                if recorded is not None:
                    window = min(REPLAY_WINDOW, config.bridge_bound)
                    playing = _play(recorded, pipeline, bridge, cluster.transport, window)
                    working.append(asyncio.create_task(playing))
                try:
                    await self._obey(parts, orders)
                finally:
                    for task in working:
                        task.cancel()
                    bridge.close()
                    await cluster.transport.flush()

    async def _made(
        self, config: MarketConfig, feed: str, calendar: Calendar
    ) -> MarketDataGatewayPort:
        """Make the gateway of a feed.

        A recording is looked through first, which may take minutes: it is done aside, so that
        this process is not taken for one that stands still.
        """
        if config.feed(feed).kind != "replay":
            return make_gateway(config, feed, calendar)
        making = asyncio.ensure_future(asyncio.to_thread(make_gateway, config, feed, calendar))
        while not making.done():
            self._gets_on(STUCK_SECONDS)
            await asyncio.wait((making,), timeout=STATUS_INTERVAL)
        return making.result()

    async def _obey(self, parts: _Parts, orders: asyncio.Queue[str]) -> None:
        pipeline = parts.pipeline
        while line := await orders.get():
            order = json.loads(line)
            match order["do"]:
                case "activate":
                    # A moment, not a time from now on: this process may have been frozen.
                    pipeline.activate(order["epoch"], order["until"] - time.monotonic())
                case "mute":
                    pipeline.mute()
                    self._tell({"told": "muted"})
                case "universe":
                    self._set_universe(parts, order)
                case "announce":
                    parts.announce(order["event"], order["facts"])
                case "stop":
                    return
                case other:
                    _log.error("order_unknown", order=other)
            while orders.empty():
                if not pipeline.tell_states():
                    break
                await asyncio.sleep(0)  # What was published leaves, and ticks come in.

    def _set_universe(self, parts: _Parts, order: dict[str, Any]) -> None:
        universe = UniverseFilter(tuple(order["include"]), tuple(order["exclude"]))
        try:
            parts.pipeline.set_universe(universe if order["include"] else parts.config.universe)
        except aegis.ConfigurationError as error:
            self._tell({"told": "universe_refused", "reason": str(error)})

    async def _work(self, parts: _Parts, orders: asyncio.Queue[str]) -> None:
        try:
            await self._work_on(parts)
        except Exception as error:
            _log.exception("gateway_work_failed")
            self._tell_failure(GatewayFailure(f"{type(error).__name__}: {error}"))
            orders.put_nowait("")

    async def _work_on(self, parts: _Parts) -> None:
        pipeline = parts.pipeline
        status_at = 0.0
        resubscribe_at = time.monotonic() + RESUBSCRIBE_INTERVAL
        self._gets_on(STUCK_SECONDS)
        while True:
            failure = pipeline.work()
            now = time.monotonic()
            if now >= resubscribe_at:
                resubscribe_at = now + RESUBSCRIBE_INTERVAL
                again = pipeline.resubscribe_missing()
                if again:
                    _log.warning("feed_resubscribes", contracts=again)
                parts.tell_notices()
            if now >= status_at or failure is not None:
                status_at = now + STATUS_INTERVAL
                self._gets_on(STUCK_SECONDS)
                self._tell_contracts(pipeline)
                status = parts.status()
                self._tell({"told": "status", "status": status})
                await parts.tell_others(status)
            if failure is not None:
                self._tell_failure(failure)
            await asyncio.sleep(WORK_INTERVAL)

    def _tell_contracts(self, pipeline: FeedPipeline) -> None:
        # Not a list that still grows: thousands of contracts twice a second, and none of it true.
        loading = pipeline.lifecycle.state is GatewayState.LOADING_CONTRACTS
        if loading or len(pipeline.contracts) == self._told_contracts:
            return
        self._told_contracts = len(pipeline.contracts)
        self._tell(
            {
                "told": "contracts",
                "contracts": [[*astuple(c)] for c in pipeline.contracts.values()],
            }
        )

    def _tell_failure(self, failure: GatewayFailure) -> None:
        self._tell(
            {
                "told": "failed",
                "reason": failure.reason,
                "code": failure.code,
                "permanent": failure.permanent,
            }
        )


def status_of(
    pipeline: FeedPipeline, gateway: MarketDataGatewayPort, bridge: Bridge, *, connected: bool
) -> dict[str, Any]:
    """Return what the owner is told twice a second, as plain values.

    ``connected`` says whether there is a server to publish to.
    """
    status = pipeline.status()
    measured = GatewayStatistics()
    if isinstance(gateway, MeasuredGateway):
        measured = gateway.statistics()
    figures = status["figures"]
    figures["rate_limited"] = dict(measured.rate_limited)
    # A copy: the gateway's threads count on.
    for exchange, number in dict(bridge.conflated).items():
        figures["ticks"].setdefault(exchange, {})["conflated"] = number
    return {
        **status,
        "connected": connected,
        "bridge": {"depth": bridge.depth, "conflated": bridge.conflated.total()},
        "gateway": {"event_queue": measured.event_queue, "counts": dict(measured.counts)},
        "replay": gateway.progress() if isinstance(gateway, RecordedGatewayPort) else None,
    }


async def _play(
    recorded: RecordedGatewayPort,
    pipeline: FeedPipeline,
    bridge: Bridge,
    transport: Transport,
    window: int,
) -> None:
    """Let a recording go on while it is published, and as fast as the server takes it.

    What it tells too early would be lost or conflated, which a recording need not be.
    """
    taken = -1
    while True:
        await asyncio.sleep(REPLAY_INTERVAL)
        if not pipeline.delivering:
            recorded.allow(0)
            continue
        handled = recorded.told - bridge.depth
        if handled != taken:
            try:
                await transport.flush()
            except (aegis.AegisError, TimeoutError):
                continue  # There is no server at this moment.
            taken = handled
        recorded.allow(taken + window)


def _end_if_stuck_for(seconds: float) -> None:
    """End the process in so many seconds, unless this is called again before.

    A binding that is closed, or ends, while it calls back holds the interpreter for good: no
    thread of Python runs, and none sees that the owner is gone. This watch needs no
    interpreter; it writes where every thread stands to stderr.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)


def main(bridge: type[Bridge] = Bridge) -> None:
    """Read what to run from the first line of stdin, and run it."""
    _end_if_stuck_for(START_SECONDS)
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
    sys.setswitchinterval(SWITCH_SECONDS)
    # What the vendor's code prints must not end up among what is told to the owner.
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Without the values of variables, among which are passwords.
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            os.environ.get("AEGIS_LOG_LEVEL", "info").lower()
        ),
        # Each line in one piece: the owner writes to the same place.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )

    def tell(document: dict[str, Any]) -> None:
        if document["told"] == "contracts":
            # They and all that was loaded stay: the collector need not look at them again.
            gc.freeze()
        try:
            told.write(json.dumps(document) + "\n")
            told.flush()
        except OSError:
            os._exit(0)  # The owner is gone.

    try:
        asyncio.run(_main(tell, bridge))
    except aegis.ConfigurationError as error:
        tell({"told": "failed", "reason": str(error), "code": 0, "permanent": True})
    except aegis.AegisError as error:
        tell({"told": "failed", "reason": str(error), "code": 0, "permanent": False})
    except Exception as error:
        _log.exception("gateway_process_failed")
        tell({"told": "failed", "reason": repr(error), "code": 0, "permanent": False})
    finally:
        # At once: a vendor's library may hang, or crash, when it is taken down in order, and
        # its threads would keep the process alive for ever.
        sys.stderr.flush()
        os._exit(0)


async def _main(tell: Callable[[dict[str, Any]], None], bridge: type[Bridge]) -> None:
    orders: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MAX_ORDER_BYTES)
    # From the first line on: a buffered read of it would swallow the orders behind it.
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    line = await reader.readline()
    if not line:
        return
    begin = json.loads(line)
    config = MarketConfig.load(Path(begin["config"]))

    async def listen() -> None:
        try:
            while line := await reader.readline():
                orders.put_nowait(line.decode())
        finally:
            orders.put_nowait("")  # Whoever hears nothing any more must not go on alone.

    listening = asyncio.create_task(listen())
    await GatewayProcess(tell, bridge, _end_if_stuck_for).run(config, begin["feed"], orders)
    listening.cancel()


if __name__ == "__main__":
    main()
