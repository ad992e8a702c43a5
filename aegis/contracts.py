"""The shapes that cross the wire: the request envelope, the reply, registration.

A request travels as the msgpack array ``[version, kind, session, n, low, service,
resource|nil, method, params, remaining_ms, first_sent_ms, attempt, trace]`` and a
reply as ``[version, n, status, value|error]``. One NATS message may hold several
requests, one array after another; see `aegis.transport` for how their replies are
told apart. This module holds only the shapes: the bytes are made by the codec.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

__all__ = [
    "ENVELOPE_VERSION",
    "MAX_ID_BYTES",
    "OK",
    "AdminPage",
    "Answer",
    "Kind",
    "Mail",
    "Receipt",
    "RegisterInstance",
    "RegisterResources",
    "ReleaseResources",
    "Reply",
    "ReplyTo",
    "Request",
    "Role",
    "UnregisterInstance",
    "check_id",
    "session_start_ms",
]

ENVELOPE_VERSION = 1
"""The only version of request and reply envelopes there is so far."""

OK = 200
"""The status of a reply that carries a value."""

MAX_ID_BYTES = 200
"""The longest service, instance or resource name, in UTF-8 bytes."""


class Kind(StrEnum):
    """What a message may do: change state, or only read."""

    COMMAND = "command"
    QUERY = "query"


class Role(StrEnum):
    """What an instance does for a resource: own it, or stand by to."""

    ACTIVE = "active"
    STANDBY = "standby"


@frozen
class AdminPage:
    """A page that a service adds to the admin HTTP of the nodes that run it.

    Set as `AegisActor.admin_page` it is at ``/pages/NAME``: the file ``index.html`` of
    ``folder``, whose other files are below that. ``query`` names a query without
    parameters, which each instance of the service answers with a map. It is asked once a
    second while somebody watches, and whoever watches is told of the answers. What stands
    under ``sample`` there, a list of numbers, is kept for ten minutes.
    """

    name: str
    title: str
    folder: Path
    query: str


@define(slots=True)
class Request:
    """One command or query on its way to an actor.

    ``n`` counts the messages of ``session``; ``low`` is the lowest ``n`` still open
    there. ``remaining_ms`` is the time left at the moment of sending: deadlines
    never cross the wire as clock readings. ``first_sent_ms`` is the sender's wall
    clock (Unix ms) at attempt 1. ``trace`` is a W3C ``traceparent``.
    """

    kind: str
    session: str
    n: int
    low: int
    service: str
    resource: str | None
    method: str
    params: dict[str, Any]
    remaining_ms: int
    first_sent_ms: int = 0
    attempt: int = 1
    trace: str = ""

    @property
    def message_id(self) -> str:
        """The message's name, unique over the whole system."""
        return f"{self.session}-{self.n}"


@frozen
class ReplyTo:
    """Where the reply to a durable message goes: a command of another resource."""

    service: str
    resource: str
    method: str

    def __iter__(self) -> Iterator[str]:
        """Give the parts in the order in which they travel."""
        return iter((self.service, self.resource, self.method))


@define(slots=True)
class Mail:
    """A durable message as it stands in a mailbox: a command, and where its reply goes.

    ``remaining_ms`` of the request means nothing: mail has no deadline.
    """

    request: Request
    reply_to: ReplyTo | None = None


@frozen
class Receipt:
    """The proof that a durable message is in its mailbox, at ``sequence`` of the stream."""

    message_id: str
    service: str
    resource_id: str
    sequence: int


@frozen
class Answer:
    """What became of a message that an actor sent with ``reply_to``.

    The command named there takes it as its parameter ``answer``. ``message_id`` is what
    ``self.send`` returned. ``value`` is the result as plain values, where ``status`` is
    200; else ``error`` says what was wrong and ``facts`` has what the error tells.
    """

    message_id: str
    service: str
    resource_id: str
    method: str
    status: int
    value: Any = None
    error: str = ""
    facts: dict[str, Any] = field(factory=dict[str, Any])

    @property
    def ok(self) -> bool:
        """Whether the command took effect and was not refused."""
        return self.status == OK


@define(slots=True)
class Reply:
    """The answer to a request: ``status`` 200 and a value, or a code and facts.

    ``value`` is the *encoded* msgpack value (or error map): replies are journaled,
    compared and forwarded as bytes, and decoded only by the caller.
    """

    n: int
    status: int
    value: bytes


@frozen
class RegisterInstance:
    """Payload of ``ipc.service.register``; ``timestamp`` is Unix seconds."""

    service_name: str
    instance_id: str
    timestamp: float = 0.0
    metadata: dict[str, Any] = field(factory=dict[str, Any])
    role: Role = Role.ACTIVE


@frozen
class UnregisterInstance:
    """Payload of ``ipc.service.unregister``."""

    service_name: str
    instance_id: str


@frozen
class RegisterResources:
    """Payload of ``ipc.resource.register``."""

    service_name: str
    instance_id: str
    resource_ids: list[str]
    role: Role = Role.ACTIVE
    force: bool = False
    metadata: dict[str, Any] = field(factory=dict[str, Any])
    trace_id: str = ""


@frozen
class ReleaseResources:
    """Payload of ``ipc.resource.release``."""

    service_name: str
    instance_id: str
    resource_ids: list[str]
    heir: str = ""
    """The standby that is to own them next, if it is healthy; else the best one."""
    trace_id: str = ""


_SESSION = re.compile(r"(\d{1,16})-[0-9A-Za-z]{1,64}")


def session_start_ms(session: str) -> int | None:
    """Return when ``session`` started, in Unix ms, or None if it is no session name.

    A session's name is ``<start time ms>-<random letters and digits>``.
    """
    match = _SESSION.fullmatch(session)
    return int(match.group(1)) if match else None


def check_id(value: str) -> str | None:
    """Return what is wrong with ``value`` as a name, or None if it may be one.

    Any text from 1 to 200 UTF-8 bytes without control characters or white space is
    a legal service, instance or resource name.
    """
    if not value:
        return "must not be empty"
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "must be valid Unicode"
    if size > MAX_ID_BYTES:
        return f"is {size} bytes long; at most {MAX_ID_BYTES} are allowed"
    # Of all white space only the plain space counts as printable.
    if " " in value or not value.isprintable():
        return "must not contain spaces or control characters"
    return None
