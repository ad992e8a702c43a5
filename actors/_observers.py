"""Several observers as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from aegis.actors._observer import Observer

__all__ = ["combined"]

_HOOKS: Final = [name for name in vars(Observer) if name.startswith("on_")]


def combined(*observers: Observer | None) -> Observer:
    """Return an observer that tells each of ``observers``; None stands for none.

    A hook that only one of them has costs as much as if that were alone.
    """
    given = [
        one for one in observers if one is not None and (type(one) is not Observer or vars(one))
    ]
    if len(given) == 1:
        return given[0]
    group = Observer()
    for name in _HOOKS:
        told = [getattr(one, name) for one in given if _overrides(one, name)]
        if told:
            setattr(group, name, told[0] if len(told) == 1 else _each(told))
    for one in given:
        if one.tracer is not None:
            group.tracer = one.tracer
    facts = [one.facts for one in given if _overrides(one, "facts")]
    if facts:
        group.facts = _merged(facts)  # type: ignore[method-assign]
    return group


def _overrides(observer: Observer, name: str) -> bool:
    return getattr(getattr(observer, name), "__func__", None) is not vars(Observer)[name]


def _each(hooks: list[Callable[..., None]]) -> Callable[..., None]:
    def tell(*arguments: Any) -> None:
        for hook in hooks:
            hook(*arguments)

    return tell


def _merged(facts: list[Callable[..., Mapping[str, Any]]]) -> Callable[..., Mapping[str, Any]]:
    def tell(*, watched: bool = False) -> Mapping[str, Any]:
        return {k: v for each in facts for k, v in each(watched=watched).items()}

    return tell
