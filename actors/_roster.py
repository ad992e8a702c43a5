"""The leader's roster of nodes (sans-I/O): what their leases cover, and which still run.

A resource's new owner is not covered by its lease before the lease of *every* earlier
owner has ended for that resource: the earlier owner gave it back, or has confirmed in a
beat that it took over a coverage without it, or its time is over, or its death is
proven. Until then the resource is *unsettled*. What the leader believes a lease to be
is never shorter than what the node believes, since it counts from the beat's arrival.

Death is proven by others (`prove_dead`). The leases that a node had are over then, once
no leader of before can give it another one (see `aegis.actors._rivals`), and those that
it may be given from then on are counted as ever.

Who is alive is for `aegis.actors._health`. A leader that is new, or was paused itself,
restarts all timers before it judges anyone.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any, Final

from attrs import define, field

from aegis.actors._coverage import Coverage
from aegis.actors._health import Health, Verdict
from aegis.actors._lease import Beat, BeatAnswer, InstanceLoad, LeaseOptions
from aegis.actors._registry import Change, Registry
from aegis.actors._registry_entries import ResourceKey
from aegis.actors._rivals import Rivals
from aegis.errors import Conflict, TooOld

__all__ = ["Roster"]

_NEVER: Final = 2**63
"""A version that no node ever confirms."""


@define
class _Node:
    heard: float
    number: int = 0
    """Of its last beat."""
    lease_until: float = float("-inf")
    coverage: Coverage = field(factory=Coverage)


@define
class _Earlier:
    """A node whose lease may still cover a resource that it does not own any more."""

    node_id: str
    until: float
    version: int


class Roster:
    """All nodes as the leader knows them. Times are boot-clock seconds."""

    def __init__(
        self,
        registry: Registry,
        options: LeaseOptions | None = None,
        *,
        leader_timeout: float = 1.0,
    ) -> None:
        self.registry = registry
        self.options = options or LeaseOptions()
        self.leader_timeout = leader_timeout
        self.loads: dict[str, InstanceLoad] = {}
        self.to_push: set[str] = set()
        self._health = Health(registry, self.options, self.loads)
        self._nodes: dict[str, _Node] = {}
        self._earlier: dict[ResourceKey, list[_Earlier]] = {}
        self._ended: set[str] = set()
        """The dead nodes whose leases are over."""
        self._rivals = Rivals((), float("-inf"))
        self._news = False
        self._reign = 0
        self._grace_until = float("-inf")
        self._ticked: float | None = None

    # -- reigns -------------------------------------------------------------------------

    def begin(
        self,
        now: float,
        *,
        reign: int,
        settled: int,
        first: bool = False,
        rivals: Collection[str] | None = None,
        rivals_until: float | None = None,
    ) -> None:
        """This candidate took over as leader, with its record at sequence ``reign``.

        ``settled`` is what the predecessor's last renewal said: whatever was contested
        up to that sequence is so no more. ``first`` says that nobody led before, and
        ``rivals`` are the nodes whose leader may answer beats until ``rivals_until``, by
        default for `leader_timeout`; None if nobody knows them.
        """
        self._reign = reign
        self._nodes = {}
        self._earlier = {}
        self._news = False
        self._health = Health(self.registry, self.options, self.loads)
        self._ended = set()
        if first:
            rivals_until = now
        elif rivals_until is None:
            rivals_until = now + self.leader_timeout
        self._rivals = Rivals(rivals, rivals_until)
        self.registry.doubted = set()
        self.to_push = set()
        self._ticked = now
        self._grace_until = now
        if first:
            return
        # The predecessor answers beats for at most `leader_timeout` after it was
        # deposed, and each answer is good for one lease.
        self._grace_until += (
            self.leader_timeout + self.options.lease_duration + self.options.lease_margin
        )
        contested = {
            **{key: r.epoch for key, r in self.registry.resources.items() if r.contested},
            **self.registry.contested_tombstones,
        }
        for key, sequence in contested.items():
            if sequence > settled:
                self._earlier[key] = [_Earlier("", self._grace_until, _NEVER)]

    @property
    def unsettled(self) -> Collection[ResourceKey]:
        """The resources for which the lease of an earlier owner may still run."""
        return self._earlier

    def has_settled(self) -> bool:
        """Whether, since this was asked last, the last contested change was settled.

        Until a renewal says so, a next leader would have to wait for leases that are over.
        """
        settled = self._news and not self._earlier
        self._news = self._news and not settled
        return settled

    def settled_sequence(self) -> int:
        """Return up to which sequence of the registry no lease of the past runs on."""
        lowest = self.registry.sequence
        for key in self._earlier:
            resource = self.registry.resources.get(key)
            sequence = (
                self.registry.contested_tombstones.get(key, lowest + 1)
                if resource is None
                else resource.epoch
            )
            lowest = min(lowest, sequence - 1)
        return lowest

    # -- what changes -------------------------------------------------------------------

    def changed(self, change: Change, now: float) -> None:
        """A record about a resource was acknowledged."""
        before, after = change.before, change.after
        if before is not None:
            version = self._touch(before.node_id, change.key)
            node = self._nodes.get(before.node_id)
            until = self._grace_until if node is None else max(node.lease_until, self._grace_until)
            if before.node_id in self._ended:
                until = now
            if change.contested and until > now:
                self._earlier.setdefault(change.key, []).append(
                    _Earlier(before.node_id, until, version)
                )
        self._news |= change.contested
        if not change.contested:
            self._earlier.pop(change.key, None)
        if after is not None:
            self._touch(after.node_id, change.key)

    def prove_dead(self, node_id: str, now: float, *, since: float | None = None) -> bool:
        """The node's process is known to have ended at ``since``: its lease has, too.

        Or its connection has, which ends its lease as well; then it may beat again.
        Return whether earlier proofs, if they are made anew, may end leases now that
        did not before.
        """
        before = self._rivals.are_gone(now)
        self._rivals.silence(node_id)
        alone = self._rivals.are_gone(now)
        self._health.died(node_id, now if since is None else since)
        if alone:
            self._ended.add(node_id)
            node = self._nodes.get(node_id)
            if node is not None:
                node.lease_until = min(node.lease_until, now)
        for key in list(self._earlier):
            self._settle(key, now)
        return alone and not before

    def is_dead(self, node_id: str) -> bool:
        """Whether a node's death is proven, and nothing was heard of it since."""
        return self._health.is_dead(node_id)

    def outlived_rivals(self, now: float) -> bool:
        """Whether the time of the rivals has ended since this was asked last.

        Proofs of deaths that are made anew may end leases then.
        """
        return self._rivals.were_outlived(now)

    def _touch(self, node_id: str, key: ResourceKey) -> int:
        """Note that a node's coverage of ``key`` is to be told anew; return the version."""
        node = self._nodes.get(node_id)
        if node is None:
            # Its first answer will tell it everything.
            return 1
        self.to_push.add(node_id)
        return node.coverage.touch(key)

    def _settle(self, key: ResourceKey, now: float) -> None:
        waiting: list[_Earlier] = []
        for earlier in self._earlier[key]:
            node = self._nodes.get(earlier.node_id)
            confirmed = node is not None and node.coverage.confirmed >= earlier.version
            if now < earlier.until and not confirmed and earlier.node_id not in self._ended:
                waiting.append(earlier)
        if waiting:
            self._earlier[key] = waiting
            return
        del self._earlier[key]
        self._news = True
        resource = self.registry.resources.get(key)
        if resource is not None:
            self._touch(resource.node_id, key)

    # -- beats --------------------------------------------------------------------------

    def note(self, beat: Beat) -> None:
        """Remember what a beat tells of its instances; every candidate does so."""
        registry = self.registry
        for instance_id, load in beat.instances.items():
            instance = registry.instances.get(instance_id)
            if instance is None or instance.node_id != beat.node_id:
                continue
            self.loads[instance_id] = load
            if load.applied:
                held = registry.owned.get(instance_id, set()) | registry.stood_by.get(
                    instance_id, set()
                )
                registry.applied.note(
                    instance_id, beat.node_id, load.applied, {name for _, name in held}
                )

    def heard(self, beat: Beat, now: float) -> BeatAnswer | None:
        """Return the answer to a beat; None for one that a later beat has overtaken.

        To be called only by a leader that may answer beats, right before it does.
        """
        node = self._nodes.get(beat.node_id)
        if node is None:
            node = self._nodes[beat.node_id] = _Node(now)
        if beat.number <= node.number:
            return None
        self._health.heard(beat, now)
        self._ended.discard(beat.node_id)
        answered, node.number, node.heard = node.number, beat.number, now
        coverage, base = node.coverage, 0
        known = beat.reign == self._reign
        if answered and beat.since > answered and now >= self._grace_until:
            # It lost its connection, and with it all that it was ever told here; and
            # what an earlier leader may have told it since has run out.
            coverage.confirmed = coverage.version
        elif answered and known:
            base = coverage.confirm(beat.version)
        else:
            # Of a node that was forgotten since, it is not known what it has missed.
            coverage.confirmed = 0
        if not base:
            coverage.start_over(self._owned_by(beat.node_id), above=beat.version if known else 0)
        for key in [k for k, all_ in self._earlier.items() if _names(all_, beat.node_id)]:
            self._settle(key, now)
        return self._answer(beat.node_id, node, base, now, self._refused(beat))

    def push(self, node_id: str, now: float) -> BeatAnswer | None:
        """Return another answer to the node's last beat, if there is something new.

        It builds on what was told last, confirmed or not: a node that missed that
        notices, and beats.
        """
        self.to_push.discard(node_id)
        node = self._nodes.get(node_id)
        if node is None or not node.number or now >= node.lease_until:
            return None
        return self._answer(node_id, node, node.coverage.told, now, {}, push=True)

    def _owned_by(self, node_id: str) -> list[ResourceKey]:
        return [
            key
            for instance_id in sorted(self.registry.by_node.get(node_id, ()))
            for key in sorted(self.registry.owned.get(instance_id, ()))
        ]

    def _answer(
        self,
        node_id: str,
        node: _Node,
        base: int,
        now: float,
        refused: dict[str, dict[str, Any]],
        *,
        push: bool = False,
    ) -> BeatAnswer:
        self.to_push.discard(node_id)
        step = node.coverage.step(base, partial(self._wanted, node_id))
        # A lease is not renewed while a revocation may stand among what is still to
        # come: it would go on covering what it must not.
        renewed = not step.more and not push
        if renewed:
            node.lease_until = max(
                node.lease_until,
                now + self.options.lease_duration + self.options.lease_margin,
            )
        return BeatAnswer(
            number=node.number,
            reign=self._reign,
            lease=self.options.lease_duration if renewed else 0.0,
            base=step.base,
            version=step.version,
            covers=step.covers,
            revoked=step.revoked,
            refused=refused,
            more=step.more,
        )

    def _wanted(self, node_id: str, key: ResourceKey) -> int | None:
        resource = self.registry.resources.get(key)
        if resource is None or resource.node_id != node_id or key in self._earlier:
            return None
        return resource.epoch

    def _refused(self, beat: Beat) -> dict[str, dict[str, Any]]:
        refused: dict[str, dict[str, Any]] = {}
        for instance_id in beat.instances:
            instance = self.registry.instances.get(instance_id)
            if instance is None:
                refused[instance_id] = {
                    "code": TooOld.code,
                    "message": f"instance {instance_id!r} is not registered (any more)",
                }
            elif instance.node_id != beat.node_id:
                refused[instance_id] = {
                    "code": Conflict.code,
                    "message": f"instance {instance_id!r} is node {instance.node_id!r} now",
                    "holder": instance.node_id,
                }
        return refused

    # -- judgement ----------------------------------------------------------------------

    def tick(self, now: float) -> list[Verdict]:
        """Return whose state has to change; to be called several times a second.

        A verdict comes again at every tick until the registry has it.
        """
        paused = self._ticked is not None and (
            now - self._ticked > self.options.heartbeat_timeout / 4
        )
        self._ticked = now
        for key in list(self._earlier):
            self._settle(key, now)
        verdicts = self._health.tick(now, paused=paused)
        self._forget(now)
        return verdicts

    def stands(self, verdict: Verdict, now: float) -> bool:
        """Whether a verdict is still right when it comes to be carried out."""
        return self._health.stands(verdict, now)

    def _forget(self, now: float) -> None:
        """Drop the nodes that hold nothing and whose lease is over."""
        keep = self.options.gone_timeout + self.options.lease_duration
        for node_id in [
            name
            for name, node in self._nodes.items()
            if name not in self.registry.by_node and now - node.heard > keep
        ]:
            del self._nodes[node_id]
        for instance_id in [name for name in self.loads if name not in self.registry.instances]:
            del self.loads[instance_id]
        self.registry.applied.keep(self.registry.instances)
        self._ended = {name for name in self._ended if self._health.is_dead(name)}


def _names(earlier: list[_Earlier], node_id: str) -> bool:
    return any(one.node_id == node_id for one in earlier)
