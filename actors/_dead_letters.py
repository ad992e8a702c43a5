"""Dead letters: messages that could not be processed, kept with all that is known of them."""

from __future__ import annotations

from typing import Any, Final, cast

import attrs
from attrs import frozen

from aegis.errors import ProtocolError
from aegis.transport._codec import decode_value, encode_value

__all__ = ["DeadLetter"]

_VERSION: Final = 1


@frozen
class DeadLetter:
    """One message that was given up. ``payload`` is what stood in the mailbox.

    ``sequence`` was its place in the stream, ``tries`` how often owners have tried it
    since the first died; ``died_ms`` is Unix time. ``source`` is the durable subscription
    through which it came, if it was no mail: then ``payload`` is the command that it was
    there, if anybody could read it.
    """

    service: str
    resource_id: str
    sequence: int
    reason: str
    tries: int
    died_ms: int
    payload: bytes
    message_id: str = ""
    method: str = ""
    trace: str = ""
    uncertain: bool = False
    """Whether it may be a repeat of a message that took effect."""
    source: str = ""

    def encoded(self) -> bytes:
        """Return the bytes that stand in the stream."""
        facts = attrs.asdict(self)
        if not self.source:
            del facts["source"]  # As an earlier release reads it.
        return encode_value({"version": _VERSION, **facts})

    @classmethod
    def decode(cls, data: bytes) -> DeadLetter:
        """Return what `encoded` made.

        Raises:
            ProtocolError: it is no dead letter, or one of another release.
        """
        found: object = decode_value(data)
        facts = dict(cast("dict[str, Any]", found)) if isinstance(found, dict) else {}
        if facts.pop("version", None) != _VERSION:
            raise ProtocolError("no dead letter of a version that this release reads")
        try:
            return cls(**facts)
        except TypeError as error:
            raise ProtocolError(f"not a dead letter: {error}") from error
