"""What is wrong with a system, the worst first (sans-I/O): what whoever is on call must see.

Each problem is worded as a whole sentence, as a screen reader speaks it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from aegis.ops._live_beats import OK, SILENT
from aegis.ops._live_contracts import (
    LiveFailover,
    LiveInstance,
    LiveLoad,
    LiveNode,
    LiveOrphans,
    LiveProblem,
    LiveTables,
)

__all__ = ["CRITICAL", "NOTICE", "WARNING", "problems"]

CRITICAL: Final = "critical"
WARNING: Final = "warning"
NOTICE: Final = "notice"

QUEUE_WORTH_A_WORD: Final = 100
"""Messages that may wait for an instance without being called a queue."""

QUEUE_SECONDS: Final = 1.0
"""For how long an instance may have to work at what waits, at the rate of now."""

MAX_OF_A_KIND: Final = 20
"""A thousand instances that are all late are not a thousand lines."""

_PLANNED: Final = ("unregistered", "disconnected", "abandoned")
"""Why resources may have lost their owner without anything having failed."""

_RANKS: Final = (CRITICAL, WARNING, NOTICE)


def problems(rows: LiveTables, alone: str) -> dict[str, LiveProblem]:
    """Return what is wrong with all that ``rows`` say; ``alone`` is how many have no standby.

    Empty if every resource has one.
    """
    found: dict[str, LiveProblem] = {}
    kinds = (
        _of_system(rows),
        _of_orphans(rows.orphans.values()),
        _of_failovers(rows.failovers.values()),
        _of_instances(rows.instances.values(), rows.loads),
        _of_nodes(rows.nodes.values(), {one.node_id for one in rows.instances.values()}),
        _of_letters(sum(system.letters for system in rows.system.values())),
        _of_standbys(alone),
    )
    for kind in kinds:
        for number, (key, severity, text, about) in enumerate(kind):
            if number == MAX_OF_A_KIND:
                more = "There is more of this kind; the tables have all of it."
                found[f"{key}+"] = LiveProblem(severity, more, about, _RANKS.index(severity))
                break
            found[key] = LiveProblem(severity, text, about, _RANKS.index(severity))
    return dict(sorted(found.items(), key=lambda item: item[1].rank))


type _Found = Iterator[tuple[str, str, str, str]]  # key, severity, text, about


def _of_system(rows: LiveTables) -> _Found:
    for system in rows.system.values():
        if not system.connected:
            text = "This node has no connection to NATS: all below is as it was before."
            yield "connection", CRITICAL, text, "system"
        elif system.leader not in rows.nodes or rows.nodes[system.leader].beats == SILENT:
            yield "leader", CRITICAL, "No supervisor leads: nothing can fail over now.", "nodes"


def _of_orphans(orphans: Collection[LiveOrphans]) -> _Found:
    for lost in orphans:
        severity = WARNING if lost.cause in _PLANNED else CRITICAL
        names = ", ".join(lost.resource_ids[:3]) + (" ..." if lost.resources > 3 else "")
        text = (
            f"{_resources(lost.resources)} of {lost.service_name} {_have(lost.resources)} no owner: "
            f"{names} ({lost.instance_id} {_happened(lost.cause)}, and there was no standby)."
        )
        yield f"orphans/{lost.id}", severity, text, "orphans"


def _of_failovers(failovers: Collection[LiveFailover]) -> _Found:
    for failover in failovers:
        left = failover.resources - failover.serving
        if left:
            text = (
                f"{_resources(left)} of {failover.service_name} {_are(left)} being failed over from "
                f"{failover.old_instance_id} to {failover.new_instance_id} ({failover.cause})."
            )
            yield f"failover/{failover.id}", CRITICAL, text, "failovers"


def _of_instances(instances: Collection[LiveInstance], loads: dict[str, LiveLoad]) -> _Found:
    for one in instances:
        name = f"{one.instance_id} ({one.service_name})"
        if one.state != "healthy":
            held = f" and still owns {_resources(one.resources)}" if one.resources else ""
            text = f"{name} is {one.state}{f': {one.cause}' if one.cause else ''}{held}."
            yield f"instance/{one.instance_id}", CRITICAL if held else WARNING, text, "instances"
            continue
        load = loads.get(one.instance_id)
        if load is None:
            continue
        if load.stalled:
            text = f"{name} has mail, and an actor without progress for {load.stalled:.0f} s."
            yield f"stalled/{one.instance_id}", WARNING, text, "instances"
        elif load.depth >= QUEUE_WORTH_A_WORD and load.depth > QUEUE_SECONDS * load.rate:
            work = f", {load.depth / load.rate:.0f} s of work" if load.rate else ""
            text = f"{load.depth:,} messages wait for {name}{work}."
            yield f"queue/{one.instance_id}", WARNING, text, "instances"


def _of_nodes(nodes: Collection[LiveNode], serving: Collection[str]) -> _Found:
    for node in nodes:
        name = f"Node {node.host} pid {node.pid}" if node.pid else f"Node {node.node_id}"
        # One that has nothing any more may just be leaving.
        if node.beats != OK and node.node_id in serving:
            yield f"node/{node.node_id}", WARNING, f"{name} is {node.beats} with its beats.", "nodes"
        elif node.status == "draining":
            yield f"node/{node.node_id}", NOTICE, f"{name} is draining.", "nodes"
    candidates = sum(node.candidate for node in nodes)
    if len(nodes) > 1 and candidates == 1:
        text = "Only one node could lead: if it is lost, nothing fails over."
        yield "candidates", WARNING, text, "nodes"


def _of_letters(letters: int) -> _Found:
    if letters:
        text = (
            f"{letters:,} message{'s' if letters > 1 else ''} could not be processed, and "
            f"{_are(letters)} among the dead letters."
        )
        yield "letters", WARNING, text, "letters"


def _of_standbys(alone: str) -> _Found:
    if alone:
        text = f"{alone} without a standby: if the owner is lost, nobody takes over."
        yield "alone", NOTICE, text, "resources"


def _resources(number: int) -> str:
    return f"{number:,} resource{'' if number == 1 else 's'}"


def _have(number: int) -> str:
    return "has" if number == 1 else "have"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _happened(cause: str) -> str:
    words = {
        "died": "died",
        "silence": "fell silent",
        "stalled": "stalled",
        "disconnected": "was disconnected",
        "unregistered": "left",
    }
    return words.get(cause, f"was lost ({cause})" if cause else "was lost")
