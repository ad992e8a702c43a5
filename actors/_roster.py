"""The leader's judgement of beats (sans-I/O): who is alive, and which leases still run.

A resource's new owner is not covered by its lease before the lease of *every* earlier
owner has ended for that resource: the earlier owner gave it back, or has confirmed in a
beat that it took over a coverage without it, or its time is over, or its death is
proven. Until then the resource is *unsettled*. What the leader believes a lease to be
is never shorter than what the node believes, since it counts from the beat's arrival.

A leader that is new, or was paused itself, restarts all timers before it judges anyone.

Death is proven by others (`prove_dead`). The proof is about the node's connection: the
process has ended, or has dropped its lease before it can be back. So the leases that it
had are over, and those that it may be given from then on are counted as ever. That a
leader of before may still answer beats is no matter if its death is proven, too; else
proofs end no lease for as long as that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import Enum
from typing import Any, Final

from attrs import define, field, frozen

from aegis.actors._lease import Beat, BeatAnswer, InstanceLoad, LeaseOptions
from aegis.actors._registry import Change, Registry
from aegis.actors._registry_entries import InstanceState, ResourceKey
from aegis.errors import Conflict, TooOld

__all__ = ["Judgement", "Roster", "Verdict"]

MAX_CHANGES: Final = 4096
"""Changes of coverage in one answer; a node beats again at once for the others."""

_NEVER: Final = 2**63
"""A version that no node ever confirms."""


class Judgement(Enum):
    """What the leader makes of an instance's beats."""

    SILENT = "silence"
    STALLED = "stalled"
    DIED = "died"
    """Its node's death is proven."""
    GONE = "gone"
    ABANDONED = "abandoned"
    """Its new process has not claimed what the one before it owned."""
    RECOVERED = "recovered"


@frozen
class Verdict:
    """One instance, and what has become of it."""

    judgement: Judgement
    instance_id: str
    node_id: str
    silence: float = field(default=0.0, eq=False)
    """For how many seconds it had given no sign of life."""


