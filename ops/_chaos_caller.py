"""A caller of `aegis chaos`, as a process of its own that may be killed at any moment.

``python -m aegis.ops._chaos_caller NAME DATA_DIR NAMESPACE FILE SEED`` deposits until it
is told to end. What it is about to ask, and what it was told, it writes to ``FILE``
line by line before it goes on; a line that was written outlives the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from aegis._cluster import Cluster, connect
from aegis._config import ConnectOptions
from aegis.errors import AegisError
from aegis.ops._bench_loop import run
from aegis.ops._chaos_services import Chest, Purse
from aegis.ops._logging import configure_logging

__all__ = ["RESOURCES", "SERVICES"]

SERVICES: Final = (Purse.service, Chest.service)
RESOURCES: Final = tuple(f"R-{number}" for number in range(4))
WORKERS: Final = 8
CALL_TIMEOUT: Final = 20.0
START_TIMEOUT: Final = 60.0
PAUSE_SECONDS: Final = 0.02
MAX_AMOUNT: Final = 1_000


class _Caller:
    def __init__(self, name: str, cluster: Cluster, file: int, seed: int) -> None:
        self.going = True
        self._name = name
        self._cluster = cluster
        self._file = file
        self._rng = random.Random(seed)
        self._numbers: dict[tuple[str, str], int] = {}

    async def work(self) -> None:
        while self.going:
            service, resource = self._rng.choice(SERVICES), self._rng.choice(RESOURCES)
            number = self._numbers.get((service, resource), 0) + 1
            self._numbers[service, resource] = number
            amount = self._rng.randint(1, MAX_AMOUNT)
            key = [service, resource, number]
            self._write("asked", key, amount)
            begun = time.monotonic()
            try:
                told = await self._cluster.call(
                    service,
                    "deposit",
                    {"caller": self._name, "number": number, "amount": amount},
                    resource_id=resource,
                    timeout=CALL_TIMEOUT,
                )
            except Exception as error:
                self._write("failed", key, f"{type(error).__name__}: {error}"[:200])
            else:
                self._write("told", key, [*told, round(time.monotonic() - begun, 4)])
            await asyncio.sleep(PAUSE_SECONDS * self._rng.random())

    def _write(self, what: str, key: list[Any], value: Any) -> None:
        line = json.dumps([what, *key, value]) + "\n"
        os.write(self._file, line.encode())


async def _wait_server(options: ConnectOptions) -> None:
    """Return when the server, which may just have been killed, can be reached."""
    async with asyncio.timeout(START_TIMEOUT):
        while True:
            try:
                async with connect(options=options):
                    return
            except AegisError:
                await asyncio.sleep(PAUSE_SECONDS)


async def _main(name: str, data_dir: str, namespace: str, file: str, seed: str) -> None:
    configure_logging("error")
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    options = ConnectOptions(data_dir=Path(data_dir), namespace=namespace)
    await _wait_server(options)
    async with connect(options=options) as cluster:
        caller = _Caller(name, cluster, descriptor, int(seed))
        workers = [asyncio.ensure_future(caller.work()) for _ in range(WORKERS)]
        await ending.wait()
        caller.going = False
        await asyncio.gather(*workers)


if __name__ == "__main__":
    run(_main(*sys.argv[1:6]))
