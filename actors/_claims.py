"""Commits of commands to a service group (sans-I/O): one claim a message, first wins.

An instance of a service group keeps no durable state. Its command commits by one
append to the message's own subject that expects nothing there; the claim holds the
answer. Whoever loses that race answers what the winner wrote. A claim lives an hour,
so a message older than that must not be committed: the envelope carries the wall
clock of attempt 1, and an instance whose clock is far from it refuses.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from attrs import define

from aegis.errors import ProtocolError

__all__ = ["CLAIM_TTL", "MAX_CLOCK_DISTANCE_MS", "Claim", "ClaimStep", "is_too_far"]

CLAIM_TTL: Final = 3600
"""Seconds that a claim is kept."""

MAX_CLOCK_DISTANCE_MS: Final = 10 * 60 * 1000
"""A message whose attempt 1 is farther from the instance's clock is refused (410)."""

CLAIM_VERSION: Final = 1


def is_too_far(first_sent_ms: int, wall_ms: int) -> bool:
    """Whether a claim for this message could outlive, or precede, its hour."""
    return abs(wall_ms - first_sent_ms) > MAX_CLOCK_DISTANCE_MS


class ClaimStep(Enum):
    """What the shell must do next for a claim."""

    APPEND = "append"
    """Append the claim, expecting nothing on its subject (again, if it was unknown)."""
    READ = "read"
    """Read the claim that stands on the subject, and pass it to `Claim.found`."""
    ANSWER = "answer"
    """Send `Claim.status` and `Claim.reply`."""
    SILENCE = "silence"
    """Send nothing: the outcome is unknown and may not be pursued. The caller asks again."""


@define(slots=True)
class Claim:
    """One command's commit, from the handler's end to the answer.

    ``connection`` numbers the connection that the handler ran under: an append never
    leaves on a later one, since meanwhile the claim may have been made and expired.
    """

    first_sent_ms: int
    connection: int
    status: int
    reply: bytes

    def begin(self, *, wall_ms: int, connection: int) -> ClaimStep:
        """Decide right before an append, the first or a repeated one, if it may leave."""
        if connection != self.connection or is_too_far(self.first_sent_ms, wall_ms):
            return ClaimStep.SILENCE
        return ClaimStep.APPEND

    def appended(self) -> ClaimStep:
        """The claim is durable and this instance's own."""
        return ClaimStep.ANSWER

    def refused(self) -> ClaimStep:
        """A claim stands there: somebody's, or the first copy of this one."""
        return ClaimStep.READ

    def found(self, wire: Any) -> ClaimStep:
        """Take over the answer of the claim that stands on the subject.

        ``wire`` is None if none stands there any more: then its hour is over, and
        what it said is lost.
        """
        if wire is None:
            return ClaimStep.SILENCE
        try:
            version, status, reply, *_ = wire
        except (TypeError, ValueError) as error:
            raise ProtocolError(f"not a claim: {error}") from error
        if version != CLAIM_VERSION:
            raise ProtocolError(f"claim of version {version!r}; this release reads version 1")
        self.status, self.reply = status, reply
        return ClaimStep.ANSWER

    def to_wire(self) -> list[Any]:
        """Return the claim as plain values: ``[version, status, reply, outgoing]``."""
        return [CLAIM_VERSION, self.status, self.reply, None]
