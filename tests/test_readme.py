"""The README tells the truth: its links, tests and snippets exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()

PROOFS = re.findall(r"\]\((tests/[^)]+\.py)\)`::(\w+)`", README)
LINKS = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)


def test_the_readme_names_proofs() -> None:
    assert len(PROOFS) >= 10


@pytest.mark.parametrize(("path", "name"), PROOFS)
def test_every_proof_the_readme_names_is_a_test(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    tests = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert name in tests


@pytest.mark.parametrize("link", LINKS)
def test_every_link_of_the_readme_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_the_service_of_the_readme_is_the_one_in_the_examples() -> None:
    snippet = README.partition("```python\n")[2].partition("```")[0]
    assert snippet.strip() in (ROOT / "examples" / "accounts.py").read_text()
