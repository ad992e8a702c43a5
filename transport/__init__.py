"""Messages and durable records: NATS and its in-memory twin."""

from aegis.transport._base import (
    Append,
    Appended,
    AppendOutcome,
    ConnectionListener,
    Message,
    MessageHandler,
    Refused,
    Stored,
    StreamConfig,
    StreamFacts,
    StreamUsage,
    Subscription,
    Transport,
    Unknown,
)
from aegis.transport._codec import (
    Correlation,
    decode_mail,
    decode_reply_values,
    decode_requests,
    decode_value,
    encode_mail,
    encode_reply,
    encode_request,
    encode_value,
)
from aegis.transport._convert import structurer, to_plain, unstructurer
from aegis.transport._data_folder import default_data_dir
from aegis.transport._discovery import LocalServer, find_server
from aegis.transport._memory import Hop, MemoryBroker, MemoryTransport
from aegis.transport._nats import NatsTransport, connect_nats
from aegis.transport._nats_options import NatsOptions
from aegis.transport._server import EmbeddedServer, ServerOptions, ensure_server, stop_server
from aegis.transport._server_binary import find_binary
from aegis.transport._server_config import Credentials
from aegis.transport._virtual_hosts import Host, HostClock, HostLoop, current_host
from aegis.transport._virtual_loop import Deadlock, VirtualClock, VirtualTimeLoop

__all__ = [
    "Append",
    "AppendOutcome",
    "Appended",
    "ConnectionListener",
    "Correlation",
    "Credentials",
    "Deadlock",
    "EmbeddedServer",
    "Hop",
    "Host",
    "HostClock",
    "HostLoop",
    "LocalServer",
    "MemoryBroker",
    "MemoryTransport",
    "Message",
    "MessageHandler",
    "NatsOptions",
    "NatsTransport",
    "Refused",
    "ServerOptions",
    "Stored",
    "StreamConfig",
    "StreamFacts",
    "StreamUsage",
    "Subscription",
    "Transport",
    "Unknown",
    "VirtualClock",
    "VirtualTimeLoop",
    "connect_nats",
    "current_host",
    "decode_mail",
    "decode_reply_values",
    "decode_requests",
    "decode_value",
    "default_data_dir",
    "encode_mail",
    "encode_reply",
    "encode_request",
    "encode_value",
    "ensure_server",
    "find_binary",
    "find_server",
    "stop_server",
    "structurer",
    "to_plain",
    "unstructurer",
]
