"""The documents, and the snippets in them.

A snippet is a fenced block. A comment right above it, which readers of the page do not
see, says how it is to be run:

``<!-- not run: REASON -->``
    It cannot run here; the reason is a sentence. There are only so many of these.
``<!-- before: CODE -->``
    Python that is run first, to set up what the snippet shows a part of.
``<!-- after: CODE -->``
    Python that is run afterwards, to check what it did.
``<!-- alone -->``
    Python that makes its own event loop; the tests that it defines are called.
``<!-- fails: CODE -->``
    Commands that end with this exit code.
``<!-- file: NAME -->``
    The text is the content of this file, for the snippets below it on the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import field, frozen

__all__ = ["DOCS", "PAGES", "README", "ROOT", "Snippet", "snippets_of"]

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
README: Final = ROOT / "README.md"

PAGES: Final = (README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(DOCS.glob("*.md")))
"""All documents with snippets. README.zh-CN.md has those of README.md, word for word."""

_FENCE: Final = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w-]*)[^\n]*$")
_COMMENT: Final = re.compile(
    r"<!--\s*(not run|before|after|alone|fails|file):?\s*(.*?)\s*-->", re.DOTALL
)


@frozen
class Snippet:
    """One fenced block of a page."""

    page: Path
    line: int
    """The line of the page before the first of ``text``."""
    language: str
    text: str
    settings: dict[str, str] = field(factory=dict[str, str])

    @property
    def place(self) -> str:
        """Where it stands, as editors read it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def not_run(self) -> str | None:
        """Why it cannot run, or None."""
        return self.settings.get("not run")


def snippets_of(page: Path) -> Iterator[Snippet]:
    """The fenced blocks of a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    above = ""
    number = 0
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        if opening is None:
            above = _above(above, lines[number])
            number += 1
            continue
        start = number = number + 1
        while lines[number].strip() != opening["fence"]:
            number += 1
        indent = len(opening["indent"])
        text = "\n".join(line[indent:] for line in lines[start:number]) + "\n"
        yield Snippet(page, start, opening["language"], text, dict(_COMMENT.findall(above)))
        above = ""
        number += 1


def _above(above: str, line: str) -> str:
    """The comments that stand right above the next line."""
    if line.lstrip().startswith("<!--") or "<!--" in above.rpartition("-->")[2]:
        return f"{above}\n{line}"
    return above if not line.strip() else ""
