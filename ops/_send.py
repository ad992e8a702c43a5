"""``aegis send``: one durable message, by address."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from attrs import evolve

from aegis._cluster import connect
from aegis._config import ConnectOptions
from aegis._proxy import Address
from aegis._trace import outgoing_traceparent, use_trace
from aegis.contracts import Receipt
from aegis.errors import ConfigurationError, InvalidRequest
from aegis.ops._options import CommandContext
from aegis.ops._session import CONNECT_TIMEOUT
from aegis.ops._trace_export import tracing
from aegis.ops._values import parse_arguments

__all__ = ["send"]


def send(
    context: CommandContext, address: str, method: str, arguments: Sequence[str], wait: bool
) -> None:
    """Send a command, and print its receipt; or, with ``wait``, its result."""
    options = context.connect()
    target = _resource(address)
    params = parse_arguments(arguments)
    if not method:
        raise ConfigurationError("the method has no name; write one, as in deposit")
    receipt, result = asyncio.run(_send(options, target, method, params, wait))
    if wait:
        context.output.value(result)
    elif context.output.json:
        context.output.document(
            {
                "message_id": receipt.message_id,
                "service_name": receipt.service,
                "resource_id": receipt.resource_id,
                "sequence": receipt.sequence,
            }
        )
    else:
        context.output.line(f"{receipt.message_id} waits at {receipt.sequence}")


def _resource(text: str) -> Address:
    hint = "write service/resource, as in account/ACC-1"
    try:
        address = Address.parse(text)
    except InvalidRequest as error:
        raise ConfigurationError(f"{error}; {hint}") from error
    if address.resource_id is None:
        raise ConfigurationError(f"{text!r}: a durable message goes to a resource; {hint}")
    return address


async def _send(
    options: ConnectOptions, address: Address, method: str, params: dict[str, Any], wait: bool
) -> tuple[Receipt, Any]:
    soon = evolve(options, timeout=min(options.timeout, CONNECT_TIMEOUT))
    with tracing(), use_trace(outgoing_traceparent()):
        async with connect(options=soon) as cluster:
            receipt = await cluster.send(
                address.service,
                method,
                params,
                resource_id=address.resource_id,
                timeout=options.timeout,
            )
            result = await cluster.result(receipt, timeout=options.timeout) if wait else None
            return receipt, result
