"""Control payloads (sans-I/O): plain maps from anybody in, checked requests out.

Whoever speaks msgpack may send these maps, so nothing in them is taken on trust:
each wrong field is refused with an `InvalidRequest` that names it. Fields that are
not known are left alone, so that a newer caller can talk to an older supervisor.
"""

# Values from the wire have no type yet.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

from aegis.contracts import (
    RegisterInstance,
    RegisterResources,
    ReleaseResources,
    Role,
    UnregisterInstance,
    check_id,
)
from aegis.errors import InvalidRequest

__all__ = [
    "MAX_METADATA_BYTES",
    "MAX_PAGE",
    "MAX_TRACE_ID_BYTES",
    "Disconnect",
    "QueryResources",
    "QueryServices",
    "Signed",
    "disconnect_instance",
    "map_of",
    "query_resources",
    "query_services",
    "register_instance",
    "register_resources",
    "release_resources",
    "unregister_instance",
]

MAX_METADATA_BYTES: Final = 4096
"""How large the metadata of an instance or a resource may be, by a rough count."""

MAX_TRACE_ID_BYTES: Final = 200
"""The longest ``trace_id``; a W3C trace id has 32 characters."""

MAX_PAGE: Final = 1000
"""How many resources one answer to a query lists, and how many one may ask for."""

_MAX_METADATA_DEPTH: Final = 16


@frozen
class Signed[T]:
    """A request, and the process it comes from.

    ``node_id`` names the process; a caller that is no node leaves it out and is then
    known by its instance id. ``named`` says whether the field was there.
    """

    request: T
    node_id: str
    named: bool
    trace_id: str = ""


@frozen
class Disconnect:
    """Payload of ``ipc.service.disconnect``: which instance to evict, whoever asks."""

    instance_id: str
    service_name: str | None = None
    trace_id: str = ""


@frozen
class QueryServices:
    """Payload of ``ipc.service.query``: which instances to list; all by default.

    With ``failovers`` the last of these are listed instead.
    """

    service_name: str | None = None
    instance_id: str | None = None
    min_sequence: int = 0
    failovers: bool = False


@frozen
class QueryResources:
    """Payload of ``ipc.resource.query``: resources by name, or those of an owner.

    With ``resource_ids`` the answer is about exactly these. Otherwise it lists all
    that match, ``limit`` at a time, behind the pair ``after`` of the page before: those
    whose id has the text ``contains`` in it, whatever the case, and that are in one of
    the conditions ``only``. With ``held`` those are listed, too, that the instance stands
    by for.
    """

    service_name: str | None = None
    resource_ids: tuple[str, ...] | None = None
    single: bool = False
    instance_id: str | None = None
    after: tuple[str, str] | None = None
    limit: int = MAX_PAGE
    min_sequence: int = 0
    contains: str = ""
    only: tuple[str, ...] = ()
    held: bool = False


UNHEALTHY: Final = "unhealthy"
"""The condition of a resource whose owner is not healthy."""

ALONE: Final = "alone"
"""The condition of a resource that no instance stands by for."""


def register_instance(payload: Any) -> Signed[RegisterInstance]:
    """Check the payload of ``ipc.service.register``."""
    fields = _Fields(payload)
    instance_id = fields.name("instance_id")
    return fields.signed(
        RegisterInstance(
            service_name=fields.name("service_name"),
            instance_id=instance_id,
            timestamp=fields.number("timestamp"),
            metadata=fields.metadata(),
            role=fields.role(),
        ),
        instance_id,
    )


def unregister_instance(payload: Any) -> Signed[UnregisterInstance]:
    """Check the payload of ``ipc.service.unregister``."""
    fields = _Fields(payload)
    instance_id = fields.name("instance_id")
    return fields.signed(
        UnregisterInstance(service_name=fields.name("service_name"), instance_id=instance_id),
        instance_id,
    )


def disconnect_instance(payload: Any) -> Disconnect:
    """Check the payload of ``ipc.service.disconnect``."""
    fields = _Fields(payload)
    return Disconnect(
        fields.name("instance_id"), fields.optional_name("service_name"), fields.trace_id()
    )


def register_resources(payload: Any) -> Signed[RegisterResources]:
    """Check the payload of ``ipc.resource.register``."""
    fields = _Fields(payload)
    instance_id = fields.name("instance_id")
    return fields.signed(
        RegisterResources(
            service_name=fields.name("service_name"),
            instance_id=instance_id,
            resource_ids=fields.names("resource_ids"),
            role=fields.role(),
            force=fields.flag("force"),
            metadata=fields.metadata(),
            trace_id=fields.trace_id(),
        ),
        instance_id,
    )


