"""The table of mail (sans-I/O): which durable sends have taken effect, and their replies.

A sender numbers its messages to a mailbox and appends them in order, so a message is a
repeat if it stands below the lowest number still open there, or is among those above it
that have been seen. Client processes come and go: of their sessions the longest idle
makes room, and what is left of it cannot be told from a repeat any more. The session of
an actor is its address, ``service/resource``, and is never dropped. A session of any
other form is of a message that nobody repeats. What comes through a durable subscription
has the session of its publisher, with ``|`` and the subscription's name behind it.

A message that its handler has put aside (the stash) is kept whole until it takes effect.

Like `SessionTable` it changes only by journal entries, in their order.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import define, field

from aegis.actors._sessions import MAX_KEPT_BYTES, MAX_KEPT_REPLY_BYTES, MAX_SESSIONS, WINDOW, Fresh
from aegis.contracts import session_start_ms

__all__ = [
    "MAIL_AHEAD",
    "MAX_MAIL_REPLIES",
    "Hopeless",
    "MailTable",
    "Seen",
    "Stashed",
    "is_actor",
    "start_of",
]

MAIL_AHEAD: Final = 64
"""How many messages may have run, or be about to, that the journal does not know of."""

MAX_MAIL_REPLIES: Final = 1_000
"""How many replies to sends are kept, for whoever asks for one later."""

_SESSION_BYTES: Final = 24
_NUMBER_BYTES: Final = 9
_REPLY_BYTES: Final = 24
_STASHED_BYTES: Final = 48
"""Upper bounds of what each takes in `MailTable.to_wire` beside text and bytes."""

_FRESH: Final = Fresh()


@define(slots=True, frozen=True)
class Seen:
    """The message has taken effect, or was closed by its sender: pass over it."""


@define(slots=True, frozen=True)
class Hopeless:
    """Nobody can tell whether the message is a repeat: it goes to the dead letters.

    ``known`` tells whether its session is in the table, so that it can be noted there.
    """

    reason: str
    known: bool = True


@define(slots=True, frozen=True)
class Stashed:
    """A message that was put aside: who sent it, and its bytes.

    ``tries`` is how often owners died at it so far, or may have.
    """

    session: str
    n: int
    payload: bytes
    tries: int = 0

    @property
    def message_id(self) -> str:
        """Its name, unique over the whole system."""
        return f"{self.session}-{self.n}"

    @property
    def size_bytes(self) -> int:
        """At least as many bytes as it takes in `MailTable.to_wire`."""
        return _STASHED_BYTES + 4 * len(self.session) + len(self.payload)


@define(slots=True)
class _Sender:
    low: int = 1
    done: set[int] = field(factory=set[int])


class MailTable:
    """The sessions of mail to one resource, the last replies, and what was put aside."""

    __slots__ = (
        "_actors",
        "_clients",
        "_max_kept_bytes",
        "_max_kept_reply_bytes",
        "_max_replies",
        "_max_sessions",
        "_other_bytes",
        "_replies",
        "_window",
        "floor",
        "kept_bytes",
        "stash",
        "stash_bytes",
    )

    def __init__(
        self,
        *,
        max_sessions: int = MAX_SESSIONS,
        max_replies: int = MAX_MAIL_REPLIES,
        max_kept_reply_bytes: int = MAX_KEPT_REPLY_BYTES,
        max_kept_bytes: int = MAX_KEPT_BYTES,
        window: int = WINDOW,
    ) -> None:
        self.floor = 0
        """Mail of an unknown client session that started at or before this (Unix ms) is
        hopeless."""
        self._max_sessions = max_sessions
        self._max_replies = max_replies
        self._max_kept_reply_bytes = max_kept_reply_bytes
        self._max_kept_bytes = max_kept_bytes
        self._window = window
        self._clients: dict[str, _Sender] = {}  # The longest idle first.
        self._actors: dict[str, _Sender] = {}
        self._replies: dict[str, tuple[int, bytes | None]] = {}  # The oldest first.
        self.stash: dict[int, Stashed] = {}
        """The messages put aside, by their sequence in the mailbox, in that order."""
        self.stash_bytes = 0
        self.kept_bytes = 0
        self._other_bytes = 0

    @property
    def size_bytes(self) -> int:
        """At least as many bytes as `to_wire` takes when encoded."""
        return 32 + self.kept_bytes + self._other_bytes + self.stash_bytes

    def look_up(self, session: str, n: int, low: int) -> Fresh | Seen | Hopeless:
        """Say whether a message has taken effect already."""
        sender = self._clients.get(session) or self._actors.get(session)
        if sender is None:
            return self._look_up_new(session, n, low)
        if n < sender.low or n in sender.done:
            return Seen()
        if n >= max(low, sender.low) + self._window:
            return self._too_many(session, known=True)
        return _FRESH

    def _look_up_new(self, session: str, n: int, low: int) -> Fresh | Hopeless:
        start = start_of(session)
        if start is None and not is_actor(session):
            return _FRESH
        if start is not None and start <= self.floor:
            return Hopeless(
                f"session {session} started at or before {self.floor} ms, and may have been "
                "forgotten: nobody can tell whether this is a repeat",
                known=False,
            )
        if n >= max(low, _Sender().low) + self._window:
            return self._too_many(session, known=False)
        if start is not None and len(self._clients) >= self._max_sessions:
            return Fresh(drops=next(iter(self._clients)))
        return _FRESH

    def _too_many(self, session: str, *, known: bool) -> Hopeless:
        return Hopeless(
            f"more than {self._window} messages of session {session} are open", known=known
        )

    def record(self, session: str, n: int, low: int) -> None:
        """Note that message ``n`` of ``session`` is dealt with; ``low`` closes all below."""
        if session in self._clients:
            sender = self._clients.pop(session)
            self._clients[session] = sender  # Last in the dict is the most recently used.
        else:
            known = self._actors.get(session) or self._begin(session)
            if known is None:
                return
            sender = known
        sender.done.add(n)
        self._other_bytes += _NUMBER_BYTES
        if low > sender.low:
            sender.low = low
            closed = [number for number in sender.done if number < low]
            self._other_bytes -= _NUMBER_BYTES * len(closed)
            sender.done.difference_update(closed)

    def _begin(self, session: str) -> _Sender | None:
        """Take in a sender that is not known yet; None if nobody repeats what it sends."""
        is_client = start_of(session) is not None
        if not is_client and not is_actor(session):
            return None
        self._other_bytes += _SESSION_BYTES + 4 * len(session)
        sender = _Sender()
        (self._clients if is_client else self._actors)[session] = sender
        return sender

    def keep(self, message_id: str, status: int, reply: bytes) -> None:
        """Keep the reply to a message; one that is too large is only known to exist."""
        kept = reply if len(reply) <= self._max_kept_reply_bytes else None
        if message_id in self._replies:
            self._forget_reply(message_id)  # A stranger may use a name again.
        self._replies[message_id] = (status, kept)
        self.kept_bytes += len(kept or b"")
        self._other_bytes += _REPLY_BYTES + 4 * len(message_id)
        while len(self._replies) > self._max_replies or (
            self.kept_bytes > self._max_kept_bytes and len(self._replies) > 1
        ):
            self._forget_reply(next(iter(self._replies)))

    def _forget_reply(self, message_id: str) -> None:
        _, old = self._replies.pop(message_id)
        self.kept_bytes -= len(old or b"")
        self._other_bytes -= _REPLY_BYTES + 4 * len(message_id)

    def reply_to(self, message_id: str) -> tuple[int, bytes | None] | None:
        """Return status and reply of a message, None if it is not known.

        The reply itself is None if it was too large to keep.
        """
        return self._replies.get(message_id)

    def put_aside(self, sequence: int, stashed: Stashed) -> None:
        """Keep a message whole; one that is kept already stays in its place."""
        old = self.stash.get(sequence)
        self.stash_bytes += stashed.size_bytes - (0 if old is None else old.size_bytes)
        self.stash[sequence] = stashed

    def take_back(self, sequence: int) -> bool:
        """Keep a message no more, since it is dealt with; return whether it was kept."""
        old = self.stash.pop(sequence, None)
        if old is not None:
            self.stash_bytes -= old.size_bytes
        return old is not None

    def is_stashed(self, message_id: str) -> bool:
        """Whether a message is put aside."""
        return any(one.message_id == message_id for one in self.stash.values())

    def drop(self, session: str) -> None:
        """Forget a client's session and raise the floor to its start."""
        sender = self._clients.pop(session, None)
        if sender is not None:
            self._other_bytes -= _SESSION_BYTES + 4 * len(session)
            self._other_bytes -= _NUMBER_BYTES * len(sender.done)
            self.floor = max(self.floor, start_of(session) or 0)

    def to_wire(self) -> list[Any]:
        """Return the table as plain values."""
        wire: list[Any] = [
            self.floor,
            [
                [session, sender.low, sorted(sender.done)]
                for senders in (self._actors, self._clients)
                for session, sender in senders.items()
            ],
            [[message_id, *reply] for message_id, reply in self._replies.items()],
        ]
        if self.stash:
            wire.append(
                [
                    [sequence, one.session, one.n, one.payload, one.tries]
                    for sequence, one in self.stash.items()
                ]
            )
        return wire

    def load(self, wire: list[Any]) -> None:
        """Replace the contents by those of `to_wire`."""
        self.floor, senders, replies, *stash = wire
        self._actors, self._clients, self._replies, self.stash = {}, {}, {}, {}
        self.kept_bytes = self._other_bytes = self.stash_bytes = 0
        for sequence, session, n, payload, tries in stash[0] if stash else ():
            self.put_aside(sequence, Stashed(session, n, payload, tries))
        for session, low, done in senders:
            of_kind = self._actors if is_actor(session) else self._clients
            of_kind[session] = _Sender(low, set(done))
            self._other_bytes += _SESSION_BYTES + 4 * len(session) + _NUMBER_BYTES * len(done)
        for message_id, status, reply in replies:
            self._replies[message_id] = (status, reply)
            self.kept_bytes += len(reply or b"")
            self._other_bytes += _REPLY_BYTES + 4 * len(message_id)


def start_of(session: str) -> int | None:
    """Return when a client's session began, in Unix ms; None if it is no client's."""
    return None if is_actor(session) else session_start_ms(session.partition("|")[0])


def is_actor(session: str) -> bool:
    """Whether ``session`` is that of an actor that sends: ``service/resource``."""
    return "/" in session
