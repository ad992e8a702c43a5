"""The services of the simulated system, and what they mean as one pure function.

An account with a register, once journaled as snapshots and once as events. Each answer
and each refusal ends in a tag, the command's uid and the count of changes by then, so that
whoever reads a journal knows which command an entry is the effect of.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final
from zlib import crc32

from attrs import define, evolve, field, frozen

from aegis.actors._actor import AegisActor
from aegis.actors._handlers import applies, command, query
from aegis.errors import Rejected
from tests.support.virtual import pass_time

__all__ = ["COMMANDS", "SERVICES", "Asked", "Book", "State", "Vault", "find_tag", "step", "tag"]

KEPT: Final = 24
"""So many of the last changes a state names: more than one record ever commits."""

_TAG: Final = re.compile(rb"\[([a-z0-9.-]+)@(\d+)\]")


@frozen
class Asked:
    """One logical command. ``uid`` stays the same over repeats and new sessions."""

    uid: str
    name: str
    amount: int = 0
    hold: float = 0.0
    """How long its handler waits, in seconds, between reading and writing."""


COMMANDS: Final = {"deposit": 8, "withdraw": 3, "store": 5, "touch": 2, "fail": 2}
"""The commands there are, each with its share of the load."""


@define
class State:
    """What the account keeps. ``chain`` depends on every change and on their order."""

    cash: int = 0
    register: int = 0
    count: int = 0
    chain: int = 0
    recent: list[str] = field(factory=list[str])

    def change(self, asked: Asked) -> None:
        """Apply one change."""
        if asked.name == "store":
            self.register = asked.amount
        elif asked.name == "withdraw":
            self.cash -= asked.amount
        else:
            self.cash += asked.amount
        self.count += 1
        self.chain = crc32(asked.uid.encode(), self.chain)
        self.recent = [*self.recent[-(KEPT - 1) :], asked.uid]

    def told(self) -> list[int]:
        """Return what a query tells of it."""
        return [self.cash, self.register, self.count, self.chain]


def tag(uid: str, count: int) -> str:
    """Return the text that names a command in its answer."""
    return f"[{uid}@{count}]"


def find_tag(reply: bytes) -> tuple[str, int] | None:
    """Return the uid and the count that an encoded answer names."""
    match = _TAG.search(reply)
    return None if match is None else (match[1].decode(), int(match[2]))


def step(state: State, asked: Asked) -> tuple[int, list[Any] | None, State]:
    """Return status, value and new state of a command on ``state``, which is not changed."""
    if asked.name == "fail":
        return 500, None, state
    if asked.name == "withdraw" and state.cash < asked.amount:
        return 422, None, state
    if asked.name == "touch":
        return 200, [state.cash, tag(asked.uid, state.count)], state
    new = evolve(state)
    new.change(asked)
    value = state.register if asked.name == "store" else new.cash
    return 200, [value, tag(asked.uid, new.count)], new


async def _answer(state: State, asked: Asked, change: Callable[[Asked], None]) -> list[Any]:
    """Do in place what `step` does, with a pause in the middle."""
    if asked.hold:
        await pass_time(asked.hold)
    name = tag(asked.uid, state.count)
    if asked.name == "withdraw" and state.cash < asked.amount:
        raise Rejected(f"not enough {name}")
    if asked.name == "touch":
        return [state.cash, name]
    before = state.register
    change(asked)
    if asked.name == "fail":
        raise RuntimeError(f"failed {name}")
    return [before if asked.name == "store" else state.cash, tag(asked.uid, state.count)]


class Vault(AegisActor):
    """The account whose state is journaled as a snapshot."""

    service = "vault"
    state: State

    @command
    async def apply(self, asked: Asked) -> list[Any]:
        return await _answer(self.state, asked, self.state.change)

    @query
    async def read(self) -> list[int]:
        return self.state.told()


@frozen
class Changed:
    """One change."""

    asked: Asked


class Book(AegisActor):
    """The same account, journaled as events."""

    service = "book"
    state: State

    @command
    async def apply(self, asked: Asked) -> list[Any]:
        def change(asked: Asked) -> None:
            self.emit(Changed(asked))

        return await _answer(self.state, asked, change)

    @applies(Changed)
    def _on_changed(self, event: Changed) -> None:
        self.state.change(event.asked)

    @query
    async def read(self) -> list[int]:
        return self.state.told()


SERVICES: Final[dict[str, type[AegisActor]]] = {"vault": Vault, "book": Book}
