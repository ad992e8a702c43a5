"""Which mail an owner runs next (sans-I/O): in order, not too far ahead, with care.

Mail comes in here as the stream shows it, and leaves one message at a time. Behind a
takeover the first messages may be those at which the owner before died: each of them is
tried with a note in the journal first, and runs alone. No owner is ever more messages
ahead of its journal than are treated so. What came into the mailbox after the takeover
needs no such care: the fence stands before it in the stream, so no owner before this one
that counts can have met it. What an owner before has put aside comes first of all.

The mailbox has an inbox, and so has each durable subscription: it is told what its stream
still keeps (`kept`), since that lets go of old messages whether they were read or not. How
its stream and the fence stand to one another nobody can tell.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from attrs import define

from aegis.actors._owner import Owner

__all__ = ["INBOX_CAPACITY", "MAX_TRIES", "Inbox", "Letter"]

INBOX_CAPACITY: Final = 256
"""How many messages of one resource wait in memory; the others stay in the stream."""

MAX_TRIES: Final = 3
"""So often a message is tried at which owners die."""


@define(slots=True)
class Letter:
    """One message of the stream: its place there, and its bytes.

    ``lost_from`` is set for what is not there any more: all from there to ``sequence``.
    ``subject`` is left out where there is only one.
    """

    sequence: int
    payload: bytes
    subject: str = ""
    lost_from: int = 0


class Inbox:
    """The mail of one resource, or what a subscription reads, between stream and owner."""

    __slots__ = (
        "_ahead",
        "_careful",
        "_owner",
        "_under_way",
        "_waiting",
        "behind",
        "read_to",
        "source",
    )

    def __init__(self, owner: Owner, source: str = "") -> None:
        self._owner = owner
        self.source = source
        stash = {} if source else owner.mail.stash
        self._waiting = deque(Letter(sequence, one.payload) for sequence, one in stash.items())
        self._under_way = 0
        self._ahead = owner.limits.mail_ahead
        self._careful = self._ahead + len(self._waiting)
        self.read_to = owner.cursor_of(source)
        """The sequence of the last message taken in."""
        self.behind = False
        """Whether messages were refused: the stream has to be read from ``read_to`` on."""

    def __len__(self) -> int:
        return len(self._waiting) + self._under_way

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, here or in the stream."""
        return not self._waiting and not self.behind

    @property
    def is_careful(self) -> bool:
        """Whether the next message may be one at which an owner died."""
        return self._careful > 0

    def offer(self, letter: Letter) -> bool:
        """Take in the next message of the stream; False if it has to be left there."""
        if letter.sequence <= self.read_to:
            return True
        if self.behind or len(self._waiting) >= INBOX_CAPACITY:
            self.behind = True
            return False
        self.read_to = letter.sequence
        self._waiting.append(letter)
        return True

    def kept(self, first: int) -> None:
        """The stream has nothing any more before ``first``: what is missed is noted in turn."""
        lost_from = self.read_to + 1
        if first > lost_from:
            self.read_to = first - 1
            self._waiting.append(Letter(first - 1, b"", lost_from=lost_from))

    @property
    def should_catch_up(self) -> bool:
        """Whether the stream has to be read again, and there is room for it."""
        return self.behind and len(self._waiting) <= INBOX_CAPACITY // 2

    def next(self) -> Letter | None:
        """Return a message that may run now; tell `ended` when it has."""
        owner = self._owner
        if not self._waiting or not owner.serving:
            return None
        if (
            self._careful
            and not self.source
            and not self._under_way
            and self._waiting[0].sequence > owner.read_until
        ):
            self._careful = 0
        if self._careful:
            if self._under_way or not owner.quiescent:
                return None
        elif self._under_way + owner.uncommitted_mail >= self._ahead:
            return None
        self._under_way += 1
        return self._waiting.popleft()

    def ended(self, *, ran: bool = True) -> None:
        """A message that `next` gave has been dealt with, and a careful one committed.

        One that was only passed over (not ``ran``) is none at which the owner before can
        have died, however many such there are.
        """
        self._under_way -= 1
        if ran:
            self._careful = max(0, self._careful - 1)
