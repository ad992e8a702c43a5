"""Following journals: what a node's standbys are shown, record by record.

One endless read serves all standbys of a service, since each read costs a heartbeat
four times a second whether anything happens or not. A standby that joins later first
reads its own journal up to the present; what comes meanwhile waits. No record is
passed over and none is shown twice: sequences only rise, and `Transport.follow` never
leaves a gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol

import structlog
from attrs import define, field

from aegis._subjects import Subjects
from aegis.actors._registry_entries import ResourceKey
from aegis.errors import AegisError, ConnectionClosed
from aegis.transport._base import Stored, Transport

__all__ = ["Follower", "StandbyFeed"]

_log = structlog.get_logger("aegis.standby")

MAX_SINGLE_READS: Final = 16
"""More journals than so many are caught up with by one read of the whole service."""

RETRY_SECONDS: Final = 1.0
"""Pause after a read that the server refused, before the next one."""

TURN_RECORDS: Final = 64
"""After so many records in one go, the rest of the event loop has its turn."""


class Follower(Protocol):
    """One standby: takes the records of one journal, in order."""

    @property
    def key(self) -> ResourceKey:
        """The service and the resource that it stands by for."""
        ...

    def feed(self, sequence: int, payload: bytes) -> None:
        """Apply a record; one that is known already changes nothing.

        Raises:
            AegisError: it cannot be read; the standby is shown no more.
        """
        ...


class StandbyFeed:
    """Shows the standbys of one node their journals. Belongs to one event loop."""

    def __init__(self, transport: Transport, subjects: Subjects) -> None:
        self._transport = transport
        self._subjects = subjects
        self._services: dict[str, _ServiceFeed] = {}

    def add(self, follower: Follower) -> None:
        """Show ``follower`` its journal, from the record behind what it has applied."""
        service, resource = follower.key
        feed = self._services.get(service)
        if feed is None:
            feed = _ServiceFeed(self._transport, self._subjects, service)
            self._services[service] = feed
        feed.add(self._subjects.journal(service, resource), follower)

    def remove(self, follower: Follower) -> None:
        """Show ``follower`` nothing more."""
        service, resource = follower.key
        feed = self._services.get(service)
        if feed is not None and feed.remove(self._subjects.journal(service, resource), follower):
            feed.stop()
            del self._services[service]

    def will_show(self, follower: Follower, sequence: int) -> bool:
        """Whether ``follower`` has yet to be shown its journal up to ``sequence``."""
        service, resource = follower.key
        feed = self._services.get(service)
        if feed is None:
            return False
        return feed.will_show(self._subjects.journal(service, resource), follower, sequence)

    def progress(self, follower: Follower) -> int:
        """Return a number that changes as long as the reads for ``follower`` get on."""
        feed = self._services.get(follower.key[0])
        return 0 if feed is None else feed.progress

    def stop(self) -> None:
        """End all reads."""
        for feed in self._services.values():
            feed.stop()
        self._services.clear()


@define(eq=False)
class _Place:
    """A follower, and what came while it read what was there before."""

    follower: Follower
    subject: str
    waiting: list[Stored] | None = None
    failed: bool = field(default=False)


class _ServiceFeed:
    """The standbys of one service, by the subject of their journal."""

    def __init__(self, transport: Transport, subjects: Subjects, service: str) -> None:
        self.places: dict[str, _Place] = {}
        self.progress = 0
        """How many records have been read, whosever they are."""
        self._transport = transport
        self._service = service
        self._pattern = subjects.journals(service)
        self._position = 0
        self._behind: list[_Place] = []
        loop = asyncio.get_running_loop()
        self._follow = loop.create_task(self._follow_forever())
        self._catch_up: asyncio.Task[None] | None = None

    def add(self, subject: str, follower: Follower) -> None:
        """Begin to feed a follower."""
        place = self.places[subject] = _Place(follower, subject)
        if self._position == 0:
            return  # Nothing has gone by yet that it would miss.
        place.waiting = []
        self._behind.append(place)
        if self._catch_up is None or self._catch_up.done():
            self._catch_up = asyncio.get_running_loop().create_task(self._catch_up_all())

    def remove(self, subject: str, follower: Follower) -> bool:
        """Forget a follower; return whether none is left."""
        place = self.places.get(subject)
        if place is not None and place.follower is follower:
            del self.places[subject]
        return not self.places

    def will_show(self, subject: str, follower: Follower, sequence: int) -> bool:
        """Whether ``follower`` has yet to be shown what stands up to ``sequence``."""
        place = self.places.get(subject)
        if place is None or place.follower is not follower or place.failed:
            return False
        return place.waiting is not None or self._position < sequence

    def stop(self) -> None:
        """End the reads."""
        self._follow.cancel()
        if self._catch_up is not None:
            self._catch_up.cancel()

    async def _follow_forever(self) -> None:
        while True:
            try:
                count = 0
                async for stored in self._transport.follow(self._pattern, start=self._position + 1):
                    self._position = stored.sequence
                    self.progress += 1
                    place = self.places.get(stored.subject)
                    if place is None:
                        pass
                    elif place.waiting is not None:
                        place.waiting.append(stored)
                    else:
                        self._feed(place, stored)
                    count += 1
                    if count % TURN_RECORDS == 0:
                        await asyncio.sleep(0)
            except ConnectionClosed:
                return
            except AegisError as error:
                self._log_refusal(error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _catch_up_all(self) -> None:
        while self._behind:
            places, self._behind = self._behind, []
            by_subject = {place.subject: place for place in places}
            patterns = list(by_subject) if len(places) <= MAX_SINGLE_READS else [self._pattern]
            try:
                await asyncio.gather(*(self._read(pattern, by_subject) for pattern in patterns))
            except ConnectionClosed:
                return
            except AegisError as error:
                self._log_refusal(error)
                self._behind += places
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for place in places:
                waiting, place.waiting = place.waiting, None
                for stored in waiting or ():
                    self._feed(place, stored)

    async def _read(self, pattern: str, places: Mapping[str, _Place]) -> None:
        count = 0
        # Not only to where the replica ends that serves this read: all up to now is not
        # followed, and a standby that lacks a record would never know.
        until = await self._transport.last_sequence(pattern)
        async for stored in self._transport.read(pattern, until=until):
            place = places.get(stored.subject)
            if place is not None:
                self._feed(place, stored)
            count += 1
            self.progress += 1
            if count % TURN_RECORDS == 0:
                await asyncio.sleep(0)

    def _feed(self, place: _Place, stored: Stored) -> None:
        if place.failed or self.places.get(place.subject) is not place:
            return
        try:
            place.follower.feed(stored.sequence, stored.payload)
        except Exception as error:
            # The others must not be kept from theirs; its promotion will fail, or not,
            # by what the journal holds then.
            place.failed = True
            _log.error(
                "standby_failed",
                service_name=self._service,
                resource_id=place.follower.key[1],
                sequence=stored.sequence,
                error=str(error) or type(error).__name__,
                action="it is as far as it got; run the release that the active instance runs",
            )

    def _log_refusal(self, error: AegisError) -> None:
        _log.warning("journals_cannot_be_followed", service_name=self._service, error=str(error))
