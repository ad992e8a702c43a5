"""The node's lease (sans-I/O): until when, and for what, a node may answer queries.

A node beats; the leader's answer renews the lease, counted on the boot clock from the
moment the beat was *sent*, and says which resources it covers, each with the epoch of
its owner. The node answers for a resource only with both: time left, and the epoch
covered. Losing the connection drops the lease at once.

A beat is the map ``{node_id, number, since, coverage, instances}``: ``coverage`` is
``[reign, version]``, what the node has taken over so far; answers to beats before
number ``since`` count no more, since the connection was lost after them; and
``instances`` holds for each instance id ``{depth, progress, stalled, applied}``. The
answer is ``{number, reign, lease, base, version, covers, revoked, refused, more}``: the
changes that lead from version ``base`` to ``version``, of which ``base`` 0 replaces
everything. The leader may send another answer to the same beat when the coverage
changes; the time stays that of the beat. ``refused`` maps instance ids that the leader does not know on this node to
``{code, message}``.
"""

# Values from the wire have no type yet.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import define, field, frozen

from aegis.actors._registry_entries import ResourceKey
from aegis.errors import ProtocolError

__all__ = ["Beat", "BeatAnswer", "InstanceLoad", "Lease", "LeaseChange", "LeaseOptions"]

_MAX_OPEN_BEATS: Final = 64
"""Beats whose answers may still come; an older answer is of no use any more."""

_MAX_GIVEN_BACK: Final = 10_000
"""How many resources that were given back are remembered. The oldest of more is safe to
forget: an answer that still covers it would be one from many seconds ago."""


@frozen
class LeaseOptions:
    """Seconds of beats and leases.

    ``lease_margin`` is what the leader waits beyond the end of a lease, for clocks
    that do not run equally fast.
    """

    heartbeat_interval: float = 0.5
    heartbeat_timeout: float = 2.0
    lease_duration: float = 2.0
    lease_margin: float = 0.05
    stall_timeout: float = 10.0
    gone_timeout: float = 10.0


@frozen
class InstanceLoad:
    """What a node says of one of its instances in a beat.

    ``progress`` counts the messages that were ended. ``stalled`` is for how long, in
    seconds, the actor of the instance that waits longest has had mail and made no
    progress. ``applied`` maps resource ids to how far their journals are applied, and
    holds only what there is to tell: see `aegis.actors._applied`.
    """

    depth: int = 0
    progress: int = 0
    stalled: float = 0.0
    applied: Mapping[str, int] = field(factory=dict[str, int])


@frozen
class Beat:
    """One beat of one node."""

    node_id: str
    number: int
    since: int = 1
    reign: int = 0
    version: int = 0
    instances: Mapping[str, InstanceLoad] = field(factory=dict[str, InstanceLoad])

    def to_wire(self) -> dict[str, Any]:
        """Return the map that is sent."""
        return {
            "node_id": self.node_id,
            "number": self.number,
            "since": self.since,
            "coverage": [self.reign, self.version],
            "instances": {
                name: {
                    "depth": load.depth,
                    "progress": load.progress,
                    "stalled": load.stalled,
                    "applied": dict(load.applied),
                }
                for name, load in self.instances.items()
            },
        }

    @classmethod
    def from_wire(cls, wire: Any) -> Beat:
        """Return the beat that a map stands for.

        Raises:
            ProtocolError: it is none.
        """
        try:
            reign, version = wire.get("coverage") or (0, 0)
            return cls(
                node_id=_text(wire["node_id"]),
                number=int(wire["number"]),
                since=int(wire.get("since", 1)),
                reign=int(reign),
                version=int(version),
                instances={
                    _text(name): InstanceLoad(
                        int(load.get("depth", 0)),
                        int(load.get("progress", 0)),
                        float(load.get("stalled", 0.0)),
                        {_text(r): int(n) for r, n in (load.get("applied") or {}).items()},
                    )
                    for name, load in (wire.get("instances") or {}).items()
                },
            )
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ProtocolError(f"not a beat: {error}") from error


