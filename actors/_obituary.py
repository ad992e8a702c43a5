"""Proof of death: what the server's system account tells of connections that ended.

The event makes somebody look, and proves nothing: a node that lives may be about to
reconnect, and an event may be lost, late, or about another system. So nothing depends
on there being a system account; with one, a node that was killed is replaced in
milliseconds instead of after its silence.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any, Final

import structlog
from attrs import frozen

from aegis.errors import ConnectionClosed, Unavailable
from aegis.transport._base import Message, Subscription, Transport
from aegis.transport._patience import subscribe_patiently

__all__ = ["DISCONNECTS", "Obituary", "connection_name", "node_of"]

_log = structlog.get_logger("aegis.obituary")

DISCONNECTS: Final = "$SYS.ACCOUNT.*.DISCONNECT"
"""Where the server tells the system account of every connection that has ended."""

_PREFIX: Final = "aegis-node-"

_CLOSED_BY_ITS_SIDE: Final = frozenset({"Client Closed", "Read Error", "Write Error"})
"""Reasons that tell of a socket whose other side is closed.

A process that stands still may be disconnected, too ("Stale Connection"), or one that
reads too slowly. It has not dropped its lease: its silence has to last.
"""


@frozen
class _Disconnect:
    """The part of a disconnect event that counts here."""

    name: str
    reason: str


class Obituary:
    """Listens on a connection to the system account, and tells which nodes to examine.

    ``suspect`` is called with the id of each node whose connection has ended, on the
    event loop: `SupervisorCandidate.suspect_node`.
    """

    def __init__(self, system: Transport, suspect: Callable[[str], None]) -> None:
        self._system = system
        self._suspect = suspect
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Begin to listen."""
        self._subscription = await subscribe_patiently(
            self._system, DISCONNECTS, self._on_disconnect
        )

    async def stop(self) -> None:
        """Listen no more; the connection stays whose it is."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(Unavailable, ConnectionClosed):
                await subscription.unsubscribe()

    def _on_disconnect(self, message: Message) -> None:
        event = _read(message.payload)
        if event is None:
            _log.warning("disconnect event cannot be read", subject=message.subject)
            return
        node_id = node_of(event.name)
        if node_id is not None and event.reason in _CLOSED_BY_ITS_SIDE:
            self._suspect(node_id)


def connection_name(node_id: str) -> str:
    """Return the name that a node gives its own connection."""
    return _PREFIX + node_id


def node_of(name: str) -> str | None:
    """Return whose connection has this name; None if it is no node's."""
    return name[len(_PREFIX) :] or None if name.startswith(_PREFIX) else None


def _read(payload: bytes) -> _Disconnect | None:
    try:
        event: Any = json.loads(payload)
        name, reason = event["client"].get("name", ""), event.get("reason", "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return _Disconnect(name, reason) if isinstance(name, str) and isinstance(reason, str) else None
