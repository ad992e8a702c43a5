"""``list-services``, ``show-route`` and ``disconnect``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from aegis._inspect import Inspector
from aegis.contracts import check_id
from aegis.errors import ConfigurationError, NotFound
from aegis.ops._options import CommandContext
from aegis.ops._session import inspect, near, show

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["MAX_NEAR", "disconnect", "list_services", "show_route"]

MAX_NEAR: Final = 10_000
"""How many resources are looked through for a name like one that is not there."""


def list_services(
    context: CommandContext, service: str | None = None, every: float | None = None
) -> None:
    """Print the services and their instances; with ``every``, so many seconds apart."""
    if service is not None:
        _check("SERVICE", service)

    async def ask(inspector: Inspector) -> list[dict[str, Any]]:
        try:
            return await inspector.services(service)
        except NotFound as error:
            known = [entry["service_name"] for entry in await inspector.services()]
            raise near(error, service or "", known) from error

    def draw(services: list[dict[str, Any]]) -> RenderableType:
        rows = _service_rows(services)
        columns = ("service", "instance", "state", "started as", "owns", "standby", "queue")
        return context.output.drawn_table(columns, rows) if rows else "no services"

    show(context, ask, document=lambda found: {"services": found}, draw=draw, every=every)


def _service_rows(services: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            entry["service_name"],
            instance["instance_id"],
            instance["state"],
            instance["role"],
            str(instance["resources"]),
            str(instance["standby_for"]),
            "-" if instance["queue_depth"] is None else str(instance["queue_depth"]),
        ]
        for entry in services
        for instance in entry["instances"]
    ]


def show_route(context: CommandContext, resource: str) -> None:
    """Print who holds a resource: its id, or ``service/id`` where several have one."""
    # Beside the id a service may stand, and a slash.
    _check("RESOURCE", resource.rpartition("/")[2] or resource)

    async def ask(inspector: Inspector) -> list[dict[str, Any]]:
        try:
            return await inspector.routes(resource)
        except NotFound as error:
            # The id itself may hold a slash, so the whole was tried first.
            service, slash, rest = resource.partition("/")
            if slash and rest:
                try:
                    return await inspector.routes(rest, service)
                except NotFound:
                    pass
            known = await inspector.resources(limit=MAX_NEAR)
            names = [r["resource_id"] for r in known]
            names += [f"{r['service_name']}/{r['resource_id']}" for r in known]
            raise near(error, resource, names) from error

    routes = inspect(context.connect(), ask)
    if context.output.json:
        context.output.document({"routes": routes})
        return
    rows: list[list[str]] = []
    for route in routes:
        name = f"{route['service_name']}/{route['resource_id']}"
        epoch = str(route["epoch"])
        rows.append([name, "active", route["instance_id"], route["state"], epoch, ""])
        rows += [
            [name, "standby", standby["instance_id"], standby["state"], "", shown_lag(standby)]
            for standby in route["standbys"]
        ]
    context.output.table(("resource", "role", "instance", "state", "epoch", "lag"), rows)


def shown_lag(standby: Mapping[str, Any]) -> str:
    """Return by how many records a standby trails, as it is shown."""
    lag = standby.get("lag")
    return "?" if lag is None else str(lag)


def disconnect(context: CommandContext, instance_id: str) -> None:
    """Evict an instance, and print who owns what it owned."""
    _check("INSTANCE", instance_id)

    async def ask(inspector: Inspector) -> dict[str, Any]:
        try:
            return await inspector.disconnect(instance_id)
        except NotFound as error:
            services = await inspector.services()
            known = [i["instance_id"] for entry in services for i in entry["instances"]]
            raise near(error, instance_id, known) from error

    answer = inspect(context.connect(), ask)
    promoted: dict[str, str] = answer.get("promoted") or {}
    released: list[str] = answer.get("released") or []
    if context.output.json:
        context.output.document(
            {"instance_id": instance_id, "promoted": promoted, "released": released}
        )
        return
    context.output.line(f"{instance_id} is disconnected")
    service = answer.get("service_name", "")
    rows = [[f"{service}/{name}", owner] for name, owner in sorted(promoted.items())]
    rows += [[f"{service}/{name}", "nobody"] for name in sorted(released)]
    if rows:
        context.output.table(("resource", "owner now"), rows)


def _check(what: str, name: str) -> None:
    """Refuse what nothing can be called, before anybody is asked for it."""
    if problem := check_id(name):
        raise ConfigurationError(f"{what}: {name[:60]!r} {problem}")
