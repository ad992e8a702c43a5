"""Messages and durable records: NATS and its in-memory twin."""

from aegis.transport._data_folder import default_data_dir
from aegis.transport._discovery import LocalServer, find_server
from aegis.transport._server import EmbeddedServer, ServerOptions, ensure_server, stop_server
from aegis.transport._server_binary import find_binary
from aegis.transport._server_config import Credentials

__all__ = [
    "Credentials",
    "EmbeddedServer",
    "LocalServer",
    "ServerOptions",
    "default_data_dir",
    "ensure_server",
    "find_binary",
    "find_server",
    "stop_server",
]
