"""The paths of the admin HTTP. Any node answers for the whole system.

What they answer is asked of the supervisors and nodes when it is asked for here, as the
command line does; only failovers are told from this node's own log, which begins with what
the supervisors remember.
"""

from __future__ import annotations

import contextlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, cast
from urllib.parse import unquote

from attrs import frozen
from litestar import Litestar, Response, get, post
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import Parameter
from litestar.types import ASGIApp, ControllerRouterHandler

from aegis._inspect import Inspector
from aegis._node import Node
from aegis.actors._registration import ALONE, UNHEALTHY
from aegis.contracts import check_id
from aegis.errors import AegisError, Conflict, InvalidRequest, NotFound
from aegis.ops._admin_contracts import (
    Disconnected,
    FailoverPage,
    Health,
    Instance,
    InstancePage,
    NodeDetail,
    PageLink,
    PageLinks,
    Problem,
    Readiness,
    Resource,
    ResourcePage,
    Service,
    ServicePage,
    SystemTree,
)
from aegis.ops._admin_pages import page_handlers
from aegis.ops._admin_problems import HANDLERS
from aegis.ops._admin_views import (
    failover_view,
    instance_view,
    node_detail,
    resource_view,
    service_summary,
    tree_view,
)
from aegis.ops._live_contracts import LiveMessage
from aegis.ops._live_sampler import LiveSampler
from aegis.ops._live_stream import LiveStream
from aegis.ops._metrics import NodeMetrics
from aegis.ops._page_sampler import PageSampler
from aegis.ops._page_state import PageMessage
from aegis.ops._readiness import unready_reasons
from aegis.ops._session import near
from aegis.ops._version import versions

__all__ = ["API", "admin_app"]

API: Final = "/api/v1/admin"

MAX_PAGE: Final = 1_000
DEFAULT_PAGE: Final = 100
MAX_NEAR: Final = 10_000
"""How many resources are looked through for a name like one that is not there."""

METRICS_TYPE: Final = "text/plain; version=0.0.4"
"""Litestar adds the charset."""

# Plain aliases: Litestar does not look into those of a `type` statement.
Limit = Annotated[
    int, Parameter(ge=1, le=MAX_PAGE, description="How many entries a page has at most.")
]
After = Annotated[
    str | None, Parameter(description="Where the page begins: `next` of the page before.")
]

_NOT_FOUND: Final = {404: ResponseSpec(Problem, description="No such name; `near` has others.")}
_UNAVAILABLE: Final = {503: ResponseSpec(Problem, description="No supervisor answers, or leads.")}
_CONFLICT: Final = {409: ResponseSpec(Problem, description="It runs on another node.")}
_NOT_READY: Final = {503: ResponseSpec(Readiness, description="The node cannot serve.")}


@frozen
class _Api:
    """The handlers, as functions that close over one node."""

    node: Node
    metrics: NodeMetrics
    live: LiveSampler
    pages: Mapping[str, PageSampler]

    @property
    def inspector(self) -> Inspector:
        return Inspector(self.node.transport, self.node.subjects)

    async def instances(self) -> list[Instance]:
        return sorted(
            (
                instance_view(service["service_name"], instance)
                for service in await self.inspector.services()
                for instance in service["instances"]
            ),
            key=lambda instance: instance.instance_id,
        )

    async def instance(self, instance_id: str) -> Instance:
        known = await self.instances()
        for instance in known:
            if instance.instance_id == instance_id:
                return instance
        missing = NotFound(f"no instance {instance_id!r}", instance_id=instance_id)
        raise near(missing, instance_id, [instance.instance_id for instance in known])


def admin_app(
    node: Node, metrics: NodeMetrics, live: LiveSampler, pages: Sequence[PageSampler] = ()
) -> Litestar:
    """Return the application (ASGI) that answers for ``node``."""
    api = _Api(node, metrics, live, {sampler.page.name: sampler for sampler in pages})
    return Litestar(
        route_handlers=[
            *_probes(api),
            *_reading(api),
            *_live(api),
            *_pages(api),
            *_changing(api),
            *page_handlers(sampler.page for sampler in pages),
        ],
        exception_handlers=HANDLERS,
        openapi_config=OpenAPIConfig(
            title="Aegis",
            version=versions()["aegis"],
            description="The admin HTTP of one node, which answers for the whole system.",
            path="/api/v1",
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
        ),
        logging_config=None,
    )


