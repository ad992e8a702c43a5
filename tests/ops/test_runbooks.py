"""The runbooks of the market-data service: what they name is there."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from aegis.ops.cli import app
from tests.support.prometheus import OPS

ROOT = OPS.parent
PAGES = sorted((OPS / "runbooks").glob("*.md"))
SCRIPTS = sorted(OPS.glob("*.sh"))
LIVE = re.compile(r"\bAEGIS_LIVE_[A-Z_]+\b")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def text_of(page: Path) -> str:
    """A page with its line breaks inside of code spans undone."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"`[^`]+`", lambda span: span[0].replace("\n", " "), text)


@cache
def root_command() -> Any:
    return typer.main.get_command(app)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def problem_of(command: str) -> str:
    """What is wrong with a command line; empty if it could be given."""
    words = shlex.split(re.sub(r"[>|].*", "", command))[1:]
    found, path = root_command(), "aegis"
    while words and not words[0].startswith("-") and hasattr(found, "commands"):
        word = words.pop(0)
        if word not in found.commands:
            return f"{path} has no command {word}"
        found, path = found.commands[word], f"{path} {word}"
    known = {option for parameter in found.params for option in parameter.opts}
    wrong = [word for word in words if word.startswith("--") and word not in known]
    return f"{path} has no {', '.join(wrong)}" if wrong else ""


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pages
def test_every_command_can_be_given(page: Path) -> None:
    commands = re.findall(r"`(aegis [^`]+)`", text_of(page))
    assert commands or page.stem == "README"
    assert [problem for one in commands if (problem := problem_of(one))] == []


def test_a_command_that_is_not_there_would_be_found() -> None:
    assert problem_of("aegis feed helth") == "aegis feed has no command helth"
    assert problem_of("aegis feed health --exchnge SHFE") == "aegis feed health has no --exchnge"


@pages
def test_every_script_is_there_with_the_parts_that_it_is_given(page: Path) -> None:
    for script, arguments in re.findall(r"`(ops/\w+\.(?:sh|py))([^`]*)`", text_of(page)):
        path = ROOT / script
        assert path.stat().st_mode & 0o100, script
        for option in re.findall(r"--\w+", arguments):
            assert option in path.read_text(), f"{script} {option}"


@pages
def test_every_log_line_is_one_that_the_code_writes(page: Path) -> None:
    named = set(
        re.findall(
            r"`(\w+)`", " ".join(re.findall(r"[Ll]og lines? ((?:`\w+`[, and]*)+)", text_of(page)))
        )
    )
    sources = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "aegis" / "marketdata").rglob("*.py")
    )
    assert sorted(name for name in named if f'"{name}"' not in sources) == []


def test_every_variable_of_the_scripts_is_explained_in_the_example() -> None:
    used = {name for script in SCRIPTS for name in LIVE.findall(script.read_text())}
    used.discard("AEGIS_LIVE_NATS_PASSWORD")  # from the script to its server
    explained = set(LIVE.findall((OPS / ".env.example").read_text()))
    assert used
    assert explained == used
