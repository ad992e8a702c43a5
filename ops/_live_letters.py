"""The dead letters as the live page shows them (sans-I/O), as they stand in the stream."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import Final

from aegis.actors._dead_letters import DeadLetter
from aegis.errors import ProtocolError
from aegis.ops._live_contracts import LiveLetter
from aegis.transport._base import Stored

__all__ = ["LiveLetters"]

MAX_KEPT: Final = 1_000
MAX_SHOWN: Final = 100

MAX_REASON: Final = 300
"""Characters; `aegis dead-letters show` has all of it."""


class LiveLetters:
    """The newest dead letters."""

    def __init__(self) -> None:
        self._letters: OrderedDict[str, LiveLetter] = OrderedDict()

    def __len__(self) -> int:
        return len(self._letters)

    def heard(self, stored: Stored) -> None:
        """Take over what stands on a subject by now; one that is dropped is empty."""
        self._letters.pop(stored.subject, None)
        if not stored.payload:
            return
        try:
            letter = DeadLetter.decode(stored.payload)
        except ProtocolError:
            return  # Of another release; the command line tells that.
        self._letters[stored.subject] = LiveLetter(
            sequence=letter.sequence,
            service_name=letter.service,
            resource_id=letter.resource_id,
            method=letter.method,
            reason=letter.reason[:MAX_REASON],
            tries=letter.tries,
            uncertain=letter.uncertain,
            at=letter.died_ms / 1000,
        )
        if len(self._letters) > MAX_KEPT:
            self._letters.popitem(last=False)

    def rows(self) -> dict[str, LiveLetter]:
        """Return the newest."""
        newest = islice(reversed(self._letters.values()), MAX_SHOWN)
        return {str(letter.sequence): letter for letter in newest}
