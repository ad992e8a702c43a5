"""Patience with a server that goes away while something starts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from aegis.errors import Disconnected, NoResponders, Unavailable
from aegis.transport._base import MessageHandler, Subscription, Transport

__all__ = ["SERVER_WAIT", "insist", "subscribe_patiently"]

_log = structlog.get_logger("aegis.transport")

SERVER_WAIT: Final = 30.0
"""Seconds without a server after which a step of a start is given up. A server that is
started anew is there within one or two, and three that elect a leader within ten."""

LOOK_SECONDS: Final = 0.05
"""Between two looks whether a server is there again."""


async def insist[T](
    transport: Transport, step: Callable[[], Awaitable[T]], what: str, *, wait: float = SERVER_WAIT
) -> T:
    """Do ``step``, and again each time that the connection is lost under it.

    It must be one that may be repeated.

    Raises:
        Unavailable: there was no server for ``wait`` seconds; says ``what`` needs one.
    """
    loop = asyncio.get_running_loop()
    give_up = loop.time() + wait
    told = False
    while True:
        try:
            return await step()
        except (Disconnected, NoResponders) as error:
            if loop.time() >= give_up:
                raise Unavailable(
                    f"{what}: no server answered within {wait:g} s ({error}); start the "
                    "server, or name another, and start this again"
                ) from error
            if not told:
                told = True
                _log.warning("server_awaited", what=what, reason=str(error))
        await asyncio.sleep(LOOK_SECONDS)
        while not transport.connected and loop.time() < give_up:  # noqa: ASYNC110 - see above
            await asyncio.sleep(LOOK_SECONDS)


async def subscribe_patiently(
    transport: Transport, subject: str, handler: MessageHandler, *, queue: str = ""
) -> Subscription:
    """Subscribe as `Transport.subscribe` does, and wait for a server where there is none.

    Raises:
        ConfigurationError: the server denies this user the subject.
        Unavailable: there was no server for `SERVER_WAIT` seconds.
    """
    return await insist(
        transport,
        lambda: transport.subscribe(subject, handler, queue=queue),
        f"the subscription to {subject}",
    )
