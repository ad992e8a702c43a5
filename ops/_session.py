"""A connection for one command that looks at the system."""

from __future__ import annotations

import asyncio
import difflib
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

from attrs import evolve

from aegis._config import ConnectOptions
from aegis._connection import open_connection
from aegis._inspect import Inspector
from aegis._subjects import Subjects
from aegis.errors import NotFound

__all__ = ["CONNECT_TIMEOUT", "inspect", "near"]

CONNECT_TIMEOUT: Final = 2.0
"""Seconds to find the server; a call may take longer, a missing server is told soon."""


def inspect[T](options: ConnectOptions, ask: Callable[[Inspector], Awaitable[T]]) -> T:
    """Connect, ask, disconnect."""

    async def run() -> T:
        soon = evolve(options, timeout=min(options.timeout, CONNECT_TIMEOUT))
        name = f"aegis-cli-{secrets.token_hex(4)}"
        async with await open_connection(soon, name=name) as connection:
            return await ask(Inspector(connection.transport, Subjects(options.namespace)))

    return asyncio.run(run())


def near(error: NotFound, word: str, known: list[Any]) -> NotFound:
    """Return ``error`` with the known names that are most like ``word``."""
    found = difflib.get_close_matches(word, [str(name) for name in known], n=3, cutoff=0.5)
    if not found:
        return error
    hint = " or ".join(repr(name) for name in found)
    return NotFound(f"{error.message}; near it: {hint}", **error.facts, near=found)
