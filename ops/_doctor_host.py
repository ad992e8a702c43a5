"""What ``aegis doctor`` checks of this host, without any server."""

from __future__ import annotations

import os
import platform
import resource
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from attrs import frozen

from aegis.errors import ConfigurationError
from aegis.transport._data_folder import MIN_FREE_BYTES, default_data_dir
from aegis.transport._server_binary import find_binary

__all__ = ["FAIL", "OK", "WARN", "Check", "data_folder", "host"]

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"

FILES_NEEDED: Final = 256
"""Open files below which a node cannot work: connections, loop, libraries."""

FILES_WANTED: Final = 4096
"""Open files for a server with many clients and streams of many files."""

FREE_WANTED_BYTES: Final = 2 * 1024**3

CLIENT_WANTED: Final = (2, 12)
"""The nats-py that the transport was written and tested with, or newer."""


@frozen
class Check:
    """One thing that was looked at; ``advice`` says what to do if it is not well."""

    name: str
    status: str
    found: str
    advice: str = ""


def host(data_dir: Path | None, *, own_server: bool) -> Iterator[Check]:
    """Check versions, limits and, if the server is this host's own, its data folder."""
    yield _python()
    yield _client()
    yield _uvloop()
    yield _open_files()
    if own_server:
        yield _binary()
        yield from data_folder(data_dir)


def _python() -> Check:
    return Check("python", OK, f"{platform.python_version()} on {platform.system()}")


def _client() -> Check:
    try:
        found = version("nats-py")
        supported = tuple(int(part) for part in found.split(".")[:2]) >= CLIENT_WANTED
    except (PackageNotFoundError, ValueError):
        return Check("nats-py", FAIL, "is not installed", "install aegis-actors anew")
    if supported:
        return Check("nats-py", OK, found)
    wanted = ".".join(map(str, CLIENT_WANTED))
    return Check("nats-py", FAIL, f"{found} is too old", f"install nats-py {wanted} or newer")


def _uvloop() -> Check:
    try:
        return Check("uvloop", OK, version("uvloop"))
    except PackageNotFoundError:
        advice = "install uvloop, where the platform has it, for twice the throughput"
        return Check("uvloop", WARN, "is not installed", advice)


def _open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FILES_WANTED:
        return Check("open files", OK, f"{'no limit' if soft < 0 else soft}")
    advice = f"raise it to {FILES_WANTED}, as with `ulimit -n {FILES_WANTED}`"
    if 0 <= hard < FILES_WANTED:
        advice = f"let an administrator raise the hard limit ({hard}) to {FILES_WANTED}"
    return Check("open files", FAIL if soft < FILES_NEEDED else WARN, f"at most {soft}", advice)


def _binary() -> Check:
    try:
        return Check("server program", OK, str(find_binary()))
    except ConfigurationError as error:
        return _from_error("server program", error)


def data_folder(data_dir: Path | None) -> Iterator[Check]:
    """Check that the data folder can be written, is private, and has room."""
    try:
        folder = default_data_dir() if data_dir is None else data_dir
    except ConfigurationError as error:
        yield _from_error("data folder", error)
        return
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        yield Check("data folder", FAIL, f"{place} is not a folder", "name one with --data-dir")
        return
    if not os.access(place, os.W_OK | os.X_OK):
        yield Check(
            "data folder",
            FAIL,
            f"{place} cannot be written",
            "change its owner, or name another with --data-dir",
        )
    elif place != folder:
        yield Check("data folder", OK, f"{folder} will be made by `aegis run`")
    elif place.stat().st_mode & 0o077:
        yield Check(
            "data folder",
            WARN,
            f"{folder} is open to other users; it holds passwords",
            f"chmod 700 {folder}",
        )
    else:
        yield Check("data folder", OK, str(folder))
    yield _disk(place)


def _disk(place: Path) -> Check:
    free = shutil.disk_usage(place).free
    found = f"{_size(free)} free at {place}"
    if free < MIN_FREE_BYTES:
        advice = "free some space: on a full disk every append hangs until the server restarts"
        return Check("disk", FAIL, found, advice)
    if free < FREE_WANTED_BYTES:
        return Check("disk", WARN, found, f"keep {_size(FREE_WANTED_BYTES)} free")
    return Check("disk", OK, found)


def _from_error(name: str, error: ConfigurationError) -> Check:
    found, _, advice = str(error).partition("; ")
    return Check(name, FAIL, found, advice)


def _size(count: int) -> str:
    for unit, size in (("GiB", 1024**3), ("MiB", 1024**2)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
