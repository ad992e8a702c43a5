"""Requests (sans-I/O): from the payload of a control request to the decision about it.

A request becomes a `Decision`: the records to write, and the answer and the events to
give once all of them are acknowledged. Deciding changes nothing, so a decision whose
write is refused is simply dropped. Only the leader decides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from aegis.actors import _registration as registration
from aegis.actors._decision import Decision, Holder, Probe, refusal
from aegis.actors._instance_requests import (
    disconnect_instance,
    register_instance,
    unregister_instance,
)
from aegis.actors._registry import Registry
from aegis.actors._registry_entries import ResourceKey
from aegis.actors._resource_requests import register_resources, release_resources
from aegis.errors import AegisError, InvalidRequest

__all__ = ["handle"]


def handle(
    registry: Registry,
    operation: str,
    payload: Any,
    *,
    alive: Mapping[Holder, bool] | None = None,
    unsettled: Collection[ResourceKey] = (),
) -> Decision | Probe:
    """Decide a request; ``operation`` is ``service.register`` and so on.

    ``alive`` holds what probes have found out so far. ``unsettled`` are the
    resources for which the lease of an earlier owner may still be running.
    """
    known = alive or {}
    try:
        match operation:
            case "service.register":
                return register_instance(registry, payload, known, unsettled)
            case "service.unregister":
                return unregister_instance(registry, payload, unsettled)
            case "service.disconnect":
                return disconnect_instance(registry, payload, unsettled)
            case "resource.register":
                return register_resources(registry, payload, known, unsettled)
            case "resource.release":
                return release_resources(registry, payload, unsettled)
            case _:
                raise InvalidRequest(f"no operation {operation!r}", field="operation")
    except AegisError as error:
        return Decision(refusal(error, registration.trace_id_of(payload)))
