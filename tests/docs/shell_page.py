"""Runs the commands of a page, as a reader in a terminal would, against a real server.

The snippets of a page share a folder with the examples, and a server of their own. ``sh``
snippets are commands alone. In ``console`` snippets a command stands behind ``$``, and
what it prints stands below, where ``...`` is whatever comes.

A command of `aegis` alone is run by a fork of a process that has imported it: it is what the
script runs, without the second of imports before it.

A command that serves until it is stopped (`aegis run`) runs beside the others, as it
would in a terminal of its own, and the next one waits until it serves.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from attrs import define, field, frozen

from tests.docs.pages import ROOT, Snippet

__all__ = ["Terminal", "commands_of"]

START_TIMEOUT: Final = 60.0
COMMAND_TIMEOUT: Final = 60.0

SERVES: Final = re.compile(r"aegis (?:(?:feed )?run|feed record)\b(?!.*--help)")

PGREP: Final = """#!/bin/sh
# As the real one, among the nodes of this page alone.
for file in "$AEGIS_TEST_NODES"/*; do
    pid=$(basename "$file")
    kill -0 "$pid" 2>/dev/null && grep -q -e "$2" "$file" && echo "$pid"
done
"""

FORKER: Final = """
import json, os, sys
from importlib import import_module
for name in ("_call", "_send", "_tree", "_routes", "_doctor", "_journal", "_dead_letters"):
    import_module("aegis.ops." + name)
import nats, aegis.transport._nats
from aegis.ops.cli import main
for line in sys.stdin:
    words, printed = json.loads(line)
    pid = os.fork()
    if pid == 0:
        file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1), os.dup2(file, 2)
        sys.argv = words
        main()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""

PLAIN: Final = re.compile(r"aegis [^$|&;<>()`]+")
"""A command of `aegis` that needs no shell, but for its quotes."""


@frozen
class Command:
    """One line that a reader types, and what it is said to print, if that is said."""

    text: str
    output: str | None = None
    exit_code: int = 0


def commands_of(snippet: Snippet) -> Iterator[Command]:
    """The commands of a snippet."""
    text = snippet.text.replace("\\\n", " ")
    if snippet.language == "sh":
        for line in text.splitlines():
            if line.strip() and not line.startswith("#"):
                yield Command(line)
        return
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        yield Command(line, output, int(snippet.settings.get("fails", 0)))


@define
class Terminal:
    """A folder to work in, and what was started there."""

    folder: Path
    _beside: list[Process] = field(factory=list["Process"])
    _readers: list[asyncio.Task[None]] = field(factory=list["asyncio.Task[None]"])
    _forker: Process | None = None

    @property
    def _nodes(self) -> Path:
        return self.folder / ".nodes"

    async def __aenter__(self) -> Self:
        (self.folder / "examples").symlink_to(ROOT / "examples")
        activate = self.folder / ".venv" / "bin" / "activate"
        activate.parent.mkdir(parents=True)
        activate.touch()  # The environment of the tests is active already.
        self._nodes.mkdir()
        pgrep = self.folder / ".bin" / "pgrep"
        pgrep.parent.mkdir()
        pgrep.write_text(PGREP)
        pgrep.chmod(0o755)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._forker is not None:
            await self._forker.communicate()
        for process in reversed(self._beside):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                await process.wait()
        await asyncio.gather(*self._readers)

    async def enter(self, snippets: Iterable[Snippet]) -> None:
        """Type in what the snippets say."""
        for snippet in snippets:
            if name := snippet.settings.get("file"):
                (self.folder / name).write_text(snippet.text, encoding="utf-8")
                continue
            for command in commands_of(snippet):
                try:
                    if SERVES.match(command.text):
                        await self._serve(command.text)
                    else:
                        await self._run(command)
                except AssertionError as error:
                    raise AssertionError(f"{snippet.place}: {command.text}\n{error}") from None

    async def _start(self, *words: str, stdin: int = DEVNULL, stderr: int = STDOUT) -> Process:
        path = f"{self.folder / '.bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("AEGIS_")}
        return await asyncio.create_subprocess_exec(
            *words,
            cwd=self.folder,
            env={
                **inherited,
                "PATH": path,
                "XDG_DATA_HOME": str(self.folder / ".data"),
                "AEGIS_TEST_NODES": str(self._nodes),
                "NO_COLOR": "1",
                "AEGIS_TIMEOUT": "30s",  # what a page shows is no matter of time
            },
            stdin=stdin,
            stdout=PIPE,
            stderr=stderr,
        )

    async def _run(self, command: Command) -> None:
        async with asyncio.timeout(COMMAND_TIMEOUT):
            if PLAIN.fullmatch(command.text):
                code, printed = await self._fork(shlex.split(command.text))
            else:
                process = await self._start("bash", "-c", command.text)
                out, _ = await process.communicate()
                code, printed = await process.wait(), out.decode()
        assert code == command.exit_code, printed
        if command.output is not None:
            wanted = ".*".join(map(re.escape, command.output.strip().split("...")))
            assert re.fullmatch(wanted, printed.strip(), re.DOTALL), printed

    async def _fork(self, words: list[str]) -> tuple[int, str]:
        if self._forker is None:
            self._forker = await self._start(
                sys.executable, "-c", FORKER, stdin=PIPE, stderr=DEVNULL
            )
        forker, printed = self._forker, self.folder / ".printed"
        assert forker.stdin is not None
        assert forker.stdout is not None
        forker.stdin.write(json.dumps([words, str(printed)]).encode() + b"\n")
        code = await forker.stdout.readline()
        return int(code), printed.read_text(encoding="utf-8")

    async def _serve(self, text: str) -> None:
        process = await self._start("bash", "-c", f"exec {text} --log-format json")
        self._beside.append(process)
        (self._nodes / str(process.pid)).write_text(text)
        assert process.stdout is not None
        lines: list[str] = []
        async with asyncio.timeout(START_TIMEOUT):
            while b'"node_started"' not in (line := await process.stdout.readline()):
                lines.append(line.decode())
                assert line, "".join(lines)
        # Read on, so that the node never waits for its reader.
        self._readers.append(asyncio.create_task(_drain(process.stdout)))


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass
