"""Who leads, when, and what it takes to notice that one does not lead any more."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.actors._election import Claim, Election, ElectionOptions, Renew, Standing

OPTIONS = ElectionOptions(leader_timeout=1.0, renew_interval=0.25, retry_interval=0.1)


def candidate(name: str = "me", *, jitter: float = 0.0, now: float = 0.0) -> Election:
    election = Election(name, ElectionOptions(jitter=jitter))
    election.replayed(now, sequence=0)
    return election


def leader(now: float = 0.0) -> Election:
    """A candidate that has just been elected with its record at sequence 5."""
    election = candidate(now=now)
    claim = election.due(now)
    assert isinstance(claim, Claim)
    election.claimed(claim, 5, now)
    election.saw(5, now)
    assert election.leading
    return election


def leads(election: Election) -> bool:
    """Ask anew: a type checker takes a property for something that does not change."""
    return election.leading


def record(node: str, term: int, **facts: Any) -> dict[str, Any]:
    return {"node": node, "term": term, **facts}


def test_nobody_claims_before_it_has_read_the_registry() -> None:
    assert Election("me", OPTIONS).due(100.0) is None


def test_without_a_leader_a_candidate_claims_at_once() -> None:
    assert candidate().due(0.0) == Claim(0, record("me", 1, rivals=[]))


def test_a_claim_expects_the_leaders_record_that_was_seen_and_raises_the_term() -> None:
    election = candidate()
    election.saw_leader(9, record("other", 4), 0.0)
    assert election.due(0.99) is None
    assert election.due(1.0) == Claim(9, record("me", 5))


def test_a_renewal_puts_a_takeover_off() -> None:
    election = candidate()
    election.saw_leader(9, record("other", 4), 0.0)
    election.due(0.5)
    election.saw_renewal(record("other", 4), 0.9)
    assert election.due(1.0) is None
    assert election.due(1.4) is None
    assert election.due(1.9) == Claim(9, record("me", 5))


@pytest.mark.parametrize("leader_timeout", [0.4, 1.0, 5.0])
def test_a_leader_renews_so_often_that_it_answers_beats_all_the_time(leader_timeout: float) -> None:
    election = Election("me", ElectionOptions(leader_timeout=leader_timeout))
    election.replayed(0.0, sequence=0)
    claim = election.due(0.0)
    assert isinstance(claim, Claim)
    election.claimed(claim, 5, 0.0)
    election.saw(5, 0.0)
    renewals = 0
    for tick in range(100):
        now = tick * leader_timeout / 10
        if isinstance(election.due(now), Renew):
            election.renewed(now)
            renewals += 1
        assert election.may_answer_beats(now)
    assert 20 <= renewals <= 50


@pytest.mark.parametrize("stale", [record("other", 3), record("elder", 4)])
def test_a_renewal_of_an_earlier_leader_puts_nothing_off(stale: dict[str, Any]) -> None:
    election = candidate()
    election.saw_leader(9, record("other", 4), 0.0)
    election.due(0.6)
    election.saw_renewal(stale, 0.9)
    assert isinstance(election.due(1.0), Claim)


def test_jitter_delays_a_takeover() -> None:
    election = candidate(jitter=0.3)
    election.saw_leader(9, record("other", 4), 0.0)
    for now in (0.4, 0.8, 1.2):
        assert election.due(now) is None
    assert isinstance(election.due(1.3), Claim)


def test_a_leader_that_resigns_is_succeeded_at_once() -> None:
    election = candidate()
    election.saw_leader(9, record("other", 4), 0.0)
    election.saw_renewal({**record("other", 4), "resigned": True}, 0.1)
    assert isinstance(election.due(0.1), Claim)


def test_a_leader_that_is_suspected_is_succeeded_at_once() -> None:
    election = candidate()
    election.saw_leader(9, record("other", 4), 0.0)
    election.suspect(0.1)
    assert isinstance(election.due(0.1), Claim)


def test_a_candidate_that_was_paused_blames_nobody_for_it() -> None:
    election = candidate()
    election.saw_leader(9, record("other", 4), 0.0)
    assert election.due(0.1) is None
    assert election.due(5.0) is None
    assert election.due(5.4) is None
    assert election.due(5.8) is None
    assert isinstance(election.due(6.0), Claim)


def test_a_new_leader_acts_only_when_it_has_read_up_to_its_own_record() -> None:
    election = candidate()
    claim = election.due(0.0)
    assert isinstance(claim, Claim)
    election.claimed(claim, 5, 0.1)
    assert election.standing is Standing.CATCHING_UP
    assert not leads(election)
    assert election.due(0.2) is None
    election.saw(4, 0.2)
    assert not leads(election)
    election.saw(5, 0.3)
    assert leads(election)
    assert election.due(0.3) == Renew()


def test_a_leader_renews_at_every_interval() -> None:
    election = leader()
    assert election.due(0.0) == Renew()
    assert election.due(0.2) is None
    assert election.due(0.25) == Renew()


def test_beats_are_answered_only_within_the_timeout_of_a_renewals_sending() -> None:
    election = leader()
    assert not election.may_answer_beats(0.0)
    election.renewed(0.1)
    assert election.may_answer_beats(0.1)
    assert election.may_answer_beats(1.0)
    assert not election.may_answer_beats(1.1)


def test_a_leader_that_lost_its_connection_renews_before_it_answers_beats_again() -> None:
    election = leader()
    assert election.due(0.0) == Renew()
    election.renewed(0.0)
    election.disconnected(0.1)
    assert not election.may_answer_beats(0.1)
    # The answer to a renewal of before proves nothing about now.
    election.renewed(0.05)
    assert not election.may_answer_beats(0.1)
    assert election.due(0.12) == Renew()
    election.renewed(0.12)
    assert election.may_answer_beats(0.12)


def test_a_refused_write_deposes_the_leader() -> None:
    election = leader()
    election.renewed(0.0)
    election.deposed(0.1)
    assert not election.leading
    assert not election.reigning
    assert not election.may_answer_beats(0.1)


def test_another_leaders_record_deposes_the_leader() -> None:
    election = leader()
    election.saw_leader(8, record("other", 2), 0.1)
    assert not election.reigning
    assert election.leader == "other"


def test_after_a_write_without_an_answer_the_leader_rewrites_its_record_first() -> None:
    election = leader()
    election.renewed(0.0)
    election.write_unknown(0.2)
    assert not leads(election)
    assert not election.may_answer_beats(0.2)
    assert election.reigning
    claim = election.due(0.2)
    assert claim == Claim(5, record("me", 2, rivals=[]))
    assert isinstance(claim, Claim)
    election.claimed(claim, 8, 0.3)
    assert not leads(election)
    election.saw(8, 0.4)
    assert leads(election)
    # It has led all the time: nobody else's leases have to be waited for.
    assert election.led_since == 0.0


def test_a_claim_without_an_answer_is_tried_again_as_it_was() -> None:
    election = candidate()
    first = election.due(0.0)
    election.claim_unknown(0.1)
    assert election.due(0.15) is None
    assert election.due(0.2) == first


def test_a_claim_whose_answer_was_lost_is_won_when_it_is_delivered() -> None:
    election = candidate()
    assert isinstance(election.due(0.0), Claim)
    election.claim_unknown(0.1)
    election.saw_leader(5, record("me", 1), 0.2)
    election.saw(5, 0.2)
    assert election.leading
    assert election.led_since == 0.2


def test_a_refused_claim_may_be_an_own_copy_that_is_delivered_later() -> None:
    election = leader()
    election.write_unknown(1.0)
    assert isinstance(election.due(1.0), Claim)
    election.claim_refused(1.1)
    assert not election.reigning
    election.saw_leader(9, record("me", 2), 1.2)
    election.saw(9, 1.2)
    assert election.leading
    # Nothing proves that nobody led in between: it counts as a new reign.
    assert election.led_since == 1.2


def test_a_record_of_a_former_process_of_the_same_name_is_no_victory() -> None:
    election = Election("me", OPTIONS)
    election.saw_leader(5, record("me", 1), 0.0)
    election.replayed(0.0, sequence=5)
    assert not election.reigning
    election.suspect(0.0)
    assert election.due(0.0) == Claim(5, record("me", 2))


def test_a_late_delivery_of_the_own_record_changes_nothing() -> None:
    election = leader()
    election.renewed(0.0)
    election.saw_leader(5, record("me", 1), 0.5)
    assert election.leading
    assert election.may_answer_beats(0.5)


class Store:
    """The leader's record, kept as the server would keep it."""

    def __init__(self) -> None:
        self.sequence = 0
        self.record: dict[str, Any] = {}

    def write(self, claim: Claim) -> int | None:
        if claim.expect != self.sequence:
            return None
        self.sequence += 1
        self.record = claim.record
        return self.sequence


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["due", "lose answer", "land late", "deliver", "suspect", "unknown"]),
            st.floats(0.0, 0.6),
        ),
        max_size=80,
    )
)
def test_two_leaders_never_both_hold_the_record(
    steps: list[tuple[int, str, float]],
) -> None:
    store = Store()
    candidates = [candidate(str(index)) for index in range(3)]
    flying: dict[int, Claim] = {}
    now = 0.0
    for index, step, passes in steps:
        now += passes
        one = candidates[index]
        match step:
            case "due":
                effect = one.due(now)
                if isinstance(effect, Claim):
                    sequence = store.write(effect)
                    if sequence is None:
                        one.claim_refused(now)
                    else:
                        one.claimed(effect, sequence, now)
                elif isinstance(effect, Renew):
                    if store.sequence == one.sequence:
                        one.renewed(now)
                    else:
                        one.deposed(now)
            case "lose answer":
                effect = one.due(now)
                if isinstance(effect, Claim):
                    store.write(effect)
                    one.claim_unknown(now)
            case "land late":
                if index in flying:
                    store.write(flying.pop(index))
                effect = one.due(now)
                if isinstance(effect, Claim):
                    flying[index] = effect
                    one.claim_unknown(now)
            case "deliver":
                if store.sequence:
                    one.saw_leader(store.sequence, store.record, now)
                    one.saw(store.sequence, now)
            case "suspect":
                one.suspect(now)
            case _:
                one.write_unknown(now)
        # Whoever believes to lead holds a record of its own, at a sequence of its own;
        # only the one that holds the store's can write.
        held = [c.sequence for c in candidates if c.leading]
        assert len(held) == len(set(held))
        if store.sequence in held:
            holder = next(c for c in candidates if c.leading and c.sequence == store.sequence)
            assert store.record["node"] == holder.node_id


