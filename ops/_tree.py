"""``aegis tree``: the whole system as one tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.text import Text
from rich.tree import Tree

from aegis._inspect import Inspector, NodeHealth, SystemPicture
from aegis.contracts import Role
from aegis.ops._options import CommandContext
from aegis.ops._session import show

__all__ = ["tree"]

DEFAULT_RESOURCES_SHOWN: Final = 20
"""Resources shown of one instance; an instance may hold thousands."""

MAX_STANDBYS_SHOWN: Final = 3

_STYLES: Final = {
    "healthy": "green",
    "ok": "green",
    "running": "green",
    "draining": "yellow",
    "unhealthy": "red",
    "no answer": "red",
    "active": "bold",
    "standby": "cyan",
}


def tree(
    context: CommandContext, shown: int = DEFAULT_RESOURCES_SHOWN, every: float | None = None
) -> None:
    """Print namespace, nodes, services, instances and resources; see `show` for ``every``."""

    async def ask(inspector: Inspector) -> SystemPicture:
        # The drawing shows the first of each instance; only the document has all.
        return await inspector.picture(held=None if context.output.json else shown)

    show(
        context,
        ask,
        document=_document,
        draw=lambda picture: _drawn(picture, shown),
        every=every,
    )


def _document(picture: SystemPicture) -> dict[str, Any]:
    actors, holdings = picture.actors(), picture.holdings()
    services: list[dict[str, Any]] = []
    for service in picture.services:
        instances: list[dict[str, Any]] = []
        for instance in service["instances"]:
            held: list[dict[str, Any]] = []
            for role, resource in holdings.get(instance["instance_id"], ()):
                actor = _actor(actors, instance, resource)
                held.append(
                    {
                        "resource_id": resource["resource_id"],
                        "role": str(role),
                        "epoch": resource["epoch"],
                        "lag": _lag(instance, resource) if role is Role.STANDBY else None,
                        "state": actor.get("state"),
                        "queue_depth": actor.get("depth"),
                    }
                )
            instances.append({**instance, "held": held})
        services.append({**service, "instances": instances})
    nodes = [
        {
            "node_id": n.node_id,
            **n.facts,
            "status": n.status,
            "round_trip_ms": _ms(n),
        }
        for n in picture.nodes
    ]
    return {"namespace": picture.namespace, "nodes": nodes, "services": services}


def _lag(instance: Mapping[str, Any], resource: Mapping[str, Any]) -> int | None:
    for standby in resource["standbys"]:
        if standby["instance_id"] == instance["instance_id"]:
            lag: int | None = standby.get("lag")
            return lag
    return None


def _ms(node: NodeHealth) -> float:
    return round(node.round_trip_seconds * 1000, 3)


def _actor(
    actors: Mapping[tuple[str, str], dict[str, Any]],
    instance: Mapping[str, Any],
    resource: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what the node says of a resource's actor; nothing if it does not answer."""
    path = f"{resource['service_name']}/{instance['instance_id']}/{resource['resource_id']}"
    return actors.get((instance["node_id"], f"/services/{path}"), {})


def _drawn(picture: SystemPicture, shown: int) -> Tree:
    root = Tree(Text(picture.namespace, style="bold"), guide_style="dim")
    system = root.add(Text("system"))
    if not picture.nodes:
        system.add(Text("no node answers", style="dim"))
    for node in picture.nodes:
        system.add(_node_line(node))
    services = root.add(Text("services"))
    if not picture.services:
        services.add(Text("none", style="dim"))
    actors, holdings = picture.actors(), picture.holdings()
    places = {node.node_id: _place(node) for node in picture.nodes}
    for service in picture.services:
        branch = services.add(Text(service["service_name"], style="bold"))
        for instance in service["instances"]:
            leaf = branch.add(_instance_line(instance, places))
            held = holdings.get(instance["instance_id"], [])
            for role, resource in held[:shown]:
                leaf.add(_resource_line(role, resource, instance, actors))
            more = instance["resources"] + instance["standby_for"] - len(held[:shown])
            if more > 0:
                leaf.add(Text(f"... and {more} more", style="dim"))
    return root


def _place(node: NodeHealth) -> str:
    """Tell a node by its process, which is short, and what an operator looks for."""
    if "pid" not in node.facts:
        return node.node_id
    return f"{node.facts.get('host', '')} pid {node.facts['pid']}".strip()


def _node_line(node: NodeHealth) -> Text:
    line = Text.assemble(f"{_place(node)}  ", _styled(node.status))
    if node.facts.get("leading"):
        line.append("  leader", style="bold")
    elif node.candidate:
        line.append("  could lead", style="dim")
    if "pid" in node.facts:
        line.append(f"  {node.node_id}", style="dim")
    return line


def _instance_line(instance: dict[str, Any], places: Mapping[str, str]) -> Text:
    line = Text.assemble(f"{instance['instance_id']}  ", _styled(instance["state"]))
    if instance["state"] != "healthy" and instance["cause"]:
        line.append(f" ({instance['cause']})")
    if instance["queue_depth"] is not None:
        line.append(f"  queue {instance['queue_depth']}")
    for key, role in (("resources", Role.ACTIVE), ("standby_for", Role.STANDBY)):
        if instance[key]:
            line.append(f"  {instance[key]} ").append(_styled(str(role)))
    node_id = instance["node_id"]
    return line.append(f"  on {places.get(node_id, node_id)}", style="dim")


def _resource_line(
    role: Role,
    resource: dict[str, Any],
    instance: dict[str, Any],
    actors: Mapping[tuple[str, str], dict[str, Any]],
) -> Text:
    line = Text.assemble(f"{resource['resource_id']}  ", _styled(str(role)))
    actor = _actor(actors, instance, resource)
    if actor:
        state = str(actor.get("state"))
        if state != "running":
            line.append("  ").append(_styled(state))
        if role is Role.ACTIVE:
            line.append(f"  queue {actor.get('depth', 0)}")
        if actor.get("restarts"):
            line.append(f"  {actor['restarts']} restarts")
    if role is Role.ACTIVE:
        line.append(f"  epoch {resource['epoch']}", style="dim")
        return line.append(f"  {_standbys(resource['standbys'])}", style="dim")
    lag = _lag(instance, resource)
    line.append(f"  lag {'?' if lag is None else lag}")
    return line.append(f"  epoch {resource['epoch']}", style="dim")


def _standbys(standbys: Sequence[Mapping[str, Any]]) -> str:
    """Name the first standbys, and how many more there are."""
    if not standbys:
        return "no standby"
    names = [standby["instance_id"] for standby in standbys[:MAX_STANDBYS_SHOWN]]
    more = len(standbys) - len(names)
    return f"standby {', '.join(names)}{f' and {more} more' if more else ''}"


def _styled(word: str) -> Text:
    return Text(word, style=_STYLES.get(word, ""))
