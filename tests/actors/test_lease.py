"""Until when a node may answer for what, and when the leader lets the next one."""

from __future__ import annotations

import random
from typing import Any

import pytest
from attrs import define

from aegis.actors import _coverage
from aegis.actors import _placement as placement
from aegis.actors._decision import Decision, Holder
from aegis.actors._health import Judgement, Verdict
from aegis.actors._lease import Beat, BeatAnswer, InstanceLoad, Lease, LeaseOptions
from aegis.actors._registry_entries import InstanceState, ResourceKey
from aegis.actors._roster import Roster
from aegis.errors import ProtocolError
from tests.actors.registry_bench import Bench, instance, resources

OPTIONS = LeaseOptions(
    heartbeat_interval=0.5,
    heartbeat_timeout=2.0,
    lease_duration=2.0,
    lease_margin=0.05,
    stall_timeout=10.0,
    gone_timeout=10.0,
)

R1 = ("account", "R-1")


def answer(number: int, **fields: Any) -> BeatAnswer:
    usual: dict[str, Any] = {"reign": 7, "lease": 2.0, "base": 0, "version": 1}
    return BeatAnswer(number, **{**usual, **fields})


# -- the node's side --------------------------------------------------------------------


def test_a_lease_counts_from_when_the_beat_was_sent() -> None:
    lease = Lease("n", OPTIONS)
    beat = lease.beat(10.0, {})
    lease.answered(answer(beat.number, covers={R1: 42}))
    assert lease.covers(*R1, 42, 11.99)
    assert not lease.covers(*R1, 42, 12.0)


def test_a_lease_covers_an_epoch_and_no_other() -> None:
    lease = Lease("n", OPTIONS)
    lease.beat(10.0, {})
    lease.answered(answer(1, covers={R1: 42}))
    assert not lease.covers(*R1, 41, 10.0)
    assert not lease.covers(*R1, 43, 10.0)
    assert not lease.covers("account", "R-2", 42, 10.0)


def test_a_lease_is_never_longer_than_the_node_was_told_to_expect() -> None:
    lease = Lease("n", OPTIONS)
    lease.beat(10.0, {})
    lease.answered(answer(1, lease=3600.0))
    assert not lease.valid(12.0)


def test_an_answer_to_an_unknown_beat_changes_nothing() -> None:
    lease = Lease("n", OPTIONS)
    lease.beat(10.0, {})
    assert lease.answered(answer(9, covers={R1: 42})).gained == {}
    assert not lease.valid(10.0)


def test_losing_the_connection_ends_the_lease_whatever_answer_comes_later() -> None:
    lease = Lease("n", OPTIONS)
    lease.beat(10.0, {})
    lease.answered(answer(1, covers={R1: 42}))
    lease.beat(10.5, {})
    assert lease.drop().lost == {R1: 42}
    assert not lease.valid(10.6)
    lease.answered(answer(2, covers={R1: 42}))
    assert not lease.valid(10.6)
    beat = lease.beat(10.7, {})
    assert (beat.since, beat.version) == (3, 0)


def test_an_answer_of_an_earlier_leader_changes_nothing() -> None:
    lease = Lease("n", OPTIONS)
    lease.beat(10.0, {})
    lease.beat(10.1, {})
    lease.answered(answer(1, reign=9))
    lease.answered(answer(2, reign=8, version=5, covers={R1: 42}))
    assert not lease.covers(*R1, 42, 10.2)
    assert not lease.valid(12.05)


def test_changes_of_coverage_that_were_missed_are_asked_for_again() -> None:
    lease = Lease("n", OPTIONS)
    lease.beat(10.0, {})
    lease.answered(answer(1, version=3))
    lease.beat(10.5, {})
    change = lease.answered(answer(2, base=5, version=6, covers={R1: 42}))
    assert change.beat_at_once
    assert not lease.covers(*R1, 42, 10.5)
    assert not lease.valid(12.1)
    assert lease.beat(10.6, {}).version == 3


def test_a_revoked_resource_is_lost_and_the_leader_is_told_at_once() -> None:
    lease = Lease("n", OPTIONS)
    lease.beat(10.0, {})
    lease.answered(answer(1, covers={R1: 42}))
    change = lease.answered(answer(1, base=1, version=2, revoked=(R1,), lease=0.0))
    assert change.lost == {R1: 42}
    assert change.beat_at_once
    assert lease.valid(10.1)


def test_what_was_given_back_is_not_covered_again_under_its_epoch() -> None:
    lease = Lease("n", OPTIONS)
    lease.beat(10.0, {})
    lease.answered(answer(1, covers={R1: 42}))
    lease.give_back(R1, 42)
    lease.beat(10.5, {})
    lease.answered(answer(2, reign=8, covers={R1: 42}))
    assert not lease.covers(*R1, 42, 10.6)
    lease.answered(answer(2, reign=8, base=1, version=2, covers={R1: 50}))
    assert lease.covers(*R1, 50, 10.6)