def _probes(api: _Api) -> Sequence[ControllerRouterHandler]:
    @get("/healthz", summary="Whether the process works", tags=["probes"])
    async def healthz() -> Health:
        return Health("ok", api.node.node_id, versions()["aegis"])

    @get(
        "/readyz",
        summary="Whether the node can serve, and if not, why",
        tags=["probes"],
        responses=_NOT_READY,
    )
    async def readyz() -> Response[Readiness]:
        reasons = await unready_reasons(api.node)
        return Response(Readiness(not reasons, reasons), status_code=503 if reasons else 200)

    @get("/metrics", summary="Metrics for Prometheus", tags=["probes"], media_type=METRICS_TYPE)
    async def metrics() -> bytes:
        return await api.metrics.scrape()

    return [healthz, readyz, metrics]


def _reading(api: _Api) -> Sequence[ControllerRouterHandler]:
    @get(f"{API}/services", summary="All services", tags=["system"], responses=_UNAVAILABLE)
    async def list_services(limit: Limit = DEFAULT_PAGE, after: After = None) -> ServicePage:
        found = [service_summary(service) for service in await api.inspector.services()]
        page, following = _page(found, lambda service: service.service_name, limit, after)
        return ServicePage(page, following)

    @get(
        f"{API}/services/{{name:str}}",
        summary="One service with its instances",
        tags=["system"],
        responses=_NOT_FOUND | _UNAVAILABLE,
    )
    async def show_service(name: str) -> Service:
        name = _name("name", name)
        try:
            (found,) = await api.inspector.services(name)
        except NotFound as error:
            known = [service["service_name"] for service in await api.inspector.services()]
            raise near(error, name, known) from error
        return Service(name, [instance_view(name, one) for one in found["instances"]])

    @get(f"{API}/instances", summary="All instances", tags=["system"], responses=_UNAVAILABLE)
    async def list_instances(
        limit: Limit = DEFAULT_PAGE, after: After = None, service: str | None = None
    ) -> InstancePage:
        found = [one for one in await api.instances() if service in (None, one.service_name)]
        page, following = _page(found, lambda instance: instance.instance_id, limit, after)
        return InstancePage(page, following)

    @get(
        f"{API}/resources",
        summary="All resources, by service and id",
        tags=["system"],
        responses=_UNAVAILABLE,
    )
    async def list_resources(
        limit: Limit = DEFAULT_PAGE,
        after: After = None,
        service: str | None = None,
        instance: Annotated[
            str | None, Parameter(description="The instance that owns them.")
        ] = None,
        contains: Annotated[
            str, Parameter(description="Text that the id contains, whatever the case.")
        ] = "",
        only: Annotated[
            list[str] | None,
            Parameter(description=f"`{UNHEALTHY}`: its owner is; `{ALONE}`: it has no standby."),
        ] = None,
    ) -> ResourcePage:
        found, following = await api.inspector.resource_page(
            service,
            limit=limit,
            after=None if after is None else _unmarked(after),
            instance_id=instance,
            contains=contains,
            only=only or (),
        )
        mark = None if following is None else _marked(following)
        return ResourcePage([resource_view(one) for one in found], mark)

    @get(
        f"{API}/resources/{{service:str}}/{{resource_id:str}}",
        summary="Who owns a resource, and who stands by",
        tags=["system"],
        responses=_NOT_FOUND | _UNAVAILABLE,
    )
    async def show_resource(service: str, resource_id: str) -> Resource:
        service, resource_id = _name("service", service), _name("resource_id", resource_id)
        try:
            (found,) = await api.inspector.routes(resource_id, service)
        except NotFound as error:
            known = await api.inspector.resources(limit=MAX_NEAR)
            same = [one["resource_id"] for one in known if one["service_name"] == service]
            names = same or sorted({one["service_name"] for one in known})
            raise near(error, resource_id if same else service, names) from error
        return resource_view(found)

    @get(f"{API}/tree", summary="The whole system", tags=["system"], responses=_UNAVAILABLE)
    async def tree(
        resources: Annotated[
            int, Parameter(ge=0, le=MAX_PAGE, description="How many to show of an instance.")
        ] = 20,
    ) -> SystemTree:
        return tree_view(await api.inspector.picture(held=resources), resources)

    @get(
        f"{API}/nodes/{{node_id:str}}",
        summary="One node with its actors",
        tags=["system"],
        responses=_NOT_FOUND,
    )
    async def show_node(
        node_id: str,
        actors: Annotated[
            int, Parameter(ge=0, le=MAX_PAGE, description="How many children to show of an actor.")
        ] = 50,
    ) -> NodeDetail:
        node_id = _name("node_id", node_id)
        health = await api.inspector.health(node_id, children=max(1, actors))
        if not health.facts:
            raise NotFound(f"node {node_id!r} does not answer", node_id=node_id)
        return node_detail(health, actors)

    @get(
        f"{API}/failovers",
        summary="The last failovers, the newest first",
        tags=["system"],
    )
    async def list_failovers(limit: Limit = DEFAULT_PAGE, after: After = None) -> FailoverPage:
        if not api.live.recalled:
            # What this node has heard itself it tells all the same.
            with contextlib.suppress(AegisError):
                await api.live.recall()
        found = [
            failover_view(promotion, resource_id)
            for promotion in api.metrics.failovers.newest_first()
            for resource_id in promotion.epochs
        ]
        # Newer ones come in front of the list, so a page is told by the entry it ends with.
        marks = [_marked([one.service_name, one.resource_id, one.epoch]) for one in found]
        start = 0
        if after is not None:
            _unmarked(after)
            start = marks.index(after) + 1 if after in marks else len(found)
        page = found[start : start + limit]
        more = len(found) > start + limit
        return FailoverPage(page, marks[start + limit - 1] if more else None)

    return [
        list_services,
        show_service,
        list_instances,
        list_resources,
        show_resource,
        show_node,
        tree,
        list_failovers,
    ]


