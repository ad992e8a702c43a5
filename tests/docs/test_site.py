"""The documents as a site: it builds without a warning, and needs no other address."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aegis
import aegis.marketdata
import aegis.testing
from tests.docs.pages import DOCS, ROOT

# The build is one process of some seconds, which a busy machine may stretch.
pytestmark = pytest.mark.timeout(240)

LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc="?([^"\s>]+)|<link\b[^>]*\bhref="?([^"\s>]+)"""
)
"""What a page loads by itself. A link that a reader may follow is no such thing."""

STYLE_LOADED = re.compile(r"""url\(["']?((?!data:)[^"')]+)|@import\s+["']([^"']+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_the_site_has_every_page(site: Path) -> None:
    for page in DOCS.glob("*.md"):
        assert (site / f"{page.stem}.html").is_file(), page.name


def test_the_site_tells_of_everything_that_is_public(site: Path) -> None:
    page = (site / "python.html").read_text(encoding="utf-8")
    public = [*aegis.__all__, *aegis.marketdata.__all__, *aegis.testing.__all__]
    assert sorted(name for name in public if f">{name}<" not in re.sub("</?code>", "", page)) == []


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    wrong: list[str] = []
    for path in site.rglob("*"):
        if path.suffix in {".html", ".css"}:
            pattern = LOADED if path.suffix == ".html" else STYLE_LOADED
            found = [a or b for a, b in pattern.findall(path.read_text(encoding="utf-8"))]
            wrong += [f"{path.name}: {url}" for url in found if re.match(r"(https?:)?//", url)]
    assert not wrong, wrong


def test_a_guarantee_leads_to_the_text_of_its_test(site: Path) -> None:
    page = (site / "guarantees.html").read_text(encoding="utf-8")
    name = "test_a_retry_is_the_same_message_and_does_not_run_again"
    link = re.search(rf'href="([^"#]+)#{name}"', page)
    assert link is not None
    source = (site / link[1]).read_text(encoding="utf-8")
    assert f'id="{name}"' in source
    assert "def" in source
