"""The simulated store does what JetStream was measured to do."""

from __future__ import annotations

import random
from typing import Any

import pytest
from attrs import evolve

from tests.simulation._faults import draw_faults
from tests.simulation._store import Answer, Result, Store
from tests.simulation._world import Process, World


@pytest.fixture
def world() -> World:
    world = World(1, draw_faults(random.Random(1)))
    world.faulty = False
    return world


@pytest.fixture
def store(world: World) -> Store:
    def accept(subject: str, sequence: int, payload: bytes, rollup: bool, about: Any) -> None:
        world.count("accepted")

    return Store(world, accept)


def payloads(store: Store, subject: str = "a") -> list[bytes]:
    return [stored.payload for stored in store.read_now(subject)]


def test_sequences_are_those_of_the_stream(store: Store) -> None:
    assert store.append_now("a", b"1", expect=None) == Answer(Result.OK, 1)
    assert store.append_now("b", b"2", expect=0) == Answer(Result.OK, 2)
    assert store.append_now("a", b"3", expect=1) == Answer(Result.OK, 3)


def test_the_copy_of_an_append_that_was_accepted_is_refused(store: Store) -> None:
    store.append_now("a", b"1", expect=0)
    assert store.append_now("a", b"1", expect=0) == Answer(Result.REFUSED, 1)
    assert payloads(store) == [b"1"]


def test_an_append_without_an_expectation_shuts_out_what_was_under_way(store: Store) -> None:
    store.append_now("a", b"1", expect=0)
    store.append_now("a", b"fence", expect=None)
    assert store.append_now("a", b"late", expect=1).result is Result.REFUSED


def test_a_rollup_replaces_all_before_it_on_its_subject_alone(store: Store) -> None:
    store.append_now("a", b"1", expect=0)
    store.append_now("b", b"2", expect=0)
    store.append_now("a", b"all", expect=1, rollup=True)
    assert payloads(store) == [b"all"]
    assert payloads(store, "b") == [b"2"]
    assert store.append_now("a", b"4", expect=3).result is Result.OK


def test_a_refused_rollup_removes_nothing(store: Store) -> None:
    store.append_now("a", b"1", expect=0)
    assert store.append_now("a", b"all", expect=9, rollup=True).result is Result.REFUSED
    assert payloads(store) == [b"1"]


def test_a_message_that_expires_resets_the_sequence_of_its_subject(
    world: World, store: Store
) -> None:
    store.append_now("a", b"1", expect=0, ttl=10.0)
    assert store.append_now("a", b"2", expect=0).result is Result.REFUSED
    world.run(10.0)
    assert payloads(store) == []
    assert store.append_now("a", b"2", expect=0).result is Result.OK


def test_an_append_under_way_outlives_its_sender(world: World, store: Store) -> None:
    sender, heard = Process(world, "sender"), list[Any]()
    store.append(sender, "a", b"1", heard.append, expect=0)
    sender.crash()
    world.run(5.0)
    assert payloads(store) == [b"1"]
    assert heard == []


def test_an_append_can_take_effect_without_an_answer(world: World, store: Store) -> None:
    lossy = evolve(world.faults.acknowledgement, loss=1.0)
    safe = evolve(world.faults.request, loss=0.0, duplicate=0.0)
    world.faults = evolve(world.faults, acknowledgement=lossy, request=safe, again=0.0)
    world.faulty = True
    heard = list[Any]()
    store.append(Process(world, "sender"), "a", b"1", heard.append, expect=0)
    world.run(5.0)
    assert payloads(store) == [b"1"]
    assert heard == []


def test_a_paused_process_does_afterwards_what_came_meanwhile(world: World) -> None:
    process, done = Process(world, "process"), list[float]()
    process.after(0.5, lambda: done.append(world.now))
    process.pause(2.0)
    world.run(1.0)
    assert done == []
    world.run(3.0)
    assert done == [2.0]


def test_the_timers_of_a_process_die_with_it(world: World) -> None:
    process, done = Process(world, "process"), list[float]()
    process.after(2.0, lambda: done.append(world.now))
    process.crash()
    world.run(5.0)
    assert process.alive
    assert done == []
