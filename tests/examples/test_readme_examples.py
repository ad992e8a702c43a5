"""The snippets of the README are files in examples/, and run as it says."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from aegis import Rejected
from examples.accounts import Account

ROOT = Path(__file__).resolve().parents[2]

AEGIS = "from aegis.ops.cli import main; main()"

START_TIMEOUT = 30.0


async def python(folder: Path, *arguments: str) -> Process:
    """Start Python as a user of this host would whose data lies in ``folder``."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=ROOT,
        env={**os.environ, "XDG_DATA_HOME": str(folder)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )


async def output_of(folder: Path, *arguments: str) -> str:
    process = await python(folder, *arguments)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Path]:
    """The service of the README, served; the value is the folder of its server's data."""
    process = await python(
        tmp_path,
        *("-c", AEGIS, "run", "examples/accounts.py:Account", "--log-format", "json"),
        *("--instance-id", "acct-1", "--resource", "ACC-1", "--resource", "ACC-2"),
    )
    assert process.stderr is not None
    lines: list[str] = []
    async with asyncio.timeout(START_TIMEOUT):
        while b'"node_started"' not in (line := await process.stderr.readline()):
            lines.append(line.decode())
            assert line, "".join(lines)
    yield tmp_path
    process.send_signal(signal.SIGTERM)
    _, err = await process.communicate()
    assert process.returncode == 0, err.decode()


@pytest.mark.timeout(120)
async def test_the_clients_and_the_command_line_reach_the_service(node: Path) -> None:
    assert await output_of(node, "-m", "examples.client") == (
        "balance: 10.50\nrejected: amount must be positive\n"
    )
    assert await output_of(node, "-m", "examples.script") == "balance: 21.00\n"
    called = await output_of(node, "-c", AEGIS, "call", "account/ACC-1", "deposit", "amount=10.5")
    assert "31.50" in called
    called = await output_of(node, "-c", AEGIS, "call", "account/ACC-2", "balance")
    assert called.strip().strip('"') == "0"


async def test_the_account_of_twenty_lines_adds_up() -> None:
    ref = Account.start()
    account = ref.proxy()
    assert await account.deposit(amount=Decimal("10.5")) == Decimal("10.5")
    with pytest.raises(Rejected, match="must be positive"):
        await account.deposit(amount=Decimal(-1))
    assert await account.balance() == Decimal("10.5")
    await ref.stop()


def test_the_service_has_about_twenty_lines_of_code() -> None:
    lines = (ROOT / "examples" / "accounts.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 20
