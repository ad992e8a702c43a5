"""The process of one gateway, driven as its owner does."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from aegis import ConfigurationError
from aegis.marketdata._config import MarketConfig
from aegis.marketdata._gateway_host import GATEWAY_MODULE
from aegis.marketdata._gateway_process import GatewayProcess
from tests.support.nodes import ROOT, Host

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

CONFIG = """
calendar = "always"
[feeds.a.simulated]
futures = 10
options = 0
"""


OLD_CALENDAR = """
timezone = "Asia/Shanghai"
[holidays]
2020 = ["2020-01-01"]
[[sessions]]
contracts = ["*"]
day = ["09:00-15:00"]
"""


async def test_a_process_whose_interpreter_stands_still_ends_by_itself(tmp_path: Path) -> None:
    config = tmp_path / "market.toml"
    config.write_text(CONFIG)
    async with Host.open(tmp_path / "data") as host:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.frozen_gateway"),
            cwd=ROOT,
            env={**os.environ, "AEGIS_DATA_DIR": str(host.folder)},
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )
        # Its input stays open: it is not the end of its owner that ends it.
        assert process.stdin is not None
        begin = {"config": str(config), "feed": "a"}
        process.stdin.write(json.dumps(begin).encode() + b"\n")
        try:
            _, said = await asyncio.gather(_read(process.stdout), _read(process.stderr))
            assert await process.wait() == 1
            assert b"Timeout" in said
            assert b"in freeze" in said
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_an_order_of_any_length_is_heard_and_the_end_of_its_owner_behind_it(
    tmp_path: Path,
) -> None:
    config = tmp_path / "market.toml"
    config.write_text(CONFIG)
    async with Host.open(tmp_path / "data") as host:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "aegis.marketdata._gateway_process"),
            cwd=ROOT,
            env={**os.environ, "AEGIS_DATA_DIR": str(host.folder)},
            stdin=PIPE,
            stdout=PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        include = [f"SHFE.rb{number:07}" for number in range(10_000)]
        orders = [
            {"config": str(config), "feed": "a"},
            {"do": "universe", "include": include, "exclude": []},
        ]
        process.stdin.writelines(json.dumps(order).encode() + b"\n" for order in orders)
        try:
            # None of these contracts is there, which is told once the order has been heard.
            while json.loads(await process.stdout.readline())["told"] != "failed":
                pass
            process.stdin.close()
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_what_goes_wrong_is_logged_in_one_piece_with_where_that_was() -> None:
    # What is written at once to such a pipe is read at once; others may write between two.
    ours, theirs = os.pipe2(os.O_DIRECT)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", GATEWAY_MODULE), cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=theirs
    )
    os.close(theirs)
    try:
        said, _ = await process.communicate(b"no order\n")
        line = os.read(ours, 65_536)
    finally:
        os.close(ours)
    assert line.endswith(b"\n")
    assert "Traceback" in json.loads(line)["exception"]
    assert json.loads(said)["told"] == "failed"


async def test_without_today_in_its_calendar_it_ends_before_anybody_logs_in(
    tmp_path: Path,
) -> None:
    (tmp_path / "old.toml").write_text(OLD_CALENDAR)
    market = tmp_path / "market.toml"
    market.write_text(CONFIG.replace("always", "old.toml"))
    told: list[dict[str, Any]] = []
    with pytest.raises(ConfigurationError, match="add the holidays of that year"):
        await GatewayProcess(told.append).run(MarketConfig.load(market), "a", asyncio.Queue())
    assert told == []


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    assert stream is not None
    return await stream.read()
