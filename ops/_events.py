"""``aegis events``: what happens in the system, from now on."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

from attrs import evolve

from aegis._config import ConnectOptions
from aegis._connection import open_connection
from aegis._subjects import Subjects
from aegis.errors import ConnectionClosed, ProtocolError
from aegis.ops._options import CommandContext
from aegis.ops._output import Output, to_json
from aegis.ops._session import CONNECT_TIMEOUT
from aegis.transport._base import Message
from aegis.transport._codec import decode_value

__all__ = ["event_line", "events"]

MAX_WAITING: Final = 10_000
"""Events that wait to be printed; of more the newest are dropped, and that is said."""

_SHOWN_IDS: Final = 3
_WITH_ROLE: Final = frozenset({"registered", "promoted"})
"""Events whose role is what the instance becomes; in others it is how it once began."""


def events(context: CommandContext, count: int | None) -> None:
    """Print events as they come, ``count`` of them or without end."""
    options = context.connect()
    asyncio.run(_follow(options, context.output, count))


async def _follow(options: ConnectOptions, output: Output, count: int | None) -> None:
    soon = evolve(options, timeout=min(options.timeout, CONNECT_TIMEOUT))
    waiting: asyncio.Queue[Message | str] = asyncio.Queue()
    dropped = 0

    def hear(message: Message) -> None:
        nonlocal dropped
        if waiting.qsize() < MAX_WAITING:
            waiting.put_nowait(message)
        else:
            dropped += 1

    name = f"aegis-cli-{secrets.token_hex(4)}"
    async with await open_connection(soon, name=name) as connection:
        connection.given_up.add_done_callback(lambda why: waiting.put_nowait(why.result()))
        subjects = Subjects(options.namespace)
        await connection.transport.subscribe(subjects.event(">"), hear)
        # On stderr, as it is no event: whoever pipes them wants to know when it begins.
        sys.stderr.write(f"listening to the events of namespace {options.namespace}\n")
        sys.stderr.flush()
        shown = 0
        while count is None or shown < count:
            heard = await waiting.get()
            if isinstance(heard, str):
                raise ConnectionClosed(heard)
            _print(output, heard)
            shown += 1
            if dropped:
                sys.stderr.write(f"{dropped} events came too fast and are left out\n")
                dropped = 0


def _print(output: Output, message: Message) -> None:
    now = datetime.now(UTC)
    facts: dict[str, Any]
    try:
        told: Any = decode_value(message.payload)
        if not isinstance(told, dict):
            raise ProtocolError("is no map")
        facts = cast("dict[str, Any]", told)
    except ProtocolError as error:
        facts = {"event": "unreadable", "reason": str(error)}
    if output.json:
        output.line(to_json({"timestamp": now.isoformat(), **facts}))
    else:
        output.line(event_line(now, facts))
    sys.stdout.flush()


def event_line(now: datetime, facts: Mapping[str, Any]) -> str:
    """Return an event in one line, in the words that matter to a person."""
    event = str(facts.get("event", "?"))
    # The same clock as in the logs: with a Z, or readers elsewhere take it for their own.
    words = [now.strftime("%H:%M:%S.%f")[:-3] + "Z", f"{event:<12}"]
    service, instance = facts.get("service_name", ""), facts.get("instance_id", "")
    words.append(f"{service}@{instance}" if instance else str(service))
    if facts.get("old_instance_id"):
        words.append(f"instead of {facts['old_instance_id']}")
    ids = list(facts.get("resource_ids") or ())
    if ids:
        shown = ", ".join(map(str, ids[:_SHOWN_IDS]))
        more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
        words.append(f"{shown}{more}")
    if facts.get("role") and event in _WITH_ROLE:
        words.append(f"as {facts['role']}")
    if facts.get("cause"):
        words.append(f"({facts['cause']})")
    if (taken := facts.get("first_answer_ms", facts.get("covered_ms"))) is not None:
        words.append(f"after {taken:.0f} ms")
    durations: Mapping[str, float] = facts.get("durations") or {}
    if (total := durations.get("total")) is not None:
        # Between the two somebody has to ask: the second alone would look like an outage.
        served = sum(durations.get(step, 0.0) for step in ("detected", "decided", "covered"))
        words.append(f"served after {1000 * served:.0f} ms,")
        words.append(f"first answer after {1000 * total:.0f} ms")
    return " ".join(words)
