"""How much time is left for the work under way: it goes along the chain of calls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aegis.actors._mailbox import current_envelope

if TYPE_CHECKING:
    from aegis.actors._mailbox import Envelope

__all__ = ["deadline_of_caller", "time_left"]


def time_left() -> float:
    """Return how many seconds the message in hand has left; infinite if there is no limit.

    From 0 on nobody waits for its answer any more.
    """
    envelope = current_envelope.get()
    if envelope is None or envelope.owner is None:
        return math.inf
    deadline = deadline_of_caller(envelope)
    if deadline is None:
        return math.inf
    return max(0.0, deadline - envelope.owner.runtime.loop.time())


def deadline_of_caller(envelope: Envelope | None) -> float | None:
    """Return when the message that ``envelope`` brought has to be answered, if it must be."""
    return None if envelope is None or envelope.finished else envelope.deadline
