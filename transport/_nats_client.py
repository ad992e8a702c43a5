"""nats-py's client with our socket: the only module that knows its private parts.

nats-py keeps what it is good at: choosing servers, INFO and CONNECT, authentication,
TLS, PING, reconnecting, replaying subscriptions. Its queues and tasks per message are
bypassed by `NatsSocket`. The names used of `nats.aio.client.Client` are those of
2.16; a test fails when another release is installed or one of them is gone.
"""

# nats-py is annotated only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsPySubscription
from nats.errors import SecureConnRequiredError

from aegis.transport._nats_socket import NatsSocket, RawHandler

__all__ = ["PRIVATE_NAMES", "FastClient"]

PRIVATE_NAMES: Final = (
    "_attempt_reconnect",
    "_close",
    "_connect_command",
    "_connect_to_server",
    "_process_connect_init",
    "_process_err",
    "_process_op_err",
    "_read_loop",
    "_server_info",
    "_sid",
    "_subs",
    "_transport",
)
"""What of nats-py's client this module builds on."""


class FastClient(Client):
    """A nats-py client whose messages go from the socket to their handler."""

    def __init__(
        self,
        on_lost: Callable[[], None],
        on_error: Callable[[bytes], None] = lambda line: None,
        *,
        require_tls: bool = False,
    ) -> None:
        super().__init__()
        self.socket = NatsSocket(on_lost, on_error)
        self._require_tls = require_tls
        self._transport = self.socket

    @property
    def server_info(self) -> dict[str, Any]:
        """What the server told in its INFO."""
        return dict(self._server_info)

    def _connect_command(self) -> bytes:
        # nats-py would send the credentials in the clear to a server that does not
        # ask for TLS, whatever the URL says.
        if self._require_tls and not self.socket.secure:
            raise SecureConnRequiredError
        return super()._connect_command()

    def add_subscription(self, subject: str, queue: str, handler: RawHandler) -> int:
        """Subscribe ``handler``; nats-py replays it after a reconnect."""
        self._sid += 1
        sid: int = self._sid
        # Never started: no task, no queue. It is here to be replayed.
        self._subs[sid] = NatsPySubscription(self, sid, subject, queue=queue, cb=_never_called)
        self.socket.handlers[b"%d" % sid] = handler
        self.socket.connection.push(f"SUB {subject} {queue} {sid}\r\n".encode())
        return sid

    def drop_subscription(self, sid: int) -> None:
        """End a subscription; its handler is not called afterwards."""
        self.socket.handlers.pop(b"%d" % sid, None)
        if self._subs.pop(sid, None) is not None and self.is_connected:
            self.socket.connection.push(b"UNSUB %d\r\n" % sid)


async def _never_called(_: Msg) -> None:
    raise AssertionError("messages do not take this way")
