"""The process of one gateway, driven as its owner does."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.support.nodes import ROOT, Host

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

CONFIG = """
calendar = "always"
[feeds.a.simulated]
futures = 10
options = 0
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


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    assert stream is not None
    return await stream.read()
