"""Opening the connection to the system: the host's own server, or those of a URL."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import structlog
from attrs import evolve

from aegis._config import ConnectOptions
from aegis.errors import AegisError, Unavailable
from aegis.transport._discovery import find_server
from aegis.transport._nats import NatsTransport, connect_nats
from aegis.transport._nats_options import NatsOptions
from aegis.transport._server import EmbeddedServer, ServerOptions, ensure_server

__all__ = ["Connection", "open_connection"]

_log = structlog.get_logger("aegis.connection")


class Connection:
    """A transport, and this process's use of the host's own server if it keeps one."""

    def __init__(
        self,
        transport: NatsTransport,
        server: EmbeddedServer | None,
        url: str,
        system: NatsOptions | None = None,
    ) -> None:
        self.transport = transport
        self._system = system
        self.server = server
        self.url = url
        """Where the server is, without passwords."""
        self.given_up: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when the host's own server cannot be kept running, and then says why."""
        self._watch: asyncio.Task[None] | None = None
        if server is not None:
            self._watch = asyncio.get_running_loop().create_task(self._keep(server))

    async def open_system(self, name: str) -> NatsTransport | None:
        """Connect to the system account, which tells of connections that end.

        Returns None if there is none to use: everything works without, only later.

        Raises:
            ConfigurationError: the options name an account that the server refuses.
        """
        if self._system is None:
            return None
        try:
            return await connect_nats(evolve(self._system, name=name))
        except Unavailable as error:
            _log.warning(
                "system_account_unavailable",
                error=str(error),
                action="the death of a node is found out by its silence alone",
            )
            return None

    async def close(self) -> None:
        """Close the transport, then end the use of the server."""
        await self.transport.close()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self.server is not None:
            await self.server.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _keep(self, server: EmbeddedServer) -> None:
        try:
            await server.watch()
        except AegisError as error:
            _log.error("server_given_up", error=str(error))
            self.given_up.set_result(str(error))


async def open_connection(
    options: ConnectOptions, *, name: str, start: ServerOptions | None = None
) -> Connection:
    """Connect to the servers of ``options``, or to the host's own.

    With ``start`` the host's own server is started if there is none; without, it must
    run.

    Raises:
        ConfigurationError: an option is wrong, or the server cannot be used.
        Unavailable: there is no server.
    """
    if options.nats:
        nats = NatsOptions(
            servers=options.nats,
            name=name,
            creds=options.creds,
            user=options.user or "",
            password=options.password or "",
            tls_ca=options.tls_ca,
            tls_cert=options.tls_cert,
            tls_key=options.tls_key,
            connect_timeout=options.timeout,
            inbox_prefix=options.inbox,
        )
        system: NatsOptions | None = None
        if options.system_creds is not None or options.system_user:
            system = evolve(
                nats,
                creds=options.system_creds,
                user=options.system_user or "",
                password=options.system_password or "",
                inbox_prefix="_INBOX",
            )
        return Connection(await connect_nats(nats), None, nats.shown_servers, system)
    server: EmbeddedServer | None = None
    if start is not None:
        server = await ensure_server(start)
        url, credentials = server.url, server.credentials
        system_credentials = server.system_credentials
    else:
        found = await find_server(options.data_dir)
        if found is None:
            raise Unavailable(
                "no server runs on this host; start one with `aegis run`, "
                "or name yours with --nats"
            )
        url, credentials = found.url, found.credentials
        system_credentials = found.system_credentials
    nats = NatsOptions(
        servers=(url,), name=name, user=credentials.user, password=credentials.password
    )
    try:
        transport = await connect_nats(nats)
    except BaseException:
        if server is not None:
            await server.stop()
        raise
    system = evolve(nats, user=system_credentials.user, password=system_credentials.password)
    return Connection(transport, server, url, system)