# -- rivals -----------------------------------------------------------------------------


def takes_over(election: Election, now: float, *, sequence: int = 20) -> Claim:
    """Let a candidate that follows a silent leader take over."""
    election.suspect(now)
    claim = election.due(now)
    assert isinstance(claim, Claim)
    election.claimed(claim, sequence, now)
    election.saw(sequence, now)
    assert leads(election)
    return claim


def test_the_first_leader_of_all_has_no_rivals() -> None:
    assert leader().rivals(0.0) == frozenset()


def test_the_rivals_of_a_leader_are_the_one_before_it_and_those_of_that_one() -> None:
    election = candidate()
    election.saw_leader(9, record("other", 4, rivals=["elder"]), 0.0)
    claim = takes_over(election, 0.1)
    assert claim.record["rivals"] == ["elder", "other"]
    assert election.rivals(0.1) == frozenset({"elder", "other"})


def test_what_a_renewal_says_of_rivals_is_newer_than_the_leaders_record() -> None:
    election = candidate()
    election.saw_leader(9, record("other", 4, rivals=["elder"]), 0.0)
    election.saw_renewal(record("other", 4, rivals=[]), 0.0)
    assert takes_over(election, 0.1).record["rivals"] == ["other"]


def test_a_candidate_that_came_a_moment_ago_knows_the_rivals_from_the_records() -> None:
    election = Election("me", OPTIONS)
    election.saw_leader(9, record("other", 4, rivals=["elder"]), 5.0)
    election.saw_renewal(record("other", 4, rivals=[]), 5.0)
    election.replayed(5.0, sequence=12)
    takes_over(election, 5.0)
    assert election.rivals(5.0) == frozenset({"other"})


