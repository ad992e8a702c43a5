"""Runs the Python of a page, over a system in memory and in virtual time.

The snippets of a page are one program: what one defines the next ones use. They may
await at their top level. ``memory`` is the `MemoryCluster`, ``cluster`` its caller, and
``aegis.connect()`` gives that caller, too.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest

import aegis
from aegis import _service_client
from aegis.testing import MemoryCluster, run
from tests.docs.pages import Snippet

__all__ = ["run_alone", "run_page"]


def run_page(snippets: Iterable[Snippet], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the snippets in order, in one module and one event loop."""

    async def scenario() -> None:
        async with MemoryCluster() as memory:

            @asynccontextmanager
            async def connect(*_args: Any, **_options: Any) -> AsyncGenerator[aegis.Cluster]:
                yield memory.cluster

            monkeypatch.setattr(aegis, "connect", connect)
            monkeypatch.setattr(_service_client, "connect", connect)
            module = new_module()
            vars(module).update(aegis=aegis, memory=memory, cluster=memory.cluster)
            for snippet in snippets:
                for text in (
                    snippet.settings.get("before"),
                    snippet.text,
                    snippet.settings.get("after"),
                ):
                    if text is not None:
                        await execute(snippet, text, module)

    run(scenario())


def run_alone(snippet: Snippet) -> None:
    """Run one snippet in a module of its own, and then the tests that it defines."""
    module = new_module()
    exec(compiled(snippet, snippet.text), vars(module))
    for name, value in list(vars(module).items()):
        if name.startswith("test_"):
            value()


def new_module() -> ModuleType:
    """An empty module that type hints can be looked up in, as in one that was imported."""
    module = ModuleType("a_page_of_the_documents")
    sys.modules[module.__name__] = module
    return module


async def execute(snippet: Snippet, text: str, module: ModuleType) -> None:
    """Run some text of the snippet's page."""
    result = eval(compiled(snippet, textwrap.dedent(text)), vars(module))
    if inspect.isawaitable(result):
        await result


def compiled(snippet: Snippet, text: str) -> Any:
    """The text as code; a traceback names the page and its line."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    padded = "\n" * snippet.line + text
    return compile(padded, str(snippet.page), "exec", flags=flags, dont_inherit=True)
