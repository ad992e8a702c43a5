"""Variables of the environment in a configuration: ``${NAME}`` and ``${NAME:-VALUE}``.

So one file of a market serves several hosts, and accounts stand beside other settings of the
host. Secrets do not belong there: a source names their files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from aegis import ConfigurationError

__all__ = ["FromEnvironment", "expanded"]

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}", re.ASCII)


class FromEnvironment(str):
    """A text that a variable is part of: where a number is wanted, it may be one."""

    __slots__ = ()

    def to(self, kind: type) -> Any:
        """Return it as a plain ``kind``, as it is where it cannot be one."""
        text = str(self)
        if kind is bool:
            return {"true": True, "false": False}.get(text.lower(), text)
        try:
            return kind(text)
        except ValueError:
            return text


def expanded(value: Any, environ: Mapping[str, str]) -> Any:
    """Return ``value`` (tables, lists, texts) with its variables replaced.

    Raises:
        ConfigurationError: one is not set, or empty, and has no value in its place.
    """
    if isinstance(value, str):
        if not _VARIABLE.search(value):
            return value
        return FromEnvironment(_VARIABLE.sub(lambda found: _value(found, environ), value))
    if isinstance(value, dict):
        return {name: expanded(inner, environ) for name, inner in value.items()}  # pyright: ignore
    if isinstance(value, list):
        return [expanded(inner, environ) for inner in value]  # pyright: ignore
    return value


def _value(found: re.Match[str], environ: Mapping[str, str]) -> str:
    value = environ.get(found[1], "")
    if value:
        return value
    if found[2] is None:
        raise ConfigurationError(
            f"the environment variable {found[1]} is not set; set it, or write "
            f"${{{found[1]}:-VALUE}} with what holds then"
        )
    return found[2]
