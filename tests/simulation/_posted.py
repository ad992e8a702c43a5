"""A message of a mailbox as the simulation has it."""

from __future__ import annotations

from attrs import define

from tests.simulation._model import Command, pack, unpack

__all__ = ["Posted", "mail_of"]


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
