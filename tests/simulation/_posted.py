"""A message of a mailbox as the simulation has it."""

from __future__ import annotations

from attrs import define, evolve

from tests.simulation._model import Command, pack, unpack

__all__ = ["SUBSCRIPTION", "Posted", "heard_by", "mail_of"]


@define(slots=True, frozen=True)
class Posted:
    """One message of a mailbox, decoded. ``reply_to`` is a resource, or empty."""

    session: str
    n: int
    low: int
    command: Command
    reply_to: str

    def encoded(self) -> bytes:
        """Return what stands in the mailbox."""
        command = self.command
        return pack(
            [
                self.session,
                self.n,
                self.low,
                [command.uid, command.name, command.amount, command.to],
                self.reply_to,
            ]
        )


def mail_of(payload: bytes) -> Posted:
    """Return what `Posted.encoded` made."""
    session, n, low, command, reply_to = unpack(payload)
    return Posted(session, n, low, Command(*command), reply_to)


SUBSCRIPTION = "sub"
"""The name of the durable subscription of every resource."""


def heard_by(posted: Posted, resource: str, sequence: int, *, named: bool = True) -> Posted:
    """Return what a publication is to one resource that subscribes.

    One without a session was sent by nobody who would repeat it. If it is not ``named``
    the name of the subscription is left out of its session.
    """
    session, n = posted.session, posted.n
    if not session:
        session, n = f"account/{resource}|stream", sequence
    suffix = f"|{SUBSCRIPTION}" if named else ""
    command = evolve(posted.command, uid=f"{posted.command.uid}@")
    return Posted(f"{session}{suffix}", n, n, command, "")