@pytest.mark.parametrize(
    "wire",
    [
        None,
        7,
        [],
        {},
        {"node_id": "n"},
        {"node_id": 7, "number": 1},
        {"node_id": "n", "number": "x"},
        {"node_id": "n", "number": 1, "coverage": 7},
        {"node_id": "n", "number": 1, "instances": ["a"]},
        {"node_id": "n", "number": 1, "instances": {"a": 7}},
        {"node_id": "n", "number": 1, "instances": {7: {}}},
        {"node_id": "n", "number": 1, "instances": {"a": {"depth": float("inf")}}},
    ],
)
def test_what_is_no_beat_is_refused(wire: Any) -> None:
    with pytest.raises(ProtocolError, match="not a beat"):
        Beat.from_wire(wire)


def test_the_smallest_beat_is_a_node_and_a_number() -> None:
    assert Beat.from_wire({"node_id": "n", "number": 1}) == Beat("n", 1)


def test_beats_and_answers_survive_the_wire() -> None:
    beat = Beat("n", 3, 2, 7, 9, {"a": InstanceLoad(4, 5, 0.5)})
    assert Beat.from_wire(beat.to_wire()) == beat
    full = answer(
        3, covers={R1: 42}, revoked=(("account", "R-2"),), refused={"a": {"code": 410}}, more=True
    )
    assert BeatAnswer.from_wire(full.to_wire()) == full
    with pytest.raises(ProtocolError):
        BeatAnswer.from_wire({"number": 1})


# -- the leader's side ------------------------------------------------------------------


class Court:
    """One leader's registry and roster, and nodes whose messages arrive at once."""

    def __init__(self, *nodes: str, now: float = 100.0) -> None:
        self.now = now
        self.bench = Bench(limit=10_000)
        self.roster = Roster(self.bench.registry, OPTIONS)
        self.roster.begin(now, reign=50, settled=0, first=True)
        self.leases: dict[str, Lease] = {}
        for node in nodes:
            self.leases[node] = Lease(node, OPTIONS)
            self.ask("service.register", instance(f"on-{node}", node_id=node))

    def ask(self, operation: str, payload: Any) -> dict[str, Any]:
        self.bench.unsettled = set(self.roster.unsettled)
        reply = self.bench.ask(operation, payload)
        for change in self.bench.changes:
            self.roster.changed(change, self.now)
        self.bench.changes.clear()
        return reply

    def decide(self, decision: Decision | None) -> None:
        assert decision is not None
        self.bench.commit(decision)
        for change in self.bench.changes:
            self.roster.changed(change, self.now)
        self.bench.changes.clear()

    def claim(self, node: str, *resource_ids: str, **fields: Any) -> int:
        reply = self.ask(
            "resource.register",
            resources(*resource_ids, instance_id=f"on-{node}", node_id=node, **fields),
        )
        return int(max(reply["epochs"].values()))

    def beat(self, node: str, **loads: InstanceLoad) -> None:
        lease = self.leases[node]
        named = {f"on-{node}": loads.get("load", InstanceLoad())}
        beat = lease.beat(self.now, named)
        self.roster.note(beat)
        given = self.roster.heard(beat, self.now)
        assert given is not None
        while lease.answered(given).beat_at_once:
            beat = lease.beat(self.now, named)
            again = self.roster.heard(beat, self.now)
            assert again is not None
            given = again

    def push(self) -> None:
        for node in list(self.roster.to_push):
            given = self.roster.push(node, self.now)
            if given is not None:
                self.leases[node].answered(given)

    def covers(self, node: str, epoch: int, resource_id: str = "R-1") -> bool:
        return self.leases[node].covers("account", resource_id, epoch, self.now)

    def tick(self, seconds: float = 0.0, *, beating: tuple[str, ...] = ()) -> list[Verdict]:
        """Let time pass in steps of a tick, while some nodes beat; return the verdicts."""
        verdicts: list[Verdict] = []
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.1)
            for node in beating:
                self.beat(node)
            verdicts += self.roster.tick(self.now)
        return verdicts


def test_an_owner_is_covered_by_its_next_beat() -> None:
    court = Court("a")
    epoch = court.claim("a", "R-1")
    assert not court.covers("a", epoch)
    court.beat("a")
    assert court.covers("a", epoch)


def test_an_owner_that_has_a_lease_is_covered_by_a_second_answer_to_its_last_beat() -> None:
    court = Court("a")
    court.beat("a")
    court.now += 1.5
    epoch = court.claim("a", "R-1")
    court.push()
    assert court.covers("a", epoch)
    # The time is still that of the beat.
    court.now += 0.5
    assert not court.covers("a", epoch)


def test_a_node_that_was_forgotten_and_comes_back_keeps_nothing_of_what_it_was_told() -> None:
    court = Court("a", "b")
    epoch = court.claim("a", "R-1")
    court.beat("a")
    assert court.covers("a", epoch)
    court.decide(placement.give_up(court.bench.registry, "on-a", "a", "silence"))
    # It stands still for so long that its leases are over, and the leader forgets it.
    court.tick(13, beating=("b",))
    next_epoch = court.claim("b", "R-1")
    court.beat("b")
    court.ask("service.register", instance("on-a", node_id="a"))
    court.beat("a")
    assert court.leases["a"].valid(court.now)
    assert not court.covers("a", epoch)
    assert court.covers("b", next_epoch)


