"""Every error that Aegis raises: one tree, one status code per class.

```
AegisError
├── InvalidRequest        400  names the field
├── NotOwner              403  names the owner
├── NotFound              404  no such service, resource or method
├── DeadlineExpired       408  the deadline passed before any work
├── Conflict              409  names the holder
├── TooOld                410  a repeat of a message too old to tell
├── TooLarge              413  says the limit
├── Moved                 421  not the owner any more: look up again
├── Rejected              422  the handler's own business refusal
├── Overloaded            429  a bounded place is full
│   ├── MailboxFull
│   ├── StashFull
│   └── TooManyResources
├── HandlerFailed         500  the handler raised; its state did not change
├── Unavailable           503  no leader, no healthy instance, no server
│   ├── Disconnected
│   └── NoResponders
├── StreamBroken          502  a stream's owner was lost before its end
├── OutcomeUnknown        504  no answer in time; it may or may not have happened
├── ConfigurationError         a bad option: stops the start, names it
│   └── AccessDenied           the NATS server denies this user a subject
├── ActorDead                  the actor has stopped
├── CommandInCommand           a command was awaited inside a command
├── ProtocolError              bytes that are no message of this protocol
├── JournalUnreadable          a journal record that this class cannot read
├── Fenced                     a newer owner exists: this one must stop
└── ConnectionClosed           the server closed this client for good
```

The classes with a code cross the wire as ``[code, {"message": ..., facts}]`` and
come out on the other side as the same class: see `to_wire` and `from_wire`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

__all__ = [
    "AccessDenied",
    "ActorDead",
    "AegisError",
    "CommandInCommand",
    "ConfigurationError",
    "Conflict",
    "ConnectionClosed",
    "DeadlineExpired",
    "Disconnected",
    "Fenced",
    "HandlerFailed",
    "InvalidRequest",
    "JournalUnreadable",
    "MailboxFull",
    "Moved",
    "NoResponders",
    "NotFound",
    "NotOwner",
    "OutcomeUnknown",
    "Overloaded",
    "ProtocolError",
    "Rejected",
    "StashFull",
    "StreamBroken",
    "TooLarge",
    "TooManyResources",
    "TooOld",
    "Unavailable",
    "from_wire",
    "to_wire",
]


class AegisError(Exception):
    """Base of all errors of Aegis.

    ``code`` is the status that crosses the wire, or 0 for an error that never
    does. ``facts`` are plain values (msgpack can encode them) about this case.
    """

    code: ClassVar[int] = 0

    def __init__(self, message: str = "", /, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts: dict[str, Any] = facts

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.facts))


class InvalidRequest(AegisError):
    """A field is missing or of the wrong type; correct it and send anew.

    Facts: ``field``, the path of the field that is wrong.
    """

    code = 400


class NotOwner(AegisError):
    """Only the owner of a resource may release it; ask that one. Facts: ``owner``."""

    code = 403


class NotFound(AegisError):
    """There is no such service, resource, instance or method; nothing ran.

    Where a name comes near, the message has it. Of a resource it also means that nobody
    owns it now: call again once somebody does, or `send`, which waits.
    """

    code = 404


class DeadlineExpired(AegisError):
    """The deadline passed before any work was done; the command did not run. Call anew."""

    code = 408


class Conflict(AegisError):
    """Another instance holds the name: take another, stand by, or take it by ``force``.

    Facts: ``holder``, or ``conflicts`` with the owner of each resource.
    """

    code = 409


class TooOld(AegisError):
    """A repeat of a message so old that its outcome is no longer kept.

    Facts: ``floor``, the start (Unix milliseconds) that a new session must exceed.
    """

    code = 410


class TooLarge(AegisError):
    """The message exceeds the size limit; nothing ran. Facts: ``size_bytes``, ``limit_bytes``."""

    code = 413


class Moved(AegisError):
    """The addressed node does not own the resource any more; look it up again."""

    code = 421


class Rejected(AegisError):
    """A handler's business answer: the command was understood and refused.

    Raise it in a handler. The state keeps the value it had before the command,
    the refusal is journaled, and the caller gets this same class.
    """

    code = 422


class Overloaded(AegisError):
    """A bounded place is full; a retry later is safe."""

    code = 429


class MailboxFull(Overloaded):
    """The mailbox is at capacity and did not take the message; retry is safe."""


class StashFull(Overloaded):
    """The actor has put aside as many messages as it may. Facts: ``address``, ``capacity``."""


class TooManyResources(Overloaded):
    """The instance holds as many resources as it may. Facts: ``limit``."""


class HandlerFailed(AegisError):
    """The handler raised something other than `Rejected`; state did not change.

    What it raised is in the message, its traceback in the log of its node.
    """

    code = 500


class StreamBroken(AegisError):
    """A stream lost its owner, or the way there, before its end; iterate again.

    The items so far are right; nobody can go on behind them. Facts: ``items``, how many
    there were.
    """

    code = 502


class Unavailable(AegisError):
    """Nobody can serve this now: no leader, no healthy instance, no server; a retry is safe."""

    code = 503


class Disconnected(Unavailable):
    """There is no connection to the NATS server at this moment."""


class NoResponders(Unavailable):
    """Nobody subscribes to the subject of the request."""


class OutcomeUnknown(AegisError):
    """No answer came in time: the command may or may not have taken effect.

    Give it to `Cluster.resolve`, which brings the answer or makes sure that it never runs;
    to repeat the call is a *new* command. Facts: ``message_id``.
    """

    code = 504


class ConfigurationError(AegisError):
    """An option is wrong; the message names it and says what to do."""


class AccessDenied(ConfigurationError):
    """The NATS server does not let this user do that; nothing was sent.

    Facts: ``permission`` (``publish`` or ``subscribe``) and ``subject``.
    """


class ActorDead(AegisError):
    """The actor has stopped and takes no more messages."""


class CommandInCommand(AegisError):
    """A command was awaited inside a command; use ``self.send`` instead."""


class ProtocolError(AegisError):
    """The bytes are no message of this protocol, or of a version that this one does not know."""


class JournalUnreadable(AegisError):
    """A journal record cannot be read; its actor stops, and the message says what to do.

    Facts: ``subject``, ``sequence``.
    """


class Fenced(AegisError):
    """A newer owner of the resource exists; callers find it. Facts: ``epoch``, the newer one."""


class ConnectionClosed(AegisError):
    """The NATS client is closed for good and will not reconnect; connect anew."""


def _rebuild(cls: type[AegisError], message: str, facts: dict[str, Any]) -> AegisError:
    return cls(message, **facts)


def _by_code() -> dict[int, type[AegisError]]:
    classes: list[type[AegisError]] = [
        InvalidRequest,
        NotOwner,
        NotFound,
        DeadlineExpired,
        Conflict,
        TooOld,
        TooLarge,
        Moved,
        Rejected,
        Overloaded,
        HandlerFailed,
        StreamBroken,
        Unavailable,
        OutcomeUnknown,
    ]
    return {cls.code: cls for cls in classes}


_BY_CODE = _by_code()
_BY_NAME: dict[str, type[AegisError]] = {
    cls.__name__: cls
    for cls in (MailboxFull, StashFull, TooManyResources, Disconnected, NoResponders)
}


def to_wire(error: AegisError) -> dict[str, Any]:
    """Return ``error`` as the plain map that a reply carries beside its code."""
    payload: dict[str, Any] = {"message": error.message, **error.facts}
    name = type(error).__name__
    if name in _BY_NAME:
        payload["error"] = name
    return payload


def from_wire(code: int, payload: Any) -> AegisError:
    """Return the error that a reply of status ``code`` stands for.

    An unknown code gives a plain `AegisError` with a fact ``code``, so that a
    newer node can answer an older caller.
    """
    facts: dict[str, Any] = {"message": str(payload)}
    if isinstance(payload, Mapping):
        given = cast("Mapping[object, Any]", payload)
        facts = {str(key): value for key, value in given.items()}
    message = str(facts.pop("message", ""))
    cls = _BY_NAME.get(str(facts.pop("error", ""))) or _BY_CODE.get(code)
    if cls is None or cls.code != code:
        cls = _BY_CODE.get(code)
    if cls is None:
        return AegisError(message or f"status {code}", code=code, **facts)
    return cls(message, **facts)
