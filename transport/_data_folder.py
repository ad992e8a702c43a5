"""The data folder of an embedded server: where it is, whether it can be used, its locks."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import Final

from aegis.errors import ConfigurationError

__all__ = [
    "MIN_FREE_BYTES",
    "FileLock",
    "check_free_space",
    "default_data_dir",
    "describe_folder_error",
    "is_locked",
    "prepare_data_dir",
]

MIN_FREE_BYTES: Final = 256 * 1024 * 1024
"""A server does not start with less free: a full disk hangs every append."""

_ADVICE = {
    errno.ENOENT: "is gone; name a folder that stays",
    errno.EROFS: "is on a read-only file system; name a folder that can be written",
    errno.EACCES: "cannot be written by this user; change its owner or name another folder",
    errno.EPERM: "cannot be written by this user; change its owner or name another folder",
    errno.ENOTDIR: "is not a folder; name a folder",
    errno.EEXIST: "is not a folder; name a folder",
    errno.ENOSPC: "is on a full disk; free some space or name another folder",
    errno.EDQUOT: "is beyond this user's disk quota; free some space or name another folder",
    errno.ENAMETOOLONG: "has too long a name; name another folder",
    errno.ENOLCK: "is on a file system without file locks; name a folder on a local disk",
    errno.EOPNOTSUPP: "is on a file system without file locks; name a folder on a local disk",
}


def default_data_dir() -> Path:
    """Return ``aegis/nats`` in the user's data folder, as the XDG rules name it.

    Raises:
        ConfigurationError: this user has no home folder.
    """
    named = Path(os.environ.get("XDG_DATA_HOME", ""))
    if named.is_absolute():  # the rules say to ignore any other
        return named / "aegis" / "nats"
    try:
        return Path.home() / ".local" / "share" / "aegis" / "nats"
    except RuntimeError as error:
        raise ConfigurationError(
            "data_dir: this user has no home folder; name a data folder"
        ) from error


def prepare_data_dir(data_dir: Path) -> Path:
    """Create the folder if need be and return its real path; only this user may enter it.

    Raises:
        ConfigurationError: it cannot be used; the message says why and what to do.
    """
    if not str(data_dir).isprintable():
        raise ConfigurationError(f"data_dir: {str(data_dir)!r} has characters that do not print")
    try:
        existed = data_dir.is_dir()
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        real = data_dir.resolve(strict=True)
        if not existed:
            real.chmod(0o700)
        # Only a file shows whether files can be written: root passes any check of modes.
        probe = real / f".probe-{os.getpid()}"
        probe.write_bytes(b"?")
        probe.unlink()
    except OSError as error:
        raise describe_folder_error(data_dir, error) from error
    return real


def check_free_space(data_dir: Path, min_free_bytes: int) -> None:
    """Raise ConfigurationError if the disk of ``data_dir`` is nearly full."""
    free = shutil.disk_usage(data_dir).free
    if free < min_free_bytes:
        raise ConfigurationError(
            f"data_dir: {data_dir} has {free // 1024**2} MiB left and the server wants "
            f"{min_free_bytes // 1024**2} MiB; free some space or name another folder"
        )


def describe_folder_error(data_dir: Path, error: OSError) -> ConfigurationError:
    """Return the one line that tells the user what is wrong with the data folder."""
    advice = _ADVICE.get(error.errno or 0, f"cannot be used: {error.strerror}")
    return ConfigurationError(f"data_dir: {data_dir} {advice}")


class FileLock:
    """A lock on a file that the kernel releases when the process ends, however it ends.

    Processes forked without exec hold it too.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise describe_folder_error(path.parent, error) from error
        self._path = path

    @property
    def descriptor(self) -> int:
        """The descriptor that holds the lock; a child that inherits it holds it too."""
        return self._descriptor

    def acquire_nowait(self, *, shared: bool = False) -> bool:
        """Take the lock if nobody stands in the way, and say whether it was taken."""
        try:
            fcntl.flock(
                self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
            )
        except BlockingIOError:
            return False
        except OSError as error:
            raise describe_folder_error(self._path.parent, error) from error
        return True

    def close(self) -> None:
        """Give the lock up; idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_locked(path: Path) -> bool:
    """Whether some process holds an exclusive lock on the file at ``path``."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        return not lock.acquire_nowait(shared=True)
    finally:
        lock.close()