def test_a_second_answer_to_a_beat_renews_nothing() -> None:
    court = Court("a")
    court.beat("a")
    court.claim("a", "R-1")
    given = court.roster.push("a", court.now)
    assert given is not None
    assert given.covers
    assert given.lease == 0.0


def test_a_forced_owner_waits_for_the_lease_of_the_one_before() -> None:
    court = Court("a", "b")
    first = court.claim("a", "R-1")
    court.beat("a")
    second = court.claim("b", "R-1", force=True)
    court.beat("b")
    assert court.covers("a", first)
    assert not court.covers("b", second)
    court.tick(2.0, beating=("b",))
    assert not court.covers("a", first)
    assert not court.covers("b", second)
    court.tick(0.2, beating=("b",))
    assert court.covers("b", second)


def test_a_forced_owner_is_covered_as_soon_as_the_one_before_has_let_go() -> None:
    court = Court("a", "b")
    first = court.claim("a", "R-1")
    court.beat("a")
    court.beat("b")
    second = court.claim("b", "R-1", force=True)
    court.push()
    assert not court.covers("a", first)
    assert not court.covers("b", second)
    court.beat("a")
    court.push()
    assert court.covers("b", second)


def test_a_beat_that_left_before_the_revocation_does_not_confirm_it() -> None:
    court = Court("a", "b")
    first = court.claim("a", "R-1")
    court.beat("a")
    early = court.leases["a"].beat(court.now, {})
    second = court.claim("b", "R-1", force=True)
    court.roster.heard(early, court.now)
    court.beat("b")
    assert court.covers("a", first)
    assert not court.covers("b", second)


def test_an_early_beat_without_coverage_does_not_confirm_that_there_is_none() -> None:
    court = Court("a", "b")
    first = court.claim("a", "R-1")
    one = court.leases["a"].beat(court.now, {})
    two = court.leases["a"].beat(court.now, {})
    given = court.roster.heard(one, court.now)
    assert given is not None
    court.leases["a"].answered(given)
    second = court.claim("b", "R-1", force=True)
    court.roster.heard(two, court.now)
    court.beat("b")
    assert court.covers("a", first)
    assert not court.covers("b", second)


def test_a_node_that_lost_its_connection_confirms_by_its_next_beat() -> None:
    court = Court("a", "b")
    court.claim("a", "R-1")
    court.beat("a")
    court.leases["a"].drop()
    second = court.claim("b", "R-1", force=True)
    court.beat("a")
    court.beat("b")
    assert court.covers("b", second)


def test_a_release_by_the_owner_lets_the_next_one_in_at_once() -> None:
    court = Court("a", "b")
    epoch = court.claim("a", "R-1")
    court.beat("a")
    court.leases["a"].give_back(R1, epoch)
    court.ask("resource.release", resources("R-1", instance_id="on-a", node_id="a"))
    second = court.claim("b", "R-1")
    court.beat("b")
    assert court.covers("b", second)
    assert not court.covers("a", epoch)


def test_a_resource_of_a_gone_instance_is_covered_for_the_next_after_its_lease_ran_out() -> None:
    court = Court("a", "b")
    first = court.claim("a", "R-1")
    court.beat("a")
    decision = placement.give_up(court.bench.registry, "on-a", "a", "silence")
    assert decision is not None
    court.bench.commit(decision)
    for change in court.bench.changes:
        court.roster.changed(change, court.now)
    court.bench.changes.clear()
    second = court.claim("b", "R-1")
    court.tick(1.9, beating=("b",))
    assert court.covers("a", first)
    assert not court.covers("b", second)
    court.tick(0.3, beating=("b",))
    assert court.covers("b", second)


def test_proof_of_death_ends_the_wait() -> None:
    court = Court("a", "b")
    court.claim("a", "R-1")
    court.beat("a")
    second = court.claim("b", "R-1", force=True)
    court.roster.prove_dead("a", court.now)
    court.beat("b")
    assert court.covers("b", second)


def test_the_third_owner_waits_for_the_first_though_the_second_is_dead() -> None:
    court = Court("a", "b", "c")
    court.claim("a", "R-1")
    court.beat("a")
    court.claim("b", "R-1", force=True)
    court.ask(
        "resource.register", resources("R-1", instance_id="on-c", node_id="c", role="standby")
    )
    court.roster.prove_dead("b", court.now)
    court.decide(
        placement.give_up(court.bench.registry, "on-b", "b", "died", set(court.roster.unsettled))
    )
    third = court.bench.registry.resources[R1]
    assert third.instance_id == "on-c"
    court.beat("c")
    assert not court.covers("c", third.epoch)
    court.beat("a")
    court.beat("c")
    assert court.covers("c", third.epoch)


def test_many_resources_are_covered_in_several_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_coverage, "MAX_CHANGES", 7)
    court = Court("a")
    court.claim("a", *[f"R-{index}" for index in range(100)])
    court.beat("a")
    assert len(court.leases["a"].covered) == 100
    assert court.leases["a"].valid(court.now)


def test_a_lease_is_not_renewed_while_a_revocation_may_be_left_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    court = Court("a", "b")
    court.claim("a", *[f"R-{index}" for index in range(10)])
    court.beat("a")
    monkeypatch.setattr(_coverage, "MAX_CHANGES", 4)
    court.claim("b", *[f"R-{index}" for index in range(10)], force=True)
    given = court.roster.heard(court.leases["a"].beat(court.now, {}), court.now)
    assert given is not None
    assert given.more
    assert given.lease == 0.0


