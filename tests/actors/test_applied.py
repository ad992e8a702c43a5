"""What beats tell of how far journals are applied, and what supervisors make of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aegis.actors._applied import MAX_REPEATED, MAX_REPORTED, AppliedReport, AppliedTable

KEY = ("account", "R-1")


type Applied = dict[str, dict[str, int]]


class Node:
    """What a node holds, and what it tells of it."""

    def __init__(self) -> None:
        self.applied: Applied = {}
        self.report = AppliedReport(lambda name, key: self.applied.get(name, {}).get(key))

    def next(self, applied: Applied) -> Applied:
        """Return what the next beat tells once ``applied`` is so."""
        before, self.applied = self.applied, applied
        for name, sequences in applied.items():
            known = before.get(name, {})
            self.report.renew(name, sequences.keys() - known)
            self.report.note(name, {k: n for k, n in sequences.items() if known.get(k) != n})
        return self.report.next()


def test_a_beat_tells_what_is_new_and_what_has_changed() -> None:
    node = Node()
    assert node.next({"a": {"R-1": 5}, "b": {"R-1": 4}}) == {"a": {"R-1": 5}, "b": {"R-1": 4}}
    many = {f"R-{index}": 1 for index in range(200)}
    node.next({"a": many})
    told = node.next({"a": {**many, "R-199": 2}})
    assert told["a"]["R-199"] == 2
    assert len(told["a"]) == 1 + MAX_REPEATED


def test_what_was_noted_and_has_not_changed_takes_no_room() -> None:
    node = Node()
    many = {f"R-{index}": 1 for index in range(200)}
    node.next({"a": many})
    node.report.note("a", many)
    assert len(node.report.next()["a"]) == MAX_REPEATED


def test_however_much_changes_a_beat_stays_small_and_all_gets_its_turn() -> None:
    node = Node()
    seen: set[str] = set()
    for beat in range(5):
        told = node.next({"a": {f"R-{index}": beat for index in range(1000)}})["a"]
        assert len(told) <= MAX_REPORTED
        assert set(told.values()) == {beat}
        seen |= told.keys()
    assert len(seen) == 1000


def test_what_a_lost_beat_said_comes_again_though_nothing_changes() -> None:
    node = Node()
    applied = {"a": {f"R-{index}": 7 for index in range(100)}}
    node.next(applied)
    again: set[str] = set()
    for _ in range(100 // MAX_REPEATED + 1):
        again |= node.next(applied)["a"].keys()
    assert len(again) == 100


def test_a_new_leader_is_told_everything() -> None:
    node = Node()
    applied = {"a": {f"R-{index}": 7 for index in range(200)}}
    node.next(applied)
    node.report.forget()
    assert node.next(applied) == applied


def test_what_is_not_held_any_more_is_not_told() -> None:
    node = Node()
    node.next({"a": {"R-1": 5}})
    assert node.next({}) == {}
    assert node.next({"a": {}}) == {}


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("ab"),
            st.dictionaries(st.integers(0, 400).map(str), st.integers(0, 3), max_size=30),
        ),
        max_size=20,
    )
)
def test_whoever_hears_every_beat_knows_everything(
    history: list[Applied],
) -> None:
    node, table = Node(), AppliedTable()
    for applied in history:
        told = node.next(applied)
        for instance_id, sequences in told.items():
            table.note(instance_id, "n", sequences, applied[instance_id])
        for instance_id, sequences in applied.items():
            for resource_id, sequence in sequences.items():
                assert table.get(instance_id, "n", resource_id) == sequence


def test_what_an_instance_does_not_hold_is_not_remembered() -> None:
    table = AppliedTable()
    table.note("a", "n", {"R-1": 5, "R-2": 6}, {"R-1"})
    assert table.get("a", "n", "R-2") is None
    table.note("a", "n", {"R-2": 6}, {"R-2"})
    assert table.get("a", "n", "R-1") is None


def test_a_new_process_starts_from_nothing() -> None:
    table = AppliedTable()
    table.note("a", "n", {"R-1": 5}, {"R-1"})
    assert table.get("a", "m", "R-1") is None
    table.note("a", "m", {}, {"R-1"})
    assert table.get("a", "n", "R-1") is None


def test_the_lag_is_what_lies_between_owner_and_standby() -> None:
    table = AppliedTable()
    table.note("a", "n", {"R-1": 50}, {"R-1"})
    assert table.lag(("a", "n"), ("b", "m"), KEY) is None
    table.note("b", "m", {"R-1": 48}, {"R-1"})
    assert table.lag(("a", "n"), ("b", "m"), KEY) == 2
    # A standby may have told later than its owner.
    assert table.lag(("b", "m"), ("a", "n"), KEY) == 0


def test_those_who_left_are_forgotten() -> None:
    table = AppliedTable()
    table.note("a", "n", {"R-1": 50}, {"R-1"})
    table.keep({"b"})
    assert table.get("a", "n", "R-1") is None
