"""Aegis: actors over NATS for services that must not lose or repeat a message.

::

    from aegis import AegisActor, Rejected, command, query

A service is a class that subclasses `AegisActor`; `connect` gives the client that
calls it; ``aegis run`` launches it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from aegis._blocking import BlockingCluster, connect_blocking
    from aegis._cluster import Cluster, connect
    from aegis._remote_ref import RemoteRef
    from aegis._service_client import ServiceClient
    from aegis.actors._actor import AegisActor
    from aegis.actors._handlers import applies, command, query, subscribes, upcasts
    from aegis.actors._messages import Call, Terminated
    from aegis.actors._ref import ActorRef
    from aegis.actors._reply_stream import ReplyStream
    from aegis.actors._source import Subject
    from aegis.actors._supervisor import Supervisor
    from aegis.contracts import AdminPage, Answer, Receipt, Role
    from aegis.errors import (
        AccessDenied,
        ActorDead,
        AegisError,
        CommandInCommand,
        ConfigurationError,
        Conflict,
        ConnectionClosed,
        DeadlineExpired,
        Disconnected,
        HandlerFailed,
        InvalidRequest,
        JournalUnreadable,
        MailboxFull,
        Moved,
        NoResponders,
        NotFound,
        NotOwner,
        OutcomeUnknown,
        Overloaded,
        ProtocolError,
        Rejected,
        StashFull,
        StreamBroken,
        TooLarge,
        TooManyResources,
        TooOld,
        Unavailable,
    )

__all__ = [
    "AccessDenied",
    "ActorDead",
    "ActorRef",
    "AdminPage",
    "AegisActor",
    "AegisError",
    "Answer",
    "BlockingCluster",
    "Call",
    "Cluster",
    "CommandInCommand",
    "ConfigurationError",
    "Conflict",
    "ConnectionClosed",
    "DeadlineExpired",
    "Disconnected",
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
    "Receipt",
    "Rejected",
    "RemoteRef",
    "ReplyStream",
    "Role",
    "ServiceClient",
    "StashFull",
    "StreamBroken",
    "Subject",
    "Supervisor",
    "Terminated",
    "TooLarge",
    "TooManyResources",
    "TooOld",
    "Unavailable",
    "applies",
    "command",
    "connect",
    "connect_blocking",
    "query",
    "subscribes",
    "upcasts",
]

_HOME: Final = {
    "BlockingCluster": "aegis._blocking",
    "Cluster": "aegis._cluster",
    "connect": "aegis._cluster",
    "connect_blocking": "aegis._blocking",
    "RemoteRef": "aegis._remote_ref",
    "ServiceClient": "aegis._service_client",
    "AegisActor": "aegis.actors._actor",
    "applies": "aegis.actors._handlers",
    "command": "aegis.actors._handlers",
    "query": "aegis.actors._handlers",
    "subscribes": "aegis.actors._handlers",
    "upcasts": "aegis.actors._handlers",
    "Call": "aegis.actors._messages",
    "Terminated": "aegis.actors._messages",
    "ActorRef": "aegis.actors._ref",
    "ReplyStream": "aegis.actors._reply_stream",
    "Subject": "aegis.actors._source",
    "Supervisor": "aegis.actors._supervisor",
    "AdminPage": "aegis.contracts",
    "Answer": "aegis.contracts",
    "Receipt": "aegis.contracts",
    "Role": "aegis.contracts",
    "AccessDenied": "aegis.errors",
    "ActorDead": "aegis.errors",
    "AegisError": "aegis.errors",
    "CommandInCommand": "aegis.errors",
    "ConfigurationError": "aegis.errors",
    "Conflict": "aegis.errors",
    "ConnectionClosed": "aegis.errors",
    "DeadlineExpired": "aegis.errors",
    "Disconnected": "aegis.errors",
    "HandlerFailed": "aegis.errors",
    "InvalidRequest": "aegis.errors",
    "JournalUnreadable": "aegis.errors",
    "MailboxFull": "aegis.errors",
    "Moved": "aegis.errors",
    "NoResponders": "aegis.errors",
    "NotFound": "aegis.errors",
    "NotOwner": "aegis.errors",
    "OutcomeUnknown": "aegis.errors",
    "Overloaded": "aegis.errors",
    "ProtocolError": "aegis.errors",
    "Rejected": "aegis.errors",
    "StashFull": "aegis.errors",
    "StreamBroken": "aegis.errors",
    "TooLarge": "aegis.errors",
    "TooManyResources": "aegis.errors",
    "TooOld": "aegis.errors",
    "Unavailable": "aegis.errors",
}
"""Where each public name is defined. They are imported on first use, so that the
command line answers without loading what it does not need."""


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'aegis' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
