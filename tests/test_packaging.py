"""What is built and installed: the wheel, the sdist, the lock, the scripts."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("actors", "transport", "ops")

IMPORT_ALL = """
import importlib, json, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import aegis
names = [m.name for m in pkgutil.walk_packages(aegis.__path__, "aegis.")]
modules = [importlib.import_module(n) for n in names if not n.endswith("__main__")]
print(json.dumps({m.__name__: m.__file__ for m in [aegis, *modules]}))
"""


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


def files_of_the_package() -> set[str]:
    """What the package must hold: the sources of all four folders, by their installed path."""
    return {
        Path("" if folder == "aegis" else "aegis", path.relative_to(ROOT)).as_posix()
        for folder in ("aegis", *LINKED)
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and (path.suffix in {".py", ".typed"} or "_static" in path.parts)
        # rglob does not go through links; a link's files are those of its real folder.
        and path.relative_to(ROOT).parts[:2] not in {("aegis", name) for name in LINKED}
    }


def test_wheel_holds_each_source_once_below_aegis(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if not re.match(r"[^/]+\.dist-info/", name)}
    assert inside >= files_of_the_package()
    assert len(set(names)) == len(names)
    assert {name.partition("/")[0] for name in inside} == {"aegis"}
    for name in LINKED:
        assert f"aegis/{name}/__init__.py" in inside
    assert "aegis/py.typed" in inside
    assert not [name for name in inside if "__pycache__" in name or name.startswith("aegis/aegis")]


def test_sdist_holds_each_source_once_and_can_be_built_from(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    names = [member.name.partition("/")[2] for member in members]
    assert len(set(names)) == len(names)
    assert set(names) >= files_of_the_package() | {"pyproject.toml", "LICENSE", "README.md"}
    assert not [name for name in names if name.partition("/")[0] in LINKED]
    assert not [member.name for member in members if member.issym() or member.islnk()]


def test_every_module_imports_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(installed)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-I", "-c", IMPORT_ALL, str(installed)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files: dict[str, str] = json.loads(done.stdout)
    assert {"aegis", "aegis.actors", "aegis.transport", "aegis.ops"} <= set(files)
    assert [name for name, file in files.items() if not file.startswith(str(installed))] == []


@pytest.mark.parametrize("script", ["aegis", "ipc-cli"])
def test_installed_script_prints_its_help(script: str, project: dict[str, Any]) -> None:
    module, _, function = project["project"]["scripts"][script].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    done = subprocess.run(
        [str(Path(sys.executable).parent / script), "--help"],
        env={**os.environ, "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def locked(file: str) -> dict[str, Version]:
    """The pins of a lock by canonical name."""
    text = (ROOT / file).read_text(encoding="utf-8")
    pins = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\\n]+)", text, re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in pins}


LOCKS = (
    *("requirements.txt", "requirements-dev.txt"),
    *("requirements-ctp.txt", "requirements-vnpy.txt"),
)

APART = {"vnpy": "requirements-vnpy.txt", "gateways": "requirements-ctp.txt"}
"""Groups that are installed without what they depend on, by their lock."""


@pytest.mark.parametrize("file", LOCKS)
def test_lock_holds_no_addresses(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*(-i|-f|-e|--\S*index\S*|--find-links)\b", text, re.MULTILINE)


@pytest.mark.parametrize("file", LOCKS)
def test_lock_has_hashes_for_every_pin(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    entries = re.split(r"\n(?=\S)", "\n".join(lines))
    assert entries
    for entry in entries:
        assert "==" in entry.partition("\n")[0], entry
        assert "--hash=sha256:" in entry, entry


def test_locks_agree_with_the_project_and_with_each_other(project: dict[str, Any]) -> None:
    runtime, development = locked("requirements.txt"), locked("requirements-dev.txt")
    wanted: list[tuple[str, dict[str, Version]]] = [
        (text, runtime) for text in project["project"]["dependencies"]
    ]
    wanted += [
        (text, locked(APART[name]) if name in APART else development)
        for name, group in project["dependency-groups"].items()
        for text in group
        if isinstance(text, str)  # the others name a group that is there as well
    ]
    gateways = locked("requirements-ctp.txt")
    wanted += [
        (text, gateways)
        for extra in ("ctp", "sopt", "openctp")
        for text in project["project"]["optional-dependencies"][extra]
    ]
    for text, pins in wanted:
        requirement = Requirement(text)
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{text}: not locked, run `make lock`"
        assert pinned in requirement.specifier, f"{text}: locked {pinned}, run `make lock`"
    assert {name: development.get(name) for name in runtime} == runtime
