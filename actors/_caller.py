"""The caller's side of exactly-once (sans-I/O): sessions, retries, finality.

A `Destination` numbers the commands that one caller sends to one resource or
service: the pair (session, n) is the message's identity, and a retry repeats it.
A `Call` decides after each answer, silence or refusal what happens next: it is
done, it waits and tries again, or its deadline has passed and it says honestly
whether the command is known not to have run (its own error) or may have (504).
"""

from __future__ import annotations

from typing import Any, Final

from attrs import define, field

from aegis.actors._sessions import WINDOW
from aegis.errors import AegisError, DeadlineExpired, OutcomeUnknown, TooOld, Unavailable, from_wire

__all__ = ["Call", "Destination", "Done", "Retry", "new_session"]

FIRST_BACKOFF: Final = 0.02
"""Seconds before the first retry; doubled for each further one, with jitter."""

LAST_BACKOFF: Final = 1.0

FIRST_SILENCE: Final = 1.0
"""Seconds without an answer after which the first attempt is repeated."""

LAST_SILENCE: Final = 4.0

MAX_UNRESOLVED: Final = 64
"""How many messages of unknown outcome a destination keeps open."""

_RETRIED: Final = frozenset({421, 429, 503})
"""Refusals that reach the caller only when its deadline ran out."""

_UNJOURNALED: Final = frozenset({400, 404, 408, 410, 413, 429, 503})
"""Refusals which say that this attempt did not run: final only for a single attempt."""

_MOVED: Final = 421
"""Proves nothing: an owner that is fenced while its append is under way answers so for
commands that it has run, and that append may stand in the journal."""


def new_session(start_ms: int, random_text: str) -> str:
    """Return the name of a session that starts at ``start_ms`` (Unix milliseconds)."""
    return f"{start_ms}-{random_text}"


@define(slots=True, frozen=True)
class Done:
    """The call ends: with a ``value``, or with an ``error`` to raise."""

    value: Any = None
    error: AegisError | None = None


@define(slots=True, frozen=True)
class Retry:
    """Send the same message again after ``delay`` seconds; look up anew if ``moved``."""

    delay: float
    moved: bool = False


@define(slots=True, eq=False)
class Destination:
    """One caller's commands to one resource or service: session, numbers, window."""

    session: str
    _next: int = 1
    low: int = 1
    """The lowest number still open: all below are answered or given up."""
    _open: set[int] = field(factory=set[int])
    window: int = WINDOW
    _unresolved: dict[int, None] = field(factory=dict[int, None])

    @property
    def has_room(self) -> bool:
        """Whether `open` may be called: at most ``window`` numbers from ``low`` on."""
        return self._next < self.low + self.window

    @property
    def is_idle(self) -> bool:
        """Whether no message is open that could still be sent again by itself."""
        return len(self._open) == len(self._unresolved)

    def open(self) -> int:
        """Return the number of a new message; it is open until `close`."""
        n = self._next
        self._next = n + 1
        self._open.add(n)
        return n

    def close(self, n: int) -> None:
        """Take note that message ``n`` is answered or given up: never sent again."""
        is_open = self._open
        is_open.discard(n)
        if self._unresolved:
            self._unresolved.pop(n, None)
        if not is_open:
            self.low = self._next
            return
        while self.low not in is_open:
            self.low += 1

    def leave(self, n: int) -> None:
        """Take note that the outcome of message ``n`` is unknown.

        It stays open, so that its owner goes on to keep its reply for `resolve`; but not
        for ever, and not where room is needed.
        """
        self._unresolved[n] = None
        if len(self._unresolved) > MAX_UNRESOLVED:
            self.abandon_oldest()

    def abandon_oldest(self) -> bool:
        """Close the oldest message that was left; return whether there was any."""
        oldest = next(iter(self._unresolved), None)
        if oldest is None:
            return False
        self.close(oldest)
        return True


@define(slots=True, eq=False)
class Call:
    """One command or query from its first attempt to its end.

    ``deadline`` is a reading of the clock whose readings are passed in as ``now``
    (seconds). ``sent`` counts attempts that may have reached somebody; only while
    it is at most 1 is an unjournaled refusal final.
    """

    deadline: float
    exact: bool = True
    """True for a command; a query may be repeated freely and any refusal is final."""
    message_id: str = ""
    """Told with an outcome that is unknown."""
    sent: int = 0
    _silences: int = 0
    _refusals: int = 0
    _proofs: int = 0
    _last_refusal: AegisError | None = None

    def attempt(self) -> int:
        """Take note that an attempt leaves; return its number, counted from 1."""
        self.sent += 1
        self._silences += 1
        return self.sent

    def silence(self) -> float:
        """Return how long, in seconds, to wait for an answer to the last attempt."""
        return min(LAST_SILENCE, FIRST_SILENCE * 2.0 ** min(10, self._silences - 1))

    def undelivered(self) -> None:
        """Take back the last attempt: the server says that nobody received it."""
        self.sent = max(0, self.sent - 1)
        self._silences = max(0, self._silences - 1)

    def answered(self, status: int, value: Any) -> Done | None:
        """Judge an answer; None means: not final, go on with `refused`.

        ``value`` is the result, or the map of an error.
        """
        if status == 200:
            return Done(value)
        error = from_wire(status, value)
        self._silences = max(0, self._silences - 1)
        if status not in _UNJOURNALED and status != _MOVED:
            return Done(error=error)
        if error.facts.get("withdrawn"):
            return Done(error=error)  # That is journaled, however many attempts there were.
        if error.facts.get("done"):
            # It took effect, and nobody can say any more with which answer.
            return Done(error=OutcomeUnknown(error.message, message_id=self.message_id, done=True))
        self._last_refusal = error
        if status != _MOVED:
            self._proofs += 1
        if status in _RETRIED or (self.exact and self.sent > 1):
            return None
        return Done(error=error)

    def moved(self) -> None:
        """Take note that another owner is known: how long the last one was tried says nothing."""
        self._refusals = 0

    def refused(
        self, now: float, jitter: float, *, error: AegisError | None = None
    ) -> Done | Retry:
        """Say how to go on after a refusal or a failed lookup; ``jitter`` in [0, 1)."""
        if error is not None:
            self._last_refusal = error
        backoff = min(LAST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(10, self._refusals))
        self._refusals += 1
        delay = backoff * (0.5 + jitter)
        if now + delay >= self.deadline:
            delay = self.deadline - now
            if delay <= 0:
                return self.expired()
        moved = self._last_refusal is not None and self._last_refusal.code in (421, 503)
        return Retry(delay, moved=moved)

    def expired(self) -> Done:
        """The deadline has passed: say what is known of the outcome."""
        refusal = self._last_refusal
        if self.sent == 0:
            return Done(error=refusal or Unavailable("nobody could be reached in time"))
        if not self.exact:
            return Done(error=refusal or DeadlineExpired("no answer came in time"))
        if self.sent == 1 and self._proofs == 1 and refusal is not None:
            return Done(error=refusal)
        return Done(
            error=OutcomeUnknown(
                "no answer came in time: the command may or may not have taken effect",
                message_id=self.message_id,
            )
        )

    def too_old_to_begin(self, error: AegisError | None) -> int | None:
        """Return the floor to start a new session above, if that is the way out.

        A caller whose only attempt was answered 410 knows that it did not run.
        """
        if isinstance(error, TooOld) and self.sent == 1 and "floor" in error.facts:
            return int(error.facts["floor"])
        return None
