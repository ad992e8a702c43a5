"""Every snippet of the documents runs, or says why it cannot."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final

import pytest

from aegis._config import connect_options, run_options
from aegis._config_sources import Sources
from aegis.marketdata._config import MarketConfig
from tests.docs.pages import PAGES, ROOT, Snippet, snippets_of
from tests.docs.python_page import run_alone, run_page
from tests.docs.shell_page import Terminal

SNIPPETS: Final = [snippet for page in PAGES for snippet in snippets_of(page)]

LANGUAGES: Final = {"python", "sh", "console", "toml", "text"}
"""What is fenced; ``text`` is what programs print, and drawings."""

MOST_NOT_RUN: Final = 8
"""More than so many snippets that nobody runs are too many: make one of them run."""


def of(*languages: str) -> dict[Path, list[Snippet]]:
    """The snippets in these languages that can run, by page."""
    found: dict[Path, list[Snippet]] = {}
    for snippet in SNIPPETS:
        if snippet.language in languages and snippet.not_run is None:
            found.setdefault(snippet.page, []).append(snippet)
    return found


def by_page(*languages: str) -> pytest.MarkDecorator:
    """Run a test for each page with such snippets."""
    pages = of(*languages)
    return pytest.mark.parametrize("page", pages, ids=[page.stem for page in pages])


def test_every_snippet_names_its_language() -> None:
    wrong = [snippet.place for snippet in SNIPPETS if snippet.language not in LANGUAGES]
    assert not wrong, wrong


def test_every_snippet_that_cannot_run_says_why_and_there_are_few() -> None:
    not_run = [snippet for snippet in SNIPPETS if snippet.not_run is not None]
    without_reason = [s.place for s in not_run if len((s.not_run or "").split()) < 4]
    assert not without_reason
    assert len(not_run) <= MOST_NOT_RUN, [snippet.place for snippet in not_run]


@by_page("python")
def test_the_python_of_a_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snippets = of("python")[page]
    together = [
        snippet
        for snippet in snippets
        if not {"alone", "file"} & set(snippet.settings) and snippet.text.strip()
    ]
    run_page(together, monkeypatch)
    for snippet in snippets:
        if "alone" in snippet.settings:
            run_alone(snippet)


@pytest.mark.timeout(240)
@by_page("sh", "console")
async def test_the_commands_of_a_page_work(page: Path, tmp_path: Path) -> None:
    files = [s for s in SNIPPETS if s.page == page and "file" in s.settings]
    async with Terminal(tmp_path) as terminal:
        await terminal.enter([*files, *of("sh", "console")[page]])


@pytest.mark.parametrize(
    "snippet", [s for s in SNIPPETS if s.language == "toml"], ids=lambda s: s.place
)
def test_every_file_of_options_in_the_documents_is_accepted(
    snippet: Snippet, tmp_path: Path
) -> None:
    table = tomllib.loads(snippet.text)
    if "feeds" in table:
        assert MarketConfig.from_tables(table, ROOT).feeds
        return
    sources = Sources({}, {}, table, ROOT / "aegis.toml", place="aegis.toml")
    options = run_options(sources) if "service" in table else None
    assert connect_options(sources).namespace
    assert options is None or options.services
