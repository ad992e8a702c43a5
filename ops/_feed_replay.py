"""``aegis feed replay``: a recorded day on NATS, by a feed that ends with the recording."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import typer
from attrs import define, evolve, field

from aegis.errors import ConfigurationError
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._config import FeedConfig, ReplaySource
from aegis.marketdata._contract import Product
from aegis.marketdata._feed import host_of
from aegis.marketdata._gateways import check_source
from aegis.ops._feed import run
from aegis.ops._options import CommandContext
from aegis.ops._output import Output

if TYPE_CHECKING:
    from aegis._node import Node
    from aegis.marketdata._gateway_host import GatewayHost

__all__ = ["replay"]

LOOK_INTERVAL: Final = 0.2
TELL_INTERVAL: Final = 5.0

PATIENCE: Final = 60.0
"""Seconds that a recorded exchange may be quiet: it may be one of a single contract."""


def replay(
    context: CommandContext,
    files: Sequence[Path],
    market: str,
    source: ReplaySource,
    calendar: str,
) -> None:
    """Play recordings as the feed of a market, and end when all is played."""
    source = evolve(source, files=tuple(str(file.resolve()) for file in files))
    if problems := check_source(FeedConfig(replay=source)):
        raise ConfigurationError("; ".join(problems))
    feed = "replay-" + re.sub("[^a-z0-9-]", "-", market.lower())[:30]
    if context.given.get("log_level") is None:
        context = evolve(context, given={**context.given, "log_level": "warning"})
    with TemporaryDirectory(prefix="aegis-replay-") as folder:
        config = Path(folder, "market.toml")
        config.write_text(_config(feed, market, source, calendar), encoding="utf-8")
        player = _Player(feed, context.output, Calendar.load(calendar))
        run(context, config, feed, "active", beside=player.beside)
    player.tell_end()


def _config(feed: str, market: str, source: ReplaySource, calendar: str) -> str:
    """Return the configuration of a market that is a recording; JSON's texts are TOML's."""
    return f"""
resource = {json.dumps(market)}
calendar = {json.dumps(calendar)}
[universe]
products = {json.dumps([str(product) for product in Product])}
[patience]
exchange = {PATIENCE}
[feeds.{feed}.replay]
files = {json.dumps(source.files)}
speed = {float(source.speed)}
exchange = {json.dumps(source.exchange)}
max_pause = {float(source.max_pause)}
"""


@define
class _Player:
    """Watches the feed from beside its node, and ends the node with the recording."""

    feed: str
    output: Output
    calendar: Calendar
    _last: dict[str, Any] = field(factory=dict[str, Any], init=False)
    """What the gateway's process told last."""
    _failure: str = field(default="", init=False)

    @asynccontextmanager
    async def beside(self, node: Node) -> AsyncGenerator[None]:
        watching = asyncio.create_task(self._watch(host_of(self.feed)))
        try:
            yield
        finally:
            watching.cancel()

    async def _watch(self, host: GatewayHost) -> None:
        loop = asyncio.get_running_loop()
        tell_at = loop.time() + TELL_INTERVAL
        while not self._is_done(host):
            await asyncio.sleep(LOOK_INTERVAL)
            if loop.time() >= tell_at and self._last.get("replay"):
                tell_at += TELL_INTERVAL
                self._tell_progress()
        # As somebody would who has seen that it is over: the node hands over and ends.
        os.kill(os.getpid(), signal.SIGTERM)

    def _is_done(self, host: GatewayHost) -> bool:
        self._last = host.status or self._last
        failure = host.failure or self._last.get("failure")
        if failure and failure.get("permanent"):
            self._failure = failure["reason"]
            return True
        played: dict[str, Any] = self._last.get("replay") or {}
        return bool(played.get("finished")) and not self._last["bridge"]["depth"]

    def _tell_progress(self) -> None:
        if not self.output.json:
            played = self._last["replay"]
            at = datetime.fromtimestamp(played["market_ns"] / 1e9, self.calendar.zone)
            self.output.line(f"{at:%Y-%m-%d %H:%M:%S}: {played['told']:,} ticks played")

    def tell_end(self) -> None:
        """Print what was played.

        Raises:
            ConfigurationError: it could not be.
        """
        if self._failure:
            raise ConfigurationError(self._failure)
        played: dict[str, Any] = self._last.get("replay") or {}
        counts: dict[str, int] = self._last.get("ticks") or {}
        facts = {
            "published": counts.get("published", 0),
            "contracts": played.get("contracts", 0),
            "rows": played.get("rows", 0),
            "damaged": played.get("damaged", 0),
            "lost": counts.get("lost", 0),
            "finished": bool(played.get("finished")),
        }
        if self.output.json:
            self.output.document(facts)
        else:
            end = "" if facts["finished"] else "; it was ended before the recording was"
            self.output.line(
                f"{facts['published']:,} ticks of {facts['contracts']:,} contracts were published, "
                f"{facts['damaged']:,} damaged rows left out{end}"
            )
        if not facts["finished"]:
            raise typer.Exit(1)
