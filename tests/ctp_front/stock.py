"""The test's end of vnpy's own gateway, which runs in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from tests.ctp_front.front import WAIT, FakeFront
from tests.support.poll import wait_until

__all__ = ["StockGateway"]

SCRIPT = Path(__file__).parent / "stock_gateway.py"
LINE = 16 * 1024 * 1024
"""Bytes; the names of all contracts are told in one line."""


class StockGateway:
    """One process with a ``CtpGateway``, as vnpy made it."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.logs: list[str] = []
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._over = ""
        """Why nothing it says is taken any more."""
        self._reading = asyncio.create_task(self._read())

    @classmethod
    @asynccontextmanager
    async def open(
        cls, front: FakeFront, folder: Path, environ: dict[str, str]
    ) -> AsyncGenerator[Self]:
        """Run one for the time of the block; vnpy keeps its files in ``folder``."""
        (folder / ".vntrader").mkdir()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(SCRIPT), front.address),
            cwd=folder,
            env={**os.environ, **environ},
            stdin=PIPE,
            stdout=PIPE,
            limit=LINE,
        )
        gateway = cls(process)
        try:
            yield gateway
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await gateway._reading

    async def ask(self, command: str) -> dict[str, Any]:
        """Have it do something; return what it says of it.

        Raises:
            AssertionError: it has ended, or said what is no JSON.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        try:
            async with asyncio.timeout(WAIT):
                return await self._answers.get()
        except asyncio.QueueShutDown:
            raise AssertionError(self._over) from None

    async def wait_log(self, text: str) -> str:
        """Return the first line of its log with a text in it."""
        found: list[str] = []

        def is_there() -> bool:
            found[:] = [line for line in self.logs if text in line]
            assert found or not self._over, self._over
            return bool(found)

        await wait_until(is_there, what=f"{text!r} among {self.logs}", timeout=WAIT)
        return found[0]

    async def wait_ready(self, contracts: int) -> None:
        """Return once it is logged in and knows all contracts."""
        await self.wait_log("行情服务器登录成功")
        await self.wait_log("合约信息查询成功")

        async def are_known() -> bool:
            return bool((await self.ask("report"))["contracts"] == contracts)

        await wait_until(are_known, what=f"{contracts} contracts are known", timeout=WAIT)

    async def _read(self) -> None:
        """Take what it says; who waits for an answer is told why no other will come."""
        assert self.process.stdout is not None
        line = b""
        try:
            while line := await self.process.stdout.readline():
                # The rest are errors of handlers, which the binding prints here.
                if line.startswith(b"{"):
                    self._take(json.loads(line))
            self._over = "the gateway's process has ended"
        except ValueError as error:
            self._over = f"the gateway said {line!r}: {error}"
        self._answers.shutdown()

    def _take(self, facts: dict[str, Any]) -> None:
        if "log" in facts:
            self.logs.append(facts["log"])
        else:
            self._answers.put_nowait(facts)
