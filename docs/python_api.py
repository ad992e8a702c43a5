"""The page of the Python interface, made from the docstrings of what is public.

It is made when the site is built, and not kept: it changes with every docstring, and whoever
reads the repository has those.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import aegis
from aegis import marketdata, testing
from aegis.errors import AegisError

PAGE: Final = "python.md"

SECTION: Final = re.compile(r"^(Raises|Returns|Args):\n((?:[ \t]+[^\n]*\n?)+)", re.MULTILINE)
"""A section of a docstring in Google's form: its name, and its indented lines."""

ENTRY: Final = re.compile(r"^ {4}(\S[^\n]*(?:\n {8,}[^\n]*)*)", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, PAGE, content=python_api()))
    return files


def python_api() -> str:
    """The page, in Markdown."""
    exported: dict[str, Any] = {name: getattr(aegis, name) for name in aegis.__all__}
    errors = {n: v for n, v in exported.items() if inspect.isclass(v) and _is_error(v)}
    functions = {n: v for n, v in exported.items() if isinstance(v, FunctionType)}
    classes = {n: v for n, v in exported.items() if n not in errors and n not in functions}
    parts = [
        "# Python interface\n",
        "All of it is imported from `aegis`, but for the last two parts, which name their module. "
        "What is not here may change without notice.\n",
        "## Functions and decorators\n",
        *_functions(functions),
        "## Classes\n",
        *_classes(classes),
        "## Errors\n",
        "`code` is the status that crosses the wire. Each has its facts in `error.facts`.\n",
        *_errors(errors),
        "## aegis.marketdata\n",
        *_module(marketdata),
        "## aegis.testing\n",
        *_module(testing),
    ]
    return "\n".join(parts)


def _is_error(cls: type) -> bool:
    return issubclass(cls, AegisError)


def _functions(functions: dict[str, Any]) -> Iterator[str]:
    for name, function in functions.items():
        yield f"### {name}\n"
        yield _code(_signature(name, function))
        yield _text(function)


def _classes(classes: dict[str, Any]) -> Iterator[str]:
    for name, cls in classes.items():
        yield f"### {name}\n"
        yield _text(cls)
        members: dict[str, Any] = dict(cls.__dict__)
        for member, value in members.items():
            plain = getattr(value, "__func__", value)
            if member.startswith("_") or not inspect.getdoc(plain):
                continue
            if isinstance(value, property):
                yield f"**`{name}.{member}`** (property)\n"
                yield _text(value)
            elif inspect.isfunction(plain):
                yield _code(_signature(f"{name}.{member}", plain))
                yield _text(getattr(cls, member))


def _errors(errors: dict[str, Any]) -> Iterator[str]:
    yield "| class | code | base | means |"
    yield "| --- | --- | --- | --- |"
    for name, cls in errors.items():
        summary = " ".join((inspect.getdoc(cls) or "").split()).replace("|", "\\|")
        yield f"| `{name}` | {cls.code or ''} | `{cls.__base__.__name__}` | {summary} |"
    yield ""


def _module(module: ModuleType) -> Iterator[str]:
    exported: dict[str, Any] = {name: getattr(module, name) for name in module.__all__}
    functions = {n: v for n, v in exported.items() if isinstance(v, FunctionType)}
    yield from _functions(functions)
    yield from _classes({n: v for n, v in exported.items() if n not in functions})


def _signature(name: str, function: Any) -> str:
    """The function as it is called, with the types as they stand in the source."""
    source = textwrap.dedent(inspect.getsource(function))
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    arguments = node.args
    for first in (arguments.posonlyargs, arguments.args):
        if first and first[0].arg in ("self", "cls"):
            del first[0]
            break
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    begin = "await " if isinstance(node, ast.AsyncFunctionDef) else ""
    return f"{begin}{name}({ast.unparse(arguments)}){returns}"


def _code(text: str) -> str:
    return f"```text\n{text}\n```\n"


def _text(documented: object) -> str:
    """A docstring as Markdown: its sections become lists, its examples stay indented."""
    text = inspect.getdoc(documented) or ""
    text = SECTION.sub(lambda found: _listed(found[1], found[2]), text + "\n")
    return re.sub(r"::\n", ":\n", text.replace("\n::\n", "\n")).strip() + "\n"


def _listed(section: str, lines: str) -> str:
    entries = [" ".join(entry.split()) for entry in ENTRY.findall(lines)]
    named = [re.sub(r"^([\w., ]+):", r"`\1`:", entry) for entry in entries]
    return f"{section}:\n\n" + "".join(f"- {entry}\n" for entry in named)
