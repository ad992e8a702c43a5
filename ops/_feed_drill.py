"""``aegis feed drill``: two feeds, a fault, and what a consumer saw of it.

All is real: the feeds are nodes as ``aegis feed run`` starts them, on a server of their
own. What the consumer gets is judged by itself alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import define, evolve

from aegis._cluster import connect
from aegis._config import ConnectOptions
from aegis.errors import AegisError, ConfigurationError, Conflict, Unavailable
from aegis.marketdata._config import MarketConfig
from aegis.marketdata._failover import FailoverLimits
from aegis.marketdata._simulated_faults import FAULTS_VARIABLE
from aegis.marketdata._ticks import ticks
from aegis.ops._bench_processes import BenchFailed
from aegis.ops._feed_drill_report import DrillReport, Witness
from aegis.ops._node_processes import NodeProcess, stop_all
from aegis.transport._server import ServerOptions, ensure_server

if TYPE_CHECKING:
    from aegis._cluster import Cluster

__all__ = ["KINDS", "check_drill", "run_drill"]

KINDS: Final = ("kill", "silence", "disconnect", "lag")

START_TIMEOUT: Final = 180.0
"""Seconds until both feeds know their contracts and hear them."""

FAILOVER_TIMEOUT: Final = 120.0
"""Seconds beyond those that the limits of the market allow, until the standby speaks."""

LISTEN_SECONDS: Final = 1.0
AFTER_SECONDS: Final = 3.0
"""So long it is watched before, where nobody else may publish, and afterwards."""

_POLL_SECONDS: Final = 0.05


@define(eq=False)
class Drill:
    """One drill: the market's file, which two of its feeds, and what goes wrong."""

    market: Path
    kind: str
    active: str
    standby: str
    folder: Path
    options: ConnectOptions
    told_server: bool

    @property
    def faults(self) -> Path:
        """The folder that says what goes wrong with which feed."""
        return self.folder / "faults"

    def node(self, feed: str, role: str) -> NodeProcess:
        """Return the node of a feed, not started."""
        arguments = ["feed", "run", str(self.market.resolve()), "--feed", feed, "--role", role]
        arguments += ["--log-level", "warning", "--log-format", "json"]
        arguments += ["--namespace", self.options.namespace]
        environment = {FAULTS_VARIABLE: str(self.faults)}
        if self.told_server:
            # How to reach it, and by whose name, is what this command was told itself.
            environment |= {k: v for k, v in os.environ.items() if k.startswith("AEGIS_")}
        else:
            arguments += ["--data-dir", str(self.options.data_dir)]
        return NodeProcess(feed, arguments, self.folder, environment)

    def break_active(self, node: NodeProcess, limits: FailoverLimits, exchange: str) -> None:
        """Let the fault happen."""
        if self.kind == "kill":
            node.send_signal(signal.SIGKILL)
            return
        faults = {
            "silence": f"silent_exchanges = [{json.dumps(exchange)}]",
            "disconnect": "disconnected = true",
            "lag": f"lag = {2 * limits.lag + 1:g}",
        }
        new = self.faults / f"{self.active}.new"
        new.write_text(faults[self.kind] + "\n", encoding="utf-8")
        new.replace(self.faults / f"{self.active}.toml")


def check_drill(market: Path, kind: str) -> tuple[MarketConfig, str, str]:
    """Return what a market's file says, and which feeds are to be active and to stand by.

    Raises:
        ConfigurationError: the market has no two feeds, or the kind is not for them.
    """
    config = MarketConfig.load(market)
    if len(config.feeds) < 2:
        raise ConfigurationError(
            f"{market}: a drill needs two feeds, an active one and a standby; it has one"
        )
    active, standby = list(config.feeds)[:2]
    if kind not in KINDS:
        raise ConfigurationError(f"--kind {kind}: it is one of {', '.join(KINDS)}")
    if kind != "kill" and config.feed(active).simulated is None:
        raise ConfigurationError(
            f"--kind {kind}: only a simulated feed can be told to fail like that, and {active} is "
            "none; use --kind kill"
        )
    return config, active, standby


def run_drill(options: ConnectOptions, market: Path, kind: str, told_server: bool) -> DrillReport:
    """Run a drill and return what a consumer saw.

    Raises:
        ConfigurationError: as `check_drill`.
        Unavailable: a feed did not come up, or the standby never spoke.
    """
    config, active, standby = check_drill(market, kind)
    with tempfile.TemporaryDirectory(prefix="aegis-drill-") as name:
        folder = Path(name)
        (folder / "faults").mkdir()
        if not told_server:
            options = evolve(options, data_dir=folder / "server")
        options = evolve(options, namespace=f"drill-{secrets.token_hex(4)}")
        drill = Drill(market, kind, active, standby, folder, options, told_server)
        try:
            return asyncio.run(_run(drill, config))
        except BenchFailed as error:
            raise Unavailable(str(error)) from error


