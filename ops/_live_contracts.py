"""What the live page is told: one class for each kind of row, which OpenAPI describes.

Every row has a key, and is sent when it is new or has changed. Times are Unix seconds.
"""

from __future__ import annotations

from attrs import field, frozen

__all__ = [
    "LiveFailover",
    "LiveInstance",
    "LiveLetter",
    "LiveLoad",
    "LiveMessage",
    "LiveNode",
    "LiveOrphans",
    "LiveProblem",
    "LiveService",
    "LiveSystem",
    "LiveTables",
    "Sample",
]

type Sample = tuple[float, float | None, int | None, float | None, float | None, float | None]
"""At; messages per second; messages that wait; milliseconds: of handlers the median and
the 99th percentile, of commits the 99th percentile. Null where nothing was measured."""


@frozen
class LiveSystem:
    """The system as a whole, seen from the node that answers."""

    namespace: str
    node_id: str
    version: str
    connected: bool
    """Whether the node has a connection; without, the rest is as it was before."""
    leader: str
    term: int
    letters: int = 0
    """Dead letters, of which only the newest are rows."""


@frozen
class LiveNode:
    """One process. ``beats`` is ``ok``, ``late`` or ``silent``."""

    node_id: str
    status: str
    beats: str
    host: str
    pid: int
    candidate: bool


@frozen
class LiveService:
    """One service in numbers; ``rate`` is messages per second."""

    service_name: str
    instances: int
    healthy: int
    resources: int
    queue_depth: int
    rate: float
    p50_ms: float | None
    p99_ms: float | None


@frozen
class LiveInstance:
    """One instance, by its record."""

    service_name: str
    instance_id: str
    node_id: str
    role: str
    state: str
    cause: str
    resources: int
    standby_for: int


@frozen
class LiveLoad:
    """What an instance tells in its beats: ``stalled`` is for how many seconds the actor
    that waits longest has made no progress, if that is worth a word.
    """

    depth: int
    rate: float
    stalled: float


@frozen
class LiveFailover:
    """Resources that one decision moved to another owner.

    ``serving`` of them have an owner that answers. The durations are of the slowest one.
    """

    id: str
    trace_id: str
    at: float
    service_name: str
    cause: str
    old_instance_id: str
    new_instance_id: str
    resources: int
    serving: int
    resource_ids: list[str]
    """The first few."""
    detected_ms: float
    decided_ms: float
    fenced_ms: float | None
    replayed_ms: float | None
    covered_ms: float | None
    total_ms: float | None


@frozen
class LiveOrphans:
    """Resources that one instance had, and that nobody has since ``at``."""

    id: str
    at: float
    service_name: str
    instance_id: str
    cause: str
    resources: int
    resource_ids: list[str]
    """The first few."""


@frozen
class LiveLetter:
    """One message that could not be processed."""

    sequence: int
    service_name: str
    resource_id: str
    method: str
    reason: str
    tries: int
    uncertain: bool
    at: float


@frozen
class LiveProblem:
    """Something that is wrong: ``critical``, ``warning`` or ``notice``; the worst first.

    ``about`` is the part of the page that shows more of it.
    """

    severity: str
    text: str
    about: str
    rank: int


@frozen
class LiveTables:
    """Rows by their keys."""

    system: dict[str, LiveSystem] = field(factory=dict[str, LiveSystem])
    problems: dict[str, LiveProblem] = field(factory=dict[str, LiveProblem])
    nodes: dict[str, LiveNode] = field(factory=dict[str, LiveNode])
    services: dict[str, LiveService] = field(factory=dict[str, LiveService])
    instances: dict[str, LiveInstance] = field(factory=dict[str, LiveInstance])
    loads: dict[str, LiveLoad] = field(factory=dict[str, LiveLoad])
    failovers: dict[str, LiveFailover] = field(factory=dict[str, LiveFailover])
    orphans: dict[str, LiveOrphans] = field(factory=dict[str, LiveOrphans])
    letters: dict[str, LiveLetter] = field(factory=dict[str, LiveLetter])


@frozen
class LiveMessage:
    """One event of the stream: what changed since the one that the viewer had last.

    With ``reset`` it is everything, and what the viewer had is to be forgotten. ``gone``
    has the keys of rows that are there no more, by table, and maybe others.
    """

    at: float
    reset: bool
    rows: LiveTables
    gone: dict[str, list[str]]
    samples: list[Sample]
