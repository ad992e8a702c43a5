"""The owner of a gateway's process: it starts it, hears it, and starts it again.

A process that fails is replaced after a pause that doubles; one whose failure is the
account's (a wrong password) never is, since repeating it locks the account.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
import zlib
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Final

import structlog

from aegis import ConfigurationError, Role
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._contract import Contract, Product
from aegis.marketdata._failover import Cause, Standing
from aegis.marketdata._figures import added
from aegis.marketdata._ports import GatewayState

__all__ = ["GATEWAY_MODULE", "GatewayHost"]

GATEWAY_MODULE: Final = "aegis.marketdata._gateway_process"

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 60.0
"""Seconds between two lives; a front in its maintenance hours is asked once a minute."""

STABLE_SECONDS: Final = 60.0
"""After so long a life, the next pause is the first again."""

CONNECT_LEAD: Final = timedelta(minutes=15)
"""So long before a session a gateway should be connected: the auctions begin 5 minutes before."""

STOP_TIMEOUT: Final = 2.0

HANG_SECONDS: Final = 10.0
"""A process that tells nothing for so long, though it should twice a second, is replaced."""

START_SECONDS: Final = 60.0
"""The same before it has told anything: a vendor's library is slow to load."""

MAX_LINE_BYTES: Final = 64 * 1024 * 1024
"""Of what the process tells; the contracts of the whole market are some 3 MB."""

_log = structlog.get_logger("aegis.feed")


