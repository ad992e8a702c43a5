"""The follower: reads the registry's records as they come, for as long as it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from aegis._clock import Clock
from aegis.actors._control_channel import ControlChannel
from aegis.actors._election import Election
from aegis.actors._registry import Change, Registry
from aegis.actors._registry_entries import FAILOVERS, LEADER, RENEWAL, Key, key_of
from aegis.errors import AegisError, ConnectionClosed, ProtocolError
from aegis.transport._base import Stored
from aegis.transport._codec import decode_value

__all__ = ["RegistryFollower"]

RETRY_SECONDS: Final = 0.5
"""Pause after a read that the server refused, before the next one."""

_log = structlog.get_logger("aegis.control")


class RegistryFollower:
    """Feeds the copy of the registry and the election of one candidate.

    ``on_change`` hears of each change of ownership, ``on_failovers`` of the record of the
    last failovers, ``on_delivery`` of each record, and ``on_election`` when the election may
    have something to do: of the thousand records of a great failover, next to none.
    """

    def __init__(
        self,
        channel: ControlChannel,
        clock: Clock,
        registry: Registry,
        election: Election,
        on_change: Callable[[Change], None],
        on_failovers: Callable[[Mapping[str, Any]], None],
        on_delivery: Callable[[], None],
        on_election: Callable[[], None],
    ) -> None:
        self.settled = 0
        """Up to which sequence no lease of the past runs on, as the last leader says."""
        self._channel = channel
        self._clock = clock
        self._registry = registry
        self._election = election
        self._on_change = on_change
        self._on_failovers = on_failovers
        self._on_delivery = on_delivery
        self._on_election = on_election
        self._last = 0
        self._replayed = asyncio.Event()

    async def wait_replayed(self) -> None:
        """Return when all that stood in the registry at the start was read."""
        await self._replayed.wait()

    async def run(self) -> None:
        """Read all there is, then all that comes, until the client is closed for good."""
        while True:
            try:
                await self._follow()
            except ConnectionClosed:
                return
            except AegisError as error:
                # A candidate that reads no more would answer queries by what once was.
                _log.warning("registry_cannot_be_followed", reason=str(error))
            except Exception:
                _log.exception("registry_cannot_be_followed")
            await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self) -> None:
        everything = self._channel.subjects.registry() + ".>"
        transport = self._channel.transport
        if not self._replayed.is_set():
            async for stored in transport.read(everything, start=self._last + 1):
                self._deliver(stored)
            self._election.replayed(self._clock.boot_seconds(), sequence=self._last)
            self._replayed.set()
        async for stored in transport.follow(everything, start=self._last + 1):
            self._deliver(stored)

    def _deliver(self, stored: Stored) -> None:
        self._last = stored.sequence
        now = self._clock.boot_seconds()
        standing = self._election.standing
        key: Key = ()
        try:
            key = key_of(self._channel.subjects, stored.subject)
            record: Any = decode_value(stored.payload)
            if key == LEADER:
                self._election.saw_leader(stored.sequence, record, now)
            elif key == RENEWAL:
                self.settled = int(record.get("settled", 0))
                self._election.saw_renewal(record, now)
            elif key == FAILOVERS:
                self._on_failovers(record)
            # An own write may be delivered before its acknowledgement, or without one.
            change = self._registry.replayed(key, record, stored.sequence)
            if change is not None:
                self._on_change(change)
        except (ProtocolError, AttributeError, KeyError, TypeError, ValueError):
            # One bad record must not blind the whole system to all the others.
            _log.exception(
                "registry record cannot be read", subject=stored.subject, sequence=stored.sequence
            )
        self._election.saw(stored.sequence, now)
        self._on_delivery()
        if key in (LEADER, RENEWAL) or self._election.standing is not standing:
            self._on_election()
