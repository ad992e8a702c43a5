"""The reporter of failovers: listens to what is told of them, tells the whole, and keeps it.

The last failovers are one record of the registry, so that a node that was not there tells
them, too. Nothing depends on it: it is written a moment after the news, like all of the
registry on the condition that the leader's record still stands, and one that is refused
waits for the next news.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Generator, Mapping
from itertools import islice
from typing import Any, Final

import structlog

from aegis._clock import Clock
from aegis.actors._control_channel import ControlChannel
from aegis.actors._failover_log import FailoverLog, Promotion
from aegis.actors._registry_entries import FAILOVERS, LEADER
from aegis.errors import ProtocolError
from aegis.transport._base import Append, Appended, Message, MessageHandler, Refused
from aegis.transport._codec import decode_value, encode_value

__all__ = ["PAST_SECONDS", "FailoverReporter"]

_log = structlog.get_logger("aegis.control")

MAX_KEPT: Final = 100
"""Decisions in the record; each may have moved hundreds of resources."""

MAX_KEPT_BYTES: Final = 128 * 1024

GATHER_SECONDS: Final = 1.0
"""For so long after the first news others are gathered, so that a great failover is not
written anew with each of its resources."""

WRITE_TIMEOUT: Final = 5.0

PAST_SECONDS: Final = 60.0
"""After so long a failover of the record has ended, even if nobody has told how."""


class FailoverReporter:
    """Every candidate keeps the books, and the one that leads reports and writes.

    ``leads`` returns the sequence of its own leader's record as long as it does, else None.
    """

    def __init__(
        self,
        channel: ControlChannel,
        clock: Clock,
        leads: Callable[[], int | None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._channel = channel
        self._clock = clock
        self._leads = leads
        self._spawn = spawn
        self._failovers = FailoverLog()
        self._unsaved = False
        self._gathering = False

    @property
    def handlers(self) -> dict[str, MessageHandler]:
        """What has to be called for each event, by its subject."""
        event = self._channel.subjects.event
        return {
            event("promoted"): self._on_promoted,
            event("serving"): self._on_serving,
            event("first_answer"): self._on_first_answer,
        }

    def last(self) -> list[dict[str, Any]]:
        """Return the last failovers as `Promotion.to_record` does, the newest first."""
        records: list[dict[str, Any]] = []
        left = min(MAX_KEPT_BYTES, self._channel.transport.max_payload_bytes // 2)
        for promotion in islice(self._failovers.newest_first(), MAX_KEPT):
            record = promotion.to_record()
            left -= len(encode_value(record))
            if left < 0:
                break
            records.append(record)
        return records

    def replayed(self, record: Mapping[str, Any]) -> None:
        """Take over what stands in the registry.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: it is not as it should be.
        """
        past = self._clock.wall_ms() / 1000 - PAST_SECONDS
        self._failovers.recall(map(Promotion.from_record, record["failovers"]), past=past)

    def lead(self) -> None:
        """This candidate leads now: it writes what the one before had no time for."""
        if self._unsaved:
            self._gather()

    # -- what is heard --------------------------------------------------------------------

    def _on_promoted(self, message: Message) -> None:
        with _readable(message):
            now = self._clock.wall_ms() / 1000
            if self._failovers.promoted(decode_value(message.payload), at=now) is not None:
                self._news()

    def _on_serving(self, message: Message) -> None:
        with _readable(message):
            if self._failovers.serving(decode_value(message.payload)):
                self._news()

    def _on_first_answer(self, message: Message) -> None:
        with _readable(message):
            complete = self._failovers.answered(decode_value(message.payload))
            for failover in () if self._leads() is None else complete:
                self._channel.report(failover)

    # -- what is written ------------------------------------------------------------------

    def _news(self) -> None:
        self._unsaved = True
        if self._leads() is not None:
            self._gather()

    def _gather(self) -> None:
        if not self._gathering:
            self._gathering = True
            self._spawn(self._write_soon())

    async def _write_soon(self) -> None:
        try:
            await asyncio.sleep(GATHER_SECONDS)
        finally:
            self._gathering = False
        reign = self._leads()
        if reign is None:
            return
        self._unsaved = False
        append = Append(
            self._channel.record(FAILOVERS),
            encode_value({"failovers": self.last()}),
            # Who leads has read what it replaces. One that is late lands in this reign,
            # where it does no harm, or is refused.
            expect=reign,
            expect_subject=self._channel.record(LEADER),
            rollup=True,
        )
        outcome = await self._channel.transport.append(append, timeout=WRITE_TIMEOUT)
        if isinstance(outcome, Appended):
            return
        self._unsaved = True
        if isinstance(outcome, Refused) and outcome.again:
            self._gather()  # Another write was under way.
        else:
            _log.warning("failovers_not_kept", reason=str(outcome))


@contextlib.contextmanager
def _readable(message: Message) -> Generator[None]:
    """Pass over an event that is none: anybody may publish there."""
    try:
        yield
    except (ProtocolError, AttributeError, KeyError, TypeError, ValueError) as error:
        _log.warning("event cannot be read", subject=message.subject, reason=str(error))
