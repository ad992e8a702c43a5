"""What a command sends, made into a message for a mailbox: by resources and by instances."""

from __future__ import annotations

from typing import Any

from aegis._clock import Clock
from aegis._trace import outgoing_traceparent
from aegis.actors._journal import RESERVED_BYTES
from aegis.contracts import Kind, Mail, ReplyTo, Request, check_id
from aegis.errors import InvalidRequest, TooLarge
from aegis.transport._base import Transport
from aegis.transport._codec import encode_mail

__all__ = ["check_address", "make_mail"]


def check_address(service: str, resource: str) -> None:
    """Return if these are legal names.

    Raises:
        InvalidRequest: one is not; the error names the field.
    """
    for field, value in (("service", service), ("resource_id", resource)):
        problem = check_id(value)
        if problem is not None:
            raise InvalidRequest(f"{field}: {problem}", field=field)


def make_mail(
    transport: Transport,
    clock: Clock,
    *,
    session: str,
    n: int,
    service: str,
    resource: str,
    method: str,
    params: dict[str, Any],
    reply_to: ReplyTo | None = None,
) -> tuple[str, bytes]:
    """Return the id and the bytes of the message ``n`` of ``session`` to a resource.

    Raises:
        InvalidRequest: a parameter cannot be sent.
        TooLarge: it does not fit a message.
    """
    request = Request(
        Kind.COMMAND,
        session,
        n,
        n,  # All before it stand earlier in the mailbox.
        service,
        resource,
        method,
        params,
        0,
        clock.wall_ms(),
        1,
        outgoing_traceparent(),
    )
    payload = encode_mail(Mail(request, reply_to))
    limit = transport.max_payload_bytes - RESERVED_BYTES
    if len(payload) > limit:
        raise TooLarge(
            f"the message to {service}/{resource} has {len(payload)} bytes; the limit is {limit}",
            size_bytes=len(payload),
            limit_bytes=limit,
        )
    return request.message_id, payload
