"""``aegis call``: one command or query, by address."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from attrs import evolve

from aegis._cluster import connect
from aegis._config import ConnectOptions
from aegis._proxy import Address
from aegis._trace import new_traceparent, use_trace
from aegis.errors import ConfigurationError, InvalidRequest
from aegis.ops._options import CommandContext
from aegis.ops._session import CONNECT_TIMEOUT
from aegis.ops._values import parse_arguments

__all__ = ["call"]


def call(context: CommandContext, address: str, method: str, arguments: Sequence[str]) -> None:
    """Call a handler and print its result."""
    options = context.connect()
    target = _address(address)
    params = parse_arguments(arguments)
    if not method:
        raise ConfigurationError("the method has no name; write one, as in deposit")
    result = asyncio.run(_call(options, target, method, params))
    context.output.value(result)


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except InvalidRequest as error:
        raise ConfigurationError(
            f"{error}; write service, service@instance or service/resource"
        ) from error


async def _call(
    options: ConnectOptions, address: Address, method: str, params: dict[str, Any]
) -> Any:
    soon = evolve(options, timeout=min(options.timeout, CONNECT_TIMEOUT))
    with use_trace(new_traceparent()):
        async with connect(options=soon) as cluster:
            return await cluster.call(
                address.service,
                method,
                params,
                resource_id=address.resource_id,
                instance_id=address.instance_id,
                timeout=options.timeout,
            )
