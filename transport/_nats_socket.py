"""The bytes of one NATS connection: read without tasks, written once per iteration.

nats-py reads through a stream, a task and a chain of regular expressions, and puts
every message through a queue and a task more. Here the parser runs inside the
protocol's ``data_received`` and calls the handler of the subscription directly; all
that one iteration of the loop writes leaves in one call. Only messages are taken out:
every other line of the protocol (INFO, PING, PONG, errors) goes to nats-py as it came.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import ParseResult

import structlog
from nats.aio.transport import Transport as NatsPyTransport
from nats.errors import ProtocolError as NatsProtocolError

__all__ = ["NatsSocket", "RawHandler"]

type RawHandler = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes subject, reply subject, header block (empty if none) and payload."""

MAX_LINE_BYTES: Final = 1024 * 1024
"""The longest control line; INFO lists all servers of a cluster in one."""

WRITE_HIGH_WATER_BYTES: Final = 1024 * 1024

_CRLF: Final = b"\r\n"

_log = structlog.get_logger("aegis.transport")


class _Connection(asyncio.Protocol):
    """One TCP connection, from its start to its loss; never used again."""

    def __init__(
        self,
        handlers: dict[bytes, RawHandler],
        on_lost: Callable[[], None],
        on_error: Callable[[bytes], None],
    ) -> None:
        self._handlers = handlers
        self._on_lost = on_lost
        self._on_error = on_error
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.lost = False
        self.streaming = False
        self.out: list[bytes] = []
        self.paused = False
        """Whether the socket takes no more for now."""
        self._broken = False
        self._error: Exception | None = None
        # What was received and is not parsed yet, and how much is needed to go on.
        self._rest: list[bytes] = []
        self._rest_size = 0
        self._needed = 0
        # Control lines for nats-py.
        self._control: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._drain_waiters: list[asyncio.Future[None]] = []

    # -- called by the loop -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.use(transport)

    def use(self, transport: Any) -> None:
        """Take ``transport``, the first one or the one that speaks TLS over it."""
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        self._rest.append(data)
        self._rest_size += len(data)
        if self.streaming:
            if self._rest_size >= self._needed:
                self._parse()
        else:
            self._wake()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._error = exc
        self._die()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._release()

    # -- reading ----------------------------------------------------------------------

    async def readline(self) -> bytes:
        """Return the next line of the handshake.

        Raises:
            SSLError: the other side refused what TLS told of this one.
            ConnectionResetError: it closed the connection, or its line has no end. nats-py
                would take the empty line that stands for it elsewhere for a login.
        """
        while True:
            data = self._take()
            head, newline, tail = data.partition(b"\n")
            if newline:
                self._put_back(tail)
                return head + newline
            if self.lost and isinstance(self._error, ssl.SSLError):
                raise self._error
            if self.lost or len(data) > MAX_LINE_BYTES:
                raise ConnectionResetError("the server closed the connection during the login")
            self._put_back(data)
            await self._wait()

    async def read_control(self) -> bytes:
        """Return control lines, empty at the end of the stream; messages are handled."""
        if not self.streaming:
            self.streaming = True
            self._parse()
        while not self._control:
            if self._broken:
                raise NatsProtocolError
            if self.lost:
                return b""
            await self._wait()
        lines = b"".join(self._control)
        self._control.clear()
        return lines

    def at_eof(self) -> bool:
        return self.lost and not self._control

    def _take(self) -> bytes:
        data = self._rest[0] if len(self._rest) == 1 else b"".join(self._rest)
        self._rest.clear()
        self._rest_size = 0
        return data

    def _put_back(self, data: bytes) -> None:
        if data:
            self._rest.insert(0, data)
            self._rest_size += len(data)

    def _parse(self) -> None:
        data = self._take()
        handlers = self._handlers
        position = 0
        end = len(data)
        self._needed = 0
        while position < end and not self.lost:
            line_end = data.find(_CRLF, position)
            if line_end < 0:
                if end - position > MAX_LINE_BYTES:
                    self._break("a line of the protocol has no end")
                    return
                break
            if data.startswith(b"MSG ", position):
                words = data[position + 4 : line_end].split()
                headers_size = 0
            elif data.startswith(b"HMSG ", position):
                words = data[position + 5 : line_end].split()
                try:
                    headers_size = int(words.pop(-2))
                except (ValueError, IndexError):
                    self._break("a message line is malformed")
                    return
            else:
                line = data[position : line_end + 2]
                if line.startswith(b"-"):  # "-ERR"; nats-py would make it lower case.
                    self._on_error(line)
                self._control.append(line)
                self._wake()
                position = line_end + 2
                continue
            try:
                if len(words) == 3:
                    subject, sid, size = words
                    reply = b""
                else:
                    subject, sid, reply, size = words
                start = line_end + 2
                stop = start + int(size)
            except ValueError:
                self._break("a message line is malformed")
                return
            if stop + 2 > end:
                self._needed = stop + 2 - position
                break
            position = stop + 2
            handler = handlers.get(sid)
            if handler is None:
                continue
            try:
                if headers_size:
                    body = start + headers_size
                    handler(subject, reply, data[start:body], data[body:stop])
                else:
                    handler(subject, reply, b"", data[start:stop])
            except Exception:
                _log.exception("message handler failed", subject=subject.decode("utf-8", "replace"))
        if position < end:
            self._put_back(data[position:] if position else data)

    def _break(self, reason: str) -> None:
        _log.error("the server's bytes are no NATS protocol", reason=reason)
        self._broken = True
        self._wake()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- writing ----------------------------------------------------------------------

    def push(self, *pieces: bytes) -> None:
        """Write ``pieces`` at the end of this iteration of the loop."""
        if self.lost:
            return
        if not self.out:
            self._loop.call_soon(self.send)
        self.out += pieces

    def send(self) -> None:
        """Write what was pushed so far."""
        if self.out and self.transport is not None and not self.lost:
            data = b"".join(self.out)
            self.out.clear()
            self.transport.write(data)

    def unsent_bytes(self) -> int:
        """Return how much the socket has not taken yet; 0 below the high water mark."""
        if not self.paused or self.transport is None:
            return 0
        return self.transport.get_write_buffer_size()

    async def drain(self) -> None:
        self.send()
        if self.lost:
            raise ConnectionResetError("the connection was lost")
        if self.paused:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._drain_waiters.append(waiter)
            await waiter
            if self.lost:
                raise ConnectionResetError("the connection was lost")

    def _release(self) -> None:
        for waiter in self._drain_waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._drain_waiters.clear()

    # -- the end ----------------------------------------------------------------------

    def abort(self) -> None:
        """Close at once; what the socket has not taken is dropped.

        A frozen server takes nothing: an orderly close would wait for it for ever.
        """
        self.send()
        if self.transport is not None:
            self.transport.abort()
        self._die()

    def _die(self) -> None:
        if self.lost:
            return
        self.lost = True
        self.out.clear()
        self._wake()
        self._release()
        if self.streaming:
            self._on_lost()


