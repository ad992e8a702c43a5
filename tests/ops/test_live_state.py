"""What viewers of the live page are told, however far behind they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.ops import _live_state
from aegis.ops._live_contracts import LiveLoad, LiveTables
from aegis.ops._live_state import LiveState


class Viewer:
    """Does with messages what the page does with them."""

    def __init__(self, state: LiveState) -> None:
        self.state = state
        self.version = 0
        self.loads: dict[str, Any] = {}
        self.samples: list[Any] = []
        self.resets = 0

    def look(self) -> None:
        message = json.loads(self.state.since(self.version))
        self.version = self.state.version
        if message["reset"]:
            self.loads, self.samples = {}, []
            self.resets += 1
        self.loads |= message["rows"].get("loads", {})
        for key in message["gone"].get("loads", ()):
            self.loads.pop(key, None)
        self.samples += message["samples"]


def loads(**depths: int) -> LiveTables:
    return LiveTables(loads={name: LiveLoad(depth, 0.0, 0.0) for name, depth in depths.items()})


def plain(**depths: int) -> dict[str, Any]:
    return {name: {"depth": d, "rate": 0.0, "stalled": 0.0} for name, d in depths.items()}


_STEPS = st.lists(
    st.tuples(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2)), st.booleans()),
    max_size=30,
)


@given(_STEPS)
def test_a_viewer_that_misses_versions_ends_with_what_is_so(
    steps: list[tuple[dict[str, int], bool]],
) -> None:
    state = LiveState("s")
    viewer = Viewer(state)
    for number, (depths, looks) in enumerate(steps):
        state.advance(float(number), loads(**depths), (float(number), 0.0, 0, None, None, None))
        if looks:
            viewer.look()
            assert viewer.loads == plain(**depths)
            assert [sample[0] for sample in viewer.samples] == list(range(number + 1))
    assert viewer.resets <= 1


def test_what_has_not_changed_is_not_told_again() -> None:
    state = LiveState("s")
    state.advance(1.0, loads(a=1, b=1))
    state.advance(2.0, loads(a=1, b=2))
    message = json.loads(state.since(1))
    assert message["rows"] == {"loads": plain(b=2)}
    assert (message["reset"], message["gone"]) == (False, {})


def test_versions_without_rows_keep_those_of_before() -> None:
    state = LiveState("s")
    viewer = Viewer(state)
    state.advance(1.0, loads(a=1))
    state.advance(2.0, sample=(2.0, 0.0, 0, None, None, None))
    viewer.look()
    assert viewer.loads == plain(a=1)


def test_viewers_that_are_equally_far_share_one_message() -> None:
    state = LiveState("s")
    state.advance(1.0, loads(a=1))
    first = state.since(0)
    assert state.since(0) is first
    state.advance(2.0, loads(a=2))
    assert state.since(1) is state.since(1)
    assert state.since(0) is not first


def test_who_missed_a_removal_that_is_forgotten_is_told_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_live_state, "MAX_GONE", 1)
    state = LiveState("s")
    viewer = Viewer(state)
    state.advance(1.0, loads(a=1, b=1, c=1))
    viewer.look()
    state.advance(2.0, loads(b=1, c=1))
    state.advance(3.0, loads(c=1))
    viewer.look()
    assert viewer.loads == plain(c=1)
    assert viewer.resets == 2


def test_who_was_away_for_longer_than_the_samples_reach_is_told_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = LiveState("s")
    viewer = Viewer(state)
    state.advance(0.0, loads(a=1), (0.0, 0.0, 0, None, None, None))
    viewer.look()
    for number in range(1, _live_state.MAX_SAMPLES + 2):
        state.advance(number, sample=(float(number), 0.0, 0, None, None, None))
    viewer.look()
    assert len(viewer.samples) == _live_state.MAX_SAMPLES
    assert viewer.loads == plain(a=1)


@pytest.mark.parametrize("event_id", ["", "s", "s.", "s.x", "other.1", "1", "s.-1"])
def test_the_event_id_of_another_process_or_of_nobody_means_nothing(event_id: str) -> None:
    state = LiveState("s")
    state.advance(1.0, loads(a=1))
    assert state.version_of(event_id) == 0
    assert state.version_of(state.event_id()) == 1


def test_a_version_of_the_future_is_told_everything() -> None:
    state = LiveState("s")
    state.advance(1.0, loads(a=1))
    assert json.loads(state.since(99))["reset"] is True
