"""Forwarding outgoing messages: from a resource's journal to mailboxes and topics, in order."""

from __future__ import annotations

import asyncio
from itertools import takewhile
from typing import Final

import structlog

from aegis.actors._appending import pause_before
from aegis.actors._owner import Owner
from aegis.actors._post_office import PostOffice
from aegis.actors._posting import append_all
from aegis.actors._record import Outgoing
from aegis.errors import AegisError, ConnectionClosed
from aegis.transport._base import Append, Appended

__all__ = ["Forwarder"]

_log = structlog.get_logger("aegis.mail")

BATCH_FROM: Final = 16
"""So many messages leave in one atomic batch; fewer one by one."""

MAX_BATCH: Final = 256


class Forwarder:
    """Forwards what one owner has committed. It runs no task while there is nothing."""

    __slots__ = ("_office", "_owner", "_task")

    def __init__(self, office: PostOffice, owner: Owner) -> None:
        self._office = office
        self._owner = owner
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Forward what is due now, if anything is."""
        if self._task is None and self._owner.serving and self._owner.outbox.due():
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def drain(self, timeout: float) -> None:
        """Wait until nothing is due, at most ``timeout`` seconds: another owner would go on."""
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=timeout)

    def stop(self) -> None:
        """Forward nothing more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _work(self) -> None:
        owner, office = self._owner, self._office
        attempt = 0
        while owner.serving and (group := owner.outbox.due(MAX_BATCH)):
            # A batch stands in one stream, and topics have streams of their own.
            group = list(takewhile(lambda one: one.service, group)) or group[:1]
            if len(group) < BATCH_FROM:
                del group[1:]
            appends = [Append(self._subject(one), one.payload) for one in group]
            try:
                if group[0].service:
                    await office.gauge.check(sum(one.size_bytes for one in group))
                outcome: object = await append_all(office.transport, appends)
            except ConnectionClosed:
                break
            except AegisError as error:
                outcome = error  # They are journaled: they wait here as long as it takes.
            if isinstance(outcome, Appended):
                owner.outbox.sent(group[-1].n)
                attempt = 0
            else:
                await pause_before(attempt, appends[0].subject, outcome)
                attempt += 1
        self._task = None

    def _subject(self, message: Outgoing) -> str:
        subjects = self._office.subjects
        if message.service:
            return subjects.mailbox(message.service, message.resource)
        return subjects.topic(message.resource)
