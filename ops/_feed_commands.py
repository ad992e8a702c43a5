"""The commands of ``aegis feed``: their arguments; the work is in `aegis.ops._feed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aegis._config import ConnectOptions, LogOptions, RunOptions
from aegis.ops._options import CommandContext, add_command

__all__ = ["feed"]

MarketFile = Annotated[Path, typer.Argument(metavar="FILE", help="The market's configuration.")]
Market = Annotated[
    str, typer.Option("--market", metavar="NAME", help="Which market. [default: market]")
]
OneFeed = Annotated[
    str,
    typer.Option(
        "--feed", metavar="NAME", help="This feed, also if it stands by. [default: the active one]"
    ),
]
Limit = Annotated[int, typer.Option("--limit", metavar="N", help="Names shown at most.", min=1)]


def run(
    context: CommandContext,
    file: MarketFile,
    name: Annotated[str, typer.Option("--feed", metavar="NAME", help="Which of its feeds.")],
    role: Annotated[
        str, typer.Option("--role", metavar="ROLE", help="active or standby.")
    ] = "active",
) -> None:
    """Run the node of one feed, with its gateway in a process of its own."""
    from aegis.ops._feed import run as work

    work(context, file, name, role)


def validate(
    context: CommandContext,
    file: MarketFile,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not look whether the fronts of accounts answer.")
    ] = False,
    names: Annotated[
        list[str] | None,
        typer.Option("--feed", metavar="NAME", help="A feed that it must have; repeatable."),
    ] = None,
) -> None:
    """Check a market's configuration without starting anything."""
    from aegis.ops._feed import validate as work

    work(context, file, offline, names or [])


def status(context: CommandContext, market: Market = "market", name: OneFeed = "") -> None:
    """Print how the active feed stands, exchange by exchange."""
    from aegis.ops._feed import status as work

    work(context, market, name)


def health(
    context: CommandContext,
    market: Market = "market",
    name: OneFeed = "",
    exchange: Annotated[
        str, typer.Option("--exchange", metavar="CODE", help="Only this exchange.")
    ] = "",
    product: Annotated[
        str, typer.Option("--product", metavar="CLASS", help="Name only contracts of this class.")
    ] = "",
    limit: Limit = 10,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", help="Ask again until it is fine.", min=0)
    ] = 0.0,
    coverage: Annotated[
        float | None,
        typer.Option(
            "--coverage",
            metavar="SHARE",
            help="Critical below this share of each exchange, in breaks too; as in 0.995.",
            min=0,
            max=1,
        ),
    ] = None,
) -> None:
    """Judge the active feed; nothing is changed.

    The exit code is 0 fine, 1 degraded, 2 critical, 3 cannot tell, 4 wrong use.
    """
    from aegis.ops._feed_health import Wanted
    from aegis.ops._feed_health import health as work

    work(context, Wanted(market, name, exchange, product, limit, coverage, wait))


def contracts(
    context: CommandContext,
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="As in SHFE.rb*; quote it.")
    ] = "*",
    market: Market = "market",
    limit: Limit = 20,
) -> None:
    """List the contracts that the active feed knows."""
    from aegis.ops._feed import contracts as work

    work(context, market, pattern, limit)


def subscribe(
    context: CommandContext,
    include: Annotated[
        list[str], typer.Argument(metavar="PATTERN", help="Wanted contracts, as in SHFE.rb*.")
    ],
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="PATTERN", help="Contracts to leave out; repeatable."),
    ] = None,
    market: Market = "market",
) -> None:
    """Have these contracts published from now on, and no others."""
    from aegis.ops._feed import subscribe as work

    work(context, market, include, exclude or [])


def ticks(
    context: CommandContext,
    patterns: Annotated[
        list[str] | None, typer.Argument(metavar="PATTERN", help="As in SHFE.rb*; by default all.")
    ] = None,
    count: Annotated[
        int, typer.Option("--count", metavar="N", help="End after so many.", min=0)
    ] = 0,
) -> None:
    """Print ticks as they come."""
    from aegis.ops._feed import ticks as work

    work(context, patterns or [], count)