def release_resources(payload: Any) -> Signed[ReleaseResources]:
    """Check the payload of ``ipc.resource.release``."""
    fields = _Fields(payload)
    instance_id = fields.name("instance_id")
    return fields.signed(
        ReleaseResources(
            service_name=fields.name("service_name"),
            instance_id=instance_id,
            resource_ids=fields.names("resource_ids"),
            heir=fields.optional_name("heir") or "",
            trace_id=fields.trace_id(),
        ),
        instance_id,
    )


def query_services(payload: Any) -> QueryServices:
    """Check the payload of ``ipc.service.query``; an empty one asks for everything."""
    fields = _Fields(payload)
    return QueryServices(
        service_name=fields.optional_name("service_name"),
        instance_id=fields.optional_name("instance_id"),
        min_sequence=fields.count("min_sequence", 0),
        failovers=fields.flag("failovers"),
    )


def query_resources(payload: Any) -> QueryResources:
    """Check the payload of ``ipc.resource.query``; an empty one asks for everything."""
    fields = _Fields(payload)
    single = fields.optional_name("resource_id")
    several: tuple[str, ...] | None = None
    if fields.has("resource_ids"):
        if single is not None:
            raise InvalidRequest(
                "resource_ids: give either resource_id or resource_ids", field="resource_ids"
            )
        several = tuple(fields.names("resource_ids"))
        if len(several) > MAX_PAGE:
            raise InvalidRequest(
                f"resource_ids: at most {MAX_PAGE} at a time", field="resource_ids"
            )
    limit = fields.count("limit", MAX_PAGE)
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit: must be from 1 to {MAX_PAGE}", field="limit")
    return QueryResources(
        service_name=fields.optional_name("service_name"),
        resource_ids=(single,) if single is not None else several,
        single=single is not None,
        instance_id=fields.optional_name("instance_id"),
        after=fields.pair("after"),
        limit=limit,
        min_sequence=fields.count("min_sequence", 0),
        contains=(fields.optional_name("contains") or "").lower(),
        only=_conditions(fields),
        held=fields.flag("held"),
    )


def _conditions(fields: _Fields) -> tuple[str, ...]:
    given = tuple(fields.names("only")) if fields.has("only") else ()
    for condition in given:
        if condition not in (UNHEALTHY, ALONE):
            raise InvalidRequest(f"only: must be {UNHEALTHY!r} or {ALONE!r}", field="only")
    return given


def map_of(value: Any) -> dict[str, Any] | None:
    """Return ``value`` if it is a map, as one with text for keys."""
    return value if isinstance(value, dict) else None


def trace_id_of(payload: Any) -> str:
    """Return the ``trace_id`` of a payload, even of one that is refused."""
    value = payload.get("trace_id") if isinstance(payload, Mapping) else None
    return value if isinstance(value, str) and len(value) <= MAX_TRACE_ID_BYTES else ""


