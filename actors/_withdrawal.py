"""Taking a message back: its own session and number are journaled as not run.

Whoever does not know what became of a command sends this in its place, under its name.
If the command took effect, its reply comes back; else it never will.
"""

from __future__ import annotations

from typing import Final

from aegis.actors._answers import error_bytes
from aegis.errors import DeadlineExpired

__all__ = ["WITHDRAWN", "WITHDRAW_METHOD"]

WITHDRAW_METHOD: Final = "aegis.withdraw"
"""The method of a message that takes another back; no handler's name has a dot."""

WITHDRAWN: Final = error_bytes(
    DeadlineExpired("the message was withdrawn: it did not run, and never will", withdrawn=True)
)
"""What such a message answers with, journaled with the status 408."""
