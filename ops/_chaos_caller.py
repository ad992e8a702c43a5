"""A caller of `aegis chaos`, as a process of its own that may be killed at any moment.

``python -m aegis.ops._chaos_caller NAME OPTIONS_FILE LEDGER_FILE SEED`` moves money between
accounts, reads and writes registers, and uses durable messages until it is told to end. Started again under the
same name, it reads its ledger first, and ends all that it had begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from aegis._cluster import Cluster, connect
from aegis._config import ConnectOptions
from aegis.errors import AegisError
from aegis.ops._bench_loop import run
from aegis.ops._chaos_ledger import Ledger, read_story
from aegis.ops._chaos_mail_work import MailCaller
from aegis.ops._chaos_work import Caller
from aegis.ops._logging import configure_logging

__all__ = ["LISTENS", "options_to_plain", "read_options"]

LISTENS: Final = "listens to signals"
"""What it prints once SIGTERM lets it end what is open."""

START_TIMEOUT: Final = 60.0
_POLL_SECONDS: Final = 0.05


def options_to_plain(options: ConnectOptions) -> dict[str, Any]:
    """Return what a caller needs to connect, as plain values."""
    return {
        "nats": list(options.nats),
        "user": options.user,
        "password": options.password,
        "namespace": options.namespace,
        "data_dir": None if options.data_dir is None else str(options.data_dir),
    }


def read_options(plain: Mapping[str, Any]) -> ConnectOptions:
    """Return the options again."""
    data_dir = plain["data_dir"]
    return ConnectOptions(
        nats=tuple(plain["nats"]),
        user=plain["user"],
        password=plain["password"],
        namespace=plain["namespace"],
        data_dir=None if data_dir is None else Path(data_dir),
    )


async def _connected(stack: contextlib.AsyncExitStack, options: ConnectOptions) -> Cluster:
    """Return a connection, once there is a server: it may just have been killed, and again."""
    async with asyncio.timeout(START_TIMEOUT):
        while True:
            with contextlib.suppress(AegisError):
                return await stack.enter_async_context(connect(options=options))
            await asyncio.sleep(_POLL_SECONDS)


async def _main(name: str, options: ConnectOptions, ledger_file: Path, seed: int) -> None:
    configure_logging("error")
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    print(LISTENS, flush=True)
    story, ledger = read_story(name, ledger_file), Ledger(ledger_file)
    async with contextlib.AsyncExitStack() as stack:
        cluster = await _connected(stack, options)
        await asyncio.gather(
            Caller(story, cluster, ledger, seed, ending).work(),
            MailCaller(name, story.mail, cluster, ledger, seed, ending).work(),
        )


if __name__ == "__main__":
    _name, _options_file, _ledger_file, _seed = sys.argv[1:5]
    _options = read_options(json.loads(Path(_options_file).read_text()))
    run(_main(_name, _options, Path(_ledger_file), int(_seed)))
