"""The writer of the registry: appends on the condition that this candidate leads.

One write is under way at a time. What became of it is told to the election before
anything else happens: a refused one says that another leads, and one without an answer
has to be overtaken by the leader's own record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import structlog

from aegis._clock import Clock
from aegis.actors._control_channel import ControlChannel
from aegis.actors._election import Claim, Election
from aegis.actors._registry_entries import LEADER, RENEWAL, Write
from aegis.transport._base import Append, Appended, AppendOutcome, Refused, Unknown
from aegis.transport._codec import encode_value

__all__ = ["RegistryWriter"]

_log = structlog.get_logger("aegis.control")

RETRY_SECONDS: Final = 0.005
"""Between two tries of a write that met another one under way (code 10164)."""


class RegistryWriter:
    """Writes what one candidate may write; ``timeout`` is in seconds, for each write."""

    def __init__(
        self, channel: ControlChannel, clock: Clock, election: Election, *, timeout: float
    ) -> None:
        self._channel = channel
        self._clock = clock
        self._election = election
        self._timeout = timeout

    async def claim(self, claim: Claim) -> None:
        """Try to become the leader."""
        append = Append(
            self._channel.record(LEADER),
            encode_value(claim.record),
            expect=claim.expect,
            rollup=True,
        )
        outcome = await self._append(append)
        now = self._clock.boot_seconds()
        match outcome:
            case Appended(sequence):
                self._election.claimed(claim, sequence, now)
            case Refused(conflict=True):
                self._election.claim_refused(now)
            case _:
                self._election.claim_unknown(now)

    async def renew(self, settled: int) -> None:
        """Renew the leader's lease."""
        sent_at = self._clock.boot_seconds()
        if isinstance(await self.write([self._renewal(settled)]), Appended):
            self._election.renewed(sent_at)

    async def resign(self, settled: int) -> None:
        """Invite the others to take over at once."""
        renewal = self._renewal(settled)
        renewal.record["resigned"] = True
        await self._append(self._mine(renewal))

    async def write(self, writes: Sequence[Write]) -> AppendOutcome:
        """Write records as one batch: all of them or none."""
        outcome = await self._append(
            *[self._mine(write, conditional=index == 0) for index, write in enumerate(writes)]
        )
        now = self._clock.boot_seconds()
        match outcome:
            case Appended():
                pass
            case Refused(conflict=True):
                self._election.deposed(now)
            case Refused():
                _log.error("registry write refused", code=outcome.code, reason=outcome.reason)
            case Unknown():
                self._election.write_unknown(now)
        return outcome

    def _renewal(self, settled: int) -> Write:
        election = self._election
        record: dict[str, Any] = {
            "node": election.node_id,
            "term": election.term,
            "settled": settled,
        }
        rivals = election.rivals(self._clock.boot_seconds())
        if rivals is not None:
            record["rivals"] = sorted(rivals)
        return Write(RENEWAL, record)

    def _mine(self, write: Write, *, conditional: bool = True) -> Append:
        """Return ``write`` on the condition that the leader's record is still mine."""
        return Append(
            self._channel.record(write.key),
            encode_value(write.record),
            expect=self._election.sequence if conditional else None,
            expect_subject=self._channel.record(LEADER) if conditional else None,
            rollup=True,
            ttl=write.ttl,
        )

    async def _append(self, *appends: Append) -> AppendOutcome:
        """Append one record, or several as one batch; wait while another is under way."""
        transport = self._channel.transport
        give_up = self._clock.boot_seconds() + self._timeout
        while True:
            if len(appends) == 1:
                outcome = await transport.append(appends[0], timeout=self._timeout)
            else:
                outcome = await transport.append_batch(appends, timeout=self._timeout)
            if not (isinstance(outcome, Refused) and outcome.again):
                return outcome
            if self._clock.boot_seconds() >= give_up:
                return Unknown("other writes were under way all the time")
            await asyncio.sleep(RETRY_SECONDS)
