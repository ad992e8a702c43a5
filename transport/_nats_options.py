"""How to reach a NATS server of one's own, checked before the first connect."""

from __future__ import annotations

import importlib.util
import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import field, frozen

from aegis.errors import ConfigurationError

__all__ = ["DEFAULT_SERVER", "NatsOptions"]

DEFAULT_SERVER: Final = "nats://127.0.0.1:4222"

_SCHEMES: Final = ("nats", "tls")
_SEED: Final = re.compile(rb"SU[A-Z2-7]{56}")


def _servers(value: str | Sequence[str]) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(part.strip() for part in parts if part.strip())


def _path(value: str | Path | None) -> Path | None:
    return None if value is None or value == "" else Path(value).expanduser()


@frozen
class NatsOptions:
    """Where the servers are and who we are.

    Give the file ``creds`` (a JWT with its seed, or the bare seed of an nkey), or ``user``
    with ``password``, or neither. Any of the
    ``tls_`` files, or a ``tls://`` URL, makes TLS a must: credentials never leave in
    the clear. Durations are seconds; ``connect_timeout`` bounds the first connect as a
    whole, later ones go on without end.
    """

    servers: tuple[str, ...] = field(default=(DEFAULT_SERVER,), converter=_servers)
    name: str = "aegis"
    creds: Path | None = field(default=None, converter=_path)
    user: str = ""
    password: str = field(default="", repr=False)
    tls_ca: Path | None = field(default=None, converter=_path)
    tls_cert: Path | None = field(default=None, converter=_path)
    tls_key: Path | None = field(default=None, converter=_path)
    tls_hostname: str = ""
    inbox_prefix: str = "_INBOX"
    connect_timeout: float = 5.0
    ping_interval: float = 1.0
    max_outstanding_pings: int = 2
    reconnect_wait: float = 0.1

    @property
    def require_tls(self) -> bool:
        """Whether a connection without TLS is refused."""
        return (
            self.tls_ca is not None
            or self.tls_cert is not None
            or any(server.startswith("tls://") for server in self.servers)
        )

    @property
    def shown_servers(self) -> str:
        """The URLs without what is secret in them."""
        return ", ".join(_without_secrets(server) for server in self.servers)

    def connect_arguments(self) -> dict[str, Any]:
        """Return the arguments for nats-py's ``connect``.

        Raises:
            ConfigurationError: an option is wrong; the message names it.
        """
        arguments: dict[str, Any] = {
            "servers": [_checked_server(server) for server in self.servers],
            "name": self.name,
            "inbox_prefix": self.inbox_prefix,
            "allow_reconnect": True,
            # Without end: nats-py would give up after 60 attempts.
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": self.reconnect_wait,
            # A server that is frozen answers no PING; nats-py's own 120 s are too long.
            "ping_interval": self.ping_interval,
            "max_outstanding_pings": self.max_outstanding_pings,
            # Nothing is kept to be sent after a reconnect.
            "pending_size": 0,
            "connect_timeout": min(2.0, self.connect_timeout),
        }
        if not self.servers:
            raise ConfigurationError("nats: no server is named; give a URL like nats://host:4222")
        if self.creds is not None:
            if self.user:
                raise ConfigurationError("creds and user exclude each other; give one of them")
            arguments[_creds_kind(self.creds)] = str(self.creds)
        if bool(self.user) != bool(self.password):
            missing = "password" if self.user else "user"
            raise ConfigurationError(f"{missing}: is missing; user and password go together")
        if self.user:
            arguments["user"] = self.user
            arguments["password"] = self.password
        context = self._ssl_context()
        if context is not None:
            arguments["tls"] = context
        if self.tls_hostname:
            arguments["tls_hostname"] = self.tls_hostname
        return arguments

    def _ssl_context(self) -> ssl.SSLContext | None:
        if bool(self.tls_cert) != bool(self.tls_key):
            missing = "tls_key" if self.tls_cert else "tls_cert"
            raise ConfigurationError(f"{missing}: is missing; certificate and key go together")
        if not self.require_tls:
            return None
        if self.tls_ca is not None:
            _readable("tls_ca", self.tls_ca)
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
        except (ssl.SSLError, OSError) as error:
            raise ConfigurationError(f"tls_ca: {self.tls_ca} holds no certificate") from error
        if self.tls_cert is not None and self.tls_key is not None:
            _readable("tls_cert", self.tls_cert)
            _readable("tls_key", self.tls_key)
            try:
                context.load_cert_chain(self.tls_cert, self.tls_key)
            except (ssl.SSLError, OSError) as error:
                raise ConfigurationError(
                    f"tls_cert: {self.tls_cert} and {self.tls_key} are no certificate and its key"
                ) from error
        return context


def _checked_server(server: str) -> str:
    url = server if "://" in server else f"nats://{server}"
    try:
        parts = urlsplit(url)
        good = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigurationError(
            f"nats: {_without_secrets(server)!r} is no server URL; give one like nats://host:4222"
        )
    return url


def _without_secrets(server: str) -> str:
    scheme, separator, rest = server.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _readable(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{option}: cannot read {path}: {error.strerror}") from error


def _creds_kind(path: Path) -> str:
    """Return which argument of nats-py takes the file: a user's JWT and seed, or a seed."""
    text = _readable("creds", path)
    is_seed = _SEED.fullmatch(text.strip()) is not None
    if not is_seed and not (b"BEGIN NATS USER JWT" in text and b"BEGIN USER NKEY SEED" in text):
        raise ConfigurationError(
            f"creds: {path} is no NATS credentials file, and no seed of a user's nkey"
        )
    if importlib.util.find_spec("nkeys") is None:
        raise ConfigurationError("creds: needs the package nkeys; install nats-py[nkeys]")
    return "nkeys_seed" if is_seed else "user_credentials"
