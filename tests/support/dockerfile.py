"""The steps of a Dockerfile, run in folders in place of images.

It knows as much of the format as ``ops/Dockerfile`` needs, and fails at the rest. Paths of
the image lie below a folder for each stage; ``python`` is the one that runs this.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from attrs import define, field

__all__ = ["Stage", "build"]

IMAGE_PATHS = re.compile(r"(?<![\w.])(/opt|/source|/tmp|/srv)(?=/|\s|$)")


@define
class Stage:
    """What a stage has come to: its folder and its settings."""

    root: Path
    folder: str = "/"
    user: str = "root"
    entrypoint: list[str] = field(factory=list[str])
    skipped: list[str] = field(factory=list[str])

    def path(self, path: str) -> Path:
        """Return where a path of the image is."""
        inside = Path(self.folder) / path
        return self.root / str(inside).lstrip("/")


def build(dockerfile: Path, *, context: Path, folder: Path) -> Stage:
    """Run all steps; return the last stage."""
    text = re.sub(r"\\\n", " ", dockerfile.read_text(encoding="utf-8"))
    text = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            assert image == "python:${PYTHON}", image
            stage = stages[name] = Stage(folder / (name or "image"))
            stage.root.mkdir()
            continue
        if word == "ARG":
            assert rest == f"PYTHON=3.{sys.version_info.minor}-slim", "another Python than this"
            continue
        assert stage is not None
        match word:
            case "WORKDIR":
                stage.folder = rest
                stage.path(".").mkdir(parents=True, exist_ok=True)
            case "COPY":
                _copy(rest, stage, stages, context)
            case "RUN":
                _run(rest, stage)
            case "USER":
                stage.user = rest
            case "ENTRYPOINT":
                stage.entrypoint = json.loads(rest)
            case "HEALTHCHECK":
                compile(json.loads(rest.partition("CMD ")[2])[2], "HEALTHCHECK", "exec")
            case "ENV" | "EXPOSE" | "STOPSIGNAL" | "CMD":
                pass
            case _:
                raise AssertionError(f"{word} is not known here: {line}")
    assert stage is not None
    return stage


def _run(command: str, stage: Stage) -> None:
    if command.startswith("useradd "):
        stage.skipped.append(command)  # It would change this host.
        return
    # A base that stands for "/" of the image, in each path that is named.
    moved = IMAGE_PATHS.sub(lambda match: f"{stage.root}{match[1]}", command)
    moved = re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", moved)
    done = subprocess.run(
        ["sh", "-ec", moved],
        cwd=stage.path("."),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"


def _copy(rest: str, stage: Stage, stages: dict[str, Stage], context: Path) -> None:
    *words, target = rest.split()
    if words[0].startswith("--from="):
        source = stages[words[0].removeprefix("--from=")]
        (path,) = words[1:]
        # Scripts name their interpreter by its path, so the folder stays where it was made.
        stage.path(target).parent.mkdir(parents=True, exist_ok=True)
        stage.path(target).symlink_to(source.path(path))
        return
    allowed = [
        line[1:]
        for line in (context / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    for name in words:
        assert name in allowed, f".dockerignore keeps {name} out"
        if (context / name).is_dir():
            shutil.copytree(
                context / name,
                stage.path(target),
                symlinks=True,
                ignore=lambda _, names: fnmatch.filter(names, "__pycache__"),
            )
        else:
            place = stage.path(target)
            shutil.copy(context / name, place / name if place.is_dir() else place)
