"""The session table (sans-I/O): which messages have taken effect, with their replies.

A caller's session numbers its messages, so the owner of a resource can tell a repeat
from a new message. The table changes only by journal entries, in their order:
every reader of a journal arrives at the same table.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import define, field

from aegis.contracts import session_start_ms

__all__ = [
    "MAX_KEPT_BYTES",
    "MAX_KEPT_REPLY_BYTES",
    "MAX_SESSIONS",
    "WINDOW",
    "Fresh",
    "Known",
    "Refusal",
    "SessionTable",
]

WINDOW: Final = 256
"""How many messages of a session may be open, and how many replies are kept of it."""

MAX_SESSIONS: Final = 1_000
"""How many sessions a resource remembers before it drops the longest idle one."""

MAX_KEPT_REPLY_BYTES: Final = 16 * 1024
"""A larger reply is not kept: a repeat of its message is answered 410."""

MAX_KEPT_BYTES: Final = 1024 * 1024
"""All kept replies together; beyond it the longest-idle sessions lose theirs."""

_SESSION_BYTES: Final = 16
"""Upper bound of what a session takes in `SessionTable.to_wire` beside its name."""

_REPLY_BYTES: Final = 16
"""Upper bound of what a reply takes there beside its bytes, also one that is not kept."""

_FORGET_TO: Final = 0.75
"""So much of the limit is left after replies were forgotten: that is not to happen at
each command."""


@define(slots=True, frozen=True)
class Known:
    """The message has taken effect; this was its answer."""

    status: int
    reply: bytes


@define(slots=True, frozen=True)
class Fresh:
    """The message has not taken effect. ``drops`` is the session that must make room."""

    drops: str | None = None


@define(slots=True, frozen=True)
class Refusal:
    """The table cannot take the message; ``status`` is 410 or 429.

    ``floor`` and ``done`` are facts for the caller. With ``done`` the message has
    taken effect, and only its reply is gone: no refusal at all.
    """

    status: int
    message: str
    floor: int | None = None
    done: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """What the error that carries this refusal tells beside its message."""
        facts: dict[str, Any] = {}
        if self.floor is not None:
            facts["floor"] = self.floor
        if self.done:
            facts["done"] = True
        return facts


@define(slots=True)
class _Session:
    low: int = 1
    replies: dict[int, tuple[int, bytes] | None] = field(
        factory=dict[int, "tuple[int, bytes] | None"]
    )


_FRESH: Final = Fresh()


class SessionTable:
    """The sessions of one resource, longest idle first."""

    __slots__ = (
        "_max_kept_bytes",
        "_max_kept_reply_bytes",
        "_max_sessions",
        "_other_bytes",
        "_sessions",
        "_window",
        "floor",
        "kept_bytes",
    )

    def __init__(
        self,
        *,
        max_sessions: int = MAX_SESSIONS,
        max_kept_reply_bytes: int = MAX_KEPT_REPLY_BYTES,
        max_kept_bytes: int = MAX_KEPT_BYTES,
        window: int = WINDOW,
    ) -> None:
        self.floor = 0
        """No session that started at or before this (Unix ms) is taken in anew."""
        self._max_sessions = max_sessions
        self._max_kept_reply_bytes = max_kept_reply_bytes
        self._max_kept_bytes = max_kept_bytes
        self._window = window
        self._sessions: dict[str, _Session] = {}
        self.kept_bytes = 0
        """All kept replies together."""
        self._other_bytes = 0

    @property
    def size_bytes(self) -> int:
        """At least as many bytes as `to_wire` takes when encoded."""
        return 32 + self.kept_bytes + self._other_bytes

    def __len__(self) -> int:
        return len(self._sessions)

    def look_up(self, session: str, n: int, low: int) -> Known | Fresh | Refusal:
        """Say what is known of message ``n`` of ``session``; nothing changes."""
        if not session:
            return _FRESH
        entry = self._sessions.get(session)
        if entry is None:
            return self._judge_newcomer(session, n, low)
        if n in entry.replies:
            reply = entry.replies[n]
            if reply is None:
                return Refusal(410, "it took effect, but its reply was not kept", done=True)
            return Known(*reply)
        if n < entry.low:
            return Refusal(410, "the caller has closed this message long ago")
        return self._in_window(n, max(low, entry.low)) or _FRESH

    def record(self, session: str, n: int, low: int, status: int, reply: bytes) -> None:
        """Note that message ``n`` of ``session`` took effect; ``low`` closes all below."""
        if not session:
            return
        entry = self._sessions.pop(session, None)
        if entry is None:
            entry = _Session()
            self._other_bytes += _SESSION_BYTES + len(session)
        self._sessions[session] = entry  # Last in the dict is the most recently used.
        if low > entry.low:
            entry.low = low
            for closed in [number for number in entry.replies if number < low]:
                self.kept_bytes -= _size(entry.replies.pop(closed))
                self._other_bytes -= _REPLY_BYTES
        self._other_bytes += _REPLY_BYTES
        if len(reply) > self._max_kept_reply_bytes:
            entry.replies[n] = None
            return
        entry.replies[n] = (status, reply)
        self.kept_bytes += len(reply)
        if self.kept_bytes > self._max_kept_bytes:
            self._forget_replies()

    def drop(self, session: str) -> None:
        """Forget ``session`` and raise the floor to its start."""
        entry = self._sessions.pop(session, None)
        if entry is not None:
            self.kept_bytes -= sum(map(_size, entry.replies.values()))
            self._other_bytes -= _SESSION_BYTES + len(session) + _REPLY_BYTES * len(entry.replies)
            self.floor = max(self.floor, session_start_ms(session) or 0)

    def to_wire(self) -> list[Any]:
        """Return the table as plain values: ``[floor, [[session, low, replies], ...]]``."""
        return [
            self.floor,
            [
                [
                    session,
                    entry.low,
                    [[n, *(reply if reply else (0, None))] for n, reply in entry.replies.items()],
                ]
                for session, entry in self._sessions.items()
            ],
        ]

    def load(self, wire: list[Any]) -> None:
        """Replace the contents by those of `to_wire`."""
        self.floor, sessions = wire
        self._sessions = {
            session: _Session(
                low,
                {n: (status, reply) if reply is not None else None for n, status, reply in replies},
            )
            for session, low, replies in sessions
        }
        self.kept_bytes = sum(
            _size(reply) for entry in self._sessions.values() for reply in entry.replies.values()
        )
        self._other_bytes = sum(
            _SESSION_BYTES + len(session) + _REPLY_BYTES * len(entry.replies)
            for session, entry in self._sessions.items()
        )

    def _judge_newcomer(self, session: str, n: int, low: int) -> Fresh | Refusal:
        start = session_start_ms(session)
        if start is None or start <= self.floor:
            return Refusal(
                410,
                f"session {session} started at or before {self.floor} ms and may have been "
                "forgotten; open a new one",
                self.floor,
            )
        refusal = self._in_window(n, low)
        if refusal is not None:
            return refusal
        if len(self._sessions) >= self._max_sessions:
            return Fresh(drops=next(iter(self._sessions)))
        return _FRESH

    def _in_window(self, n: int, low: int) -> Refusal | None:
        if n < low + self._window:
            return None
        return Refusal(429, f"more than {self._window} messages of the session are open")

    def _forget_replies(self) -> None:
        # Oldest first, so the reply that was just recorded stays, unless it is alone.
        enough = int(self._max_kept_bytes * _FORGET_TO)
        for entry in self._sessions.values():
            for n, reply in entry.replies.items():
                if self.kept_bytes <= enough:
                    return
                self.kept_bytes -= _size(reply)
                entry.replies[n] = None


def _size(reply: tuple[int, bytes] | None) -> int:
    return len(reply[1]) if reply else 0
