"""Queries (sans-I/O): what a copy of the registry answers to whoever asks where things are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Final

from aegis.actors import _registration as registration
from aegis.actors._registry import Registry
from aegis.actors._registry_entries import (
    Instance,
    InstanceState,
    Resource,
    ResourceKey,
    Standby,
)
from aegis.contracts import Role
from aegis.errors import NotFound

__all__ = ["query_resources", "query_services"]

MAX_SCANNED: Final = 5_000
"""Resources that one page looks through, so that nobody waits for long meanwhile; a page
that ends there may be short, or empty, and still have one behind it."""

_SHOWN: Final = 3
"""How many names of a list a message spells out."""


def query_services(
    registry: Registry,
    request: registration.QueryServices,
    depth: Callable[[str], int | None],
) -> dict[str, Any]:
    """Return the answer to ``ipc.service.query``; ``depth`` tells queue depths.

    Raises:
        NotFound: the service or instance that was asked for is not there.
    """
    if request.instance_id is not None:
        found = registry.instances.get(request.instance_id)
        if found is None or request.service_name not in (None, found.service):
            raise NotFound(f"no instance {request.instance_id!r}")
        services = {found.service: [found]}
    elif request.service_name is not None:
        if request.service_name not in registry.by_service:
            raise NotFound(f"no service {request.service_name!r}")
        services = {request.service_name: _members(registry, request.service_name)}
    else:
        services = {name: _members(registry, name) for name in sorted(registry.by_service)}
    return {
        "success": True,
        "services": [
            {
                "service_name": name,
                "instances": [_instance_map(registry, i, depth(i.instance_id)) for i in members],
            }
            for name, members in services.items()
        ],
        "sequence": registry.sequence,
    }


def _members(registry: Registry, service: str) -> list[Instance]:
    return [registry.instances[name] for name in sorted(registry.by_service[service])]


def _instance_map(registry: Registry, instance: Instance, depth: int | None) -> dict[str, Any]:
    return {
        "instance_id": instance.instance_id,
        "node_id": instance.node_id,
        "role": str(instance.role),
        "state": str(instance.state),
        "cause": instance.cause,
        "timestamp": instance.timestamp,
        "metadata": instance.metadata,
        "resources": len(registry.owned.get(instance.instance_id, ())),
        "standby_for": len(registry.stood_by.get(instance.instance_id, ())),
        "queue_depth": depth,
    }


def query_resources(registry: Registry, request: registration.QueryResources) -> dict[str, Any]:
    """Return the answer to ``ipc.resource.query``.

    Raises:
        NotFound: nobody holds the resource that was asked for.
    """
    if request.resource_ids is None:
        return _list_resources(registry, request)
    found: list[dict[str, Any]] = []
    missing: list[str] = []
    for resource_id in request.resource_ids:
        keys = (
            [(request.service_name, resource_id)]
            if request.service_name is not None
            else [(service, resource_id) for service in sorted(registry.by_service)]
        )
        owners = [registry.resources[key] for key in keys if key in registry.resources]
        if not owners:
            missing.append(resource_id)
        found.extend(_resource_map(registry, owner) for owner in owners)
    if not found:
        service, named = request.service_name, ", ".join(map(repr, missing[:_SHOWN]))
        if service is None:
            raise NotFound(f"no service has a resource {named}", missing=missing)
        if service not in registry.by_service:
            raise NotFound(f"no service {service!r}", missing=missing)
        raise NotFound(f"service {service!r} has no resource {named}", missing=missing)
    answer: dict[str, Any] = {"success": True, "resources": found, "sequence": registry.sequence}
    if request.single:
        answer |= found[0]
    else:
        answer["missing"] = missing
    return answer


def _list_resources(registry: Registry, request: registration.QueryResources) -> dict[str, Any]:
    if request.instance_id is not None:
        held = set(registry.owned.get(request.instance_id, ()))
        if request.held:
            # What has lost its owner is not listed.
            held |= registry.stood_by.get(request.instance_id, set()) & registry.resources.keys()
        keys = sorted(held)
    else:
        keys = registry.sorted_resources()
    start = 0
    if request.after is not None:
        start = bisect_right(keys, request.after)
    elif request.service_name is not None:
        start = bisect_right(keys, (request.service_name, ""))
    page: list[dict[str, Any]] = []
    last: ResourceKey | None = None
    after: ResourceKey | None = None
    for number, key in enumerate(keys[start : start + MAX_SCANNED + 1]):
        if request.service_name is not None and key[0] != request.service_name:
            if key[0] > request.service_name:
                break
            last = key
            continue
        if len(page) == request.limit or number == MAX_SCANNED:
            after = last
            break
        last = key
        if _matches(registry, registry.resources[key], request):
            page.append(_resource_map(registry, registry.resources[key]))
    return {
        "success": True,
        "resources": page,
        "next": None if after is None else list(after),
        "sequence": registry.sequence,
    }


def _matches(registry: Registry, resource: Resource, request: registration.QueryResources) -> bool:
    if request.contains and request.contains not in resource.resource_id.lower():
        return False
    if not request.only:
        return True
    return (
        registration.UNHEALTHY in request.only
        and registry.state_of(resource.instance_id) is not InstanceState.HEALTHY
    ) or (registration.ALONE in request.only and not registry.standbys.get(resource.key))


def _resource_map(registry: Registry, resource: Resource) -> dict[str, Any]:
    return {
        "service_name": resource.service,
        "resource_id": resource.resource_id,
        "instance_id": resource.instance_id,
        "owner": resource.instance_id,
        "node_id": resource.node_id,
        "role": str(Role.ACTIVE),
        "epoch": resource.epoch,
        "state": str(registry.state_of(resource.instance_id)),
        "metadata": resource.metadata,
        "applied": registry.applied.get(
            resource.instance_id, resource.node_id, resource.resource_id
        ),
        "standbys": [
            _standby_map(registry, standby, resource)
            for standby in registry.standbys.get(resource.key, {}).values()
        ],
    }


def _standby_map(registry: Registry, standby: Standby, owner: Resource) -> dict[str, Any]:
    process = (standby.instance_id, standby.node_id)
    return {
        "instance_id": standby.instance_id,
        "node_id": standby.node_id,
        "role": str(Role.STANDBY),
        "state": str(registry.state_of(standby.instance_id)),
        "applied": registry.applied.get(*process, standby.resource_id),
        "lag": registry.applied.lag((owner.instance_id, owner.node_id), process, owner.key),
        "metadata": standby.metadata,
    }