@define
class _Node:
    heard: float
    number: int = 0
    lease_until: float = float("-inf")
    version: int = 1
    log_start: int = 1
    """Changes since this version are all in ``changed``; from before, some are missing."""
    confirmed: int = 0
    told: int = 0
    changed: dict[ResourceKey, int] = field(factory=dict[ResourceKey, int])
    seen: dict[str, float] = field(factory=dict[str, float])
    """When each instance stood in a beat; one that no beat names is as good as silent."""
    progress: dict[str, tuple[int, float]] = field(factory=dict[str, tuple[int, float]])


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
        self._nodes: dict[str, _Node] = {}
        self._earlier: dict[ResourceKey, list[_Earlier]] = {}
        self._dead: dict[str, float] = {}
        """When each of these was lost, until it is heard of again or long ago."""
        self._ended: set[str] = set()
        """Those among them whose leases are over."""
        self._rivals: set[str] | None = set()
        """The leaders of before that may still answer beats; None if nobody knows them."""
        self._silenced: set[str] = set()
        """Those among them of which it is proven that they do not, and never will."""
        self._rivals_until = float("-inf")
        self._outlived = True
        self._displaced: dict[str, float] = {}
        """Since when each instance has not claimed what a process before it owned."""
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
        self._dead = {}
        self._ended = set()
        self._rivals = None if rivals is None else set(rivals)
        self._silenced = set()
        self._rivals_until = now + self.leader_timeout if rivals_until is None else rivals_until
        if first:
            self._rivals_until = now
        self._outlived = self._rivals_until <= now
        self._displaced = {}
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

        Or its connection has, which ends its lease as well; then it may beat again. That
        this is proven ends the lease only if no rival could have given it another one
        since: all of them are silenced, by now or by this proof, or their time is over.
        A rival whose connection was lost after this leader's takeover is silenced for
        good: it needs a renewal to answer beats again, and that is refused.

        Return whether earlier proofs, if they are made anew, may end leases now that
        did not before.
        """
        alone = self._is_alone(now)
        self._dead[node_id] = now if since is None else since
        if self._rivals is not None and node_id in self._rivals:
            self._silenced.add(node_id)
        if self._is_alone(now):
            self._ended.add(node_id)
            node = self._nodes.get(node_id)
            if node is not None:
                node.lease_until = min(node.lease_until, now)
        self.registry.doubted |= self.registry.by_node.get(node_id, set())
        for key in list(self._earlier):
            self._settle(key, now)
        return self._is_alone(now) and not alone

    def _is_alone(self, now: float) -> bool:
        """Whether no leader of before can answer beats any more."""
        if now >= self._rivals_until:
            return True
        return self._rivals is not None and self._rivals <= self._silenced

    def is_dead(self, node_id: str) -> bool:
        """Whether a node's death is proven, and nothing was heard of it since."""
        return node_id in self._dead

    def outlived_rivals(self, now: float) -> bool:
        """Whether the time of the rivals has ended since this was asked last.

        Proofs of deaths that are made anew may end leases then.
        """
        ended = not self._outlived and now >= self._rivals_until
        self._outlived = self._outlived or ended
        return ended

    def _touch(self, node_id: str, key: ResourceKey) -> int:
        """Note that a node's coverage of ``key`` is to be told anew; return the version."""
        node = self._nodes.get(node_id)
        if node is None:
            # Its first answer will tell it everything.
            return 1
        node.version += 1
        node.changed.pop(key, None)
        node.changed[key] = node.version
        self.to_push.add(node_id)
        return node.version

    def _settle(self, key: ResourceKey, now: float) -> None:
        waiting: list[_Earlier] = []
        for earlier in self._earlier[key]:
            node = self._nodes.get(earlier.node_id)
            confirmed = node is not None and node.confirmed >= earlier.version
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
        self._dead.pop(beat.node_id, None)
        self._ended.discard(beat.node_id)
        answered, node.number, node.heard = node.number, beat.number, now
        for instance_id, load in beat.instances.items():
            node.seen[instance_id] = now
            known = node.progress.get(instance_id)
            if known is None or known[0] != load.progress or load.depth == 0:
                node.progress[instance_id] = (load.progress, now)
        base = 0
        if answered and beat.since > answered and now >= self._grace_until:
            # It lost its connection, and with it all that it was ever told here; and
            # what an earlier leader may have told it since has run out.
            node.confirmed = node.version
        elif beat.reign == self._reign:
            node.confirmed = min(beat.version, node.version)
            if beat.version >= node.log_start:
                base = node.confirmed
        else:
            node.confirmed = 0
        if base:
            node.changed = {k: v for k, v in node.changed.items() if v > base}
        else:
            self._start_over(beat.node_id, node)
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
        return self._answer(node_id, node, node.told, now, {}, push=True)

    def _start_over(self, node_id: str, node: _Node) -> None:
        """Begin a log that tells everything, to a node that starts from nothing.

        What was revoked is not in it, so it is of no use to a node that reports an
        earlier version, as one may that an answer on its way has yet to reach.
        """
        node.changed = {}
        node.version += 1
        node.log_start = node.version
        for instance_id in sorted(self.registry.by_node.get(node_id, ())):
            for key in sorted(self.registry.owned.get(instance_id, ())):
                node.version += 1
                node.changed[key] = node.version

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
        covers: dict[ResourceKey, int] = {}
        revoked: list[ResourceKey] = []
        version = base
        more = False
        for key, changed_at in _later_than(base, node.changed):
            if len(covers) + len(revoked) >= MAX_CHANGES:
                more = True
                break
            version = changed_at
            epoch = self._wanted(node_id, key)
            if epoch is None:
                revoked.append(key)
            else:
                covers[key] = epoch
        if not more:
            version = node.version
        node.told = version
        # A lease is not renewed while a revocation may stand among what is still to
        # come: it would go on covering what it must not.
        if not more and not push:
            node.lease_until = max(
                node.lease_until,
                now + self.options.lease_duration + self.options.lease_margin,
            )
        return BeatAnswer(
            number=node.number,
            reign=self._reign,
            lease=0.0 if more or push else self.options.lease_duration,
            base=base,
            version=version,
            covers=covers,
            revoked=tuple(revoked),
            refused=refused,
            more=more,
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
        for node in self._nodes.values() if paused else ():
            node.heard = now
            node.seen = dict.fromkeys(node.seen, now)
            node.progress = {name: (count, now) for name, (count, _) in node.progress.items()}
        displaced = self.registry.displaced
        self._displaced = {
            name: now if paused else self._displaced.get(name, now) for name in displaced
        }
        for node_id, instances in self.registry.by_node.items():
            known = self._nodes.setdefault(node_id, _Node(now))
            for instance_id in instances:
                known.seen.setdefault(instance_id, now)
        self._forget(now)
        self.registry.doubted = set()
        return list(self._verdicts(now))

    def _verdicts(self, now: float) -> Iterator[Verdict]:
        for node_id, instances in self.registry.by_node.items():
            for instance_id in sorted(instances):
                judgement = self._judge(node_id, instance_id, now)
                if judgement not in (None, Judgement.RECOVERED):
                    self.registry.doubted.add(instance_id)
                healthy = self.registry.instances[instance_id].state is InstanceState.HEALTHY
                match judgement:
                    case Judgement.SILENT | Judgement.STALLED | Judgement.DIED if not healthy:
                        continue
                    case Judgement.RECOVERED if healthy:
                        continue
                    case None:
                        continue
                    case _:
                        silence = self._silence(node_id, instance_id, now)
                        if judgement is Judgement.DIED:
                            silence = now - self._dead[node_id]
                        yield Verdict(judgement, instance_id, node_id, silence)
        for instance_id, since in self._displaced.items():
            if now - since >= self.options.gone_timeout:
                yield Verdict(Judgement.ABANDONED, instance_id, "", now - since)

    def _judge(self, node_id: str, instance_id: str, now: float) -> Judgement | None:
        """Return what an instance is at this moment; None for one that was never heard."""
        options, node = self.options, self._nodes[node_id]
        silence = self._silence(node_id, instance_id, now)
        dead = node_id in self._dead
        if silence >= (options.heartbeat_timeout if dead else options.gone_timeout):
            return Judgement.GONE
        if dead:
            return Judgement.DIED
        if silence >= options.heartbeat_timeout:
            return Judgement.SILENT
        if self._is_stalled(node, instance_id, now):
            return Judgement.STALLED
        return Judgement.RECOVERED if instance_id in node.progress else None

    def _silence(self, node_id: str, instance_id: str, now: float) -> float:
        return now - self._nodes[node_id].seen.get(instance_id, now)

    def stands(self, verdict: Verdict, now: float) -> bool:
        """Whether a verdict is still right when it comes to be carried out.

        A beat may have come, or the leader may have been paused, since it was given.
        """
        if verdict.judgement is Judgement.ABANDONED:
            since = self._displaced.get(verdict.instance_id, now)
            return now - since >= self.options.gone_timeout
        if verdict.node_id not in self._nodes:
            return False
        current = self._judge(verdict.node_id, verdict.instance_id, now)
        if verdict.judgement in (Judgement.RECOVERED, Judgement.GONE):
            return current is verdict.judgement
        # What was silent may be gone by now: the milder verdict still stands.
        return current not in (None, Judgement.RECOVERED)

    def _is_stalled(self, node: _Node, instance_id: str, now: float) -> bool:
        load = self.loads.get(instance_id)
        if load is None:
            return False
        _, since = node.progress.get(instance_id, (0, now))
        return max(load.stalled, now - since) >= self.options.stall_timeout

    def _forget(self, now: float) -> None:
        """Drop the nodes that hold nothing and whose lease is over."""
        keep = self.options.gone_timeout + self.options.lease_duration
        for node_id in [
            name
            for name, node in self._nodes.items()
            if name not in self.registry.by_node and now - node.heard > keep
        ]:
            del self._nodes[node_id]
        for node_id, node in self._nodes.items():
            here = self.registry.by_node.get(node_id, set())
            for instance_id in [name for name in node.seen if name not in here]:
                del node.seen[instance_id]
                node.progress.pop(instance_id, None)
        for instance_id in [name for name in self.loads if name not in self.registry.instances]:
            del self.loads[instance_id]
        self.registry.applied.keep(self.registry.instances)
        self._dead = {name: at for name, at in self._dead.items() if now - at <= keep}
        self._ended &= self._dead.keys()


def _later_than(version: int, changed: dict[ResourceKey, int]) -> list[tuple[ResourceKey, int]]:
    """Return what changed behind ``version``, in order; the dict is in that order."""
    later: list[tuple[ResourceKey, int]] = []
    for key in reversed(changed):
        if changed[key] <= version:
            break
        later.append((key, changed[key]))
    later.reverse()
    return later


def _names(earlier: list[_Earlier], node_id: str) -> bool:
    return any(one.node_id == node_id for one in earlier)
