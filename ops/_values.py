"""The arguments of ``aegis call``: ``amount=10.5`` on the command line, plain values out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final

from aegis.errors import ConfigurationError

__all__ = ["parse_arguments", "parse_value"]

_LOWEST: Final = -(2**63)
_HIGHEST: Final = 2**64 - 1
"""The whole numbers that a message can carry as such."""


def parse_arguments(arguments: Iterable[str]) -> dict[str, Any]:
    """Return the parameters that ``name=value`` arguments stand for.

    Raises:
        ConfigurationError: one is of another form, or a name is given twice.
    """
    params: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name:
            raise ConfigurationError(
                f"{argument!r} is no argument; write name=value, as in amount=10.5"
            )
        if name in params:
            raise ConfigurationError(f"{name}: is given twice; leave one out")
        params[name] = parse_value(value)
    return params


def parse_value(text: str) -> Any:
    """Return ``text`` read as JSON, or as it is if it is none. Numbers stay exact.

    A number with a fraction becomes a float only where the float's shortest text is the
    same number, so that it reaches a Decimal as it was typed; else it stays text.
    """
    try:
        return json.loads(
            text, parse_float=_exact_float, parse_int=_exact_int, parse_constant=_refuse
        )
    except (ValueError, RecursionError):
        return text


def _exact_float(text: str) -> float | str:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        return text
    return number if Decimal(repr(number)) == Decimal(text) else text


def _exact_int(text: str) -> int | str:
    if len(text) > len(str(_LOWEST)):
        return text
    number = int(text)
    return number if _LOWEST <= number <= _HIGHEST else text


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")
