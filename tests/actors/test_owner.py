"""The owner: fence, replay, group commit, held answers, unknown appends, snapshots."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.actors._owner import AppendPlan, Owner, OwnerLimits, Phase
from aegis.actors._record import CommandEntry, Event, Record
from aegis.actors._sessions import Fresh, Known, Refusal
from aegis.errors import JournalUnreadable


def serving(
    *, epoch: int = 5, snapshot_state: bool = True, limits: OwnerLimits | None = None
) -> Owner:
    owner = Owner(epoch=epoch, snapshot_state=snapshot_state, limits=limits or OwnerLimits())
    assert owner.fence(expect_new=True).expect == 0
    owner.fenced_at(10, is_first=True)
    return owner


def phase(owner: Owner) -> Phase:
    """Return the phase; a type checker does not expect an attribute to change by itself."""
    return owner.phase


def entry(n: int, *, session: str = "100-a", reply: bytes = b"ok", low: int = 1) -> CommandEntry:
    return CommandEntry(session, n, low, 200, reply)


def run(owner: Owner, n: int, state: bytes | None = b"s", *, session: str = "100-a") -> bool:
    """Run one command and hold its answer; return whether the answer may leave."""
    verdict = owner.admit(session, n, 1)
    assert isinstance(verdict, Fresh)
    owner.commit(entry(n, session=session), state, drops=verdict.drops)
    return owner.hold(f"{session}-{n}")


def append(owner: Owner) -> AppendPlan:
    plan = owner.append_next()
    assert plan is not None
    plan.payload = msgpack.packb(plan.record.to_wire())
    return plan


def stored(plan: AppendPlan) -> Record:
    """Return the record as a reader finds it."""
    return Record.from_wire(msgpack.unpackb(plan.payload))


def test_the_epoch_record_is_written_without_an_expectation() -> None:
    plan = Owner(epoch=7, snapshot_state=True).fence()
    assert plan.expect is None
    assert plan.record.is_fence
    assert plan.record.epoch == 7


def test_the_first_record_of_a_journal_needs_no_replay() -> None:
    assert serving().phase is Phase.SERVING


def test_an_owner_serves_once_it_has_replayed_its_own_epoch_record() -> None:
    owner = Owner(epoch=7, snapshot_state=True)
    owner.fenced_at(12)
    owner.replay(10, Record(5, entries=None))
    owner.replay(11, Record(5, [entry(1)], state=b"one"))
    assert phase(owner) is Phase.REPLAYING
    owner.replay(12, Record(7, entries=None))
    assert phase(owner) is Phase.SERVING
    assert owner.state == b"one"
    assert owner.admit("100-a", 1, 1) == Known(200, b"ok")


def test_a_promotee_that_meets_a_higher_epoch_stands_down() -> None:
    owner = Owner(epoch=7, snapshot_state=True)
    owner.fenced_at(12)
    owner.replay(11, Record(9, entries=None))
    assert owner.phase is Phase.STOPPED
    assert owner.newer_epoch == 9


def test_a_lower_fence_that_landed_late_does_not_count() -> None:
    owner = Owner(epoch=7, snapshot_state=True)
    owner.fenced_at(12)
    owner.replay(12, Record(7, entries=None))
    assert not owner.replay(13, Record(5, entries=None))
    assert owner.phase is Phase.SERVING
    assert owner.last_sequence == 13


def test_no_answer_leaves_before_its_append() -> None:
    owner = serving()
    assert not run(owner, 1)
    append(owner)
    assert owner.appended(11) == ["100-a-1"]


def test_an_answer_that_has_seen_nothing_uncommitted_leaves_at_once() -> None:
    owner = serving()
    assert owner.hold("query")
    run(owner, 1)
    append(owner)
    owner.appended(11)
    assert owner.hold("query")


def test_a_query_and_a_repeat_wait_for_what_they_have_seen() -> None:
    owner = serving()
    run(owner, 1)
    assert not owner.hold("query")
    assert owner.admit("100-a", 1, 1) == Known(200, b"ok")
    assert not owner.hold("repeat")
    append(owner)
    assert owner.appended(11) == ["100-a-1", "query", "repeat"]


def test_all_that_runs_while_an_append_is_under_way_goes_out_together() -> None:
    owner = serving()
    run(owner, 1)
    append(owner)
    run(owner, 2, b"two")
    run(owner, 3, None)
    assert owner.append_next() is None
    assert owner.appended(11) == ["100-a-1"]
    plan = append(owner)
    assert plan.expect == 11
    assert [e.n for e in plan.record.entries or () if isinstance(e, CommandEntry)] == [2, 3]
    assert plan.record.state == b"two"
    assert owner.appended(12) == ["100-a-2", "100-a-3"]
    assert owner.quiescent


def test_a_group_is_cut_with_the_state_of_its_own_last_entry() -> None:
    owner = serving(limits=OwnerLimits(group_bytes=120))
    for n, state in ((1, b"one"), (2, None), (3, b"three")):
        run(owner, n, state)
    plan = append(owner)
    assert len(plan.record.entries or ()) == 2
    assert plan.record.state == b"one"
    assert owner.appended(11) == ["100-a-1", "100-a-2"]
    assert append(owner).record.state == b"three"


def test_an_entry_larger_than_a_group_goes_out_alone() -> None:
    owner = serving(limits=OwnerLimits(group_bytes=10))
    run(owner, 1)
    run(owner, 2)
    assert len(append(owner).record.entries or ()) == 1


def test_a_group_with_its_state_stays_below_the_largest_record() -> None:
    owner = serving(limits=OwnerLimits(record_bytes=400))
    for n in range(1, 4):
        run(owner, n, b"s" * 250)
    plan = append(owner)
    assert len(plan.record.entries or ()) == 1
    assert len(plan.payload) <= 400


def test_a_snapshot_larger_than_a_record_may_be_is_put_off() -> None:
    owner = serving(limits=OwnerLimits(snapshot_every_records=1, record_bytes=400))
    run(owner, 1, b"s" * 330)
    plan = append(owner)
    assert not plan.rollup
    assert plan.record.state == b"s" * 330


def test_an_append_under_way_stays_the_same_until_it_is_settled() -> None:
    owner = serving()
    run(owner, 1)
    plan = append(owner)
    run(owner, 2)
    assert owner.append_next() is None
    assert owner.in_flight is plan


def test_a_refused_append_that_is_found_in_the_tail_has_come_through() -> None:
    owner = serving()
    run(owner, 1)
    plan = append(owner)
    assert owner.tail(11, stored(plan)) == ["100-a-1"]
    assert owner.quiescent
    assert owner.last_sequence == 11


def test_a_refused_snapshot_is_found_in_the_tail_too() -> None:
    owner = serving(limits=OwnerLimits(snapshot_every_records=1, max_kept_reply_bytes=1))
    run(owner, 1)
    plan = append(owner)
    assert plan.rollup
    assert owner.tail(11, stored(plan)) == ["100-a-1"]


def test_an_append_with_an_empty_list_of_events_is_found_in_the_tail() -> None:
    owner = serving(snapshot_state=False)
    owner.commit(CommandEntry("100-a", 1, 1, 200, b"", events=[]), None)
    owner.hold("answer")
    plan = append(owner)
    assert owner.tail(11, stored(plan)) == ["answer"]


def test_a_late_fence_of_an_older_owner_only_moves_the_expectation() -> None:
    owner = serving()
    run(owner, 1)
    plan = append(owner)
    assert owner.tail(11, Record(3, entries=None)) == []
    assert owner.in_flight is plan
    assert plan.expect == 11
    assert owner.appended(12) == ["100-a-1"]


def test_a_higher_epoch_in_the_tail_fences_the_owner() -> None:
    owner = serving()
    run(owner, 1)
    append(owner)
    assert owner.tail(11, Record(9, entries=None)) == []
    assert owner.phase is Phase.STOPPED
    assert owner.newer_epoch == 9
    assert owner.stop() == ["100-a-1"]
    assert owner.append_next() is None


def test_a_fenced_owner_takes_no_acknowledgement() -> None:
    owner = serving()
    run(owner, 1)
    append(owner)
    owner.stop()
    assert owner.appended(11) == []


def test_a_second_writer_with_the_same_epoch_is_told() -> None:
    owner = serving()
    run(owner, 1)
    append(owner)
    with pytest.raises(JournalUnreadable, match="second writer"):
        owner.tail(11, Record(5, [entry(9)]))
    assert owner.phase is Phase.STOPPED


def test_the_late_acknowledgement_of_a_settled_append_is_not_taken_for_the_next_one() -> None:
    owner = serving()
    run(owner, 1)
    owner.tail(11, stored(append(owner)))
    run(owner, 2)
    append(owner)
    assert owner.appended(11) == []
    assert owner.in_flight is not None
    assert owner.appended(12) == ["100-a-2"]


def test_a_snapshot_holds_everything_that_was_pending() -> None:
    owner = serving(limits=OwnerLimits(snapshot_every_records=2))
    run(owner, 1, b"one")
    append(owner)
    owner.appended(11)
    run(owner, 2, b"two")
    run(owner, 3, b"three")
    plan = append(owner)
    assert plan.rollup
    assert plan.expect == 11
    reader = Owner(epoch=9, snapshot_state=True)
    reader.fenced_at(13)
    reader.replay(12, stored(plan))
    reader.replay(13, Record(9, entries=None))
    assert reader.state == b"three"
    for n in (1, 2, 3):
        assert reader.admit("100-a", n, 1) == Known(200, b"ok")


def test_an_event_sourced_owner_makes_a_snapshot_only_of_a_state_it_is_given() -> None:
    owner = serving(snapshot_state=False, limits=OwnerLimits(snapshot_every_records=1))
    owner.commit(CommandEntry("100-a", 1, 1, 200, b"", events=[Event("E", 1, b"x")]), None)
    plan = owner.append_next()
    assert plan is not None
    assert not plan.rollup
    owner.appended(11)
    owner.commit(CommandEntry("100-a", 2, 1, 200, b"", events=[Event("E", 1, b"y")]), None)
    plan = owner.append_next(whole_state=b"xy")
    assert plan is not None
    assert plan.rollup
    assert plan.record.state == b"xy"
    assert plan.record.entries == []


def test_a_journal_of_fences_alone_is_replaced_by_a_snapshot_in_the_end() -> None:
    owner = Owner(epoch=9, snapshot_state=True, limits=OwnerLimits(snapshot_every_records=5))
    owner.fenced_at(15)
    for sequence in range(11, 16):
        owner.replay(sequence, Record(sequence - 6, entries=None))
    run(owner, 1)
    assert append(owner).rollup


def test_a_session_that_makes_room_is_dropped_in_the_journal() -> None:
    owner = serving(limits=OwnerLimits(max_sessions=1))
    run(owner, 1, session="100-a")
    run(owner, 1, session="101-b")
    plan = append(owner)
    reader = Owner(epoch=5, snapshot_state=True, limits=OwnerLimits(max_sessions=1))
    reader.apply(stored(plan), 0)
    assert reader.sessions.to_wire() == owner.sessions.to_wire()
    assert reader.sessions.floor == 100
    assert isinstance(reader.admit("100-a", 2, 1), Refusal)


def test_an_owner_that_has_stopped_appends_nothing() -> None:
    owner = serving()
    run(owner, 1)
    assert owner.stop() == ["100-a-1"]
    assert not owner.append_due
    assert owner.append_next() is None


@given(
    st.lists(st.sampled_from(["run", "run", "run", "append", "ack", "query"]), max_size=60),
    st.integers(60, 300),
    st.integers(1, 6),
)
def test_every_prefix_of_the_journal_is_what_was_answered(
    steps: list[str], group_bytes: int, every: int
) -> None:
    """At each moment a reader of the journal knows at least what has been answered."""
    limits = OwnerLimits(group_bytes=group_bytes, snapshot_every_records=every)
    owner, journal = serving(limits=limits), list[Record]()
    answered, ran, sequence = set[str](), 0, 10
    for action in steps:
        if action == "run":
            ran += 1
            if run(owner, ran, str(ran).encode()):
                answered.add(f"100-a-{ran}")
        elif action == "query" and owner.hold(f"100-a-{ran}"):
            answered.add(f"100-a-{ran}")
        elif action == "append" and owner.append_due:
            append(owner)
        elif action == "ack" and owner.in_flight is not None:
            plan, sequence = owner.in_flight, sequence + 1
            journal = [stored(plan)] if plan.rollup else [*journal, stored(plan)]
            answered.update(owner.appended(sequence))
        reader = Owner(epoch=5, snapshot_state=True, limits=limits)
        for record in journal:
            reader.apply(record, 0)
        known = 0
        while isinstance(reader.admit("100-a", known + 1, 1), Known):
            known += 1
        assert (reader.state or b"0") == str(known).encode()
        assert answered <= {f"100-a-{n}" for n in range(known + 1)}