class GatewayHost:
    """Keeps one gateway's process running.

    It is a Python module, with variables added to the owner's. What it logs goes to the
    owner's stderr if it is given no other.
    """

    def __init__(
        self,
        config: Path,
        feed: str,
        *,
        market: str = "market",
        module: str = GATEWAY_MODULE,
        environment: Mapping[str, str] | None = None,
        stderr: IO[bytes] | None = None,
        calendar: Calendar | None = None,
    ) -> None:
        self.feed = feed
        self.labels = (market, feed)
        """Of its metrics: a feed of another market may have the same name."""
        self.status: dict[str, Any] = {}
        """What the process told last; empty before."""
        self.status_at = float("-inf")
        self.contracts: list[Contract] = []
        """All that the gateway knows, in the order of their keys."""
        self.contracts_version = 0
        """Of these keys: the same in two feeds that know the same; 0 before any is known."""
        self.failure: dict[str, Any] | None = None
        """Why the last life ended, or why there will be no other (``permanent``)."""
        self.restarts = 0
        self.role = Role.STANDBY
        self.epoch = 0
        """Under which its feed owns the market; 0 while it does not."""
        self.promotions: Counter[str] = Counter({cause.value: 0 for cause in Cause})
        """How often that has come about, by cause."""
        self._ended: dict[str, Any] = {}
        """The figures of all lives but the present one."""
        self._config = config
        self._module = module
        self._environment = environment or {}
        self._stderr = stderr
        self._calendar = calendar
        self._process: Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._universe: dict[str, Any] | None = None
        self._publish_until = float("-inf")
        self._silent = asyncio.Event()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """The process's id."""
        return None if self._process is None else self._process.pid

    @property
    def state(self) -> str:
        """The state of the gateway, also while it has no process."""
        if self.status:
            return str(self.status["state"])
        given_up = bool(self.failure and self.failure["permanent"])
        return GatewayState.FAILED if given_up else GatewayState.STOPPED

    @property
    def is_due(self) -> bool:
        """Whether the gateway should be connected: a session is near or under way.

        Else fronts are in maintenance, and come and go.
        """
        if self._calendar is None:
            return True
        try:
            return self._calendar.is_near_trading(datetime.now(UTC), CONNECT_LEAD)
        except ConfigurationError:
            return True  # The calendar has to be mended, and nothing is known meanwhile.

    @property
    def calendar_days_left(self) -> int | None:
        """How many trading days the calendar still knows; None if there is no end to them."""
        return None if self._calendar is None else self._calendar.days_left(datetime.now(UTC))

    @property
    def exchanges(self) -> Sequence[dict[str, Any]]:
        """How each exchange was covered when that was last told."""
        exchanges: list[dict[str, Any]] = self.status.get("exchanges", [])
        return exchanges

    def standing(self) -> Standing:
        """Return how the feed stands, to be compared with others."""
        return Standing.of(
            self.status,
            self.status_at,
            feed=self.feed,
            alive=bool(self.status),
            given_up=bool(self.failure and self.failure["permanent"]),
            due=self.is_due,
        )

    def figures(self) -> dict[str, Any]:
        """Return what was counted in all lives; see `Figures.plain`."""
        return added(self._ended, self.status.get("figures", {}))

    def start(self) -> None:
        """Start the process and keep it; starting twice does nothing."""
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """End the process: in order if it can, else by force."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper

    # -- orders ---------------------------------------------------------------------------

    def activate(self, epoch: int, until: float) -> None:
        """Let it publish under ``epoch`` until a moment, of `time.monotonic`."""
        self._publish_until = until
        self._say({"do": "activate", "epoch": epoch, "until": until})

    async def mute(self) -> None:
        """Let it stand by; return when it publishes no more, whatever state it is in."""
        self._silent.clear()
        self._say({"do": "mute"})
        left = self._publish_until - time.monotonic()
        if left > 0 and self.alive:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._silent.wait()

    def set_universe(self, include: list[str], exclude: list[str]) -> None:
        """Let it subscribe to other contracts, in later lives too; none are those configured."""
        order = {"do": "universe", "include": include, "exclude": exclude}
        if order != self._universe and (include or self._universe is not None):
            self._universe = order
            self._say(order)

    def announce(self, event: str, facts: dict[str, Any]) -> None:
        """Let it tell of an event, if it is there."""
        self._say({"do": "announce", "event": event, "facts": facts})

    def _say(self, order: dict[str, Any]) -> None:
        process = self._process
        if process is None or process.returncode is not None or process.stdin is None:
            return
        # The process may have died a moment ago; then the next one is told.
        with contextlib.suppress(OSError, RuntimeError):
            process.stdin.write(json.dumps(order).encode() + b"\n")

    # -- its lives ------------------------------------------------------------------------

    async def _keep(self) -> None:
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            self.failure = None
            try:
                failure = await self._live()
            except Exception as error:
                # No process can be had at this moment, or it said what makes no sense. A
                # keeper that ends by it would leave a feed that is never started again.
                _log.exception("gateway_not_kept", feed=self.feed)
                reason = f"{type(error).__name__}: {error}"
                failure = self.failure = {"reason": reason, "code": 0, "permanent": False}
            if failure.get("permanent"):
                _log.error(
                    "gateway_given_up",
                    feed=self.feed,
                    reason=failure["reason"],
                    code=failure["code"],
                    action="mend the cause, then start the feed anew; it is not tried again",
                )
                return
            if time.monotonic() - began > STABLE_SECONDS:
                pause = FIRST_PAUSE
            _log.warning("gateway_restarts", feed=self.feed, pause=pause, failure=failure)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            self.restarts += 1
            self._ended = added(self._ended, {"reconnects": {"process": 1}})

    async def _live(self) -> dict[str, Any]:
        """Run one process to its end; return why it ended."""
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            stdin=PIPE,
            stdout=PIPE,
            stderr=self._stderr,
            limit=MAX_LINE_BYTES,
            env={**os.environ, **self._environment},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        _log.info("gateway_started", feed=self.feed, pid=process.pid)
        try:
            self._say({"config": str(self._config), "feed": self.feed})
            if self._universe is not None:
                self._say(self._universe)
            while self.failure is None and (line := await self._next_line(process.stdout)):
                self.hear(json.loads(line))
        finally:
            try:
                failure = await self._end(process)
            finally:
                self.end_life()
        return failure

    async def _next_line(self, told: asyncio.StreamReader) -> bytes:
        """Return what the process tells next; nothing if it has ended, or hangs."""
        limit = HANG_SECONDS if self.status else START_SECONDS
        try:
            async with asyncio.timeout(limit):
                return await told.readline()
        except TimeoutError:
            reason = f"the process has told nothing for {limit:g} s"
            self.failure = {"reason": reason, "code": 0, "permanent": False}
            return b""

    def end_life(self) -> None:
        """Keep what the process has counted; how it stood is over."""
        self._ended, self.status = self.figures(), {}
        self._silent.set()

    async def _end(self, process: Process) -> dict[str, Any]:
        if process.returncode is None:
            self._say({"do": "stop"})
            try:
                async with asyncio.timeout(STOP_TIMEOUT):
                    await process.wait()
            except TimeoutError:
                pass  # A vendor's library may be stuck for good in its end.
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
        if self.failure is None:
            self.failure = {
                "reason": f"the process ended with {process.returncode}",
                "code": 0,
                "permanent": False,
            }
        return self.failure

    def hear(self, told: dict[str, Any]) -> None:
        """Take what the process tells."""
        match told["told"]:
            case "status":
                self.status, self.status_at = told["status"], time.monotonic()
            case "contracts":
                contracts = map(_contract, told["contracts"])
                self.contracts = sorted(contracts, key=lambda contract: contract.key)
                keys = "\n".join(contract.key for contract in self.contracts)
                self.contracts_version = zlib.crc32(keys.encode())
            case "muted":
                self._silent.set()
            case "failed":
                self.failure = {name: told[name] for name in ("reason", "code", "permanent")}
            case "universe_refused":
                _log.error("universe_refused", feed=self.feed, reason=told["reason"])
            case other:
                _log.error("gateway_said_unknown", feed=self.feed, told=other)


def _contract(fields: list[Any]) -> Contract:
    exchange, symbol, product_class, product, *rest = fields
    return Contract(exchange, symbol, product_class, Product(product), *rest)