def test_a_node_that_missed_the_start_of_a_log_is_told_everything_anew() -> None:
    court = Court("a", "b")
    lease = court.leases["a"]
    first = court.claim("a", "R-1")
    early, later = lease.beat(court.now, {}), lease.beat(court.now, {})
    on_its_way = court.roster.heard(early, court.now)
    assert on_its_way is not None
    court.claim("b", "R-1", force=True)
    # An answer that starts over leaves the revocation out of the log.
    court.roster.heard(later, court.now)
    lease.answered(on_its_way)
    assert court.covers("a", first)
    court.beat("a")
    assert not court.covers("a", first)


def test_a_stale_revocation_does_not_undo_what_was_given_back() -> None:
    lease = Lease("n", OPTIONS)
    lease.beat(10.0, {})
    lease.answered(answer(1, covers={R1: 42}))
    lease.give_back(R1, 42)
    lease.answered(answer(1, base=1, version=2, revoked=(R1,)))
    lease.answered(answer(1, base=2, version=3, covers={R1: 42}))
    assert not lease.covers(*R1, 42, 10.0)


# -- reigns -----------------------------------------------------------------------------


def successor(court: Court, *, settled: int) -> Court:
    """Return the court of a new leader that has read the same registry."""
    new = Court(now=court.now)
    new.leases = court.leases
    new.bench.registry = court.bench.follower()
    new.bench.sequence = court.bench.sequence + 1
    new.roster = Roster(new.bench.registry, OPTIONS)
    new.roster.begin(court.now, reign=new.bench.sequence, settled=settled)
    return new


def test_a_new_leader_goes_on_covering_what_nobody_contested() -> None:
    court = Court("a")
    epoch = court.claim("a", "R-1")
    court.beat("a")
    court.now += 1.9
    new = successor(court, settled=0)
    new.beat("a")
    new.now += 1.9
    assert new.covers("a", epoch)


def test_a_new_leader_counts_earlier_leases_as_running_until_3_s_after_its_takeover() -> None:
    court = Court("a", "b")
    court.claim("a", "R-1")
    court.beat("a")
    second = court.claim("b", "R-1", force=True)
    new = successor(court, settled=court.roster.settled_sequence())
    new.tick(3.0, beating=("b",))
    assert not new.covers("b", second)
    new.tick(0.3, beating=("b",))
    assert new.covers("b", second)


def test_a_new_leader_does_not_wait_for_what_its_predecessor_saw_settled() -> None:
    court = Court("a", "b")
    court.claim("a", "R-1")
    court.beat("a")
    second = court.claim("b", "R-1", force=True)
    assert court.roster.settled_sequence() < second
    court.tick(2.5, beating=("b",))
    assert court.roster.settled_sequence() >= second
    new = successor(court, settled=court.roster.settled_sequence())
    new.beat("b")
    assert new.covers("b", second)


def test_under_a_new_leader_a_forced_owner_waits_for_leases_of_the_old_one() -> None:
    court = Court("a", "b")
    court.claim("a", "R-1")
    court.beat("a")
    new = successor(court, settled=court.roster.settled_sequence())
    second = new.claim("b", "R-1", force=True)
    new.tick(2.9, beating=("b",))
    assert not new.covers("b", second)
    new.tick(0.3, beating=("b",))
    assert new.covers("b", second)


def test_a_lost_connection_proves_nothing_about_leases_of_an_earlier_leader() -> None:
    court = Court("a", "b")
    first = court.claim("a", "R-1")
    court.beat("a")
    lease = court.leases["a"]
    early = lease.beat(court.now, {})
    lease.drop()
    court.beat("a")
    new = successor(court, settled=court.roster.settled_sequence())
    new.roster.heard(early, new.now)
    second = new.claim("b", "R-1", force=True)
    late = lease.beat(new.now, {})
    new.roster.heard(late, new.now)
    new.beat("b")
    assert new.covers("a", first)
    assert not new.covers("b", second)


def test_a_new_leader_restarts_all_timers() -> None:
    court = Court("a")
    court.tick(1.9)
    new = successor(court, settled=0)
    assert new.tick(1.9) == []
    assert new.tick(0.2)[0].judgement is Judgement.SILENT


def begin_anew(court: Court, rivals: set[str] | None) -> Court:
    """Return the court of a leader that may have rivals, with ``b`` standing by for ``a``."""
    payload = resources("R-1", instance_id="on-b", node_id="b", role="standby")
    court.ask("resource.register", payload)
    new = successor(court, settled=court.roster.settled_sequence())
    new.roster.begin(new.now, reign=new.bench.sequence, settled=0, rivals=rivals)
    return new


def promote_b(court: Court) -> int:
    court.decide(placement.mark(court.bench.registry, "on-a", InstanceState.UNHEALTHY, "died"))
    court.beat("b")
    return court.bench.registry.resources[R1].epoch


