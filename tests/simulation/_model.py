"""The actor that the simulation runs: an account with a register, in both state forms.

`step` is what the account means, as a pure function; the checker uses it alone. `Account`
does the same the way a live actor does: it changes its state in place, also in handlers
that fail afterwards.
"""

from __future__ import annotations

from typing import Any, Final
from zlib import crc32

import msgpack
from attrs import define, frozen

from aegis.actors._record import Event

__all__ = [
    "COMMANDS",
    "PLAIN",
    "SENT",
    "TOPIC",
    "Account",
    "Command",
    "State",
    "apply_event",
    "pack",
    "sent_by",
    "step",
    "unpack",
]


def pack(value: Any) -> bytes:
    """Return ``value`` as msgpack."""
    packed: bytes = msgpack.packb(value)
    return packed


def unpack(data: bytes) -> Any:
    """Return the value of some msgpack."""
    return msgpack.unpackb(data)


@frozen
class Command:
    """One logical command. ``uid`` stays the same over repeats and new sessions."""

    uid: str
    name: str
    amount: int = 0
    to: str = ""
    """The resource that a transfer goes to."""


COMMANDS: Final = {
    "deposit": 8,
    "withdraw": 3,
    "store": 4,
    "touch": 2,
    "reject": 2,
    "fail": 2,
    "verbose": 1,
    "invalid": 1,
    "transfer": 4,
    "remind": 2,
    "announce": 3,
}
"""The commands there are, each with its share of the load."""

PLAIN: Final = {
    name: share
    for name, share in COMMANDS.items()
    if name not in ("transfer", "remind", "announce")
}
"""Those without any effect beside state and reply."""

SENT: Final = {name: share for name, share in COMMANDS.items() if name != "invalid"}
"""... and of the load of durable sends."""


TOPIC: Final = "T"
"""The topic that every resource subscribes to durably."""


def sent_by(command: Command, status: int, reply_to: str) -> list[tuple[str, Command, bool]]:
    """Return what a command that has run sends: to whom, what, and whether a reply is due.

    What is announced goes to the topic, and is heard by every resource.

    A transfer is a saga of three steps: taken here, received there, settled here; what is
    refused there is refunded.
    """
    if command.name == "transfer" and status == 200:
        received = Command(f"{command.uid}>", "receive", command.amount)
        return [(command.to, received, True)]
    if command.name == "announce" and status == 200:
        return [(TOPIC, Command(f"{command.uid}^", "hear", command.amount), False)]
    if reply_to:
        name = "settled" if status == 200 else "refunded"
        return [(reply_to, Command(f"{command.uid}<", name, command.amount), False)]
    return []


@define
class State:
    """What the account keeps. ``chain`` depends on every change and on their order."""

    cash: int = 0
    register: int = 0
    count: int = 0
    chain: int = 0

    def encode(self) -> bytes:
        return pack([self.cash, self.register, self.count, self.chain])

    @classmethod
    def decode(cls, data: bytes) -> State:
        return cls(*unpack(data))


def step(state: State, command: Command) -> tuple[int, bytes, State]:
    """Return status, reply and new state of ``command`` on ``state``, which is not changed."""
    if command.name in ("withdraw", "transfer") and state.cash < command.amount:
        return 422, _error("not enough cash", command), state
    if command.name == "reject" or (
        command.name in ("receive", "hear") and command.amount % 5 == 0
    ):
        return 422, _error("rejected", command), state
    if command.name == "fail" or (command.name == "hear" and command.amount % 11 == 0):
        return 500, _error("failed", command), state
    if command.name == "withdrawn":
        return 408, _error("withdrawn", command), state
    if command.name == "touch":
        return 200, pack([state.count, state.cash]), state
    new = State(state.cash, state.register, state.count, state.chain)
    _change(new, command)
    value: list[Any] = [new.count, state.register if command.name == "store" else new.cash]
    if command.name == "verbose":
        value.append("x" * 100)
    return 200, pack(value), new


def apply_event(state: State, event: Event) -> None:
    """Change ``state`` as ``event`` says."""
    uid, name, amount = unpack(event.body)
    _change(state, Command(uid, name, amount))


class Account:
    """The live actor: its state changes while a handler runs, whatever comes of it."""

    def __init__(self, *, event_sourced: bool) -> None:
        self.event_sourced = event_sourced
        self.state = State()

    def execute(self, command: Command) -> tuple[int, bytes, list[Event] | None]:
        """Run a handler; after a status other than 200 the state has to be undone."""
        status, reply, _ = step(self.state, command)
        if command.name in ("touch", "withdrawn") or (
            status != 200 and command.name in ("withdraw", "transfer", "receive")
        ):
            return status, reply, None
        event = Event("Changed", 1, pack([command.uid, command.name, command.amount]))
        apply_event(self.state, event)
        return status, reply, [event]


def _change(state: State, command: Command) -> None:
    if command.name == "store":
        state.register = command.amount
    elif command.name in ("withdraw", "transfer"):
        state.cash -= command.amount
    elif command.name not in ("settled", "remind", "announce"):
        state.cash += command.amount
    state.count += 1
    state.chain = crc32(command.uid.encode(), state.chain)


def _error(message: str, command: Command) -> bytes:
    return pack({"message": message, "uid": command.uid})
