"""What keeps a vendor's gateway from being started, and what to do about it."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from aegis import ConfigurationError
from aegis.marketdata._vendor_library import import_class, is_installed, locale_problem
from aegis.marketdata._vendor_sources import CtpSource, VnpySource

__all__ = ["check_account", "check_vnpy", "unreachable"]

PACKAGES: Final = {"ctp": "vnpy_ctp", "sopt": "vnpy_sopt", "openctp": "openctp_ctp"}
"""What each kind of source imports."""

CONNECT_TIMEOUT: Final = 3.0

_FRONT: Final = re.compile(r"(?:tcp|ssl)://(?P<host>[^\s:/]+):(?P<port>\d{1,5})", re.ASCII)
_THROUGH_PROXY: Final = re.compile(r"socks[45]a?://\S+", re.ASCII)


def check_account(kind: str, source: CtpSource) -> list[str]:
    """Return what is wrong with an account, without asking anybody."""
    problems = [
        *_missing(kind, PACKAGES[kind]),
        *_told(locale_problem),
        *_check_fronts("trading_fronts", source.trading_fronts),
        *_check_fronts("market_fronts", source.market_fronts),
        *_raised(lambda: source.password),
        *_raised(lambda: source.auth_code),
        *_check_folder(Path(source.folder)),
        *_check_pace(source.requests_per_second),
    ]
    problems += [f"{name} is empty" for name in ("broker", "user") if not getattr(source, name)]
    if kind != "openctp" and not source.confirm_settlement:
        problems.append(
            "confirm_settlement: at each login vnpy confirms the account's settlement statement, "
            "which is an act of the account's holder; with their consent set it to true, or "
            "use openctp, which confirms nothing"
        )
    return [f"{kind}: {problem}" for problem in problems]


def check_vnpy(source: VnpySource) -> list[str]:
    """Return what is wrong with a gateway that is written in Python for vnpy."""
    problems = [*_missing("vnpy", "vnpy"), *_check_folder(Path(source.folder))]
    problems += _raised(source.full_setting)
    problems += _check_pace(source.requests_per_second)
    if source.gateway.startswith(tuple(PACKAGES.values())):
        problems.append(
            f"gateway: {source.gateway} has a source of its own; write it as in [feeds.a.ctp]"
        )
    elif not problems:
        problems += _raised(lambda: import_class(source.gateway, Path(source.folder)))
    return [f"vnpy: {problem}" for problem in problems]


def _missing(kind: str, package: str) -> list[str]:
    if is_installed(package):
        return []
    return [
        f"{package} is not installed: `pip install --no-deps --require-hashes -r "
        f"requirements-{'vnpy' if kind == 'vnpy' else 'ctp'}.txt` in a checkout of Aegis, or "
        f"`pip install 'aegis-actors[{'ctp' if kind == 'vnpy' else kind}]'`"
    ]


def _told(problem: Callable[[], str]) -> list[str]:
    text = problem()
    return [text] if text else []


def _raised(work: Callable[[], object]) -> list[str]:
    try:
        work()
    except ConfigurationError as error:
        return [str(error)]
    return []


def _check_fronts(name: str, fronts: Sequence[str]) -> list[str]:
    if not fronts:
        return [f"{name}: at least one is needed, as in tcp://10.0.0.1:41205"]
    return [
        f"{name}: {front!r} is no address; write it as in tcp://10.0.0.1:41205"
        for front in fronts
        if not _THROUGH_PROXY.fullmatch(front) and not _is_address(front)
    ]


def _is_address(front: str) -> bool:
    found = _FRONT.fullmatch(front)
    return found is not None and 0 < int(found["port"]) < 65536


def _check_folder(folder: Path) -> list[str]:
    """Look at the first of a folder and those above it that is there; nothing is made."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return []
    return [f"folder: {there} cannot be written; name another with the setting folder"]


def _check_pace(requests_per_second: int) -> list[str]:
    return [] if requests_per_second > 0 else ["requests_per_second must be at least 1"]


def unreachable(source: CtpSource) -> list[str]:
    """Return which fronts do not answer where none of a kind does. It connects to them."""
    problems: list[str] = []
    for name, fronts in (
        ("trading_fronts", source.trading_fronts),
        ("market_fronts", source.market_fronts),
    ):
        failures = [_try(front) for front in fronts]
        if failures and all(failures):
            problems.append(
                f"{name}: none answers ({'; '.join(failures)}); mind the hours of the front, "
                "its address and the way there"
            )
    return problems


def _try(front: str) -> str:
    found = _FRONT.fullmatch(front)
    if found is None:
        return ""  # Through a proxy: only the vendor's library knows the way.
    try:
        with socket.create_connection((found["host"], int(found["port"])), CONNECT_TIMEOUT):
            return ""
    except OSError as error:
        return f"{front}: {error.strerror or error}"