class _Fields:
    """Reads one payload field by field; every method raises `InvalidRequest`."""

    def __init__(self, payload: Any) -> None:
        if not isinstance(payload, Mapping):
            raise InvalidRequest(f"payload: must be a map, not {_kind(payload)}", field="payload")
        self._map: Mapping[Any, Any] = payload

    def has(self, field: str) -> bool:
        return self._map.get(field) is not None

    def signed[T](self, request: T, instance_id: str) -> Signed[T]:
        node_id = self.optional_name("node_id")
        return Signed(
            request,
            node_id=instance_id if node_id is None else node_id,
            named=node_id is not None,
            trace_id=self.trace_id(),
        )

    def name(self, field: str) -> str:
        if not self.has(field):
            raise InvalidRequest(f"{field}: is missing", field=field)
        return _name(self._map[field], field)

    def optional_name(self, field: str) -> str | None:
        return _name(self._map[field], field) if self.has(field) else None

    def names(self, field: str) -> list[str]:
        if not self.has(field):
            raise InvalidRequest(f"{field}: is missing", field=field)
        values: Any = self._map[field]
        if not isinstance(values, list | tuple):
            raise InvalidRequest(f"{field}: must be a list, not {_kind(values)}", field=field)
        if not values:
            raise InvalidRequest(f"{field}: must not be empty", field=field)
        names: dict[str, None] = {}
        items: list[Any] = list(values)
        for index, value in enumerate(items):
            path = f"{field}[{index}]"
            name = _name(value, path)
            if name in names:
                raise InvalidRequest(f"{path}: {name!r} stands in the list twice", field=path)
            names[name] = None
        return list(names)

    def pair(self, field: str) -> tuple[str, str] | None:
        if not self.has(field):
            return None
        value: Any = self._map[field]
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise InvalidRequest(f"{field}: must be [service_name, resource_id]", field=field)
        service, resource = value
        return _name(service, f"{field}[0]"), _name(resource, f"{field}[1]")

    def number(self, field: str) -> float:
        value: Any = self._map.get(field, 0.0)
        if value is None:
            return 0.0
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidRequest(f"{field}: must be a number, not {_kind(value)}", field=field)
        if not math.isfinite(value) or value < 0:
            raise InvalidRequest(f"{field}: must be a time in Unix seconds", field=field)
        return float(value)

    def count(self, field: str, default: int) -> int:
        value: Any = self._map.get(field)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidRequest(
                f"{field}: must be a whole number, not {_kind(value)}", field=field
            )
        if value < 0:
            raise InvalidRequest(f"{field}: must not be negative", field=field)
        return value

    def flag(self, field: str) -> bool:
        value: Any = self._map.get(field)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise InvalidRequest(f"{field}: must be true or false, not {_kind(value)}", field=field)
        return value

    def role(self) -> Role:
        value: Any = self._map.get("role")
        if value is None:
            return Role.ACTIVE
        if not isinstance(value, str):
            raise InvalidRequest(f"role: must be text, not {_kind(value)}", field="role")
        try:
            return Role(value)
        except ValueError:
            raise InvalidRequest(
                f"role: must be 'active' or 'standby', not {value[:40]!r}", field="role"
            ) from None

    def trace_id(self) -> str:
        value: Any = self._map.get("trace_id")
        if value is None:
            return ""
        if not isinstance(value, str):
            raise InvalidRequest(f"trace_id: must be text, not {_kind(value)}", field="trace_id")
        if len(value) > MAX_TRACE_ID_BYTES:
            raise InvalidRequest(
                f"trace_id: at most {MAX_TRACE_ID_BYTES} characters", field="trace_id"
            )
        return value

    def metadata(self) -> dict[str, Any]:
        value: Any = self._map.get("metadata")
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise InvalidRequest(f"metadata: must be a map, not {_kind(value)}", field="metadata")
        size = _measure(value, "metadata", _MAX_METADATA_DEPTH)
        if size > MAX_METADATA_BYTES:
            raise InvalidRequest(
                f"metadata: about {size} bytes; at most {MAX_METADATA_BYTES} are allowed",
                field="metadata",
            )
        return dict(value)


def _name(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{path}: must be text, not {_kind(value)}", field=path)
    problem = check_id(value)
    if problem is not None:
        raise InvalidRequest(f"{path}: {problem}", field=path)
    return value


def _kind(value: Any) -> str:
    return "nil" if value is None else type(value).__name__


def _measure(value: Any, path: str, depth: int) -> int:
    """Return about how many bytes ``value`` takes; only plain values may be in it."""
    if depth == 0:
        raise InvalidRequest(f"{path}: is nested too deep", field=path)
    match value:
        case None | bool() | float():
            return 9
        case int():
            if not -(2**63) <= value < 2**64:
                raise InvalidRequest(f"{path}: is no 64-bit number", field=path)
            return 9
        case bytes():
            return 5 + len(value)
        case str():
            return 5 + _text_bytes(value, path)
        case list() | tuple():
            items: list[Any] = list(value)
            return 5 + sum(
                _measure(item, f"{path}[{index}]", depth - 1) for index, item in enumerate(items)
            )
        case dict():
            size = 5
            entries: dict[Any, Any] = value
            for key, item in entries.items():
                if not isinstance(key, str):
                    raise InvalidRequest(f"{path}: its keys must be text", field=path)
                size += 5 + _text_bytes(key, path)
                size += _measure(item, f"{path}.{key[:40]}", depth - 1)
            return size
        case _:
            raise InvalidRequest(f"{path}: {_kind(value)} is no plain value", field=path)


def _text_bytes(value: str, path: str) -> int:
    try:
        return len(value.encode())
    except UnicodeEncodeError:
        raise InvalidRequest(f"{path}: must be valid Unicode", field=path) from None
