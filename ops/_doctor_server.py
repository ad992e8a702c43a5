"""What ``aegis doctor`` checks of the server and its stream."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final

from attrs import evolve, frozen

from aegis._clock import SystemClock
from aegis._config import ConnectOptions
from aegis._subjects import Subjects
from aegis.errors import AegisError
from aegis.ops._doctor_host import FAIL, OK, WARN, Check
from aegis.transport._base import StreamConfig
from aegis.transport._discovery import find_server
from aegis.transport._jetstream import STREAM_NOT_FOUND, ApiError, stream_differences
from aegis.transport._nats import NatsTransport, connect_nats
from aegis.transport._nats_options import NatsOptions
from aegis.transport._server_binary import MIN_SERVER_VERSION, is_supported_version

__all__ = ["SENDS_STOP", "clock_check", "server", "system_options"]

REQUEST_TIMEOUT: Final = 2.0
PAYLOAD_WANTED_BYTES: Final = 1024 * 1024
"""A state of one resource must fit into one message."""

SENDS_STOP: Final = 0.8
"""Share of ``max_bytes`` at which sends are refused."""

FILLED_WARN: Final = 0.6

CLOCK_SHOWN_SECONDS: Final = 0.05
"""Less than this is the time that asking takes."""

CLOCK_WARN_SECONDS: Final = 1.0
CLOCK_FAIL_SECONDS: Final = 300.0
"""Half of what a service group accepts between a caller's clock and its own."""


@frozen
class _System:
    """What the system account tells of the server."""

    sync_always: bool
    sync_interval: str
    offset_seconds: float


async def server(
    transport: NatsTransport, options: ConnectOptions, subjects: Subjects
) -> AsyncIterator[Check]:
    """Check the server that ``transport`` is connected to."""
    info = transport.server_info
    yield _version(info)
    yield _payload(transport)
    system: _System | None = None
    try:
        system = await _ask_system(transport, options)
    except (AegisError, TimeoutError, KeyError, ValueError) as error:
        yield Check(
            "system account",
            FAIL,
            f"cannot be used: {str(error) or type(error).__name__}",
            "correct --system-user and --system-password, or --system-creds",
        )
    else:
        yield _system_account(system)
    yield _sync(system, await _local_sync(options))
    if not info.get("jetstream"):
        yield Check("jetstream", FAIL, "is off", "start the server with -js, or a jetstream block")
        return
    async for check in _stream(transport, subjects, system):
        yield check


def _version(info: dict[str, Any]) -> Check:
    version = str(info.get("version") or "of an unknown version")
    if is_supported_version(version):
        return Check("server version", OK, version)
    wanted = ".".join(map(str, MIN_SERVER_VERSION))
    return Check("server version", FAIL, version, f"run nats-server {wanted} or newer")


def _payload(transport: NatsTransport) -> Check:
    size = transport.max_payload_bytes
    found = f"{size // 1024} KiB"
    if size >= PAYLOAD_WANTED_BYTES:
        return Check("max_payload", OK, found)
    return Check("max_payload", WARN, found, "set max_payload to 8MB; it bounds a state's size")


# -- the system account ---------------------------------------------------------------


async def system_options(options: ConnectOptions) -> NatsOptions | None:
    """Return how to reach the system account, or None if nobody told."""
    name = f"aegis-doctor-{secrets.token_hex(4)}"
    if options.nats:
        if options.system_user is None and options.system_creds is None:
            return None
        return NatsOptions(
            servers=options.nats,
            name=name,
            creds=options.system_creds,
            user=options.system_user or "",
            password=options.system_password or "",
            tls_ca=options.tls_ca,
            tls_cert=options.tls_cert,
            tls_key=options.tls_key,
            connect_timeout=min(options.timeout, REQUEST_TIMEOUT),
        )
    found = await find_server(options.data_dir, wait_restart=0.0)
    if found is None:
        return None
    login = found.system_credentials
    return NatsOptions(servers=(found.url,), name=name, user=login.user, password=login.password)


async def _ask_system(transport: NatsTransport, options: ConnectOptions) -> _System | None:
    how = await system_options(options)
    if how is None:
        return None
    system = await connect_nats(how)
    try:
        clock = SystemClock()
        subject = f"$SYS.REQ.SERVER.{transport.server_info['server_id']}.JSZ"
        before = clock.wall_ms()
        message = await system.request(subject, b'{"config": true}', timeout=REQUEST_TIMEOUT)
        after = clock.wall_ms()
        data: dict[str, Any] = json.loads(message.payload)["data"]
        config: dict[str, Any] = data.get("config") or {}
        return _System(
            sync_always=bool(config.get("sync_always")),
            sync_interval=f"{int(config.get('sync_interval') or 0) / 1e9:g} s",
            offset_seconds=_offset(str(data["now"]), before, after),
        )
    finally:
        await system.close()


def _system_account(system: _System | None) -> Check:
    if system is not None:
        return Check("system account", OK, "can be used")
    return Check(
        "system account",
        WARN,
        "is not given: the death of a node is noticed by timeout only",
        "give --system-user and --system-password, or --system-creds",
    )


async def _local_sync(options: ConnectOptions) -> str | None:
    if options.nats:
        return None
    found = await find_server(options.data_dir, wait_restart=0.0)
    return None if found is None else found.sync


