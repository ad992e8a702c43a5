"""``aegis call``: one command or query, by address."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import structlog
from attrs import evolve

from aegis._cluster import connect
from aegis._config import ConnectOptions
from aegis._inspect import Inspector
from aegis._proxy import Address
from aegis._trace import outgoing_traceparent, use_trace
from aegis.contracts import OK
from aegis.errors import AegisError, ConfigurationError, InvalidRequest, NotFound, Unavailable
from aegis.ops._options import CommandContext
from aegis.ops._routes import MAX_NEAR
from aegis.ops._session import CONNECT_TIMEOUT, inspect, near
from aegis.ops._trace_export import tracing
from aegis.ops._values import parse_arguments

__all__ = ["call"]

_log = structlog.get_logger("aegis.cli")


def call(context: CommandContext, address: str, method: str, arguments: Sequence[str]) -> None:
    """Call a handler and print its result."""
    options = context.connect()
    target = _address(address)
    params = parse_arguments(arguments)
    if not method:
        raise ConfigurationError("the method has no name; write one, as in deposit")
    reached: list[Address] = []
    try:
        result = asyncio.run(_call(options, target, method, params, reached))
    except (NotFound, Unavailable) as error:
        if not reached:
            raise  # There is no server, and asking it again would take as long.
        raise _near(options, target, error) from error
    context.output.value(result)


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except InvalidRequest as error:
        raise ConfigurationError(
            f"{error}; write service, service@instance or service/resource"
        ) from error


def _near(options: ConnectOptions, address: Address, error: AegisError) -> AegisError:
    """Return ``error`` with names like that of the service, instance or resource, or why
    nobody answers.

    One that is about the method names the others already.
    """

    async def names(inspector: Inspector) -> tuple[str, list[str]]:
        services = await inspector.services()
        found = {entry["service_name"]: entry["instances"] for entry in services}
        if address.service not in found:
            return address.service, [*found, *await _resources_named(inspector, address)]
        if address.instance_id is not None:
            return address.instance_id, [i["instance_id"] for i in found[address.service]]
        if address.resource_id is not None:
            resources = await inspector.resources(address.service, limit=MAX_NEAR)
            return address.resource_id, [one["resource_id"] for one in resources]
        return "", []

    try:
        word, known = inspect(options, names)
    except AegisError as told:
        # Whoever looks at the whole system says best why nobody answers.
        silent = isinstance(error, Unavailable) and isinstance(told, Unavailable)
        return told if silent else error
    if word in known or (isinstance(error, Unavailable) and address.instance_id is None):
        return error
    whole = [name for name in known if word == address.service and name.endswith(f"/{word}")]
    if whole:
        return NotFound(f"{error}; a resource stands behind its service: {whole[0]}", near=whole)
    if not isinstance(error, NotFound):
        error = NotFound(f"no instance {word!r}", instance_id=word)
    return near(error, word, known)


async def _resources_named(inspector: Inspector, address: Address) -> list[str]:
    """Return the addresses of resources whose bare id was given as a service."""
    if address.resource_id is not None or address.instance_id is not None:
        return []
    resources = await inspector.resources(limit=MAX_NEAR)
    return [
        f"{one['service_name']}/{one['resource_id']}"
        for one in resources
        if one["resource_id"] == address.service
    ]


async def _call(
    options: ConnectOptions,
    address: Address,
    method: str,
    params: dict[str, Any],
    reached: list[Address],
) -> Any:
    """Call; ``reached`` is told once there is a server."""
    soon = evolve(options, timeout=min(options.timeout, CONNECT_TIMEOUT))
    with tracing(), use_trace(outgoing_traceparent()):
        async with connect(options=soon) as cluster:
            reached.append(address)
            began = time.perf_counter()
            status = OK
            try:
                return await cluster.call(
                    address.service,
                    method,
                    params,
                    resource_id=address.resource_id,
                    instance_id=address.instance_id,
                    timeout=options.timeout,
                )
            except AegisError as error:
                status = error.code
                raise
            finally:
                _log.info(
                    "called",
                    service_name=address.service,
                    instance_id=address.instance_id,
                    resource_id=address.resource_id,
                    operation=method,
                    status=status,
                    duration_ms=round((time.perf_counter() - began) * 1000, 3),
                )