@pytest.mark.parametrize(
    ("rivals", "dead", "covered"),
    [
        # It was the leader that died, and the owner with it, or before it.
        ({"a"}, ["a"], True),
        ({"x"}, ["x", "a"], True),
        (set[str](), ["a"], True),
        # Whoever led before may answer the owner, should it not be dead after all.
        ({"x"}, ["a"], False),
        ({"x"}, ["a", "x"], False),
        ({"x", "y"}, ["x", "a"], False),
        (None, ["a"], False),
    ],
)
def test_under_a_new_leader_a_proof_counts_when_no_other_leader_can_answer(
    rivals: set[str] | None, dead: list[str], covered: bool
) -> None:
    court = Court("a", "b")
    court.claim("a", "R-1")
    court.beat("a")
    court = begin_anew(court, rivals)
    for node in dead:
        court.roster.prove_dead(node, court.now)
    epoch = promote_b(court)
    assert court.covers("b", epoch) is covered
    court.tick(3.3, beating=("b",))
    assert court.covers("b", epoch)


def test_a_proof_counts_again_when_leaders_of_before_cannot_answer_any_more() -> None:
    court = Court("a", "b")
    court.claim("a", "R-1")
    court.beat("a")
    court = begin_anew(court, None)
    court.tick(1.1, beating=("b",))
    court.roster.prove_dead("a", court.now)
    assert court.covers("b", promote_b(court))


def test_the_proof_of_a_rivals_death_asks_for_the_others_anew() -> None:
    court = begin_anew(Court("a", "b"), {"x"})
    assert court.roster.prove_dead("a", court.now) is False
    assert court.roster.prove_dead("x", court.now) is True
    assert court.roster.prove_dead("x", court.now) is False


def test_several_rivals_that_are_all_dead_hold_up_no_proof() -> None:
    court = Court("a", "b")
    court.claim("a", "R-1")
    court.beat("a")
    court = begin_anew(court, {"a", "x"})
    assert court.roster.prove_dead("a", court.now) is False
    assert court.roster.prove_dead("x", court.now) is True
    # Only now is it certain that nobody has answered it since.
    assert court.roster.prove_dead("a", court.now) is False
    assert court.covers("b", promote_b(court))


def test_a_rival_that_is_back_as_a_node_stays_silenced_as_a_leader() -> None:
    court = Court("a", "b", "x")
    court.claim("a", "R-1")
    court.beat("a")
    court = begin_anew(court, {"x"})
    court.roster.prove_dead("x", court.now)
    court.beat("x")
    court.roster.prove_dead("a", court.now)
    assert court.covers("b", promote_b(court))


def test_it_is_told_once_that_the_rivals_are_outlived() -> None:
    court = begin_anew(Court("a", "b"), {"x"})
    assert not court.roster.outlived_rivals(court.now + 0.9)
    assert court.roster.outlived_rivals(court.now + 1.1)
    assert not court.roster.outlived_rivals(court.now + 1.2)


def test_it_is_told_once_that_the_last_contested_change_is_settled() -> None:
    court = Court("a", "b")
    court.claim("a", "R-1")
    court.beat("a")
    court.ask(
        "resource.register", resources("R-1", instance_id="on-b", node_id="b", role="standby")
    )
    assert not court.roster.has_settled()
    promote_b(court)
    assert not court.roster.has_settled()
    court.roster.prove_dead("a", court.now)
    assert court.roster.has_settled()
    assert not court.roster.has_settled()


def test_a_lease_given_after_the_proof_counts() -> None:
    court = Court("a", "b")
    court.claim("a", "R-1")
    court.beat("a")
    payload = resources("R-1", instance_id="on-b", node_id="b", role="standby")
    court.ask("resource.register", payload)
    # It was only about to reconnect.
    court.leases["a"].drop()
    court.roster.prove_dead("a", court.now)
    court.beat("a")
    epoch = promote_b(court)
    assert not court.covers("b", epoch)
    court.tick(2.2, beating=("b",))
    assert court.covers("b", epoch)


# -- judgement --------------------------------------------------------------------------


def mark(court: Court, state: InstanceState) -> None:
    decision = placement.mark(court.bench.registry, "on-a", state, "test")
    assert decision is not None
    court.bench.commit(decision)


def test_an_instance_is_silent_after_the_heartbeat_timeout_and_no_earlier() -> None:
    court = Court("a", "b")
    court.beat("a")
    assert court.tick(1.9, beating=("b",)) == []
    assert court.tick(0.2, beating=("b",))[0] == Verdict(Judgement.SILENT, "on-a", "a")


def test_an_instance_that_its_node_does_not_name_is_silent_too() -> None:
    court = Court("a")
    court.ask("service.register", instance("other", node_id="a"))
    verdicts = court.tick(2.2, beating=("a",))
    assert {v.instance_id for v in verdicts} == {"other"}


def test_a_silent_instance_is_gone_after_the_gone_timeout() -> None:
    court = Court("a")
    court.tick(2.2)
    mark(court, InstanceState.UNHEALTHY)
    assert court.tick(7.7) == []
    assert court.tick(0.2)[0] == Verdict(Judgement.GONE, "on-a", "a")


