"""The pages that are made from the code: what each option takes, what each command does."""

from __future__ import annotations

import ast
import inspect
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, Final, cast
from unittest.mock import patch

import typer

from aegis._config import ConnectOptions, LogOptions, RunOptions, ServiceOptions
from aegis._config_sources import CONFIG_FILE, CONFIG_VARIABLE, Option, options_of
from aegis.actors import _actor as actor_module
from aegis.marketdata._feed import CONFIG_VARIABLE as FEED_VARIABLE
from aegis.marketdata._recorder_actor import RECORDER_VARIABLE
from aegis.marketdata._simulated_faults import FAULTS_VARIABLE
from aegis.ops._output import DEBUG_VARIABLE
from aegis.ops.cli import app
from aegis.ops.ipc_cli import app as ipc_app
from aegis.transport._server_binary import BINARY_VARIABLE
from tests.docs.pages import DOCS, ROOT

__all__ = ["GENERATED", "LIMITS", "VARIABLES", "write_all"]

MADE: Final = "<!-- Made from the code: `make reference` writes this page anew. -->\n"

COLUMNS: Final = "90"

VARIABLES: Final = {
    CONFIG_VARIABLE: f"File of options, as `--config`; without either, `{CONFIG_FILE}` in the "
    "working folder.",
    BINARY_VARIABLE: "Program of the NATS server to start instead of the bundled one.",
    DEBUG_VARIABLE: "With `1`, a command that fails shows the traceback before its line.",
    FEED_VARIABLE: "File that describes a market, for a feed that `aegis run` serves; "
    "`aegis feed run` sets it.",
    FAULTS_VARIABLE: "Folder with a file `FEED.toml` for each simulated feed that is to go wrong; "
    "`aegis feed drill` sets it.",
    RECORDER_VARIABLE: "Where a recorder that `aegis run` serves records to, in JSON; "
    "`aegis feed record` sets it.",
    "XDG_DATA_HOME": "Folder below which this host's own server keeps its data, unless "
    "`data_dir` says another; by default `~/.local/share`.",
    "NO_COLOR": "If set, no command prints in colour.",
}
"""Variables that belong to no option."""

LIMITS: Final = (
    "actors._sessions.WINDOW",
    "actors._sessions.MAX_SESSIONS",
    "actors._sessions.MAX_KEPT_REPLY_BYTES",
    "actors._mail.MAX_MAIL_REPLIES",
    "actors._outbox.MAX_UNSENT",
    "actors._group.MAX_OUTGOING",
    "actors._sender.MAX_WAITING",
    "actors._reminders.MAX_REMINDERS",
    "actors._caller.MAX_UNRESOLVED",
    "actors._topic.DEFAULT_QUEUE_SIZE",
    "actors._reply_stream.DEFAULT_WINDOW",
    "actors._owner.GROUP_BYTES",
    "actors._owner.SNAPSHOT_EVERY_RECORDS",
    "actors._supervisor.DEFAULT_START_TIMEOUT",
    "actors._supervisor.DEFAULT_STOP_TIMEOUT",
)
"""Limits that no option sets and that users can meet: module and name."""


def write_all() -> None:
    """Write the generated pages."""
    for path, make in GENERATED.items():
        path.write_text(make(), encoding="utf-8")


# -- configuration ------------------------------------------------------------------------


def configuration() -> str:
    """The page of all options."""
    parts = [
        "# Configuration\n",
        MADE,
        "An option is looked for among the flags, then the variables, then in the file "
        f"`{CONFIG_FILE}`, and has its default if it is nowhere. A wrong value stops the start, "
        "with a message that names where it stands. `--config FILE` names another file. Paths in "
        "the file are seen from its folder. A secret may also be the text of a file, which the "
        "variable that ends in `_FILE` names.\n",
        "## Connection\n",
        "For every command, `aegis.connect()`, `aegis.connect_blocking()` and "
        "`aegis.ServiceClient()`, where the key is the name of the argument.\n",
        _options(ConnectOptions),
        "## Logs\n",
        "For every command.\n",
        _options(LogOptions),
        "## A node\n",
        "For `aegis run`, beside those above.\n",
        _options(RunOptions, but=LogOptions),
        "## A service\n",
        "For each service of `aegis run`: the flags stand behind it, the keys in its `[[service]]` "
        "table beside `target`, which is `file.py:Class` or `module:Class`. The variables hold "
        "where there is one service.\n",
        _options(ServiceOptions),
        "## Other variables\n",
        _table(("variable", "meaning"), [(f"`{name}`", text) for name, text in VARIABLES.items()]),
        "## What a class sets\n",
        _class_settings(),
        "## Fixed limits\n",
        "Each place that could fill up has a limit. These are not options:\n",
        _table(("limit", "value", "meaning"), [_limit(name) for name in LIMITS]),
    ]
    return "\n".join(parts)


def _options(cls: type, *, but: type | None = None) -> str:
    left_out: set[str] = set() if but is None else set(options_of(but))
    rows = [_row(option) for name, option in options_of(cls).items() if name not in left_out]
    return _table(("flag, variable, key", "default", "value", "meaning"), rows)


