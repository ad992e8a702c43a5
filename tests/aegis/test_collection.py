"""The garbage collector and a node's start."""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest

from aegis._collection import uncollected_start


class _Thing:
    pass


@pytest.fixture(autouse=True)
def collector() -> Generator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_inside_and_what_was_made_is_not_looked_at_afterwards() -> None:
    with uncollected_start():
        assert not gc.isenabled()
        thing = _Thing()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    assert not any(found is thing for found in gc.get_objects())


def test_a_start_that_fails_leaves_the_collector_on() -> None:
    with pytest.raises(RuntimeError), uncollected_start():
        raise RuntimeError("no")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with uncollected_start():
        pass
    assert not gc.isenabled()
