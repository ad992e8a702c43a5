"""What ``aegis doctor`` checks of durable messages: whether anybody will ever take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from attrs import frozen

from aegis._clock import SystemClock
from aegis._subjects import Subjects, unescape
from aegis.ops._doctor_host import OK, WARN, Check
from aegis.transport._jetstream import STREAM_NOT_FOUND, ApiError
from aegis.transport._nats import NatsTransport

__all__ = ["Unclaimed", "judge", "mail"]

SHOWN: Final = 5
"""So many mailboxes are named, those with the most messages."""


@frozen
class Unclaimed:
    """A mailbox with messages whose resource nobody has ever owned."""

    address: str
    messages: int
    oldest_seconds: float = 0.0


async def mail(transport: NatsTransport, subjects: Subjects) -> list[Check]:
    """Look for messages to resources that nobody has ever owned."""
    try:
        mailboxes = await _counts(transport, subjects, "mailbox")
        journals = await _counts(transport, subjects, "journal")
    except ApiError as error:
        if error.error_code == STREAM_NOT_FOUND:
            return []
        raise
    # Whoever owns a resource writes its journal first.
    unclaimed = [
        Unclaimed(address, count) for address, count in mailboxes.items() if address not in journals
    ]
    unclaimed.sort(key=lambda one: (-one.messages, one.address))
    now_ms = SystemClock().wall_ms()
    for index, one in enumerate(unclaimed[:SHOWN]):
        service, _, resource = one.address.partition("/")
        async for first in transport.read(subjects.mailbox(service, resource)):
            age = max(0, now_ms - first.timestamp_ms) / 1000
            unclaimed[index] = Unclaimed(one.address, one.messages, age)
            break
    return [judge(unclaimed)]


def judge(unclaimed: Sequence[Unclaimed]) -> Check:
    """Judge what is there, the mailboxes with the most messages first."""
    if not unclaimed:
        return Check("mail", OK, "nothing waits for a resource that nobody has ever owned")
    shown = ", ".join(
        f"{one.address} ({one.messages}, the oldest {_age(one.oldest_seconds)} old)"
        for one in unclaimed[:SHOWN]
    )
    more = len(unclaimed) - SHOWN
    total = sum(one.messages for one in unclaimed)
    found = (
        f"{total} {'message waits' if total == 1 else 'messages wait'} for what nobody has ever "
        f"owned: {shown}" + (f", and {more} more" if more > 0 else "")
    )
    advice = "they are kept: start an owner of it, or correct the name where they are sent"
    return Check("mail", WARN, found, advice)


async def _counts(transport: NatsTransport, subjects: Subjects, kind: str) -> dict[str, int]:
    """Return how many messages each resource has, by its address."""
    prefix = f"{subjects.namespace}.{kind}."
    found: dict[str, int] = {}
    while True:
        asked = {"subjects_filter": f"{prefix}>", "offset": len(found)}
        info = await transport.api(f"STREAM.INFO.{subjects.stream}", asked)
        page: dict[str, Any] = info["state"].get("subjects") or {}
        for subject, count in page.items():
            address = "/".join(map(unescape, subject.removeprefix(prefix).split(".")))
            found[address] = int(count)
        # The server gives so many at a time.
        if not page or len(found) >= int(info.get("total") or 0):
            return found


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
