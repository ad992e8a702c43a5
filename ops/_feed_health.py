"""``aegis feed health``: one verdict on the active feed, from what it says of itself.

It asks one query: nothing is stored, no feed is started or told anything.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import typer
from attrs import asdict, evolve, frozen

from aegis._cluster import connect
from aegis._config import ConnectOptions
from aegis.errors import (
    AccessDenied,
    AegisError,
    ConfigurationError,
    ConnectionClosed,
    Unavailable,
)
from aegis.marketdata._contract import family_of
from aegis.marketdata._health import Health, Limits, Verdict, judge
from aegis.ops._options import CommandContext
from aegis.ops._output import Output
from aegis.ops._session import CONNECT_TIMEOUT

if TYPE_CHECKING:
    from aegis._cluster import Cluster

__all__ = ["ASK_TIMEOUT", "Wanted", "ask_status", "ask_until_fine", "health"]

EXIT_WRONG_USE: Final = 4
"""Of the health command alone: its 2 says that a feed is in a critical state."""

WAIT_INTERVAL: Final = 0.5
ASK_TIMEOUT: Final = 3.0
KINDS: Final = ("missing", "stalled")


@frozen
class Wanted:
    """What is asked for, and for how long (seconds) until it is fine."""

    market: str = "market"
    feed: str = ""
    """Which feed, whatever its role; empty for the active one."""
    exchange: str = ""
    product: str = ""
    limit: int = 10
    coverage: float | None = None
    wait: float = 0.0


@frozen
class Found:
    """What became of it; ``status`` is empty if nobody answered, and then ``error`` says why."""

    status: dict[str, Any]
    health: Health
    error: AegisError | None = None


def health(context: CommandContext, wanted: Wanted) -> None:
    """Judge the active feed; the exit code says how it does."""
    try:
        found = asyncio.run(ask_until_fine(context.connect(), wanted))
    except ConfigurationError as wrong:
        context.output.error(wrong)
        raise typer.Exit(EXIT_WRONG_USE) from wrong
    if found.error is not None:
        context.output.error(found.error)
    if found.status or context.output.json:
        _print(context.output, found, wanted)
    raise typer.Exit(int(found.health.verdict))


async def ask_until_fine(options: ConnectOptions, wanted: Wanted) -> Found:
    """Ask, and with ``wanted.wait`` again and again over one connection, until all is fine.

    Raises:
        ConfigurationError: an option is wrong, or there is no such exchange.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + wanted.wait
    soon = evolve(options, timeout=min(options.timeout, CONNECT_TIMEOUT))
    while True:
        try:
            async with connect(options=soon) as cluster:
                while True:
                    found = await _ask(cluster, wanted)
                    if found.health.verdict is Verdict.FINE or loop.time() >= until:
                        return found
                    await asyncio.sleep(WAIT_INTERVAL)
        except AccessDenied as error:
            return Found({}, Health(Verdict.UNKNOWN), error)  # Waiting gives no rights.
        except ConfigurationError:
            raise
        except AegisError as error:
            # There is no server, or it has closed the connection for good.
            if loop.time() >= until:
                return Found({}, Health(Verdict.UNKNOWN), error)
        await asyncio.sleep(WAIT_INTERVAL)


async def _ask(cluster: Cluster, wanted: Wanted) -> Found:
    try:
        status = await ask_status(cluster, wanted.market, wanted.feed)
    except (ConfigurationError, ConnectionClosed):
        raise
    except AegisError as error:
        return Found({}, Health(Verdict.UNKNOWN), error)
    known = [report["exchange"] for report in status["exchanges"]]
    if wanted.exchange and known and wanted.exchange not in known:
        raise ConfigurationError(f"--exchange {wanted.exchange}: it has {', '.join(known)}")
    if wanted.product and known:
        await _check_product(cluster, wanted)
    limits = Limits(coverage_always=wanted.coverage)
    return Found(status, judge(status, wanted.exchange, limits))


async def _check_product(cluster: Cluster, wanted: Wanted) -> None:
    found: dict[str, Any] = await cluster.call(
        "feed",
        "contracts",
        {"pattern": f"{wanted.exchange or '*'}.{wanted.product}[0-9]*"},
        resource_id=None if wanted.feed else wanted.market,
        instance_id=wanted.feed or None,
        timeout=ASK_TIMEOUT,
    )
    if not found["total"]:
        raise ConfigurationError(
            f"--product {wanted.product}: no contract of {wanted.exchange or wanted.market} is of "
            "this class; give the letters that its contracts begin with, as in rb"
        )


async def ask_status(cluster: Cluster, market: str, feed: str = "") -> dict[str, Any]:
    """Return how the active feed of a market stands, or the feed that is named.

    Raises:
        AegisError: nobody answers, or its gateway has told nothing so far.
    """
    found: dict[str, Any] = await cluster.call(
        "feed",
        "status",
        resource_id=None if feed else market,
        instance_id=feed or None,
        timeout=ASK_TIMEOUT,
    )
    if "state" not in found:
        failure: dict[str, Any] = found.get("failure") or {}
        raise Unavailable(
            f"the gateway of {found['feed']} has told nothing yet: "
            f"{failure.get('reason', 'it is starting')}"
        )
    return found


def _print(output: Output, found: Found, wanted: Wanted) -> None:
    status, verdict = found.status, found.health.verdict.name.lower()
    exchanges = [
        _named(report, wanted)
        for report in status.get("exchanges", ())
        if wanted.exchange in ("", report["exchange"])
    ]
    if output.json:
        output.document(
            {
                "verdict": verdict,
                "findings": [
                    {**asdict(finding), "verdict": finding.verdict.name.lower()}
                    for finding in found.health.findings
                ],
                "exchanges": exchanges,
                "feed": status.get("feed"),
                "epoch": status.get("epoch"),
            }
        )
        return
    role = f"epoch {status['epoch']}" if status["epoch"] else "stands by"
    output.line(f"{verdict}: {status['feed']}, {role}")
    for finding in found.health.findings:
        output.line(f"  {finding.verdict.name.lower()}: {finding.text}")
    for report in exchanges:
        for kind in KINDS:
            named, count = report[kind], report[f"{kind}_count"]
            if count:
                more = f" and {count - len(named)} more" if count > len(named) else ""
                output.line(f"  {kind} at {report['exchange']}: {', '.join(named)}{more}")


def _named(report: dict[str, Any], wanted: Wanted) -> dict[str, Any]:
    """Return the figures of an exchange, with the contracts that are to be named.

    A status names a thousand of a kind at most; of a class only those are counted.
    """
    told: dict[str, Any] = {
        name: report[name]
        for name in ("exchange", "phase", "wanted", "covered", "ratio", "silent", "quiet_seconds")
    }
    for kind in KINDS:
        keys = [
            key for key in report[kind] if wanted.product in ("", family_of(key.partition(".")[2]))
        ]
        told[kind] = keys[: wanted.limit]
        told[f"{kind}_count"] = len(keys) if wanted.product else report[f"{kind}_count"]
    return told