async def _run(drill: Drill, config: MarketConfig) -> DrillReport:
    async with _server(drill), connect(options=drill.options) as cluster:
        if drill.told_server:
            await _check_free(cluster)
        nodes = [drill.node(drill.active, "active"), drill.node(drill.standby, "standby")]
        try:
            return await _watch(drill, config, cluster, nodes)
        finally:
            await stop_all(nodes)


@asynccontextmanager
async def _server(drill: Drill) -> AsyncGenerator[None]:
    if drill.told_server:
        yield
        return
    assert drill.options.data_dir is not None
    async with await ensure_server(ServerOptions(data_dir=drill.options.data_dir)) as server:
        watching = asyncio.create_task(server.watch())
        try:
            yield
        finally:
            watching.cancel()


async def _check_free(cluster: Cluster) -> None:
    """Refuse a server on which a feed publishes: ticks would be mixed up with the drill's."""
    heard = asyncio.Event()
    subscription = await cluster.transport.subscribe("md.tick.>", lambda _: heard.set())
    try:
        async with asyncio.timeout(LISTEN_SECONDS):
            await heard.wait()
    except TimeoutError:
        return
    finally:
        await subscription.unsubscribe()
    raise Conflict(
        "a feed publishes on this server; drill on another one, or without --nats on one of its own"
    )


async def _watch(
    drill: Drill, config: MarketConfig, cluster: Cluster, nodes: list[NodeProcess]
) -> DrillReport:
    active, standby = nodes
    limits, market = config.failover, config.resource
    started: list[NodeProcess] = []
    broken = False

    async def status() -> dict[str, Any]:
        for node in started:
            if node is not active or not broken:
                node.check_running()
        with contextlib.suppress(AegisError):
            told: dict[str, Any] = await cluster.call("feed", "status", resource_id=market)
            return told
        return {}

    await active.start()
    started.append(active)
    begun = await _wait(status, lambda told: _is_up(told, drill.active), START_TIMEOUT, "come up")
    await standby.start()
    started.append(standby)
    wanted = sum(report["wanted"] for report in begun["exchanges"])

    def stands_by(told: dict[str, Any]) -> bool:
        ready = [s for s in told.get("standbys", ()) if s["ready"]]
        return any(s["feed"] == drill.standby and s["covered"] == wanted for s in ready)

    before = await _wait(status, stands_by, START_TIMEOUT, "have a standby that hears all")
    exchange = before["exchanges"][0]["exchange"]
    async with ticks(cluster, snapshot=False) as stream:
        witness = Witness(drill.active, drill.standby)
        listening = await cluster.transport.subscribe("md.tick.>", witness.on_message)
        following = asyncio.create_task(witness.follow(stream))
        try:
            if drill.kind == "kill":
                await asyncio.sleep(AFTER_SECONDS)
            else:
                # Before that no feed gives way, and the drill would measure only this.
                await asyncio.sleep(max(limits.settled, limits.holding))
            broken = True
            drill.break_active(active, limits, exchange)
            witness.broken_at = time.monotonic()
            allowed = FAILOVER_TIMEOUT + limits.silent + limits.lag_for + limits.disconnected
            await witness.wait_taken_over(allowed, _exchanges(before))
            await asyncio.sleep(AFTER_SECONDS)
        finally:
            following.cancel()
            await listening.unsubscribe()
    after = await _wait(status, lambda told: bool(told.get("changes")), START_TIMEOUT, "answer")
    return witness.report(drill.kind, after["changes"][-1]["cause"])


def _is_up(told: dict[str, Any], feed: str) -> bool:
    exchanges = told.get("exchanges", ())
    covered = sum(report["covered"] for report in exchanges)
    wanted = sum(report["wanted"] for report in exchanges)
    return told.get("feed") == feed and bool(told.get("publishing")) and covered == wanted > 0


def _exchanges(told: dict[str, Any]) -> set[str]:
    """Return the exchanges that are open: only these will be heard of."""
    return {r["exchange"] for r in told["exchanges"] if r["phase"] == "open"}


async def _wait(
    ask: Callable[[], Awaitable[dict[str, Any]]],
    condition: Callable[[dict[str, Any]], bool],
    timeout: float,
    what: str,
) -> dict[str, Any]:
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        told = await ask()
        if condition(told):
            return told
        await asyncio.sleep(_POLL_SECONDS)
    raise Unavailable(f"the feeds did not {what} within {timeout:g} s")