def replay(
    context: CommandContext,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="CSV or Parquet files, or folders of such."),
    ],
    speed: Annotated[
        float,
        typer.Option(
            "--speed", metavar="N", help="Times faster than recorded; 0: as fast as it is taken."
        ),
    ] = 1.0,
    market: Market = "market",
    exchange: Annotated[
        str, typer.Option("--exchange", metavar="CODE", help="For files that do not name it.")
    ] = "",
    max_pause: Annotated[
        float,
        typer.Option(
            "--max-pause",
            metavar="SECONDS",
            help="Leave out what is longer of a pause; 0: nothing.",
        ),
    ] = 0.0,
    calendar: Annotated[
        str, typer.Option("--calendar", metavar="NAME", help="china, always, or a file.")
    ] = "china",
) -> None:
    """Play recorded days as the feed of a market, and end with them."""
    from aegis.marketdata._config import ReplaySource
    from aegis.ops._feed_replay import replay as work

    work(context, files, market, ReplaySource((), speed, exchange, max_pause), calendar)


def record(
    context: CommandContext,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="A folder, for Parquet files.")
    ] = None,
    stream: Annotated[
        str,
        typer.Option("--stream", metavar="NAME", help="A JetStream stream, besides or instead."),
    ] = "",
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", help="A file of each exchange so often.")
    ] = 60.0,
    days: Annotated[
        float, typer.Option("--days", metavar="N", help="So long the stream keeps ticks.")
    ] = 7.0,
    market: Market = "market",
    name: Annotated[
        str, typer.Option("--recorder", metavar="NAME", help="What this recorder is called.")
    ] = "recorder",
    role: Annotated[
        str, typer.Option("--role", metavar="ROLE", help="active or standby.")
    ] = "active",
) -> None:
    """Run a recorder: what feeds publish goes to files, a stream, or both."""
    from aegis.marketdata._recorder_actor import RecorderConfig
    from aegis.ops._feed_record import record as work

    folder = "" if to is None else str(to.resolve())
    config = RecorderConfig(folder=folder, stream=stream, every=every, days=days)
    work(context, market, name, role, config)


def recorded(
    context: CommandContext,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where it was recorded to.")],
) -> None:
    """Print what was recorded, and what is missing; the exit code is 1 if anything is."""
    from aegis.ops._feed_record import recorded as work

    work(context, folder)


def drill(
    context: CommandContext,
    file: MarketFile,
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help="kill, silence, disconnect or lag.")
    ] = "kill",
) -> None:
    """Break the first of a market's feeds, and print what a consumer saw of it.

    Both feeds run on a server of their own unless one is told with --nats, on which nobody
    may publish. The exit code is 1 if a tick came twice or the change was not told.
    """
    from aegis.ops._feed import drill as work

    work(context, file, kind)


def switch(
    context: CommandContext,
    to: Annotated[
        str, typer.Option("--to", metavar="FEED", help="Which one. [default: the best standby]")
    ] = "",
    market: Market = "market",
) -> None:
    """Let a standby be the active feed."""
    from aegis.ops._feed import switch as work

    work(context, market, to)


feed = typer.Typer(
    name="feed",
    help="Market data: run feeds, and look at what they publish.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
add_command(feed, run, RunOptions, ConnectOptions)
add_command(feed, replay, RunOptions, ConnectOptions)
add_command(feed, record, RunOptions, ConnectOptions)
add_command(feed, validate, LogOptions)
add_command(feed, recorded, LogOptions)
add_command(feed, drill, ConnectOptions, LogOptions)
for work in (status, health, contracts, subscribe, switch, ticks):
    add_command(feed, work, ConnectOptions, LogOptions)
