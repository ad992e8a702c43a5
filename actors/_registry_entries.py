"""What the registry holds (sans-I/O): instances, resources and standbys as records.

Each record is one message of its own subject, a msgpack map that replaces the one
before it:

=========================================  ============================================
``registry.leader``                        who leads: ``{node, term}``
``registry.lease``                         the leader's renewal, and what is settled
``registry.instance.<id>``                 an instance: `Instance`
``registry.resource.<service>.<id>``       who owns a resource: `Resource`
``registry.standby.<service>.<id>.<inst>`` that an instance stands by: `Standby`
``registry.failovers``                     the last failovers, for whoever looks back
=========================================  ============================================

A standby has a record of its own because the sequence of a resource's record is its
owner's epoch: whoever comes or goes as a standby must not change it. What is removed
leaves a tombstone, which expires.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from attrs import field, frozen

from aegis._subjects import Subjects, unescape
from aegis.contracts import Role

__all__ = [
    "FAILOVERS",
    "LEADER",
    "RENEWAL",
    "TOMBSTONE_TTL",
    "Instance",
    "InstanceState",
    "Key",
    "Resource",
    "ResourceKey",
    "Standby",
    "Write",
    "instance_key",
    "key_of",
    "resource_key",
    "standby_key",
    "tombstone",
]

type Key = tuple[str, ...]
"""The tokens of a record's subject behind ``registry.``, unescaped."""

type ResourceKey = tuple[str, str]
"""Service and resource id."""

LEADER: Final[Key] = ("leader",)
RENEWAL: Final[Key] = ("lease",)
FAILOVERS: Final[Key] = ("failovers",)

TOMBSTONE_TTL: Final = 3600
"""Seconds that the record of something removed is kept: far longer than any lease."""


class InstanceState(StrEnum):
    """Whether an instance may be chosen for new work."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@frozen
class Instance:
    """One registered provider of a service; ``sequence`` is that of its record."""

    service: str
    instance_id: str
    node_id: str
    role: Role = Role.ACTIVE
    metadata: dict[str, Any] = field(factory=dict[str, Any])
    timestamp: float = 0.0
    state: InstanceState = InstanceState.HEALTHY
    cause: str = ""
    sequence: int = 0

    def to_record(self) -> dict[str, Any]:
        """Return the record's map."""
        return {
            "service_name": self.service,
            "node_id": self.node_id,
            "role": str(self.role),
            "metadata": self.metadata,
            "timestamp": self.timestamp,
            "state": str(self.state),
            "cause": self.cause,
        }

    @classmethod
    def from_record(cls, key: Key, record: dict[str, Any], sequence: int) -> Instance:
        """Return the instance that a record describes."""
        return cls(
            service=record["service_name"],
            instance_id=key[1],
            node_id=record["node_id"],
            role=Role(record["role"]),
            metadata=record["metadata"],
            timestamp=record["timestamp"],
            state=InstanceState(record["state"]),
            cause=record["cause"],
            sequence=sequence,
        )


@frozen
class Resource:
    """Who owns a resource. ``epoch`` is the sequence of the record that says so.

    ``contested`` says that when this was written, the lease of an earlier owner might
    still have been running.
    """

    service: str
    resource_id: str
    instance_id: str
    node_id: str
    contested: bool = False
    metadata: dict[str, Any] = field(factory=dict[str, Any])
    epoch: int = 0

    @property
    def key(self) -> ResourceKey:
        """Service and resource id."""
        return (self.service, self.resource_id)

    def to_record(self) -> dict[str, Any]:
        """Return the record's map."""
        return {
            "instance_id": self.instance_id,
            "node_id": self.node_id,
            "contested": self.contested,
            "metadata": self.metadata,
        }

    @classmethod
    def from_record(cls, key: Key, record: dict[str, Any], sequence: int) -> Resource:
        """Return the ownership that a record describes."""
        return cls(
            service=key[1],
            resource_id=key[2],
            instance_id=record["instance_id"],
            node_id=record["node_id"],
            contested=record["contested"],
            metadata=record["metadata"],
            epoch=sequence,
        )


@frozen
class Standby:
    """An instance that follows a resource's journal, ready to own it."""

    service: str
    resource_id: str
    instance_id: str
    node_id: str
    metadata: dict[str, Any] = field(factory=dict[str, Any])
    sequence: int = 0

    def to_record(self) -> dict[str, Any]:
        """Return the record's map."""
        return {"node_id": self.node_id, "metadata": self.metadata}

    @classmethod
    def from_record(cls, key: Key, record: dict[str, Any], sequence: int) -> Standby:
        """Return the standby that a record describes."""
        return cls(
            service=key[1],
            resource_id=key[2],
            instance_id=key[3],
            node_id=record["node_id"],
            metadata=record["metadata"],
            sequence=sequence,
        )


@frozen
class Write:
    """One record to be written; ``ttl`` seconds later it expires, if that is set."""

    key: Key
    record: dict[str, Any]
    ttl: int | None = None


def instance_key(instance_id: str) -> Key:
    """Return where the record of an instance stands."""
    return ("instance", instance_id)


def resource_key(service: str, resource_id: str) -> Key:
    """Return where the record of a resource stands."""
    return ("resource", service, resource_id)


def standby_key(service: str, resource_id: str, instance_id: str) -> Key:
    """Return where the record of a standby stands."""
    return ("standby", service, resource_id, instance_id)


def tombstone(key: Key, *, cause: str, contested: bool = False) -> Write:
    """Return the write that removes what stands at ``key``."""
    record = {"removed": True, "cause": cause, "contested": contested}
    return Write(key, record, TOMBSTONE_TTL)


def key_of(subjects: Subjects, subject: str) -> Key:
    """Return the key of the record that stands on ``subject``."""
    return tuple(unescape(t) for t in subject[len(subjects.registry()) + 1 :].split("."))
