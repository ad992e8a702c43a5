"""A release reads what the one before it wrote; what it cannot read stops one actor alone."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import define

from aegis import AegisActor, AegisError, _holdings, applies, command, query, subscribes, upcasts
from aegis.actors._record import CommandEntry, Event, Record
from aegis.transport import Append, Appended
from aegis.transport._codec import decode_value, encode_value
from tests.support.poll import wait_until
from tests.support.system import System, on_both


@define
class CentsState:
    """As the first release keeps it."""

    cents: int = 0


class PurseOfRelease1(AegisActor):
    """By snapshots, in cents."""

    service = "purse"
    state: CentsState

    @command
    async def put(self, amount: int) -> int:
        self.state.cents += 100 * amount
        return self.state.cents


@define
class UnitsState:
    """As the second release keeps it."""

    units: int = 0
    note: str = ""


class PurseOfRelease2(AegisActor):
    """By snapshots, in units."""

    service = "purse"
    state: UnitsState
    state_version = 2

    @staticmethod
    @upcasts(UnitsState, from_version=1)
    def from_cents(old: CentsState) -> UnitsState:
        return UnitsState(old.cents // 100, "was in cents")

    @command
    async def put(self, amount: int) -> int:
        self.state.units += amount
        return self.state.units

    @query
    async def note(self) -> str:
        return f"{self.state.units} {self.state.note}"

    @subscribes("peek.{resource_id}")
    async def on_peek(self, value: int) -> None:
        """Only looks."""


@define
class Put:
    """The event, whose first form had cents."""

    units: int


@define
class PutCents:
    """The event's first form."""

    cents: int


class TillOfRelease1(AegisActor):
    """By events, in cents."""

    service = "till"
    state: CentsState

    @applies(PutCents)
    def on_put(self, event: PutCents) -> None:
        self.state.cents += event.cents

    @command
    async def put(self, amount: int) -> int:
        self.emit(PutCents(100 * amount))
        return self.state.cents


PutCents.__name__ = "Put"  # Both releases call their event so.


class TillOfRelease2(AegisActor):
    """By events, in units."""

    service = "till"
    state: UnitsState
    state_version = 2

    @applies(Put, version=2)
    def on_put(self, event: Put) -> None:
        if event.units == 13:
            raise ArithmeticError("thirteen")
        self.state.units += event.units

    @staticmethod
    @upcasts(Put, from_version=1)
    def put_in_units(old: dict[str, Any]) -> dict[str, Any]:
        return {"units": old["cents"] // 100}

    @staticmethod
    @upcasts(UnitsState, from_version=1)
    def from_cents(old: CentsState) -> UnitsState:
        return UnitsState(old.cents // 100)

    @command
    async def put(self, amount: int) -> int:
        self.emit(Put(amount))
        return self.state.units

    @query
    async def units(self) -> int:
        return self.state.units


@on_both
async def test_a_state_that_an_earlier_release_wrote_is_brought_up_to_date(
    system: System,
) -> None:
    node = await system.start_node((PurseOfRelease1, ["P-1"]), instance_id="one")
    assert await system.cluster.actor(PurseOfRelease1, "P-1").put(5) == 500
    await system.stop_node(node)
    node = await system.start_node((PurseOfRelease2, ["P-1"]), instance_id="two")
    purse = system.cluster.actor(PurseOfRelease2, "P-1")
    assert await purse.note() == "5 was in cents"
    # Whoever only hears something has not changed the state by that.
    await system.cluster.publish("peek.P-1", 1)
    await wait_until(
        lambda: [c.handled + c.failed for c in node.topics.statistics()] == [1], what="it was heard"
    )
    assert [counts.failed for counts in node.topics.statistics()] == [0]
    assert await purse.put(2) == 7
    await system.kill_node(node)
    await system.start_node((PurseOfRelease2, ["P-1"]), instance_id="two")
    assert await purse.note() == "7 was in cents"
    _, record = (await system.records("purse", "P-1"))[-2]
    assert record.state is not None
    assert decode_value(record.state) == {
        "$version": 2,
        "state": {"units": 7, "note": "was in cents"},
    }


@on_both
async def test_events_of_an_earlier_release_are_brought_up_to_date_also_by_a_standby(
    system: System,
) -> None:
    first = await system.start_node((TillOfRelease1, ["T-1"]), instance_id="one")
    till = system.cluster.actor(TillOfRelease1, "T-1")
    for _ in range(3):
        await till.put(1)
    await system.start_node((TillOfRelease2, ["T-1"]), instance_id="two", role="standby")
    assert await till.put(1) == 400
    await system.stop_node(first)
    assert await system.cluster.actor(TillOfRelease2, "T-1").units() == 4
    assert await system.cluster.actor(TillOfRelease2, "T-1").put(1) == 5
    versions = [
        e.version for entry in await system.entries("till", "T-1") for e in entry.events or ()
    ]
    assert versions[-1] == 2


async def write(system: System, resource: str, *events: Event) -> int:
    """Append a record to a journal as another release would; return its sequence."""
    entry = CommandEntry("", 0, 0, 200, encode_value(None), list(events))
    record = Record(epoch=1, entries=[entry])
    payload = encode_value(record.to_wire())
    outcome = await system.transport.append(
        Append(system.subjects.journal("till", resource), payload), timeout=10
    )
    assert isinstance(outcome, Appended)
    return outcome.sequence


@pytest.fixture
def failed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is logged of resources that could not be had."""
    told: list[dict[str, Any]] = []

    class _Log:
        def error(self, event: str, **facts: Any) -> None:
            told.append({"event": event, **facts})

        warning = info = error

    monkeypatch.setattr(_holdings, "_log", _Log())
    return told


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (Event("Put", 3, encode_value({"units": 1})), "up to version 2 only: a later release"),
        (Event("Put", 2, encode_value({"euros": 1})), "units: is missing"),
        (Event("Put", 2, b"\xc1"), "not msgpack"),
        (Event("Taken", 1, encode_value({})), "no @applies method"),
        (Event("Put", 2, encode_value({"units": 13})), "raised ArithmeticError: thirteen"),
        (Event("Put", 1, encode_value({})), "put_in_units cannot bring version 1 up to date"),
    ],
)
def test_a_record_that_cannot_be_read_stops_its_actor_alone_and_names_itself(
    backend: Any, failed: list[dict[str, Any]], event: Event, told: str
) -> None:
    async def scenario(system: System) -> None:
        node = await system.start_node(TillOfRelease2, instance_id="one")
        await write(system, "BAD", Event("Put", 2, encode_value({"units": 1})))
        sequence = await write(system, "BAD", event)
        await node.add_resources("one", ["BAD", "GOOD"])
        await wait_until(lambda: bool(failed), what="it was told")
        (line,) = failed
        assert (line["event"], line["resource_id"]) == ("resource_failed", "BAD")
        assert f".journal.till.BAD, sequence {sequence}: " in line["error"]
        assert told in line["error"]
        assert "run the release that wrote it, or make the class read it" in line["error"]
        good = system.cluster.actor(TillOfRelease2, "GOOD")
        assert await good.put(1) == 1
        with pytest.raises(AegisError):
            await system.cluster.call("till", "units", resource_id="BAD", timeout=1)
        # Nothing was written behind it but the fence of who tried.
        records = await system.records("till", "BAD")
        assert all(record.is_fence for at, record in records if at > sequence)

    backend.run(scenario)
