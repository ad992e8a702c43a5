"""``aegis dead-letters``: what could not be processed, and what to do with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from attrs import evolve

from aegis._cluster import connect
from aegis._dead_letter_office import DeadLetterOffice
from aegis.actors._dead_letters import DeadLetter
from aegis.errors import ProtocolError
from aegis.ops._options import CommandContext
from aegis.ops._output import Item
from aegis.ops._session import CONNECT_TIMEOUT
from aegis.transport._codec import decode_mail

__all__ = ["drop", "list_all", "replay", "show"]


def list_all(context: CommandContext, address: str) -> None:
    """Print the dead letters to ``address``, or all."""
    letters = _with_office(context, lambda office: office.all(address))
    if context.output.json:
        context.output.document([_facts(letter) for letter in letters])
        return
    if not letters:
        context.output.line("no dead letters")
        return
    items = [
        Item(
            (
                str(letter.sequence),
                f"{letter.service}/{letter.resource_id}",
                letter.method or "?",
                _time(letter.died_ms),
            ),
            letter.reason,
        )
        for letter in letters
    ]
    context.output.listing(("id", "to", "method", "died"), items)


def show(context: CommandContext, sequence: int) -> None:
    """Print all that is known of one."""
    letter = _with_office(context, lambda office: office.get(sequence))
    facts = _facts(letter)
    if context.output.json:
        context.output.document(facts)
        return
    for name, value in facts.items():
        context.output.line(f"{name}: {value}")


def replay(context: CommandContext, sequence: int, force: bool) -> None:
    """Send one again, and drop it."""
    timeout = context.connect().timeout
    receipt = _with_office(
        context, lambda office: office.replay(sequence, force=force, timeout=timeout)
    )
    if context.output.json:
        context.output.document(
            {"message_id": receipt.message_id, "sequence": receipt.sequence, "replayed": sequence}
        )
    else:
        context.output.line(f"{sequence} was sent again; it waits at {receipt.sequence}")


def drop(context: CommandContext, sequence: int) -> None:
    """Delete one for good."""
    letter = _with_office(context, lambda office: office.drop(sequence))
    if context.output.json:
        context.output.document({"dropped": sequence, "message_id": letter.message_id})
    else:
        context.output.line(f"{sequence} is dropped")


def _with_office[T](context: CommandContext, work: Callable[[DeadLetterOffice], Awaitable[T]]) -> T:
    options = context.connect()

    async def run() -> T:
        soon = evolve(options, timeout=min(options.timeout, CONNECT_TIMEOUT))
        async with connect(options=soon) as cluster:
            return await work(DeadLetterOffice(cluster.transport, cluster.subjects, cluster.sender))

    return asyncio.run(run())


def _facts(letter: DeadLetter) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "sequence": letter.sequence,
        "service_name": letter.service,
        "resource_id": letter.resource_id,
        "method": letter.method,
        "message_id": letter.message_id,
        "reason": letter.reason,
        "tries": letter.tries,
        "uncertain": letter.uncertain,
        "died": _time(letter.died_ms),
        "trace": letter.trace,
        "size_bytes": len(letter.payload),
    }
    try:
        mail = decode_mail(letter.payload)
    except ProtocolError:
        facts["payload"] = letter.payload
    else:
        facts["params"] = mail.request.params
        if mail.reply_to is not None:
            facts["reply_to"] = "/".join(mail.reply_to)
    return facts


def _time(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds")
