"""Whether a node can serve at this moment, and if not, why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aegis.errors import AegisError
from aegis.ops._doctor_server import SENDS_STOP
from aegis.transport._nats import NatsTransport

if TYPE_CHECKING:
    from aegis._node import Node

__all__ = ["unready_here", "unready_reasons"]

STARTING: Final = "the node is starting"
DRAINING: Final = "the node is draining"
NO_SERVER: Final = "there is no connection to a NATS server"
NO_LEADER: Final = "no leading supervisor has answered for as long as the lease lasts"


async def unready_reasons(node: Node) -> list[str]:
    """Return why ``node`` cannot serve; nothing if it can."""
    reasons = unready_here(node)
    if not node.transport.connected:
        return reasons
    full = await _full_store(node)
    return [*reasons, full] if full else reasons


def unready_here(node: Node) -> list[str]:
    """Return why ``node`` cannot serve, as far as it knows without asking anybody."""
    reasons: list[str] = []
    if node.state == "starting":
        reasons.append(STARTING)
    elif node.state == "draining":
        reasons.append(DRAINING)
    if not node.transport.connected:
        return [*reasons, NO_SERVER]
    # Only a leader renews it, so it also tells whether there is one.
    if not node.membership.lease.valid(node.clock.boot_seconds()):
        reasons.append(NO_LEADER)
    return reasons


async def _full_store(node: Node) -> str:
    transport = node.transport
    if not isinstance(transport, NatsTransport):
        return ""
    try:
        info = await transport.api(f"STREAM.INFO.{node.subjects.stream}")
    except (AegisError, TimeoutError) as error:
        return f"the state of the stream is unknown: {error}"
    used, limit = int(info["state"]["bytes"]), int(info["config"]["max_bytes"])
    if limit <= 0 or used < SENDS_STOP * limit:
        return ""
    return (
        f"the stream is full: {used} of {limit} bytes, and from {SENDS_STOP:.0%} sends are "
        "refused; raise max_bytes"
    )
