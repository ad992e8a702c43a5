"""What all appends to the stream share: when an outcome is unknown, and when to repeat."""

from __future__ import annotations

import asyncio
import random
from typing import Final

import structlog

from aegis.transport._base import Append, AppendOutcome, Transport

__all__ = ["APPEND_TIMEOUT", "begin_append", "pause_before"]

_log = structlog.get_logger("aegis.journal")

APPEND_TIMEOUT: Final = 5.0
"""Seconds after which the outcome of an append counts as unknown."""

RETRY_FIRST: Final = 0.05
RETRY_LIMIT: Final = 1.0
"""Seconds between repeats of an append: doubled from the first to the limit."""


def begin_append(transport: Transport, append: Append) -> asyncio.Future[AppendOutcome]:
    """Make an append once; the future tells its outcome, and never fails."""
    outcome = transport.append(append, timeout=APPEND_TIMEOUT)
    # NATS gives a future already; `ensure_future` asks long before it says so.
    return outcome if isinstance(outcome, asyncio.Future) else asyncio.ensure_future(outcome)


async def pause_before(attempt: int, subject: str, outcome: object) -> None:
    """Wait before repeat ``attempt`` (from 0) of an append, and say why in the log.

    Half as long up to half as long again: when a server comes back, all that wait for it
    must not come in the same instant.
    """
    limit = min(RETRY_LIMIT, RETRY_FIRST * 2.0 ** min(attempt, 10))
    delay = limit * (0.5 + random.random())
    _log.warning(
        "append_repeated",
        subject=subject,
        attempt=attempt + 1,
        delay_seconds=round(delay, 3),
        outcome=str(outcome),
    )
    await asyncio.sleep(delay)
