"""What a caller of `aegis chaos` does: transfers, reads and writes, each to its end."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from aegis._cluster import Cluster
from aegis.errors import AegisError
from aegis.ops._chaos_ledger import Entry, Ledger, Story, Transfer
from aegis.ops._chaos_services import VOID, WRITE, Chest, Purse, Register, Step
from aegis.ops._chaos_transfers import Ended, next_step

__all__ = ["BANKS", "REGISTERS", "RESOURCES", "Caller"]

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

PAUSE_SECONDS: Final = 0.05
RETRY_SECONDS: Final = (0.02, 0.3)


class Caller:
    """Works until told to end; ``story`` is what its ledger told of an earlier life.

    Times in the ledger are readings of ``clock``, one for all callers.
    """

    def __init__(
        self,
        story: Story,
        cluster: Cluster,
        ledger: Ledger,
        seed: int,
        ending: asyncio.Event,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._story = story
        self._ending = ending
        self._clock = clock
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

    async def work(self) -> None:
        """End what was begun before, and begin more until told to end; then end that too."""
        await asyncio.gather(
            self._end_what_was_begun(self._story),
            *(self._transfer_on() for _ in range(TRANSFER_WORKERS)),
            *(self._use_registers() for _ in range(REGISTER_WORKERS)),
        )

    async def _end_what_was_begun(self, story: Story) -> None:
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

    async def _transfer_on(self) -> None:
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

    async def _use_registers(self) -> None:
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
        called_at = self._clock()
        try:
            value = await self._cluster.call(
                REGISTERS, "read", resource_id=resource, timeout=self._timeout()
            )
        except AegisError as error:
            await self._ledger.write("unread", type(error).__name__)
        else:
            await self._ledger.write("read", resource, called_at, self._clock(), value)

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
        return Entry(service, resource, number, what, value, self._clock())

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
            "ask", self._clock(), *key, what, entry.value, entry.transfer, entry.role
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
            await self._ledger.write("told", self._clock(), *key, *outcome)
            entry.told[attempt] = outcome