def test_an_unhealthy_instance_that_beats_again_has_recovered() -> None:
    court = Court("a")
    mark(court, InstanceState.UNHEALTHY)
    assert court.tick(0.1) == []
    court.beat("a")
    assert court.tick(0.1) == [Verdict(Judgement.RECOVERED, "on-a", "a")]


def test_an_instance_with_mail_and_no_progress_is_stalled() -> None:
    court = Court("a")
    stuck = InstanceLoad(depth=1, progress=5)
    court.beat("a", load=stuck)
    started = court.now
    verdicts: list[Verdict] = []
    while not verdicts:
        court.now += 0.25
        court.beat("a", load=stuck)
        verdicts = court.roster.tick(court.now)
    assert verdicts == [Verdict(Judgement.STALLED, "on-a", "a")]
    assert court.now - started == pytest.approx(OPTIONS.stall_timeout)


def test_progress_puts_a_stall_off() -> None:
    court = Court("a")
    for step in range(100):
        court.now += 0.25
        court.beat("a", load=InstanceLoad(depth=1, progress=step // 30))
        assert court.roster.tick(court.now) == []


def test_one_stalled_actor_makes_its_instance_stalled() -> None:
    court = Court("a")
    court.beat("a", load=InstanceLoad(depth=1, progress=5, stalled=10.0))
    assert court.tick(0.1) == [Verdict(Judgement.STALLED, "on-a", "a")]


def test_a_dead_node_is_judged_at_once_and_gone_after_the_heartbeat_timeout() -> None:
    court = Court("a", "b")
    court.beat("a")
    court.now += 0.4
    court.roster.prove_dead("a", court.now, since=court.now - 0.03)
    assert court.bench.registry.doubted == {"on-a"}
    [verdict] = court.roster.tick(court.now)
    assert verdict == Verdict(Judgement.DIED, "on-a", "a")
    assert verdict.silence == pytest.approx(0.03)
    mark(court, InstanceState.UNHEALTHY)
    assert court.tick(1.5, beating=("b",)) == []
    assert court.tick(0.2, beating=("b",))[0] == Verdict(Judgement.GONE, "on-a", "a")


def test_a_node_taken_for_dead_that_beats_has_recovered() -> None:
    court = Court("a")
    court.beat("a")
    court.roster.prove_dead("a", court.now)
    mark(court, InstanceState.UNHEALTHY)
    court.beat("a")
    assert court.tick(0.1) == [Verdict(Judgement.RECOVERED, "on-a", "a")]
    assert court.bench.registry.doubted == set()


def test_a_verdict_falls_when_a_beat_comes_before_it_is_carried_out() -> None:
    court = Court("a", "b")
    court.beat("a")
    verdict = court.tick(2.1, beating=("b",))[-1]
    assert court.roster.stands(verdict, court.now)
    court.beat("a")
    assert not court.roster.stands(verdict, court.now)


def test_a_verdict_falls_when_the_leader_was_paused_meanwhile() -> None:
    court = Court("a", "b")
    court.beat("a")
    verdict = court.tick(2.1, beating=("b",))[-1]
    court.now += 60.0
    court.roster.tick(court.now)
    assert not court.roster.stands(verdict, court.now)


def test_what_a_new_process_does_not_claim_is_abandoned_after_the_gone_timeout() -> None:
    court = Court("a", "b")
    court.claim("a", "R-1")
    court.bench.alive = {Holder("on-a", "a"): False}
    court.ask("service.register", instance("on-a", node_id="a2"))
    court.leases["a2"] = Lease("a2", OPTIONS)
    court.roster.tick(court.now)

    def pass_time(seconds: float) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for _ in range(round(seconds / 0.1)):
            court.now += 0.1
            for node, name in (("a2", "on-a"), ("b", "on-b")):
                court.roster.heard(
                    court.leases[node].beat(court.now, {name: InstanceLoad()}), court.now
                )
            verdicts += court.roster.tick(court.now)
        return verdicts

    assert pass_time(9.8) == []
    # A leader that was paused gives it the whole time again.
    court.now += 60.0
    assert court.roster.tick(court.now) == []
    assert pass_time(9.8) == []
    assert pass_time(0.3)[0] == Verdict(Judgement.ABANDONED, "on-a", "")
    court.ask("resource.register", resources("R-1", instance_id="on-a", node_id="a2"))
    assert pass_time(0.2) == []


def test_an_idle_instance_is_never_stalled() -> None:
    court = Court("a")
    assert court.tick(30.0, beating=("a",)) == []


def test_a_leader_that_was_paused_restarts_all_timers() -> None:
    court = Court("a")
    court.beat("a")
    court.tick(1.0)
    court.now += 60.0
    assert court.roster.tick(court.now) == []
    assert court.tick(1.9) == []
    assert court.tick(0.2)[0].judgement is Judgement.SILENT


def test_an_instance_that_is_not_registered_is_refused_with_410() -> None:
    court = Court("a")
    lease = court.leases["a"]
    given = court.roster.heard(lease.beat(court.now, {"nobody": InstanceLoad()}), court.now)
    assert given is not None
    assert lease.answered(given).refused["nobody"]["code"] == 410


def test_an_instance_that_another_node_has_is_refused_with_409() -> None:
    court = Court("a", "b")
    given = court.roster.heard(
        court.leases["a"].beat(court.now, {"on-b": InstanceLoad()}), court.now
    )
    assert given is not None
    assert given.refused["on-b"]["code"] == 409
    assert given.refused["on-b"]["holder"] == "b"


def test_a_beat_that_a_later_one_has_overtaken_is_not_answered() -> None:
    court = Court("a")
    early = court.leases["a"].beat(court.now, {})
    court.beat("a")
    assert court.roster.heard(early, court.now) is None


# -- all of it, in any order ------------------------------------------------------------

NODES = ["a", "b", "c"]
IDS = ["R-1"]


@define(eq=False)
class Reign:
    roster: Roster
    until: float = float("inf")
    name: str = "leader-0"
    since: float = 0.0
    """When it was last seen to lead, once another does."""


@define(eq=False)
class Flight:
    node: str
    content: Beat | BeatAnswer


class World:
    """Beats and answers that are lost, late or reordered; owners and leaders that change.

    A process that dies drops what it had; a new one, with a new lease, is started in its
    place under the next name. Deaths are proven or not, and also of those that live.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 100.0
        self.bench = Bench(limit=100)
        self.leases = {node: Lease(node, OPTIONS) for node in NODES}
        self.flying: list[Flight] = []
        self.reigns = [Reign(Roster(self.bench.registry, OPTIONS))]
        self.reigns[0].roster.begin(self.now, reign=50, settled=0, first=True)
        for node in NODES:
            self.bench.ask("service.register", instance(f"on-{node}", node_id=node))
        self.settled = 0
        self.covered = 0
        self.started = 0
        self.promoted = 0

    @property
    def leader(self) -> Roster:
        return self.reigns[-1].roster

    def node(self) -> str:
        return self.random.choice(list(self.leases))

    def on(self, node: str) -> str:
        """Return the instance of a node: the first letter of its name stays."""
        return f"on-{node[0]}"

    def step(self) -> None:
        """Let one thing happen, the usual ones more often than the odd ones."""
        steps = {
            self.time_passes: 25,
            self.beat: 20,
            self.deliver: 35,
            self.converse: 15,
            self.push: 6,
            self.lose_connection: 1,
            self.claim: 5,
            self.release: 2,
            self.give_up_and_return: 2,
            self.renew: 3,
            self.change_leader: 2,
            self.stand_by: 15,
            self.fail: 5,
            self.recover: 10,
            self.relocate: 4,
            self.replace: 2,
            self.abandon: 1,
            self.disconnect: 2,
            self.die: 2,
            self.prove_falsely: 3,
        }
        [chosen] = self.random.choices(list(steps), list(steps.values()))
        chosen()
        self.check()

    def time_passes(self) -> None:
        self.now += self.random.choice([0.02, 0.1, 0.1, 0.3, 0.5, 1.0, 2.0])
        self.leader.tick(self.now)

    def beat(self) -> None:
        node = self.node()
        self.flying.append(Flight(node, self.leases[node].beat(self.now, {})))

    def deliver(self) -> None:
        if not self.flying:
            return
        # What is oldest comes first most of the time.
        position = 0 if self.random.random() < 0.6 else self.random.randrange(len(self.flying))
        flight = self.flying[position]
        if self.random.random() > 0.05:
            del self.flying[position]
        if self.random.random() < 0.1:
            return
        match flight.content:
            case BeatAnswer() as given:
                if flight.node in self.leases:
                    self.leases[flight.node].answered(given)
            case Beat() as beat:
                # Each leader that still believes in itself hears and answers it.
                for reign in self.reigns:
                    if self.now < reign.until:
                        self.answer(reign.roster.heard(beat, self.now), flight.node)

    def converse(self) -> None:
        node = self.node()
        given = self.leader.heard(self.leases[node].beat(self.now, {}), self.now)
        if given is not None:
            self.leases[node].answered(given)

    def push(self) -> None:
        for reign in self.reigns:
            for node in sorted(reign.roster.to_push):
                if self.now < reign.until:
                    self.answer(reign.roster.push(node, self.now), node)

    def answer(self, given: BeatAnswer | None, node: str) -> None:
        if given is not None:
            self.flying.append(Flight(node, given))

    def lose_connection(self) -> None:
        self.leases[self.node()].drop()

    def claim(self) -> None:
        node = self.node()
        force = self.random.random() < 0.7
        payload = resources(
            self.random.choice(IDS), instance_id=self.on(node), node_id=node, force=force
        )
        self.ask("resource.register", payload)

    def stand_by(self) -> None:
        node = self.node()
        payload = resources(
            self.random.choice(IDS), instance_id=self.on(node), node_id=node, role="standby"
        )
        self.ask("resource.register", payload)

    def fail(self) -> None:
        """Whether it is true or not: the owner beats, or does not."""
        self.carry_out(
            placement.mark(
                self.bench.registry,
                self.on(self.node()),
                InstanceState.UNHEALTHY,
                "test",
                self.unsettled(),
            )
        )

    def recover(self) -> None:
        self.carry_out(
            placement.mark(self.bench.registry, self.on(self.node()), InstanceState.HEALTHY, "test")
        )

    def relocate(self) -> None:
        self.carry_out(placement.relocate(self.bench.registry, self.unsettled()))

    def abandon(self) -> None:
        self.carry_out(
            placement.abandon(self.bench.registry, self.on(self.node()), self.unsettled())
        )

    def disconnect(self) -> None:
        self.ask("service.disconnect", {"instance_id": self.on(self.node())})

    def replace(self) -> None:
        """A probe finds nobody, though the process may live on beside the new one."""
        old = self.node()
        self.start(old[0])
        if len(self.leases) > 2 * len(NODES):
            del self.leases[old]

    def start(self, letter: str) -> None:
        self.started += 1
        new = f"{letter}{self.started}"
        self.leases[new] = Lease(new, OPTIONS)
        current = self.bench.registry.instances.get(self.on(new))
        if current is not None:
            self.bench.alive = {Holder(current.instance_id, current.node_id): False}
        self.ask("service.register", instance(self.on(new), node_id=new))

    def die(self) -> None:
        """The process ends, and what of it is on its way still arrives."""
        node = self.node()
        del self.leases[node]
        if self.random.random() < 0.7:
            self.leader.prove_dead(node, self.now)
        if self.random.random() < 0.5:
            self.carry_out(
                placement.mark(
                    self.bench.registry,
                    self.on(node),
                    InstanceState.UNHEALTHY,
                    "died",
                    self.unsettled(),
                )
            )
        if node[0] not in {name[0] for name in self.leases}:
            self.start(node[0])

    def prove_falsely(self) -> None:
        """Its connection was lost, which ends its lease, and it is about to be back."""
        node = self.node()
        self.leases[node].drop()
        self.leader.prove_dead(node, self.now)

    def release(self) -> None:
        node, resource_id = self.node(), self.random.choice(IDS)
        owned = self.bench.registry.resources.get(("account", resource_id))
        if owned is not None and owned.node_id == node:
            self.leases[node].give_back(owned.key, owned.epoch)
        payload = resources(resource_id, instance_id=self.on(node), node_id=node)
        self.ask("resource.release", payload)

    def give_up_and_return(self) -> None:
        node = self.node()
        self.carry_out(
            placement.give_up(self.bench.registry, self.on(node), node, "silence", self.unsettled())
        )
        self.ask("service.register", instance(self.on(node), node_id=node))

    def renew(self) -> None:
        self.settled = self.leader.settled_sequence()

    def change_leader(self) -> None:
        # The one before answers beats for up to a second more, from what it knows, but
        # if it died; then whoever takes over may have proof of that, or not.
        old = self.reigns[-1]
        dead = self.random.random() < 0.4
        old.until = self.now + (0.0 if dead else old.roster.leader_timeout)
        old.roster.registry = self.bench.follower()
        self.bench.sequence += 1
        # Those that died are not known to have when they are counted.
        rivals = {r.name for r in self.reigns if r.since + old.roster.leader_timeout > self.now}
        rivals.add(old.name)
        new = Roster(self.bench.registry, OPTIONS)
        known = self.random.random() < 0.8
        new.begin(
            self.now,
            reign=self.bench.sequence,
            settled=self.settled,
            rivals=rivals if known else None,
        )
        for reign in self.reigns:
            reign.since = max(reign.since, min(self.now, reign.until))
        self.reigns = [r for r in self.reigns if r.until > self.now] + [
            Reign(new, name=f"leader-{self.bench.sequence}")
        ]
        if dead and self.random.random() < 0.7:
            new.prove_dead(old.name, self.now)

    def ask(self, operation: str, payload: Any) -> None:
        self.bench.unsettled = self.unsettled()
        self.bench.alive = {
            Holder(one.instance_id, one.node_id): self.bench.alive.get(
                Holder(one.instance_id, one.node_id), True
            )
            for one in self.bench.registry.instances.values()
        }
        self.bench.ask(operation, payload)
        self.bench.alive = {}
        self.follow_changes()

    def unsettled(self) -> set[ResourceKey]:
        return set(self.leader.unsettled)

    def carry_out(self, decision: Decision | None) -> None:
        if decision is not None:
            self.bench.commit(decision)
            self.follow_changes()

    def follow_changes(self) -> None:
        for change in self.bench.changes:
            self.leader.changed(change, self.now)
        self.bench.changes.clear()
        self.promoted += sum(event["event"] == "promoted" for event in self.bench.events)
        self.bench.events.clear()

    def check(self) -> None:
        """No resource is covered by the leases of two nodes at once."""
        for resource_id in IDS:
            holders = [
                node
                for node, lease in self.leases.items()
                if lease.valid(self.now) and ("account", resource_id) in lease.covered
            ]
            assert len(holders) <= 1, (resource_id, holders)
            self.covered += len(holders)


@pytest.mark.parametrize("first_seed", range(0, 400, 50))
def test_no_resource_is_ever_covered_by_two_leases(first_seed: int) -> None:
    covered = promoted = 0
    for seed in range(first_seed, first_seed + 50):
        world = World(seed)
        try:
            for _ in range(400):
                world.step()
        except AssertionError as error:
            error.add_note(f"replay it with World({seed})")
            raise
        covered += world.covered
        promoted += world.promoted
    # A world in which nobody is ever covered or promoted would prove nothing.
    assert covered > 2000
    assert promoted > 100