def test_a_leader_that_resigned_is_no_rival() -> None:
    election = candidate()
    election.saw_leader(9, record("other", 4, rivals=[]), 0.0)
    election.saw_renewal(record("other", 4, rivals=[], resigned=True), 0.1)
    takes_over(election, 0.1)
    assert election.rivals(0.1) == frozenset()


def test_a_record_that_names_no_rivals_leaves_them_unknown() -> None:
    election = candidate()
    election.saw_leader(9, record("other", 4), 0.0)
    claim = takes_over(election, 0.1)
    assert "rivals" not in claim.record
    assert election.rivals(0.1) is None


def test_rivals_are_outlived_after_the_timeout_and_a_margin_for_slow_clocks() -> None:
    election = candidate()
    election.saw_leader(9, record("other", 4, rivals=[]), 0.0)
    takes_over(election, 0.5)
    assert election.rivals(1.54) == frozenset({"other"})
    assert election.rivals(1.56) == frozenset()


def test_a_rewrite_of_its_own_record_does_not_make_a_leader_forget_its_rivals() -> None:
    election = candidate()
    election.saw_leader(9, record("other", 4, rivals=[]), 0.0)
    takes_over(election, 0.5)
    election.write_unknown(0.6)
    claim = election.due(0.6)
    assert isinstance(claim, Claim)
    assert claim.record["rivals"] == ["other"]
    election.claimed(claim, 30, 0.6)
    assert election.rivals(0.6) == frozenset({"other"})
    assert election.rivals(1.56) == frozenset()


def test_a_leader_that_has_something_to_tell_renews_before_its_time() -> None:
    election = leader()
    assert election.due(0.0) == Renew()
    assert election.due(0.01) is None
    election.renew_soon(0.01)
    assert election.due(0.01) == Renew()
