"""What the server denies this user: read from its error lines, remembered for a while.

The line names a subject, and no message: a request that is denied is found by its subject,
and whoever only publishes hears nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from attrs import define, frozen

from aegis.errors import AccessDenied

__all__ = ["PUBLISH", "SUBSCRIBE", "Denial", "Denials", "denied"]

PUBLISH: Final = "publish"
SUBSCRIBE: Final = "subscribe"

REMEMBER_SECONDS: Final = 5.0
"""After that the server is asked again: its permissions may have been changed."""

MAX_REMEMBERED: Final = 1_000

_VIOLATION: Final = re.compile(
    r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE
)


@frozen
class Denial:
    """One refusal: the permission that misses, and the subject."""

    permission: str
    subject: str


def denied(permission: str, subject: str) -> AccessDenied:
    """Return the error that says which permission misses."""
    doing = "publish to" if permission == PUBLISH else "subscribe to"
    return AccessDenied(
        f"the NATS server does not let this user {doing} {subject}; allow that in the user's "
        "permissions, or take another user",
        permission=permission,
        subject=subject,
    )


@define
class _Remembered:
    count: int
    heard_at: float


class Denials:
    """The refusals of one connection; ``now`` is a clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._publish: dict[str, _Remembered] = {}
        self._subscriptions: dict[str, None] = {}

    def heard(self, line: bytes) -> Denial | None:
        """Take note of an error line of the server; None if it is about something else."""
        found = _VIOLATION.search(line.decode("utf-8", "replace"))
        if found is None:
            return None
        subject = found[2]
        if found[1].lower() != PUBLISH:
            self._subscriptions[subject] = None
            if len(self._subscriptions) > MAX_REMEMBERED:
                del self._subscriptions[next(iter(self._subscriptions))]
            return Denial(SUBSCRIBE, subject)
        remembered = self._publish.pop(subject, _Remembered(0, 0.0))
        remembered.count += 1
        remembered.heard_at = self._now()
        self._publish[subject] = remembered
        if len(self._publish) > MAX_REMEMBERED:
            del self._publish[next(iter(self._publish))]
        return Denial(PUBLISH, subject)

    def of_publish(self, subject: str) -> int:
        """Return how often publishing to ``subject`` was denied; 0 if not lately."""
        if not self._publish:
            return 0
        remembered = self._publish.get(subject)
        if remembered is None or self._now() - remembered.heard_at > REMEMBER_SECONDS:
            return 0
        return remembered.count

    def subscribing(self, pattern: str) -> None:
        """Forget what was said of ``pattern``: the server is asked once more."""
        self._subscriptions.pop(pattern, None)

    def of_subscription(self, pattern: str) -> bool:
        """Whether subscribing to ``pattern`` was denied since it was last tried."""
        return pattern in self._subscriptions
