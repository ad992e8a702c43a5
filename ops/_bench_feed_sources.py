"""Where the ticks of `aegis bench feed` come from: gateways in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Protocol

from attrs import define, field, frozen

from aegis._cluster import Cluster
from aegis.marketdata._gateway_host import GATEWAY_MODULE, GatewayHost
from aegis.ops._bench_feed_plain import BEGIN, END, SOURCE
from aegis.ops._bench_feed_rows import Offer, Way
from aegis.ops._bench_feed_vnpy import VNPY_GATEWAY
from aegis.ops._bench_limits import PASSWORD_VARIABLE, USER_VARIABLE
from aegis.ops._bench_processes import BenchFailed, Child, child
from aegis.transport._server import EmbeddedServer

__all__ = ["Source", "Stage", "open_source"]

START_TIMEOUT: Final = 120.0
END_TIMEOUT: Final = 20.0
FOR_LONG: Final = 7 * 86_400.0
"""Seconds for which a gateway may publish: nobody else wants to."""

RPC_SETTLE_SECONDS: Final = 1.0

_POLL_SECONDS: Final = 0.05
_REQUEST_TIMEOUT: Final = 20.0
"""On a loaded machine a process may be kept waiting for long."""


@frozen
class Stage:
    """What all processes of the bench share."""

    folder: Path
    server: EmbeddedServer
    config: Path
    """Options by which they find the server, and nothing of whoever runs the bench."""
    rpc: tuple[str, str]
    """Two addresses for vnpy's RPC: where it answers, and where it publishes."""

    @property
    def environment(self) -> dict[str, str]:
        """What they are told by variables."""
        login = self.server.credentials
        return {
            "AEGIS_CONFIG": str(self.config),
            USER_VARIABLE: login.user,
            PASSWORD_VARIABLE: login.password,
        }


class Source(Protocol):
    """A process that publishes ticks when it is told to."""

    @property
    def pid(self) -> int:
        """The process's id."""
        ...

    async def begin(self) -> None:
        """Let it publish."""
        ...

    async def end(self) -> int:
        """Let it publish no more; return how many ticks it has."""
        ...

    @property
    def conflated(self) -> int:
        """How many ticks were left out for newer ones."""
        ...


@contextlib.asynccontextmanager
async def open_source(
    way: Way, offer: Offer, stage: Stage, cluster: Cluster, *, publish: str = "both"
) -> AsyncGenerator[Source]:
    """Run a source for the time of the block; it is ready, and publishes nothing yet.

    ``publish`` is what a feed's configuration says of it.
    """
    if way in (Way.PLAIN, Way.RPC):
        async with _open_child(way, offer, stage, cluster) as one:
            yield one
    elif way is Way.VNPY:
        async with _open_hosted(offer, stage, GATEWAY_MODULE, _VNPY_MARKET, publish) as hosted:
            yield hosted
    else:
        module = "aegis.ops._bench_feed_literal" if way is Way.LITERAL else GATEWAY_MODULE
        async with _open_hosted(offer, stage, module, _MARKET, publish) as hosted:
            yield hosted


# -- feeds ----------------------------------------------------------------------------------

_PACE: Final = """\
calendar = "always"
publish = "{publish}"
bridge_bound = {bound}
[pace]
batch = 50_000
outstanding = 200_000
"""

_SETTING: Final = """\
futures = {futures}
options = {options}
rate = {scale}
even = {even}
"""

_MARKET: Final = f"{_PACE}[feeds.bench.simulated]\n{_SETTING}"

_VNPY_MARKET: Final = f"""\
{_PACE}[feeds.bench.vnpy]
gateway = "{VNPY_GATEWAY}"
requests_per_second = 100_000
[feeds.bench.vnpy.setting]
{_SETTING}"""


@define(eq=False)
class _Hosted:
    """A feed's gateway process, under its real owner."""

    host: GatewayHost
    _pid: int = 0
    _status: dict[str, Any] = field(factory=dict[str, Any])

    async def wait_ready(self, wanted: int) -> None:
        await self._wait(
            lambda: sum(report["covered"] for report in self._status.get("exchanges", ()))
            >= wanted,
            START_TIMEOUT,
            f"the gateway does not tell of all {wanted} contracts",
        )
        assert self.host.pid is not None
        self._pid = self.host.pid

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def conflated(self) -> int:
        conflated: int = self._status["bridge"]["conflated"]
        return conflated

    async def begin(self) -> None:
        self.host.activate(1, time.monotonic() + FOR_LONG)

    async def end(self) -> int:
        await self.host.mute()
        await self._wait(
            lambda: not self._status["publishing"], END_TIMEOUT, "the gateway does not fall silent"
        )
        published: int = self._status["ticks"].get("published", 0)
        return published

    async def _wait(self, condition: Callable[[], bool], timeout: float, problem: str) -> None:
        until = time.monotonic() + timeout
        self._status = {}
        while not (self._status and condition()):
            if self.host.restarts or time.monotonic() > until:
                raise BenchFailed(f"{problem}: {self.host.failure or 'it is too slow'}")
            await asyncio.sleep(_POLL_SECONDS)
            self._status = self.host.status


@contextlib.asynccontextmanager
async def _open_hosted(
    offer: Offer, stage: Stage, module: str, config: str, publish: str
) -> AsyncGenerator[_Hosted]:
    market = stage.folder / "market.toml"
    market.write_text(
        config.format(
            publish=publish,
            bound=max(50_000, round(offer.rate)),
            futures=offer.futures,
            options=offer.options,
            scale=offer.scale,
            even=str(offer.even).lower(),
        )
    )
    with (stage.folder / "gateway.log").open("ab") as log:
        host = GatewayHost(
            market, "bench", module=module, environment=stage.environment, stderr=log
        )
        hosted = _Hosted(host)
        host.start()
        try:
            await hosted.wait_ready(offer.futures + offer.options)
            yield hosted
        finally:
            await host.stop()


# -- others ---------------------------------------------------------------------------------


@define(eq=False)
class _Child:
    """A source that is told by messages."""

    child: Child
    _ask: Callable[[bytes], Awaitable[int]]
    conflated: int = 0

    @property
    def pid(self) -> int:
        return self.child.process.pid

    async def begin(self) -> None:
        await self._ask(BEGIN)

    async def end(self) -> int:
        """It goes on with what waits, until that is published."""
        before = -1
        published = await self._ask(END)
        while published != before:
            await asyncio.sleep(_POLL_SECONDS)
            before, published = published, await self._ask(END)
        return published


@contextlib.asynccontextmanager
async def _open_child(
    way: Way, offer: Offer, stage: Stage, cluster: Cluster
) -> AsyncGenerator[_Child]:
    async def ask(what: bytes) -> int:
        return int(
            (await cluster.transport.request(SOURCE, what, timeout=_REQUEST_TIMEOUT)).payload
        )

    program = ["-m", "aegis.ops._bench_feed_plain", stage.server.url]
    if way is Way.RPC:
        program = ["-m", "aegis.ops._bench_feed_rpc", "publish", stage.server.url, *stage.rpc]
    arguments = [
        *program,
        *(str(offer.futures), str(offer.options), str(offer.scale)),
        "even" if offer.even else "bursts",
    ]
    async with child(way, arguments, folder=stage.folder, environment=stage.environment) as one:
        await one.wait_line()
        if way is Way.RPC:
            # Its subscriber's connection is tried again ten times a second; nothing tells.
            await asyncio.sleep(RPC_SETTLE_SECONDS)
        yield _Child(one, ask)
