"""What a resource sends (sans-I/O): numbered, journaled, forwarded in order.

An outgoing message is part of the record that commits the command. When that record is
acknowledged the message may leave; when the mailbox has acknowledged it, it is gone. What
a new owner finds here it forwards again: the receiver knows the repeat by its number.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any, Final

from aegis.actors._record import Outgoing

__all__ = ["MAX_UNSENT", "MAX_UNSENT_BYTES", "Outbox"]

MAX_UNSENT: Final = 10_000
MAX_UNSENT_BYTES: Final = 1024 * 1024
"""So much may wait to be forwarded before commands may send no more."""

_OUTBOX_BYTES: Final = 32


class Outbox:
    """The outgoing messages of one resource that may not have gone yet."""

    __slots__ = ("_unsent", "durable", "forwarded", "last_n", "marked", "unsent_bytes")

    def __init__(self) -> None:
        self.last_n = 0
        """The number of the newest message."""
        self.durable = 0
        """The journal holds all messages up to this number: they may leave."""
        self.forwarded = 0
        """All messages up to this number stand in their mailboxes."""
        self.marked = 0
        """... and the journal says so up to this number."""
        self._unsent: deque[Outgoing] = deque()
        self.unsent_bytes = 0

    @property
    def size_bytes(self) -> int:
        """At least as many bytes as `to_wire` takes when encoded."""
        return _OUTBOX_BYTES + self.unsent_bytes

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be forwarded."""
        return not self._unsent

    @property
    def is_full(self) -> bool:
        """Whether commands may send no more for now."""
        return len(self._unsent) >= MAX_UNSENT or self.unsent_bytes >= MAX_UNSENT_BYTES

    def add(self, message: Outgoing) -> None:
        """Take in the next message of a command that has run."""
        self.last_n = message.n
        self._unsent.append(message)
        self.unsent_bytes += message.size_bytes

    def settle(self, n: int) -> None:
        """The journal has acknowledged all messages up to number ``n``."""
        self.durable = max(self.durable, n)

    def due(self, most: int = 1) -> list[Outgoing]:
        """Return the next messages to forward, in order."""
        return [one for one in islice(self._unsent, most) if one.n <= self.durable]

    def sent(self, n: int) -> None:
        """The messages up to number ``n`` stand in their mailboxes."""
        self.forwarded = max(self.forwarded, n)
        while self._unsent and self._unsent[0].n <= n:
            self.unsent_bytes -= self._unsent.popleft().size_bytes

    def mark(self, n: int) -> None:
        """The journal says that the messages up to number ``n`` are gone."""
        self.marked = max(self.marked, n)
        self.sent(n)

    def to_wire(self) -> list[Any]:
        """Return the outbox as plain values: ``[last_n, forwarded, unsent]``."""
        return [self.last_n, self.forwarded, [message.to_wire() for message in self._unsent]]

    def load(self, wire: list[Any]) -> None:
        """Replace the contents by those of `to_wire`."""
        self.last_n, self.forwarded, unsent = wire
        self.marked = self.forwarded
        self._unsent = deque(Outgoing(*message) for message in unsent)
        self.unsent_bytes = sum(message.size_bytes for message in self._unsent)