@frozen
class BeatAnswer:
    """The leader's answer to a beat; see the module's docstring."""

    number: int
    reign: int
    lease: float
    base: int
    version: int
    covers: Mapping[ResourceKey, int] = field(factory=dict[ResourceKey, int])
    revoked: tuple[ResourceKey, ...] = ()
    refused: Mapping[str, Mapping[str, Any]] = field(factory=dict[str, Mapping[str, Any]])
    more: bool = False

    def to_wire(self) -> dict[str, Any]:
        """Return the map that is sent."""
        covers: dict[str, dict[str, int]] = {}
        for (service, resource_id), epoch in self.covers.items():
            covers.setdefault(service, {})[resource_id] = epoch
        return {
            "number": self.number,
            "reign": self.reign,
            "lease": self.lease,
            "base": self.base,
            "version": self.version,
            "covers": covers,
            "revoked": [list(key) for key in self.revoked],
            "refused": {name: dict(why) for name, why in self.refused.items()},
            "more": self.more,
        }

    @classmethod
    def from_wire(cls, wire: Any) -> BeatAnswer:
        """Return the answer that a map stands for.

        Raises:
            ProtocolError: it is none.
        """
        try:
            return cls(
                number=int(wire["number"]),
                reign=int(wire["reign"]),
                lease=float(wire["lease"]),
                base=int(wire["base"]),
                version=int(wire["version"]),
                covers={
                    (service, resource_id): int(epoch)
                    for service, resources in wire["covers"].items()
                    for resource_id, epoch in resources.items()
                },
                revoked=tuple((service, name) for service, name in wire["revoked"]),
                refused=wire["refused"],
                more=bool(wire["more"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"not an answer to a beat: {error}") from error


@define
class LeaseChange:
    """What an answer, or the loss of the connection, changed for the node."""

    gained: dict[ResourceKey, int] = field(factory=dict[ResourceKey, int])
    lost: dict[ResourceKey, int] = field(factory=dict[ResourceKey, int])
    refused: dict[str, Mapping[str, Any]] = field(factory=dict[str, Mapping[str, Any]])
    beat_at_once: bool = False
    """The leader waits to hear that this node has taken the change over."""


class Lease:
    """What one node may answer for, and until when. Times are boot-clock seconds."""

    def __init__(self, node_id: str, options: LeaseOptions | None = None) -> None:
        self.node_id = node_id
        self.options = options or LeaseOptions()
        self.valid_until = float("-inf")
        self.covered: dict[ResourceKey, int] = {}
        self._number = 0
        self._since = 1
        self._sent: dict[int, float] = {}
        self._reign = 0
        self._version = 0
        self._given_back: dict[ResourceKey, int] = {}

    # -- reading ------------------------------------------------------------------------

    def valid(self, now: float) -> bool:
        """Whether the lease runs."""
        return now < self.valid_until

    def covers(self, service: str, resource_id: str, epoch: int, now: float) -> bool:
        """Whether the owner with ``epoch`` may answer queries for a resource now."""
        return now < self.valid_until and self.covered.get((service, resource_id)) == epoch

    # -- inputs -------------------------------------------------------------------------

    def beat(self, now: float, instances: Mapping[str, InstanceLoad]) -> Beat:
        """Return the next beat; it must be sent at once, since the lease counts from now."""
        self._number += 1
        self._sent[self._number] = now
        if len(self._sent) > _MAX_OPEN_BEATS:
            del self._sent[next(iter(self._sent))]
        return Beat(self.node_id, self._number, self._since, self._reign, self._version, instances)

    def answered(self, answer: BeatAnswer) -> LeaseChange:
        """Take over the leader's answer; one that is too old changes nothing."""
        change = LeaseChange()
        sent_at = self._sent.get(answer.number)
        if sent_at is None or answer.reign < self._reign:
            return change
        if answer.reign > self._reign and answer.base != 0:
            return change
        for number in [n for n in self._sent if n < answer.number]:
            del self._sent[number]
        if not self._take_over(answer, change):
            change.beat_at_once = True
            return change
        # A lease never grows beyond what the leader believes it to be.
        duration = min(answer.lease, self.options.lease_duration)
        self.valid_until = max(self.valid_until, sent_at + duration)
        change.refused = {name: why for name, why in answer.refused.items()}
        change.beat_at_once = bool(change.lost) or answer.more
        return change

    def _take_over(self, answer: BeatAnswer, change: LeaseChange) -> bool:
        """Apply the change of coverage; False if one before it is missing."""
        if answer.base == 0 and (answer.reign, answer.version) != (self._reign, self._version):
            if answer.reign == self._reign and answer.version < self._version:
                return True
            before, self.covered = self.covered, {
                key: epoch for key, epoch in answer.covers.items() if self._is_kept(key, epoch)
            }
            change.gained = {
                key: epoch for key, epoch in self.covered.items() if before.get(key) != epoch
            }
            change.lost = {
                key: epoch for key, epoch in before.items() if self.covered.get(key) != epoch
            }
        elif answer.base > self._version:
            return False
        elif answer.version > self._version:
            for key in answer.revoked:
                self._uncover(key, change)
            for key, epoch in answer.covers.items():
                if self.covered.get(key) != epoch and self._is_kept(key, epoch):
                    self._uncover(key, change)
                    self.covered[key] = epoch
                    change.gained[key] = epoch
        self._reign, self._version = answer.reign, max(self._version, answer.version)
        if answer.base == 0:
            self._version = answer.version
        return True

    def _uncover(self, key: ResourceKey, change: LeaseChange) -> None:
        epoch = self.covered.pop(key, None)
        if epoch is not None:
            change.lost[key] = epoch

    def _is_kept(self, key: ResourceKey, epoch: int) -> bool:
        return epoch > self._given_back.get(key, 0)

    def give_back(self, key: ResourceKey, epoch: int) -> None:
        """Stop answering for a resource, before the leader is told of it.

        No answer covers it again under this epoch or an earlier one.
        """
        self._given_back[key] = epoch
        if len(self._given_back) > _MAX_GIVEN_BACK:
            del self._given_back[next(iter(self._given_back))]
        if self.covered.get(key, epoch + 1) <= epoch:
            del self.covered[key]

    def drop(self) -> LeaseChange:
        """The connection is lost: the lease ends now, and no answer revives it."""
        change = LeaseChange(lost=dict(self.covered))
        self.valid_until = float("-inf")
        self.covered.clear()
        self._sent.clear()
        self._since = self._number + 1
        self._version = 0
        return change


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value
