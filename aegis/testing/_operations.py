"""What a simulation does: the user's commands, and the faults that come with them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, cast

from attrs import evolve, frozen

from aegis.actors._actor import AegisActor
from aegis.actors._handlers import ActorSpec, describe
from aegis.errors import AegisError, ConfigurationError
from aegis.testing._steps import Step
from aegis.transport._codec import decode_value, encode_value

__all__ = ["Commands", "Do", "Subjects", "Trouble", "Turn", "draw_turns"]


class Do:
    """One command to give: ``Do("deposit", amount=5)``, to an actor if there are several.

    ``Do("reserve", amount=5).on(Stock, "cash")`` names the class and the resource, and
    ``.on("ACC-2")`` one of the resources of the only class.
    """

    __slots__ = ("actor", "method", "params", "resource_id")

    def __init__(self, method: str, /, **params: Any) -> None:
        self.method = method
        self.params = params
        self.actor: type[AegisActor] | None = None
        self.resource_id: str | None = None

    def on(self, *address: type[AegisActor] | str) -> Do:
        """Return the same command for a class, a resource, or both."""
        made = Do(self.method, **self.params)
        made.actor, made.resource_id = self.actor, self.resource_id
        for part in address:
            if isinstance(part, str):
                made.resource_id = part
            else:
                made.actor = part
        return made

    def __repr__(self) -> str:
        params = ", ".join(f"{name}={value!r}" for name, value in self.params.items())
        return f"{self.method}({params})"


type Commands = Callable[[random.Random], Do] | Sequence[Do]
"""Draws the next command, or all of them in their order."""


class Trouble(StrEnum):
    """What may befall a command, beside a crash of its owner at a step."""

    LOST_REQUEST = "its request is lost"
    LOST_REPLY = "its reply is lost"
    REPEATED = "its request comes twice"
    LATE = "its request comes late, after a repeat"
    RESTART = "the whole system is killed and started again"
    FREEZE = "its owner is frozen, replaced, and wakes up"
    HANDOVER = "its owner is drained"


@frozen
class Turn:
    """One command of a simulation, and what befalls it."""

    do: Do
    service: str
    resource: str
    pause: float = 0.0
    """Seconds before it."""
    by_mail: bool = False
    """Whether it is a durable message and no call."""
    overlaps: bool = False
    """Whether the next one begins before it has ended."""
    step: Step | None = None
    """Where its owner dies."""
    trouble: Trouble | None = None

    def __str__(self) -> str:
        how = "send" if self.by_mail else "call"
        text = f"{how} {self.service}/{self.resource} {self.do!r}"
        if self.pause:
            text = f"after {self.pause:g} s: {text}"
        if self.overlaps:
            text += ", and do not wait for it"
        if self.step is not None:
            text += f"; its owner dies {self.step}"
        if self.trouble is not None:
            text += f"; {self.trouble}"
        return text


_STEPS: Final = (
    Step.BEFORE_HANDLER,
    # What has run and is not stored runs again: most mistakes show there.
    Step.BEFORE_APPEND,
    Step.BEFORE_APPEND,
    Step.BEFORE_APPEND,
    Step.AFTER_APPEND,
    Step.AFTER_APPEND,
    Step.BEFORE_ANSWER,
    Step.BEFORE_FORWARD,
    Step.AFTER_FORWARD,
    Step.AFTER_FENCE,
)
_TROUBLES: Final = {
    Trouble.LOST_REQUEST: 4,
    Trouble.LOST_REPLY: 6,
    Trouble.REPEATED: 6,
    Trouble.LATE: 4,
    Trouble.RESTART: 1,
    Trouble.FREEZE: 1,
    Trouble.HANDOVER: 2,
}


class Subjects:
    """The actors of a simulation: classes, each with its resources."""

    def __init__(self, actor: type[AegisActor] | Mapping[type[AegisActor], Sequence[str]]) -> None:
        given = actor if isinstance(actor, Mapping) else {actor: ("R-1",)}
        self.resources: dict[type[AegisActor], tuple[str, ...]] = {}
        self.specs: dict[str, ActorSpec] = {}
        self.classes: dict[str, type[AegisActor]] = {}
        for one, names in given.items():
            spec = describe(one)
            if not names or isinstance(names, str):
                raise ConfigurationError(f"{spec.service}: name at least one resource, in a list")
            self.resources[one] = tuple(names)
            self.specs[spec.service] = spec
            self.classes[spec.service] = one

    def addresses(self) -> list[tuple[str, str]]:
        """Return the service and the name of each resource."""
        return [
            (describe(one).service, name) for one, names in self.resources.items() for name in names
        ]

    def place(self, do: Do) -> Turn:
        """Return a turn for a command, where it belongs.

        Raises:
            ConfigurationError: there is no such command, actor or resource.
        """
        if not isinstance(cast("object", do), Do):
            raise ConfigurationError(f"commands gave {do!r}; it has to be a Do('method', ...)")
        if do.actor is None and len(self.resources) > 1:
            names = ", ".join(one.__qualname__ for one in self.resources)
            raise ConfigurationError(
                f"{do!r}: say of which actor, as in .on({names.split(', ')[0]}); there are {names}"
            )
        actor = do.actor or next(iter(self.resources))
        if actor not in self.resources:
            raise ConfigurationError(f"{do!r}: {actor.__qualname__} is not simulated")
        names_of = self.resources[actor]
        resource = do.resource_id if do.resource_id is not None else names_of[0]
        if resource not in names_of:
            raise ConfigurationError(
                f"{do!r}: {resource!r} is no simulated resource; there are {', '.join(names_of)}"
            )
        spec = describe(actor)
        try:
            handler = spec.handler(do.method)
            handler.bind(decode_value(encode_value(handler.unstructure_params(do.params))))
        except AegisError as error:
            raise ConfigurationError(f"{do!r} is no command to give: {error.message}") from error
        return Turn(do, spec.service, resource)


def draw_turns(
    rng: random.Random, subjects: Subjects, commands: Commands, *, length: int, seconds: float
) -> list[Turn]:
    """Draw what one seed does."""
    if callable(commands):
        given = [commands(rng) for _ in range(length)]
    else:
        given = list(commands)
    faulty = rng.choice([0.0, 0.15, 0.3])
    crashing = rng.choice([0.15, 0.3, 0.6])
    mailing = rng.choice([0.0, 0.2, 0.5])
    overlapping = rng.choice([0.0, 0.0, 0.4])
    turns: list[Turn] = []
    for do in given:
        turn = subjects.place(do)
        is_command = subjects.specs[turn.service].handler(do.method).kind == "command"
        pause = rng.expovariate(len(given) / seconds) if seconds and rng.random() < 0.5 else 0.0
        trouble = None
        if rng.random() < faulty:
            trouble = rng.choices(list(_TROUBLES), list(_TROUBLES.values()))[0]
        turns.append(
            evolve(
                turn,
                pause=round(pause, 3),
                by_mail=is_command and rng.random() < mailing,
                overlaps=rng.random() < overlapping,
                step=rng.choice(_STEPS) if rng.random() < crashing else None,
                trouble=trouble,
            )
        )
    return turns
