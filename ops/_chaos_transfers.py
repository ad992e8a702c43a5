"""What comes next in a transfer between two accounts (no I/O).

Aegis lets no command await another, so the caller's process takes the money from one
account and then gives it to the other. Between the two steps it may be killed; what it
knows then is what its ledger says, and from that alone `next_step` tells how to go on: to
the end, or back. Going back begins by making the credit void, for it may be under way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import frozen

from aegis.ops._chaos_ledger import Transfer
from aegis.ops._chaos_services import APPLIED, CREDIT, DEBIT, VOID

__all__ = [
    "COMPENSATED",
    "DEBITED",
    "DONE",
    "GIVEN",
    "REFUSED_END",
    "RETURNED",
    "Ended",
    "Move",
    "next_step",
]

# The entries that a transfer may have.
DEBITED: Final = "debit"
GIVEN: Final = "credit"
RETURNED: Final = "return"

# How it ends.
DONE: Final = "done"
REFUSED_END: Final = "refused"
COMPENSATED: Final = "compensated"


@frozen
class Move:
    """Have the entry of a role decided."""

    role: str
    resource: str
    what: str


@frozen
class Ended:
    """Nothing is left to do."""

    how: str


def next_step(
    transfer: Transfer, outcomes: Mapping[str, str], *, compensate: bool = False
) -> Move | Ended:
    """Return what comes next. ``outcomes`` is how the entries so far were decided, by role.

    With ``compensate`` the transfer is taken back, unless it has got too far.
    """
    debit, credit = outcomes.get(DEBITED), outcomes.get(GIVEN)
    if debit is None:
        return Move(DEBITED, transfer.source, DEBIT)
    if debit != APPLIED:
        return Ended(REFUSED_END)
    if credit is None:
        return Move(GIVEN, transfer.target, VOID if compensate else CREDIT)
    if credit == APPLIED:
        return Ended(DONE)
    if outcomes.get(RETURNED) is None:
        return Move(RETURNED, transfer.source, CREDIT)
    return Ended(COMPENSATED)
