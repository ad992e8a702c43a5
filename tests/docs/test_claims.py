"""What the documents say is there: tests, options, sections, files."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import DOCS, README, ROOT, snippets_of
from tests.docs.reference import GENERATED

GUARANTEES: Final = DOCS / "guarantees.md"

CHINESE: Final = ROOT / "README.zh-CN.md"

PROOF: Final = re.compile(r"\[`(test_\w+)`\]\(([^)#\s]+\.py)\)")
"""A link to a test: its name, and where the page says it is."""

PROMISE: Final = re.compile(r"^- ((?:[^\n]|\n(?!\n|- |#))*)", re.MULTILINE)
"""One sentence of the page of guarantees, with its links."""


@cache
def functions_of(path: Path) -> set[str]:
    """The names of all functions in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def headings(page: Path) -> list[str]:
    """The headings of a page, without what stands in its snippets."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    return re.findall(r"^(#+) ", text, re.MULTILINE)


@pytest.mark.parametrize("page", [README, CHINESE, *DOCS.glob("*.md")], ids=lambda page: page.name)
def test_every_proof_that_a_page_names_is_a_test(page: Path) -> None:
    for name, link in PROOF.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / link).resolve()
        assert path.is_relative_to(ROOT / "tests"), link
        assert name in functions_of(path), f"{link} has no {name}"


def test_every_guarantee_names_the_test_that_fails_without_it() -> None:
    text, _, _ = GUARANTEES.read_text(encoding="utf-8").partition("## What is not promised")
    promises = PROMISE.findall(text)
    assert len(promises) >= 40
    assert not [promise for promise in promises if not PROOF.search(promise)]


def test_every_claim_about_another_system_names_its_source() -> None:
    text, _, _ = (DOCS / "comparison.md").read_text(encoding="utf-8").partition("## What Aegis")
    claims = PROMISE.findall(text)
    assert len(claims) >= 15
    sourced = re.compile(r"\[source\]\(https://|\((?:Same|First)\s+source\.\)|The same page")
    assert not [claim for claim in claims if not sourced.search(claim)]


def test_every_guarantee_of_the_readme_names_its_test() -> None:
    _, _, after = README.read_text(encoding="utf-8").partition("| guarantee | proof |")
    rows = [row for row in after.partition("\n\n")[0].splitlines()[2:] if row.strip()]
    assert len(rows) >= 8
    assert not [row for row in rows if not PROOF.search(row)]


@pytest.mark.parametrize("page", GENERATED, ids=lambda page: page.name)
def test_a_page_made_from_the_code_is_what_the_code_says_now(page: Path) -> None:
    made = GENERATED[page]()
    assert page.read_text(encoding="utf-8") == made, "it is old; run `make reference`"


def test_every_variable_that_the_code_reads_is_in_the_reference() -> None:
    reference = (DOCS / "configuration.md").read_text(encoding="utf-8")
    read = {
        name
        for folder in ("aegis", "actors", "transport", "ops")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r'"(AEGIS_[A-Z_]+)"', path.read_text(encoding="utf-8"))
    }
    # Between `aegis bench` and the processes that it starts.
    internal = {name for name in read if name.startswith("AEGIS_BENCH_")}
    assert sorted(name for name in read - internal if f"`{name}`" not in reference) == []


def test_every_alert_has_its_part_of_the_runbook_and_the_other_way_round() -> None:
    rules = (ROOT / "ops" / "prometheus" / "aegis.rules.yaml").read_text(encoding="utf-8")
    alerts = re.findall(r"^ *- alert: (\w+)$", rules, re.MULTILINE)
    links = re.findall(r"^ *runbook: docs/alerts\.md#(\w+)$", rules, re.MULTILINE)
    runbook = (DOCS / "alerts.md").read_text(encoding="utf-8")
    parts = re.findall(r"^## (\w+)$", runbook, re.MULTILINE)
    assert alerts
    assert sorted(parts) == sorted(alerts)
    assert links == [alert.lower() for alert in alerts]


@cache
def strings_of_the_code() -> frozenset[str]:
    """Return all that stands between quotes in the packages."""
    return frozenset(
        text
        for folder in ("actors", "aegis", "aegis/marketdata", "ops", "transport")
        for path in (ROOT / folder).glob("*.py")
        for text in re.findall(r'"(\w+)"', path.read_text(encoding="utf-8"))
    )


def test_every_log_line_that_a_runbook_names_is_written_by_the_code() -> None:
    named = {
        name
        for page in DOCS.glob("*.md")
        for name in re.findall(r"log lines? `(\w+)`", page.read_text(encoding="utf-8"))
    }
    assert "registered" in named
    assert sorted(named - strings_of_the_code()) == []


def unknown_metrics(text: str) -> list[str]:
    """Return the metrics that a text names and no code makes."""
    return sorted(
        name
        for name in set(re.findall(r"\b(?:ipc|aegis_feed|aegis_recorder)_[a-z_]+\b", text))
        if strings_of_the_code().isdisjoint(_spellings(name))
    )


def _spellings(name: str) -> set[str]:
    """Return how a metric may be written where it is made: without what is added to it."""
    whole = {name, re.sub(r"_(total|bucket|count|sum)$", "", name)}
    return whole | {re.sub(r"^aegis_(feed|recorder)_", "", one) for one in whole}


def test_every_metric_of_documents_rules_and_dashboards_is_made_by_the_code() -> None:
    ops = ROOT / "ops"
    pages = [README, *DOCS.glob("*.md"), *ops.glob("runbooks/*.md")]
    pages += [*ops.glob("prometheus/*.rules.yaml"), *ops.glob("grafana/dashboards/*.json")]
    found = {page.name: unknown_metrics(page.read_text(encoding="utf-8")) for page in pages}
    assert {name: unknown for name, unknown in found.items() if unknown} == {}


def test_a_metric_that_is_not_there_would_be_found() -> None:
    text = "rate(ipc_messages_total[1m]), ipc_mesages_total, aegis_feed_state, aegis_feed_stait"
    assert unknown_metrics(text) == ["aegis_feed_stait", "ipc_mesages_total"]


def test_the_service_of_the_readme_is_the_one_in_the_examples() -> None:
    example = (ROOT / "examples" / "accounts.py").read_text(encoding="utf-8")
    for page in (README, DOCS / "first-steps.md"):
        first = next(s for s in snippets_of(page) if s.language == "python")
        assert first.text.strip() in example


def test_the_testing_page_shows_the_example_of_a_test() -> None:
    example = (ROOT / "examples" / "test_accounts.py").read_text(encoding="utf-8")
    first = next(iter(snippets_of(DOCS / "testing.md")))
    assert first.text.strip() in example


def test_the_chinese_readme_has_the_sections_and_the_snippets_of_the_english_one() -> None:
    assert headings(CHINESE) == headings(README)
    english = [(snippet.language, snippet.text) for snippet in snippets_of(README)]
    assert [(snippet.language, snippet.text) for snippet in snippets_of(CHINESE)] == english


def test_the_chinese_readme_names_the_same_files_and_figures() -> None:
    def facts(page: Path) -> tuple[set[str], list[str]]:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        links = {
            link.partition("#")[0]
            for link in re.findall(r"\]\(([^)\s]+)\)", text)
            if not link.startswith("README")
        }
        rows = re.findall(r"^\|[^|]*\| *([\d,]+) *\| *([\d,]+) *\|$", text, re.MULTILINE)
        return links, [figure for row in rows for figure in row]

    assert facts(CHINESE) == facts(README)


def test_no_document_names_a_machine_or_a_registry_of_packages() -> None:
    private = re.compile(r"(?<![\w/.])/(?:work|root|home|Users|opt)/|pypi\.org|pythonhosted|npmjs")
    wrong = [
        f"{page.relative_to(ROOT)}: {found}"
        for page in (*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "mkdocs.yml")
        for found in private.findall(page.read_text(encoding="utf-8"))
    ]
    assert not wrong


def test_the_changelog_tells_of_the_version_that_the_package_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.findall(r"^## \[([^\]]+)\] - (unreleased|\d{4}-\d\d-\d\d)$", changelog, re.M)[0]
    assert newest[0] == project["version"]
    kinds = set(re.findall(r"^### (.+)$", changelog, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_licence_is_the_one_that_the_package_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert project["license"] == "Apache-2.0"
    assert re.search(r"Apache License\s+Version 2\.0, January 2004", text)
    assert "END OF TERMS AND CONDITIONS" in text
