"""What MkDocs is told of this checkout: links that leave docs/ lead to pages made of the files.

The same Markdown is read in two places. Where the repository is shown, a link such as
``../tests/aegis/test_faults.py`` leads to the file. In the built site there is no such
file, so a page is made of it, with the test that the link names, or the whole file. A
link to a folder becomes plain text.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parents[1]

LEAVING: Final = re.compile(r"\[([^\]]+)\]\(\.\./([^)#\s]+)(?:#[^)\s]*)?\)")
"""A link out of docs/: its text, and the path from the root of the checkout."""

FENCE: Final = "`````"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside of docs/ that a page links to."""
    wanted: dict[str, set[str]] = {}
    for page in files.documentation_pages():
        for text, path in LEAVING.findall(page.content_string):
            if (ROOT / path).is_file():
                wanted.setdefault(path, set()).add(text.strip("`"))
    for path, names in sorted(wanted.items()):
        files.append(
            File.generated(
                config,
                f"source/{path}.md",
                content=source_page(path, names),
                inclusion=InclusionLevel.NOT_IN_NAV,
            )
        )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links that leave docs/ to the pages made for them."""

    def lead(match: re.Match[str]) -> str:
        text, path = match[1], match[2]
        if files.get_file_from_path(f"source/{path}.md") is None:
            return text
        name = text.strip("`")
        anchor = f"#{name}" if name in functions(path) else ""
        return f"[{text}](source/{path}.md{anchor})"

    return LEAVING.sub(lead, markdown)


def functions(path: str) -> dict[str, str]:
    """The functions of a Python file by name, each with its text."""
    if not path.endswith(".py"):
        return {}
    text = (ROOT / path).read_text(encoding="utf-8")
    lines = text.splitlines()
    return {
        node.name: "\n".join(lines[_first_line(node) - 1 : node.end_lineno])
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def _first_line(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return min([node.lineno, *(mark.lineno for mark in node.decorator_list)])


def source_page(path: str, names: set[str]) -> str:
    """Markdown that shows the functions ``names`` of a file, and all of it if one is none."""
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n"
    found = functions(path)
    shown = [f"## {name}\n\n{_fenced(found[name], path)}" for name in sorted(names & set(found))]
    if not names <= set(found):
        shown.append("## The file\n\n" if shown else "")
        shown.append(_fenced((ROOT / path).read_text(encoding="utf-8"), path))
    return head + "\n".join(shown)


def _fenced(text: str, path: str) -> str:
    language = {".py": "python", ".md": "markdown", ".yaml": "yaml", ".yml": "yaml"}
    return f"{FENCE}{language.get(Path(path).suffix, 'text')}\n{text.rstrip()}\n{FENCE}\n"
