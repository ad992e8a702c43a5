"""``aegis doctor``: is everything as it must be, and what to do if not."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import attrs
import typer
from attrs import evolve
from rich.text import Text

from aegis._config import ConnectOptions
from aegis._connection import open_connection
from aegis._inspect import Inspector, NodeHealth
from aegis._subjects import Subjects
from aegis.errors import AegisError
from aegis.ops import _doctor_host as on_host
from aegis.ops import _doctor_server as on_server
from aegis.ops._doctor_host import FAIL, OK, WARN, Check
from aegis.ops._doctor_mail import mail
from aegis.ops._options import CommandContext
from aegis.ops._output import EXIT_FAILED, Output
from aegis.ops._session import CONNECT_TIMEOUT
from aegis.transport._nats import NatsTransport

__all__ = ["doctor"]

_STYLES: Final = {OK: "green", WARN: "yellow", FAIL: "bold red"}
_NAME_WIDTH: Final = 15


def doctor(context: CommandContext) -> None:
    """Print each check as it ends; exit with 1 if one failed."""
    options = context.connect()
    checks = asyncio.run(_examine(options, context.output))
    failed = [check for check in checks if check.status == FAIL]
    if context.output.json:
        context.output.document(
            {"ok": not failed, "checks": [attrs.asdict(check) for check in checks]}
        )
    else:
        warned = sum(check.status == WARN for check in checks)
        context.output.line(f"{len(checks)} checks, {len(failed)} failed, {warned} warnings")
    if failed:
        raise typer.Exit(EXIT_FAILED)


async def _examine(options: ConnectOptions, output: Output) -> list[Check]:
    checks: list[Check] = []
    console = None if output.json else output.console()
    async for check in _checks(options):
        checks.append(check)
        if console is not None:
            line = Text.assemble(
                (f"{check.status:<5}", _STYLES[check.status]),
                f"{check.name:<{_NAME_WIDTH}} {check.found}",
            )
            console.print(line, soft_wrap=True)
            if check.advice:
                console.print(Text(f"{'':<5}{'':<{_NAME_WIDTH}} -> {check.advice}"), soft_wrap=True)
    return checks


async def _checks(options: ConnectOptions) -> AsyncIterator[Check]:
    for check in on_host.host(options.data_dir, own_server=not options.nats):
        yield check
    soon = evolve(options, timeout=min(options.timeout, CONNECT_TIMEOUT))
    try:
        connection = await open_connection(soon, name=f"aegis-doctor-{secrets.token_hex(4)}")
    except AegisError as error:
        found, _, advice = str(error).partition("; ")
        yield Check("server", FAIL, found, advice or "see the server's log")
        return
    async with connection:
        yield Check("server", OK, f"answers at {connection.url}")
        subjects = Subjects(options.namespace)
        async for check in on_server.server(connection.transport, options, subjects):
            yield check
        for check in await _mail(connection.transport, subjects):
            yield check
        async for check in _system(Inspector(connection.transport, subjects)):
            yield check


async def _mail(transport: NatsTransport, subjects: Subjects) -> list[Check]:
    try:
        return await mail(transport, subjects)
    except (AegisError, TimeoutError) as error:
        found = f"cannot be looked at: {str(error) or 'no answer in time'}"
        return [Check("mail", WARN, found, "see what is said of the stream")]


async def _system(inspector: Inspector) -> AsyncIterator[Check]:
    try:
        services = await inspector.services()
    except AegisError as error:
        yield Check("supervisor", WARN, str(error), "start a node with `aegis run`")
        return
    yield Check("supervisor", OK, "answers")
    for service in services:
        for instance in service["instances"]:
            if instance["state"] != "healthy":
                name = f"{service['service_name']}@{instance['instance_id']}"
                cause = f": {instance['cause']}" if instance["cause"] else ""
                advice = "see the log of its node; start it again"
                yield Check("instance", WARN, f"{name} is {instance['state']}{cause}", advice)
    for check in _standbys(await inspector.resources()):
        yield check
    nodes = await inspector.nodes(services, await inspector.beating())
    yield _candidates([node.node_id for node in nodes if node.candidate])
    for node in nodes:
        yield _node(node)
        theirs = node.facts.get("wall_ms")
        if isinstance(theirs, int):
            middle = node.asked_at_ms + node.round_trip_seconds * 500
            yield on_server.clock_check("clock", f"node {node.node_id}", (theirs - middle) / 1000)


def _candidates(names: Sequence[str]) -> Check:
    if len(names) > 1:
        return Check("candidates", OK, f"{len(names)} nodes can lead")
    found = "nobody can lead: nothing fails over"
    if names:
        found = f"{names[0]} alone can lead: without it nothing fails over"
    advice = "run one more node, or `aegis run --supervisor-only`, best on another host"
    return Check("candidates", WARN, found, advice)


def _standbys(resources: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Judge whether each resource has somebody to take over."""
    if not resources:
        return []
    alone = [
        f"{resource['service_name']}/{resource['resource_id']}"
        for resource in resources
        if not any(standby["state"] == "healthy" for standby in resource["standbys"])
    ]
    if not alone:
        return [Check("standbys", OK, f"all {len(resources)} resources have one")]
    found = f"{len(alone)} of {len(resources)} resources have none, as {alone[0]}"
    advice = "run their service once more, with --role standby, best on another host"
    return [Check("standbys", WARN, found, advice)]


def _node(node: NodeHealth) -> Check:
    if not node.facts:
        advice = "see whether its process runs, and its log"
        return Check("node", FAIL, f"{node.node_id} does not answer", advice)
    found = f"{node.node_id} is {node.status}, {node.round_trip_seconds * 1000:.1f} ms away"
    return Check("node", OK, found)
