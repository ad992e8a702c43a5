"""``aegis journal``: what stands in journals, and whether they keep the rules."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from attrs import asdict, evolve

from aegis._config import ConnectOptions
from aegis._connection import open_connection
from aegis._proxy import Address
from aegis._subjects import Subjects, unescape
from aegis.actors._audit import Audit, AuditedEntry
from aegis.errors import ConfigurationError, InvalidRequest, NotFound
from aegis.ops._options import CommandContext
from aegis.ops._output import EXIT_FAILED, Item, to_json
from aegis.ops._session import CONNECT_TIMEOUT
from aegis.transport._base import Transport

__all__ = ["show", "verify"]


def show(context: CommandContext, address: str, last: int | None) -> None:
    """Print the journal of one resource, an entry a line."""
    options = context.connect()
    service, resource = _resource(address)
    if last is not None and last < 1:
        raise ConfigurationError("--last must be at least 1")

    async def read(transport: Transport, subjects: Subjects) -> list[AuditedEntry]:
        audit = Audit(subjects.journal(service, resource))
        entries: list[AuditedEntry] = []
        async for stored in transport.read(audit.subject):
            entries += audit.add(stored)
            if last is not None:
                del entries[:-last]
        if not audit.records:
            raise NotFound(f"{service}/{resource} has no journal", service=service)
        return entries

    entries = _with_transport(options, read)
    if context.output.json:
        document = [{**asdict(entry), "time": _time(entry)} for entry in entries]
        context.output.document({"service": service, "resource": resource, "entries": document})
        return
    columns = ("sequence", "time", "command", "status", "message")
    context.output.listing(columns, list(_items(entries)))


def verify(context: CommandContext, address: str | None) -> int:
    """Check one journal, those of a service, or all; return the exit code."""
    options = context.connect()
    wanted = None if address is None else _address(address)

    async def read(transport: Transport, subjects: Subjects) -> dict[str, Audit]:
        audits: dict[str, Audit] = {}
        async for stored in transport.read(_pattern(subjects, wanted)):
            audit = audits.get(stored.subject)
            if audit is None:
                audit = audits[stored.subject] = Audit(stored.subject)
            audit.add(stored)
        if not audits and wanted is not None:
            raise NotFound(f"{wanted} has no journal", service=wanted.service)
        return audits

    audits = _with_transport(options, read)
    wrong = [audit for audit in audits.values() if audit.findings]
    if context.output.json:
        journals = [_document(audit) for audit in audits.values()]
        context.output.document({"ok": not wrong, "journals": journals})
    else:
        for audit in wrong:
            first, more = audit.findings[0], len(audit.findings) - 1
            tail = f" (and {more} more)" if more else ""
            name = "/".join(_names(audit.subject))
            context.output.line(f"{name}: sequence {first.sequence}: {first.problem}{tail}")
        commands = sum(audit.commands for audit in audits.values())
        records = sum(audit.records for audit in audits.values())
        context.output.line(
            f"{len(audits)} journals, {records} records, {commands} commands: "
            + (f"{len(wrong)} journals break a rule" if wrong else "all rules are kept")
        )
    return EXIT_FAILED if wrong else 0


def _document(audit: Audit) -> dict[str, Any]:
    service, resource = _names(audit.subject)
    names = ("records", "fences", "snapshots", "commands", "rejected", "failed", "epoch")
    return {
        "service": service,
        "resource": resource,
        **{name: getattr(audit, name) for name in names},
        "findings": [asdict(finding) for finding in audit.findings],
    }


def _address(text: str) -> Address:
    try:
        address = Address.parse(text)
    except InvalidRequest as error:
        raise ConfigurationError(f"{error}; write service/resource") from error
    if address.instance_id is not None:
        raise ConfigurationError(f"{text!r}: an instance has no journal; write service/resource")
    return address


def _resource(text: str) -> tuple[str, str]:
    address = _address(text)
    if address.resource_id is None:
        raise ConfigurationError(f"{text!r}: a service has no journal; write service/resource")
    return address.service, address.resource_id


def _pattern(subjects: Subjects, wanted: Address | None) -> str:
    if wanted is None:
        return f"{subjects.namespace}.journal.>"
    if wanted.resource_id is None:
        return subjects.journals(wanted.service)
    return subjects.journal(wanted.service, wanted.resource_id)


def _names(subject: str) -> list[str]:
    return [unescape(token) for token in subject.split(".")[-2:]]


def _time(entry: AuditedEntry) -> str:
    moment = datetime.fromtimestamp(entry.timestamp_ms / 1000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}"


def _items(entries: Sequence[AuditedEntry]) -> Iterator[Item]:
    """Yield a row for each entry; the day and the epoch stand where they change."""
    day, epoch = "", None
    for entry in entries:
        today, _, time = _time(entry).partition(" ")
        name = entry.method or entry.kind
        if entry.method and not name.isidentifier():
            name = to_json(name)  # Of mail it is what somebody wrote.
        told = [] if entry.epoch == epoch else [f"epoch {entry.epoch}"]
        yield Item(
            (str(entry.sequence), time, name, str(entry.status or "-"), entry.message_id),
            "; ".join([*told, *_told(entry)]),
            f"{today} UTC" if today != day else "",
        )
        day, epoch = today, entry.epoch


def _told(entry: AuditedEntry) -> list[str]:
    """Return what an entry did, piece by piece."""
    told = [
        f"{name}: {to_json(old)} -> {to_json(new)}" for name, (old, new) in entry.changed.items()
    ]
    told += [f"{event['event']} {to_json(event['value'])}" for event in entry.events]
    if entry.kind == "command":
        told.append(f"answered {to_json(entry.answer)}")
    told += [
        f"{name} {value if isinstance(value, str | int) else to_json(value)}"
        for name, value in entry.facts.items()
    ]
    return told


def _with_transport[T](
    options: ConnectOptions, read: Callable[[Transport, Subjects], Awaitable[T]]
) -> T:
    async def run() -> T:
        soon = evolve(options, timeout=min(options.timeout, CONNECT_TIMEOUT))
        name = f"aegis-cli-{secrets.token_hex(4)}"
        async with await open_connection(soon, name=name) as connection:
            return await read(connection.transport, Subjects(options.namespace))

    return asyncio.run(run())
