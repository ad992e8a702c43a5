"""Builds what the tests of the real vnpy_ctp need: ``python -m tests.ctp_front.build``.

Everything is put into ``.ctp`` in the checkout, and nothing anywhere else:

- ``packages``: vnpy and vnpy_ctp as ``requirements-ctp.txt`` locks them, the binding built
  from its source; no part of the project's own environment.
- ``lib``: the stubs in the place of the vendor's two libraries.
- ``locale``: the locale that the vendor's text needs, without which the process aborts.
- ``cache``: what the package manager keeps, with the vendor's headers in it.
"""

from __future__ import annotations

import hashlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attrs import frozen

from tests.ctp_front.noops import write_noops

__all__ = ["BUILD", "Build", "main"]

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
LOCK = ROOT / "requirements-ctp.txt"
STUBS = {
    "libthostmduserapi_se.so": "market_data.cpp",
    "libthosttraderapi_se.so": "trading.cpp",
}
SHARED = ("front.cpp", "market.cpp")
PACKAGES = ("numpy", "openctp-ctp", "ta-lib", "vnpy", "vnpy-ctp")
"""What is taken of the lock. Its other binding would take another half a minute."""

LOCALE = "zh_CN.GB18030"

COMPILE = (
    *("g++", "-std=c++17", "-O2", "-shared", "-fPIC", "-pthread"),
    # Only the vendor's classes are seen from outside, so the two libraries do not mix.
    "-fvisibility=hidden",
    # The vendor's text is in this encoding.
    "-fexec-charset=GB18030",
    *("-Wall", "-Wextra", "-Wno-unused-parameter"),
)


class BuildError(Exception):
    """It cannot be built; the message says what to do."""


@frozen
class Build:
    """A folder with all that is built."""

    folder: Path

    def environ(self) -> dict[str, str]:
        """Return the variables under which vnpy_ctp and openctp-ctp run over the stubs."""
        return {
            "PYTHONPATH": str(self.folder / "packages"),
            "LD_LIBRARY_PATH": str(self.folder / "lib"),
            "LOCPATH": str(self.folder / "locale"),
            # The wheel looks into its own folder first, but not for what is there already.
            "LD_PRELOAD": ":".join(self._names_in_wheel()),
        }

    def _names_in_wheel(self) -> list[str]:
        """Return what the wheel openctp-ctp calls the vendor's two libraries."""
        folder = self.folder / "packages" / "openctp_ctp.libs"
        return sorted(path.name for path in folder.glob("libthost*.so"))

    def why_not(self) -> str:
        """Return why it cannot be used; nothing if it can."""
        try:
            built = (self.folder / "stamp").read_text()
        except OSError:
            return "the fake front is not built: `make test-ctp` builds it and runs this"
        if built != _fingerprint():
            return "the fake front was built of other sources: run `make test-ctp`"
        return ""

    # -- building -------------------------------------------------------------------------

    def make(self) -> None:
        """Build what is not built yet.

        Raises:
            BuildError: something is missing on this machine.
        """
        for program in ("g++", "localedef"):
            if shutil.which(program) is None:
                raise BuildError(f"{program} is missing: install a C++ compiler and libc-bin")
        self.folder.mkdir(exist_ok=True)
        # The binding takes half a minute; the rest is done beside it where it can be.
        with ThreadPoolExecutor() as pool:
            locale = pool.submit(self._make_locale)
            self._install_packages()
            self._compile(pool)
            locale.result()
        (self.folder / "stamp").write_text(_fingerprint())

    def _install_packages(self) -> None:
        done, wanted = self.folder / "packages" / "lock", _digest([LOCK])
        if done.exists() and done.read_text() == wanted:
            return
        shutil.rmtree(self.folder / "packages", ignore_errors=True)
        chosen = self.folder / "requirements.txt"
        chosen.write_text(_locked(LOCK.read_text(encoding="utf-8")))
        setup = runpy.run_path(str(ROOT / ".ci" / "setup.py"))
        environment: dict[str, str] = setup["uv_environment"]()
        environment["UV_CACHE_DIR"] = str(self.folder / "cache")
        command = [setup["find_uv"](), "pip", "install", "--quiet", "--python", sys.executable]
        command += ["--no-deps", "--require-hashes", "-r", str(chosen)]
        _run([*command, "--target", str(self.folder / "packages")], environment)
        done.write_text(wanted)

    def _compile(self, pool: ThreadPoolExecutor) -> None:
        headers = self._headers()
        generated, libraries = self.folder / "generated", self.folder / "lib"
        for folder in (generated, libraries):
            folder.mkdir(exist_ok=True)
        write_noops(headers, generated)
        includes = [f"-I{HERE / 'stubs'}", f"-I{generated}", "-isystem", str(headers.parent)]
        compiling = [
            pool.submit(
                _run,
                [*COMPILE, *includes, "-o", str(libraries / library)]
                + [str(HERE / "stubs" / source) for source in (main, *SHARED)],
            )
            for library, main in STUBS.items()
        ]
        for one in compiling:
            one.result()
        for name in self._names_in_wheel():
            link = libraries / name
            link.unlink(missing_ok=True)
            link.symlink_to(re.sub(r"-[0-9a-f]+\.so$", ".so", name))

    def _headers(self) -> Path:
        """Return the vendor's headers for Linux: they come with the source of the binding."""
        for found in (self.folder / "cache").rglob("include/ctp/ThostFtdcMdApi.h"):
            return found.parent
        raise BuildError(
            "the source of vnpy_ctp is not in .ctp/cache: remove the folder .ctp, so that "
            "it is fetched and built again"
        )

    def _make_locale(self) -> None:
        folder = self.folder / "locale" / LOCALE
        if (folder / "LC_CTYPE").exists():
            return
        folder.parent.mkdir(exist_ok=True)
        # Warnings of the definition itself make an exit code of 1 with a locale that works.
        made = subprocess.run(
            ["localedef", "--no-archive", "-f", "GB18030", "-i", "zh_CN", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if not (folder / "LC_CTYPE").exists():
            raise BuildError(
                f"no locale {LOCALE}: {made.stderr.strip()}; Debian's package `locales` has "
                "its sources (as root: `make debian`)"
            )


BUILD = Build(ROOT / ".ctp")


def _locked(lock: str) -> str:
    """Return the part of a lock file that is about `PACKAGES`, hashes and all."""
    entries = re.findall(r"^[a-z].*(?:\n .*)*", lock, re.MULTILINE)
    return "\n".join(entry for entry in entries if entry.partition("==")[0] in PACKAGES)


def _fingerprint() -> str:
    """Return a digest of all that goes into a build."""
    stubs = sorted((HERE / "stubs").iterdir())
    return _digest([*stubs, HERE / "build.py", HERE / "noops.py", *([LOCK] * LOCK.exists())])


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256(str((ROOT, sys.version)).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, env=environment or dict(os.environ), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BuildError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
    if warnings := re.findall(r".*warning:.*", done.stderr):
        print("\n".join(warnings), file=sys.stderr)


def main() -> None:
    """Build, or say what is missing."""
    if BUILD.why_not():
        print("building the fake front into .ctp", file=sys.stderr)
        try:
            BUILD.make()
        except BuildError as error:
            sys.exit(f"ctp: {error}")


if __name__ == "__main__":
    main()
