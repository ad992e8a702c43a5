"""The demo's nodes: real processes, started with ``aegis run`` as anybody would."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import define, field

from aegis.errors import ConfigurationError
from aegis.ops._demo_orders import SYMBOLS

__all__ = ["Node", "account_names", "make_nodes", "stop_all"]

STOP_TIMEOUT: Final = 8.0
"""Seconds that a node gets to hand over and end, before it is killed."""

_LOG_LINES: Final = 12

# What ``aegis`` does, after one thing more: should the demo itself be killed, the kernel
# ends this process too. (Linux; elsewhere a demo that is killed leaves its nodes behind.)
_START: Final = """
import os, sys
demo = int(sys.argv.pop(1))
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM
if os.getppid() == demo:
    from aegis.ops.cli import main
    main()
"""


@define(eq=False)
class Node:
    """One process that runs one service; may be killed and started again."""

    name: str
    service: str
    target: str
    resources: list[str]
    folder: Path
    starts: int = 0
    _process: asyncio.subprocess.Process | None = field(default=None, repr=False)

    @property
    def log_file(self) -> Path:
        """What the node has written, over all its starts."""
        return self.folder / f"{self.name}.log"

    async def start(self) -> None:
        """Start the process; does not wait until it serves."""
        arguments = [sys.executable, "-c", _START, str(os.getpid()), "run", self.target]
        arguments += ["--instance-id", self.name, "--data-dir", str(self.folder / "server")]
        arguments += ["--log-level", "warning", "--log-format", "json"]
        for resource in self.resources:
            arguments += ["--resource", resource]
        # The settings of whoever runs the demo must not lead its nodes elsewhere.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AEGIS_")}
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends its nodes
            )
        self.starts += 1

    def kill(self) -> None:
        """End the process at once: SIGKILL."""
        if self.is_running:
            assert self._process is not None
            self._process.send_signal(signal.SIGKILL)

    async def wait_ended(self) -> None:
        """Return when the process is gone."""
        if self._process is not None:
            await self._process.wait()

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """The process, or 0 before the first start."""
        return 0 if self._process is None else self._process.pid

    async def stop(self) -> None:
        """End the process: first asked to, then killed."""
        if self._process is None or not self.is_running:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()

    def last_words(self) -> str:
        """Return the end of the log."""
        try:
            lines = self.log_file.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-_LOG_LINES:])


def account_names(count: int) -> list[str]:
    """Return the accounts of the demo."""
    return [f"ACC-{number:02}" for number in range(1, count + 1)]


def make_nodes(folder: Path, accounts: list[str]) -> list[Node]:
    """Return the nodes of the demo's exchange; none is started yet."""
    half = len(accounts) // 2
    trading = examples_folder() / "trading"
    account, book, pricing = (
        str(trading / file)
        for file in ("accounts.py:Account", "order_book.py:OrderBook", "pricing.py:Pricing")
    )
    return [
        Node("accounts-1", "trading-account", account, accounts[:half], folder),
        Node("accounts-2", "trading-account", account, accounts[half:], folder),
        Node("order-books", "order-book", book, list(SYMBOLS), folder),
        Node("pricing-1", "pricing", pricing, [], folder),
        Node("pricing-2", "pricing", pricing, [], folder),
    ]


async def stop_all(nodes: list[Node]) -> None:
    """Stop the nodes, all at the same time."""
    await asyncio.gather(*(node.stop() for node in nodes))


def examples_folder() -> Path:
    """Return where the example services are.

    Raises:
        ConfigurationError: this installation has none.
    """
    for folder in _candidates():
        if (folder / "trading" / "order_book.py").is_file():
            return folder
    raise ConfigurationError(
        "the demo's services (examples/trading) are not installed here; run it from a checkout"
    )


def _candidates() -> Iterator[Path]:
    # In a checkout this file is ops/_demo_nodes.py, beside examples/.
    here = Path(__file__).resolve().parent.parent
    yield here / "examples"
    # Installed, it is aegis/ops/_demo_nodes.py. A wheel may carry the examples in a folder
    # that is no package, so that they are still imported as `examples`.
    yield here / "_demo" / "examples"