def _live(api: _Api) -> Sequence[ControllerRouterHandler]:
    @get(
        f"{API}/live",
        summary="Server-sent events for the live page: what changes, as it changes",
        tags=["system"],
        media_type="text/event-stream",
        responses={
            200: ResponseSpec(
                LiveMessage, description="Events named `live`.", media_type="text/event-stream"
            ),
            **_UNAVAILABLE,
        },
    )
    async def live() -> ASGIApp:
        api.live.check_room()
        return cast("ASGIApp", LiveStream(api.live))

    return [live]


def _pages(api: _Api) -> Sequence[ControllerRouterHandler]:
    @get(f"{API}/pages", summary="Pages of the services that this node runs", tags=["system"])
    async def list_pages() -> PageLinks:
        return PageLinks(
            [PageLink(name, one.page.title, f"/pages/{name}") for name, one in api.pages.items()]
        )

    @get(
        f"{API}/pages/{{name:str}}/live",
        summary="Server-sent events for the page of a service: what its instances answer",
        tags=["system"],
        media_type="text/event-stream",
        responses={
            200: ResponseSpec(
                PageMessage, description="Events named `live`.", media_type="text/event-stream"
            ),
            **_NOT_FOUND,
            **_UNAVAILABLE,
        },
    )
    async def live_page(name: str) -> ASGIApp:
        sampler = api.pages.get(name)
        if sampler is None:
            raise near(NotFound(f"this node has no page {name!r}"), name, list(api.pages))
        sampler.check_room()
        return cast("ASGIApp", LiveStream(sampler))

    return [list_pages, live_page]


def _changing(api: _Api) -> Sequence[ControllerRouterHandler]:
    @post(
        f"{API}/instances/{{instance_id:str}}/disconnect",
        summary="Evict an instance: its standbys take over at once",
        tags=["system"],
        status_code=200,
        responses=_NOT_FOUND | _CONFLICT | _UNAVAILABLE,
    )
    async def disconnect(
        instance_id: str,
        node_id: Annotated[
            str | None, Parameter(description="Do it only if the instance runs on this node.")
        ] = None,
    ) -> Disconnected:
        instance_id = _name("instance_id", instance_id)
        instance = await api.instance(instance_id)
        if node_id is not None and node_id != instance.node_id:
            raise Conflict(
                f"instance {instance_id!r} runs on {instance.node_id}, not on {node_id}",
                holder=instance.node_id,
            )
        answer = await api.inspector.disconnect(instance_id)
        return Disconnected(
            instance_id,
            instance.service_name,
            promoted=dict(answer.get("promoted") or {}),
            released=list(answer.get("released") or ()),
        )

    return [disconnect]


def _name(field: str, quoted: str) -> str:
    """Return a name out of a path. Raises InvalidRequest if none can be like it."""
    name = unquote(quoted)
    problem = check_id(name)
    if problem is not None:
        raise InvalidRequest(f"{field}: {problem}", field=field)
    return name


def _page[T](
    found: Sequence[T], name: Callable[[T], str], limit: int, after: str | None
) -> tuple[list[T], str | None]:
    """Return the part of ``found``, which is sorted by name, that stands behind ``after``."""
    behind = [one for one in found if after is None or name(one) > after]
    page = behind[:limit]
    return page, name(page[-1]) if len(behind) > limit else None


def _marked(key: Sequence[Any]) -> str:
    return urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def _unmarked(mark: str) -> list[Any]:
    try:
        key: Any = json.loads(urlsafe_b64decode(mark + "=" * (-len(mark) % 4)))
        if isinstance(key, list) and len(key) >= 2:  # pyright: ignore[reportUnknownArgumentType]
            return key  # pyright: ignore[reportUnknownVariableType]
    except ValueError:
        pass
    raise InvalidRequest("after: is no `next` of a page", field="after")
