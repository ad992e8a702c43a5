"""``aegis feed``: run a market-data feed, and look at what it does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer
from attrs import asdict

from aegis._cluster import connect
from aegis.errors import AegisError, NotFound, Unavailable
from aegis.marketdata._config import MarketConfig
from aegis.marketdata._contract import UniverseFilter
from aegis.marketdata._feed import CONFIG_VARIABLE
from aegis.marketdata._follower import TickGap
from aegis.ops._feed_health import ASK_TIMEOUT, ask_status
from aegis.ops._options import CommandContext
from aegis.ops._output import Output

if TYPE_CHECKING:
    from aegis._cluster import Cluster
    from aegis.marketdata._tick import Tick
    from aegis.ops._run import Beside

__all__ = [
    "all_pages",
    "contracts",
    "drill",
    "run",
    "status",
    "subscribe",
    "switch",
    "tell_children",
    "ticks",
    "validate",
]

SWITCH_TIMEOUT: Final = 20.0
SWITCH_POLL: Final = 0.1

READINGS: Final = 3
"""So often a list of contracts that changes meanwhile is read."""


def run(
    context: CommandContext, market: Path, feed: str, role: str, beside: Beside | None = None
) -> None:
    """Run the node of one feed, with ``beside`` as long as it runs."""
    config = MarketConfig.load(market)
    config.feed(feed)
    config.load_calendar()  # What is wrong with it is told before anything is started.
    os.environ[CONFIG_VARIABLE] = str(market.resolve())
    tell_children(context)
    from aegis.ops._run import run as run_node

    service = {
        "target": "aegis.marketdata:Feed",
        "instance_id": feed,
        "resources": [config.resource],
        "role": role,
    }
    run_node(context, [service], beside)


def tell_children(context: CommandContext) -> None:
    """Have connections of others in this command find the server: by its options, as variables."""
    for name, value in context.given.items():
        if value is not None and not isinstance(value, bool):
            variable = "AEGIS_NATS_URL" if name == "nats" else f"AEGIS_{name.upper()}"
            os.environ[variable] = str(value)
    if context.config is not None:
        os.environ["AEGIS_CONFIG"] = context.config


def validate(context: CommandContext, market: Path, offline: bool, feeds: Sequence[str]) -> None:
    """Check a market's configuration without starting anything."""
    from aegis.marketdata._validation import check

    config = MarketConfig.load(market)
    for name in feeds:
        config.feed(name)
    now = datetime.now(UTC)
    problems = check(config, now, connect=not offline)
    if context.output.json:
        context.output.document([asdict(problem) for problem in problems])
    else:
        for problem in problems:
            context.output.line(f"{problem.feed}: {problem.text}")
        if not problems:
            context.output.line(f"{market}: {len(config.feeds)} feeds can be started")
            days = config.load_calendar().days_left(now)
            if days is not None:
                context.output.line(f"calendar: it knows {days} more trading days, with this one")
    if problems:
        raise typer.Exit(1)


def status(context: CommandContext, market: str, feed: str) -> None:
    """Print how the active feed stands, or the one that is named."""

    async def ask(cluster: Cluster) -> dict[str, Any]:
        return await ask_status(cluster, market, feed)

    found = _with_cluster(context, ask)
    if context.output.json:
        context.output.document(found)
        return
    output, counts, process = context.output, found["ticks"], found["process"]
    role = f"publishes {market} under epoch {found['epoch']}" if found["epoch"] else "stands by"
    output.line(
        f"{found['feed']} {role}: {found['state']}, "
        f"process {process['pid']}, {process['restarts']} restarts"
    )
    output.line(", ".join(f"{count:,} {name}" for name, count in sorted(counts.items())))
    rows = [
        [
            report["exchange"],
            report["phase"],
            f"{report['covered']:,}/{report['wanted']:,}",
            f"{report['ratio']:.1%}",
            str(report["missing_count"]),
            str(report["stalled_count"]),
            "-" if report["quiet_seconds"] is None else f"{report['quiet_seconds']:.1f} s ago",
        ]
        for report in found["exchanges"]
    ]
    columns = ["exchange", "phase", "covered", "share", "missing", "stalled", "last tick"]
    output.table(columns, rows)


def contracts(context: CommandContext, market: str, pattern: str, limit: int) -> None:
    """Print the contracts that match a pattern."""
    UniverseFilter((pattern,))  # Refuses one that nothing can match.

    async def ask(cluster: Cluster) -> dict[str, Any]:
        async def page(first: int) -> dict[str, Any]:
            arguments = {"first": first, "pattern": pattern}
            found: dict[str, Any] = await cluster.call(
                "feed", "contracts", arguments, resource_id=market, timeout=ASK_TIMEOUT
            )
            return found

        return await all_pages(page, limit)

    found = _with_cluster(context, ask)
    shown = found["contracts"]
    if context.output.json:
        context.output.document(found)
        return
    if not shown:
        raise NotFound(f"no contract of {market} matches {pattern}; try a pattern as in SHFE.rb*")
    rows = [
        [c["exchange"], c["symbol"], c["product"], f"{c['multiplier']:g}", f"{c['price_tick']:g}"]
        for c in shown
    ]
    context.output.table(["exchange", "symbol", "product", "multiplier", "step"], rows)
    if found["total"] > len(shown):
        context.output.line(f"{len(shown)} of {found['total']:,}; --limit shows more")


