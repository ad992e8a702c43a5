"""What an actor knows of itself, and when its hooks run."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from attrs import define, field

from aegis import AegisActor, Call, Role, command, query
from aegis.transport._codec import decode_value, encode_value
from tests.support.poll import wait_until
from tests.support.system import System, on_both


@define
class DiaryState:
    """Journaled, so that it is there again in the next life."""

    entries: list[str] = field(factory=list[str])


class Diary(AegisActor):
    """Notes what happens to it, in all lives."""

    service = "diary"
    state: DiaryState
    notes: list[str]

    def _note(self, hook: str) -> None:
        if self.resource_id is not None:  # The instance's own actor has a life, too.
            type(self).notes.append(f"{self.instance_id} {hook}")

    async def on_start(self) -> None:
        self._note(f"start with {len(self.state.entries)}")

    async def on_promote(self, epoch: int) -> None:
        assert epoch == self.epoch
        self._note(f"promote with {len(self.state.entries)}")

    def on_demote(self) -> None:
        self._note("demote")

    async def on_stop(self) -> None:
        self._note("stop")

    @command
    async def write(self, entry: str) -> int:
        self.state.entries.append(entry)
        return len(self.state.entries)

    @command
    async def tell(self) -> dict[str, Any]:
        return await self.who()

    @command
    def exit(self) -> None:
        raise SystemExit(1)

    @query
    async def who(self) -> dict[str, Any]:
        return {
            "resource": self.resource_id,
            "instance": self.instance_id,
            "role": self.role.value,
            "epoch": self.epoch,
            "message": self.message_id,
        }

    @query
    async def amount(self) -> Decimal:
        return Decimal(len(self.state.entries))


@on_both
async def test_a_handler_knows_who_it_is_and_whom_it_answers(system: System) -> None:
    Diary.notes = []
    await system.start_node((Diary, ["D-1"]), instance_id="one")
    request = system.request("diary", "tell", resource="D-1")
    answer = await system.ask("one", request)
    registered = await system.transport.request(
        f"{system.namespace}.ipc.resource.query",
        encode_value({"service_name": "diary", "resource_id": "D-1"}),
        timeout=20,
    )
    assert answer.value == {
        "resource": "D-1",
        "instance": "one",
        "role": Role.ACTIVE.value,
        "epoch": decode_value(registered.payload)["epoch"],
        "message": f"{request.session}-{request.n}",
    }
    assert (await system.ask("one", request)).value == answer.value


@on_both
async def test_an_owner_is_told_of_its_promotion_with_its_state_and_before_any_message(
    system: System,
) -> None:
    Diary.notes = []
    node = await system.start_node((Diary, ["D-1"]), instance_id="one")
    diary = system.cluster.actor(Diary, "D-1")
    assert await diary.write("a") == 1
    assert Diary.notes == ["one start with 0", "one promote with 0"]
    await system.stop_node(node)
    assert Diary.notes[2:] == ["one stop"]
    await system.start_node((Diary, ["D-1"]), instance_id="two")
    assert await diary.amount() == 1
    assert Diary.notes[3:] == ["two start with 1", "two promote with 1"]


@on_both
async def test_each_life_of_an_owner_begins_with_its_promotion(system: System) -> None:
    Diary.notes = []
    await system.start_node((Diary, ["D-1"]), instance_id="one")
    diary = system.cluster.actor(Diary, "D-1")
    assert await diary.write("a") == 1
    await system.cluster.ref(Diary, "D-1").wait_started()
    system.cluster.ref(Diary, "D-1").tell(Call("exit"))
    await wait_until(lambda: len(Diary.notes) == 4, what="the next life has begun")
    assert Diary.notes[2:] == ["one start with 1", "one promote with 1"]


@on_both
async def test_an_owner_that_was_replaced_is_told(system: System) -> None:
    Diary.notes = []
    await system.start_node((Diary, ["D-1"]), instance_id="one")
    new = await system.start_node(Diary, instance_id="two")
    await new.add_resources("two", ["D-1"], force=True)
    late = system.request("diary", "write", {"entry": "late"}, resource="D-1")
    assert (await system.ask("one", late)).status == 421
    await wait_until(
        lambda: "one start with 0" in Diary.notes[2:] and "two promote with 0" in Diary.notes,
        what="the old owner stands by",
    )
    # Told at once, and then it begins another life as a standby.
    assert [note for note in Diary.notes[2:] if note.startswith("one")] == [
        "one demote",
        "one stop",
        "one start with 0",
    ]
    assert await system.cluster.actor(Diary, "D-1").amount() == 0