def _sync(system: _System | None, local: str | None) -> Check:
    if local is None and system is not None:
        local = "always" if system.sync_always else system.sync_interval
    if local is None:
        return Check(
            "sync", WARN, "cannot be told without the system account", "see that it is always"
        )
    if local == "always":
        return Check("sync", OK, "always: what is acknowledged is on disk")
    return Check(
        "sync",
        WARN,
        f"every {local}: a power cut loses what was acknowledged since",
        "set sync_interval: always in the server's jetstream block, or run with --sync always",
    )


# -- the stream -----------------------------------------------------------------------


async def _stream(
    transport: NatsTransport, subjects: Subjects, system: _System | None
) -> AsyncIterator[Check]:
    clock = SystemClock()
    before = clock.wall_ms()
    try:
        info = await transport.api(f"STREAM.INFO.{subjects.stream}")
    except ApiError as error:
        if error.error_code == STREAM_NOT_FOUND:
            yield Check("jetstream", OK, "is on")
            advice = "nothing: the first `aegis run` makes it"
            yield Check("stream", OK, f"{subjects.stream} is not there yet", advice)
            if system is not None:
                yield clock_check("clock", "the server", system.offset_seconds)
        else:
            yield Check("jetstream", FAIL, str(error), "see the server's log")
        return
    except (AegisError, TimeoutError) as error:
        found = str(error) or "does not answer in time"
        yield Check("jetstream", FAIL, found, "enable JetStream for this account")
        return
    after = clock.wall_ms()
    yield Check("jetstream", OK, "is on")
    config: dict[str, Any] = info["config"]
    for check in _settings(subjects, config):
        yield check
    yield _filled(config, info["state"])
    yield _replicas(config, info.get("cluster") or {}, transport.server_info)
    with contextlib.suppress(KeyError, ValueError):
        yield clock_check("clock", "the server", _offset(str(info["ts"]), before, after))


def _settings(subjects: Subjects, config: dict[str, Any]) -> list[Check]:
    wanted = StreamConfig(
        subjects.stream, subjects.durable, replicas=int(config.get("num_replicas") or 1)
    )
    max_bytes = int(config.get("max_bytes") or 0)
    checks: list[Check] = []
    if max_bytes > 0:
        wanted = evolve(wanted, max_bytes=max_bytes)
    for difference in stream_differences(config, wanted):
        advice = "set it back with the tools of NATS; no node starts on a stream that differs"
        checks.append(Check("stream", FAIL, f"{subjects.stream}: {difference}", advice))
    return checks or [Check("stream", OK, f"{subjects.stream} is set up as it must be")]


def _filled(config: dict[str, Any], state: dict[str, Any]) -> Check:
    used, limit = int(state.get("bytes") or 0), int(config.get("max_bytes") or 0)
    if limit <= 0:
        advice = "set max_bytes: a full disk hangs every append"
        return Check("max_bytes", FAIL, "is not set", advice)
    share = used / limit
    found = f"{share:.0%} of {limit / 1024**3:.1f} GiB used"
    if share >= SENDS_STOP:
        return Check("max_bytes", FAIL, f"{found}: sends are refused", "raise max_bytes")
    if share >= FILLED_WARN:
        advice = f"raise max_bytes before {SENDS_STOP:.0%}, where sends are refused"
        return Check("max_bytes", WARN, found, advice)
    return Check("max_bytes", OK, found)


def _replicas(config: dict[str, Any], cluster: dict[str, Any], info: dict[str, Any]) -> Check:
    count = int(config.get("num_replicas") or 1)
    replicas: list[dict[str, Any]] = cluster.get("replicas") or []
    lagging = [
        str(replica.get("name"))
        for replica in replicas
        if replica.get("offline") or not replica.get("current")
    ]
    if lagging:
        found = f"{count}, of which {', '.join(lagging)} cannot be reached or trail behind"
        return Check("replicas", FAIL, found, "see that all NATS servers run and reach each other")
    if count == 1 and info.get("cluster"):
        advice = (
            f"`nats stream update {config.get('name')} --replicas 3`, and run the nodes with "
            "--replicas 3: the cluster then outlives a server"
        )
        return Check("replicas", WARN, "1, on a cluster of servers", advice)
    return Check("replicas", OK, str(count))


# -- clocks ---------------------------------------------------------------------------


def clock_check(name: str, whose: str, offset_seconds: float) -> Check:
    """Judge by how much another clock is ahead of this host's."""
    size = abs(offset_seconds)
    if size < CLOCK_SHOWN_SECONDS:
        return Check(name, OK, f"agrees with {whose}")
    direction = "behind" if offset_seconds > 0 else "ahead of"
    found = f"{size:.2f} s {direction} {whose}"
    advice = "let NTP keep the clocks of all hosts; commands to service groups depend on them"
    if size >= CLOCK_FAIL_SECONDS:
        return Check(name, FAIL, found, advice)
    if size >= CLOCK_WARN_SECONDS:
        return Check(name, WARN, found, advice)
    return Check(name, OK, found)


def _offset(theirs: str, before_ms: int, after_ms: int) -> float:
    """Return how far the clock that said ``theirs`` is ahead, in seconds."""
    head, dot, fraction = theirs.rstrip("Z").partition(".")
    moment = datetime.fromisoformat(f"{head}{dot}{fraction[:6]}+00:00")
    return moment.timestamp() - (before_ms + after_ms) / 2000
