"""Vendors' libraries: whether they are there, and what they need of the system around them."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from aegis import ConfigurationError

__all__ = [
    "LOCALE",
    "import_class",
    "import_vendor",
    "import_vnpy",
    "is_installed",
    "locale_problem",
]

LOCALE: Final = "zh_CN.GB18030"
"""Of the text that CTP sends. The bindings ask the system for it at the first text that
comes, and abort the process if it is not there: nothing can catch that."""

_LC_ALL: Final = 6
"""The number of this category in glibc."""


def locale_problem() -> str:
    """Return what to do so that the system has the locale of CTP's text; empty if it has."""
    if sys.platform != "linux" or _has_locale(LOCALE):
        return ""
    return (
        f"the system has no locale {LOCALE}, without which the vendor's library aborts: install "
        f"Debian's package `locales` and run `localedef -f GB18030 -i zh_CN {LOCALE}`; or, not "
        f"being root, `localedef -f GB18030 -i zh_CN FOLDER/{LOCALE}` and set LOCPATH=FOLDER"
    )


def _has_locale(name: str) -> bool:
    # As the vendor's library asks; Python's setlocale would change it for the whole process.
    libc = ctypes.CDLL(None)
    libc.newlocale.restype = ctypes.c_void_p
    libc.newlocale.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
    libc.freelocale.argtypes = [ctypes.c_void_p]
    handle = libc.newlocale(1 << _LC_ALL, name.encode(), None)
    if handle:
        libc.freelocale(handle)
    return bool(handle)


def is_installed(package: str) -> bool:
    """Whether a package could be imported; it is not, since some abort on import."""
    return importlib.util.find_spec(package) is not None


def import_vendor(module: str) -> ModuleType:
    """Import a vendor's module.

    Raises:
        ConfigurationError: it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(f"{module} cannot be imported: {error}") from error


def import_vnpy(module: str, folder: Path) -> ModuleType:
    """Import a module of vnpy or of one of its gateways.

    vnpy makes a folder for its files at import: in the home folder, which a service may not
    have, unless the working folder has one already. So it is imported in a folder that does.

    Raises:
        ConfigurationError: it cannot be imported.
    """
    try:
        (folder / ".vntrader").mkdir(parents=True, exist_ok=True)
        with contextlib.chdir(folder):
            return import_vendor(module)
    except OSError as error:
        raise ConfigurationError(
            f"folder: {folder} cannot be written: {error.strerror or error}"
        ) from error


def import_class(path: str, folder: Path) -> Any:
    """Return a class by its path, as in ``my_package.gateway:MyGateway``.

    Raises:
        ConfigurationError: there is none.
    """
    module, _, name = path.partition(":")
    if not module or not name:
        raise ConfigurationError(
            f"gateway: {path!r} is no class; write it as in package.module:Class"
        )
    found = getattr(import_vnpy(module, folder), name, None)
    if not isinstance(found, type):
        raise ConfigurationError(f"gateway: {module} has no class {name}")
    return found
