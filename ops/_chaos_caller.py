"""A caller of `aegis chaos`, as a process of its own that may be killed at any moment.

``python -m aegis.ops._chaos_caller NAME OPTIONS_FILE LEDGER_FILE SEED`` moves money between
accounts and reads and writes registers until it is told to end. Started again under the
same name, it reads its ledger first, and ends all that it had begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from aegis._cluster import Cluster, connect
from aegis._config import ConnectOptions
from aegis.errors import AegisError
from aegis.ops._bench_loop import run
from aegis.ops._chaos_ledger import Entry, Ledger, Story, Transfer, read_story
from aegis.ops._chaos_services import VOID, WRITE, Chest, Purse, Register, Step
from aegis.ops._chaos_transfers import Ended, next_step
from aegis.ops._logging import configure_logging

__all__ = ["BANKS", "LISTENS", "REGISTERS", "RESOURCES", "options_to_plain", "read_options"]

BANKS: Final = (Purse.service, Chest.service)
REGISTERS: Final = Register.service
RESOURCES: Final = tuple(f"R-{number}" for number in range(4))

TRANSFER_WORKERS: Final = 5
REGISTER_WORKERS: Final = 3
MAX_AMOUNT: Final = 2_000

PATIENCE: Final = 10.0
IMPATIENCE: Final = (0.05, 0.5)
"""Seconds that an attempt may take: most wait, some give up while faults last, so that
there are outcomes which nobody was told."""
SHARE_IMPATIENT: Final = 0.25
SHARE_COMPENSATED: Final = 0.05
SHARE_READS: Final = 0.6

LISTENS: Final = "listens to signals"
"""What it prints once SIGTERM lets it end what is open."""

START_TIMEOUT: Final = 60.0
PAUSE_SECONDS: Final = 0.05
RETRY_SECONDS: Final = (0.02, 0.3)


class _Caller:
    def __init__(
        self, story: Story, cluster: Cluster, ledger: Ledger, seed: int, ending: asyncio.Event
    ) -> None:
        self._ending = ending
        self._name = story.caller
        self._cluster = cluster
        self._ledger = ledger
        self._rng = random.Random(seed)
        self._entries: dict[tuple[str, str], int] = defaultdict(int)
        self._attempts: dict[tuple[str, str], int] = defaultdict(int)
        self._open: dict[tuple[str, str], set[int]] = defaultdict(set)
        for entry in story.entries.values():
            place = entry.service, entry.resource
            self._entries[place] = max(self._entries[place], entry.number)
            self._attempts[place] = max(self._attempts[place], *entry.attempts)
            if entry.outcome is None:
                self._open[place].add(entry.number)
        self._transfers = max(story.transfers, default=0)

    # -- what was begun before this process was started --------------------------------------

    async def end_what_was_begun(self, story: Story) -> None:
        """Finish or take back half-done transfers; learn what became of writes."""
        entries: dict[int, dict[str, Entry]] = defaultdict(dict)
        for entry in story.entries.values():
            if entry.transfer:
                entries[entry.transfer][entry.role] = entry
        await asyncio.gather(
            *(
                self._carry_on(transfer, entries[transfer.number])
                for transfer in story.transfers.values()
                if not transfer.end
            ),
            *(self._settle(entry) for entry in story.open_entries() if not entry.transfer),
        )

    async def _settle(self, entry: Entry) -> None:
        what = VOID if self._rng.random() < 0.5 else entry.what
        await self._decide(entry, what)

    # -- work --------------------------------------------------------------------------------

    async def transfer_on(self) -> None:
        """Move money until told to end."""
        while not self._ending.is_set():
            source, target = self._rng.sample(RESOURCES, 2)
            self._transfers += 1
            transfer = Transfer(
                self._transfers,
                self._rng.choice(BANKS),
                source,
                target,
                self._rng.randint(1, MAX_AMOUNT),
            )
            await self._ledger.write(
                "transfer", transfer.number, transfer.service, source, target, transfer.amount
            )
            await self._carry_on(transfer, {})
            await self._pause()

    async def _carry_on(self, transfer: Transfer, entries: dict[str, Entry]) -> None:
        compensate = self._rng.random() < SHARE_COMPENSATED * (10 if entries else 1)
        while True:
            outcomes = {role: entry.outcome[0] for role, entry in entries.items() if entry.outcome}
            step = next_step(transfer, outcomes, compensate=compensate)
            if isinstance(step, Ended):
                await self._ledger.write("end", transfer.number, step.how)
                return
            entry = entries.get(step.role)
            if entry is None:
                entry = entries[step.role] = self._new_entry(
                    transfer.service, step.resource, step.what, transfer.amount
                )
                entry.transfer, entry.role = transfer.number, step.role
            await self._decide(entry, step.what)

    async def use_register(self) -> None:
        """Read and write registers until told to end."""
        while not self._ending.is_set():
            resource = self._rng.choice(RESOURCES)
            if self._rng.random() < SHARE_READS:
                await self._read(resource)
            else:
                # No value is written twice, so a read tells which write it saw.
                entry = self._new_entry(REGISTERS, resource, WRITE, self._rng.getrandbits(53))
                await self._decide(entry, WRITE)
            await self._pause()

    async def _read(self, resource: str) -> None:
        called_at = time.monotonic()
        try:
            value = await self._cluster.call(
                REGISTERS, "read", resource_id=resource, timeout=self._timeout()
            )
        except AegisError as error:
            await self._ledger.write("unread", type(error).__name__)
        else:
            await self._ledger.write("read", resource, called_at, time.monotonic(), value)

    async def _pause(self) -> None:
        await asyncio.sleep(PAUSE_SECONDS * self._rng.random())

    def _timeout(self) -> float:
        impatient = self._rng.random() < SHARE_IMPATIENT
        return self._rng.uniform(*IMPATIENCE) if impatient else PATIENCE

    # -- entries -----------------------------------------------------------------------------

    def _new_entry(self, service: str, resource: str, what: str, value: int) -> Entry:
        place = service, resource
        self._entries[place] += 1
        number = self._entries[place]
        self._open[place].add(number)
        return Entry(service, resource, number, what, value, time.monotonic())

    async def _decide(self, entry: Entry, what: str) -> None:
        """Ask until told how the entry was decided, each time with an attempt of its own."""
        while entry.outcome is None:
            await self._attempt(entry, what)
            if entry.outcome is None:
                await asyncio.sleep(self._rng.uniform(*RETRY_SECONDS))
                if entry.what == WRITE and self._rng.random() < SHARE_COMPENSATED:
                    what = VOID
        self._open[entry.service, entry.resource].discard(entry.number)

    async def _attempt(self, entry: Entry, what: str) -> None:
        place = entry.service, entry.resource
        self._attempts[place] += 1
        attempt = self._attempts[place]
        key = (*place, entry.number, attempt)
        entry.attempts[attempt] = what
        await self._ledger.write(
            "ask", time.monotonic(), *key, what, entry.value, entry.transfer, entry.role
        )
        low = min(self._open[place])
        step = Step(self._name, attempt, entry.number, low, what, entry.value)
        try:
            told = await self._cluster.call(
                entry.service,
                "step",
                {"step": step},
                resource_id=entry.resource,
                timeout=self._timeout(),
            )
        except AegisError as error:
            text = f"{type(error).__name__}: {error}"[:200]
            entry.failed[attempt] = text
            await self._ledger.write("failed", *key, text)
        else:
            outcome = (told["took"], told["place"], told["value"])
            await self._ledger.write("told", time.monotonic(), *key, *outcome)
            entry.told[attempt] = outcome


# -- the process -----------------------------------------------------------------------------


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


async def _wait_server(options: ConnectOptions) -> None:
    """Return when the server, which may just have been killed, can be reached."""
    async with asyncio.timeout(START_TIMEOUT):
        while True:
            with contextlib.suppress(AegisError):
                async with connect(options=options):
                    return
            await asyncio.sleep(PAUSE_SECONDS)


async def _main(name: str, options: ConnectOptions, ledger_file: Path, seed: int) -> None:
    configure_logging("error")
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    print(LISTENS, flush=True)
    story, ledger = read_story(name, ledger_file), Ledger(ledger_file)
    await _wait_server(options)
    async with connect(options=options) as cluster:
        caller = _Caller(story, cluster, ledger, seed, ending)
        await asyncio.gather(
            caller.end_what_was_begun(story),
            *(caller.transfer_on() for _ in range(TRANSFER_WORKERS)),
            *(caller.use_register() for _ in range(REGISTER_WORKERS)),
        )


if __name__ == "__main__":
    _name, _options_file, _ledger_file, _seed = sys.argv[1:5]
    _options = read_options(json.loads(Path(_options_file).read_text()))
    run(_main(_name, _options, Path(_ledger_file), int(_seed)))