def _row(option: Option) -> Sequence[str]:
    file = [f"{option.variable}_FILE"] if option.secret else []
    names = [option.flag, option.variable, *file, option.key]
    return (
        "<br>".join(f"`{name}`" for name in names),
        _default(option),
        _summary(option.parse),
        option.help,
    )


def _default(option: Option) -> str:
    value = option.default
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "no"
    if option.metavar == "BYTES":
        return f"{value / 1024**3:g} GiB"
    number = f"{value:g}" if isinstance(value, float) else f"{value}"
    return f"{number} s" if option.metavar == "SECONDS" else number


def _summary(function: Callable[..., object]) -> str:
    text = inspect.getdoc(function) or ""
    return " ".join(text.partition("\n\n")[0].replace("``", "`").split())


def _class_settings() -> str:
    rows: list[Sequence[str]] = []
    for name, value, text in _documented(Path(actor_module.__file__), "AegisActor"):
        if not name.startswith("_"):
            default = eval(value, dict(vars(actor_module)))
            rows.append((f"`{name}`", "" if default is None else str(default), text))
    return _table(("attribute", "default", "meaning"), rows)


def _limit(name: str) -> Sequence[str]:
    module, _, constant = name.rpartition(".")
    path = ROOT / Path(*module.split(".")).with_suffix(".py")
    for found, value, text in _documented(path):
        if found == constant:
            number = eval(value, {})  # an arithmetic expression, such as 256 * 1024
            return (f"`{constant}`", f"{number:,}".replace(",", " "), text)
    raise LookupError(f"{name} is not there, or has no docstring")


def _documented(path: Path, of_class: str = "") -> Iterator[tuple[str, str, str]]:
    """Names bound at the top of a module or class, each with its value and docstring."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for node in body:
        if of_class and isinstance(node, ast.ClassDef) and node.name == of_class:
            body = node.body
    named: list[ast.AnnAssign] = []
    for node in body:
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            named.append(node)  # one docstring may tell of several that stand together
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = inspect.cleandoc(str(node.value.value)).partition("\n\n")[0]
            words = re.sub(r"`+", "`", " ".join(text.split()))
            for one in named:
                yield ast.unparse(one.target), ast.unparse(cast("ast.expr", one.value)), words
        named = []


# -- command line -------------------------------------------------------------------------


def command_line() -> str:
    """The page of all commands."""
    parts = [
        "# Command line\n",
        MADE,
        "The exit code is 0 (ok), 1 (failed) or 2 (wrong use). `aegis --install-completion` "
        "teaches the shell to complete; `aegis --version` tells the versions. "
        "Every command has `--help` and `--json`, and takes the options of "
        "[Configuration](configuration.md#connection) for connection and logs, and `--config`.\n",
        "`aegis run` takes all options of [Configuration](configuration.md#a-node).\n",
    ]
    parts += _commands(typer.main.get_command(app), "aegis")
    parts += _commands(typer.main.get_command(ipc_app), "ipc-cli")
    return "\n".join(parts)


def _commands(group: Any, name: str) -> Iterator[str]:
    for word, command in sorted(group.commands.items()):
        path = f"{name} {word}"
        if hasattr(command, "commands"):
            yield from _commands(command, path)
        elif command.context_settings.get("ignore_unknown_options"):
            yield from _foreign(path, word)
            if word == "bench":
                for part in ("failover", "feed"):
                    yield from _foreign(f"{path} {part}", word, part)
        else:
            yield from _own(path, command)


def _own(path: str, command: Any) -> Iterator[str]:
    """A command of Typer: its text, its usage, and what it takes beside the shared options."""
    yield f"## {path}\n"
    yield f"{inspect.cleandoc(command.help or '')}\n"
    usage = command.get_usage(typer.Context(command, info_name=path))
    yield f"```text\n{' '.join(usage.removeprefix('Usage: ').split())}\n```\n"
    shared = {
        option.flag
        for cls in (ConnectOptions, LogOptions, RunOptions)
        for option in options_of(cls).values()
    } | {"--config", "--json", "--help"}
    rows = [
        (_names(parameter), _escaped(parameter.help or ""))
        for parameter in command.params
        if not set(parameter.opts) & shared
    ]
    if rows:
        yield _table(("takes", "meaning"), rows)


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar}`"
    value = f" {parameter.metavar}" if parameter.metavar and not parameter.is_flag else ""
    return ", ".join(f"`{name}{value}`" for name in parameter.opts)


def _foreign(path: str, *words: str) -> Iterator[str]:
    """A command that reads its own arguments: what its help prints."""
    printed = io.StringIO()
    group: Any = typer.main.get_command(app)
    settings = {"COLUMNS": COLUMNS, "NO_COLOR": "1"}
    with patch.dict(os.environ, settings), redirect_stdout(printed), suppress(SystemExit):
        group.main([*words, "--help"], prog_name="aegis")
    yield f"## {path}\n"
    yield f"```text\n{printed.getvalue().strip()}\n```\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


GENERATED: Final[dict[Path, Callable[[], str]]] = {
    DOCS / "configuration.md": configuration,
    DOCS / "command-line.md": command_line,
}
"""The generated pages, each with what makes it."""