async def all_pages(page: Callable[[int], Awaitable[dict[str, Any]]], limit: int) -> dict[str, Any]:
    """Return as many contracts as there are, or ``limit``, as if they were one page.

    ``page`` returns the one that begins at a number. Where the list has changed between two
    of them, as by a failover, it is read from the beginning.

    Raises:
        Unavailable: it changes again and again.
    """
    for _ in range(READINGS):
        found = await page(0)
        shown: list[Any] = found["contracts"]
        wanted, version = min(limit, found["total"]), found["version"]
        while len(shown) < wanted and found["contracts"] and found["version"] == version:
            found = await page(len(shown))
            shown = shown + found["contracts"]
        if found["version"] == version:
            return {**found, "first": 0, "contracts": shown[:limit]}
    raise Unavailable("the list of contracts changes while it is read; ask again in a moment")


def subscribe(context: CommandContext, market: str, include: list[str], exclude: list[str]) -> None:
    """Have other contracts published from now on."""
    UniverseFilter(tuple(include), tuple(exclude))

    async def ask(cluster: Cluster) -> int:
        arguments = {"include": include, "exclude": exclude}
        count: int = await cluster.call("feed", "subscribe", arguments, resource_id=market)
        return count

    count = _with_cluster(context, ask)
    if context.output.json:
        context.output.document({"contracts": count})
    else:
        context.output.line(f"{count:,} contracts are wanted")


def drill(context: CommandContext, market: Path, kind: str) -> None:
    """Run a drill; the exit code says whether it went as promised."""
    from aegis.ops._feed_drill import check_drill, run_drill

    options = context.connect()
    check_drill(market, kind)
    tell_children(context)
    told_server = bool(options.nats)
    if not context.output.json:
        context.output.line("the feeds are started, and given time to settle ...")
    report = run_drill(options, market, kind, told_server)
    if context.output.json:
        context.output.document(report.document())
    else:
        for line in report.lines():
            context.output.line(line)
    if not report.passed:
        raise typer.Exit(1)


def switch(context: CommandContext, market: str, to: str) -> None:
    """Let a standby be the active feed; return when it is."""

    async def work(cluster: Cluster) -> dict[str, Any]:
        before = await ask_status(cluster, market)
        others = [standby["feed"] for standby in before["standbys"] if standby["ready"]]
        if not others or (to and to not in others):
            raise Unavailable(
                f"{to or 'no other feed'} is no standby that is ready; ready are: "
                f"{', '.join(others) or 'none'}"
            )
        await cluster.call("feed", "give_way", {"to": to}, resource_id=market)
        until = time.monotonic() + SWITCH_TIMEOUT
        while time.monotonic() < until:
            with contextlib.suppress(AegisError):
                found = await ask_status(cluster, market)
                if found["epoch"] > before["epoch"] and found["publishing"]:
                    return {"from": before["feed"], "to": found["feed"], "epoch": found["epoch"]}
            await asyncio.sleep(SWITCH_POLL)
        raise Unavailable(f"no other feed publishes after {SWITCH_TIMEOUT:g} s; see the logs")

    found = _with_cluster(context, work)
    if context.output.json:
        context.output.document(found)
    else:
        context.output.line(f"{found['from']} gave way to {found['to']}, epoch {found['epoch']}")


def ticks(context: CommandContext, patterns: list[str], count: int) -> None:
    """Print ticks as they come."""
    UniverseFilter(tuple(patterns))
    output = context.output

    async def follow(cluster: Cluster) -> None:
        stream = cluster.ticks(*patterns)
        left = count
        async with stream:
            if not output.json:
                output.line(TICK_COLUMNS)
            async for tick in stream:
                for gap in stream.take_gaps():
                    _print_gap(output, gap)
                _print_tick(output, tick)
                left -= 1
                if not left:
                    return

    _with_cluster(context, follow)


TICK_COLUMNS: Final = (
    f"{'contract':<22} {'last':>10} {'bid':>10} {'ask':>10} {'volume':>10} feed epoch.number"
)


def _print_tick(output: Output, tick: Tick) -> None:
    if output.json:
        output.document({**tick._asdict(), "levels": [level._asdict() for level in tick.levels]})
        return
    best = tick.levels[0] if tick.levels else None
    bid = "-" if best is None or best.bid_price is None else f"{best.bid_price:g}"
    ask = "-" if best is None or best.ask_price is None else f"{best.ask_price:g}"
    last = "-" if tick.last_price is None else f"{tick.last_price:g}"
    output.line(
        f"{tick.key:<22} {last:>10} {bid:>10} {ask:>10} {tick.volume:>10} "
        f"{tick.feed} {tick.epoch}.{tick.sequence}{' stale' if tick.stale else ''}"
    )


def _print_gap(output: Output, gap: TickGap) -> None:
    if output.json:
        output.document({"gap": asdict(gap)})
    elif gap.dropped:
        output.line(f"-- {gap.exchange}: {gap.missed} ticks came faster than they were printed")
    elif gap.feed_changed:
        output.line(f"-- another feed publishes now, under epoch {gap.epoch}")
    else:
        output.line(f"-- {gap.exchange}: {gap.missed} ticks were missed")


def _with_cluster[T](context: CommandContext, ask: Callable[[Cluster], Awaitable[T]]) -> T:
    options = context.connect()

    async def work() -> T:
        async with connect(options=options) as cluster:
            return await ask(cluster)

    return asyncio.run(work())