class NatsSocket(NatsPyTransport):
    """nats-py's idea of a transport, over one `_Connection` at a time."""

    def __init__(
        self, on_lost: Callable[[], None], on_error: Callable[[bytes], None] = lambda line: None
    ) -> None:
        self.handlers: dict[bytes, RawHandler] = {}
        self._on_lost = on_lost
        self._on_error = on_error
        self._connection: _Connection | None = None
        self._shut = False
        self.secure = False

    @property
    def connection(self) -> _Connection:
        """The connection there is, or was last.

        Raises:
            ConnectionResetError: there never was one.
        """
        if self._connection is None:
            raise ConnectionResetError("there is no connection")
        return self._connection

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """Open a TCP connection; one that is left over from before is closed."""
        self.close()
        if self._shut:
            raise ConnectionResetError("the client is closed")
        self.secure = False
        if uri.hostname is None or uri.port is None:
            raise OSError("the server's URL names no host and port")
        host, port = uri.hostname, uri.port
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(connect_timeout):
            _, self._connection = await loop.create_connection(
                lambda: _Connection(self.handlers, self._on_lost, self._on_error), host, port
            )

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: int,
    ) -> None:
        """Speak TLS from here on."""
        connection = self.connection
        assert connection.transport is not None
        loop = asyncio.get_running_loop()
        hostname = uri if isinstance(uri, str) else uri.hostname
        async with asyncio.timeout(connect_timeout):
            upgraded = await loop.start_tls(
                connection.transport, connection, ssl_context, server_hostname=hostname
            )
        if upgraded is None:
            raise ConnectionResetError("the connection was lost during the TLS handshake")
        connection.use(upgraded)
        self.secure = True

    def write(self, payload: bytes) -> None:
        """Write ``payload`` behind what was written before."""
        self.connection.push(payload)

    def writelines(self, payload: list[bytes]) -> None:
        """Write all of ``payload``."""
        self.connection.push(*payload)

    async def read(self, buffer_size: int) -> bytes:
        """Return control lines for nats-py; messages have gone to their handlers."""
        return await self.connection.read_control()

    async def readline(self) -> bytes:
        """Return the next line of the handshake."""
        return await self.connection.readline()

    async def drain(self) -> None:
        """Hand what was written to the operating system."""
        if not self._shut:
            await self.connection.drain()

    def shut(self) -> None:
        """Close for good; nats-py's own close then waits for nothing."""
        self._shut = True
        self.close()

    async def wait_closed(self) -> None:
        """Return at once: closing never waits."""

    def close(self) -> None:
        """Close the connection at once."""
        if self._connection is not None:
            self._connection.abort()

    def at_eof(self) -> bool:
        """Whether all was read and nothing more will come."""
        return self._connection is None or self._connection.at_eof()

    def __bool__(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        # nats-py makes a transport of its own if this is false.
        return True
