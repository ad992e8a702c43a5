"""Options of commands, made from the same table that checks them.

A command is a plain function. `add_command` gives it the options of the classes it
names, each as text that `aegis._config` checks, so that a flag, a variable and a key of
the file are refused in the same words.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from attrs import frozen

from aegis._config import ConnectOptions, connect_options, log_options
from aegis._config_sources import Option, Sources, options_of
from aegis.ops._output import Output, guard

__all__ = ["CommandContext", "add_command"]


@frozen
class CommandContext:
    """What every command gets: its options, not yet checked, and where to print."""

    given: dict[str, object]
    config: str | None
    output: Output

    def sources(self) -> Sources:
        """Return all sources of options. Raises ConfigurationError."""
        return Sources.read(self.given, config=self.config)

    def connect(self) -> ConnectOptions:
        """Return how to connect, with logging set up.

        Raises:
            ConfigurationError: an option is wrong.
        """
        sources = self.sources()
        logs = log_options(sources)
        options = connect_options(sources)
        from aegis.ops._logging import configure_logging

        # A command's own output says what matters; a node's life is not its business.
        level = "warning" if self.given.get("log_level") is None else logs.log_level
        configure_logging(level, logs.log_format)
        return options


def add_command(
    app: typer.Typer,
    function: Callable[..., None],
    *option_classes: type,
    name: str | None = None,
    cls: Any = None,
) -> None:
    """Add ``function`` as a command; its first parameter is a `CommandContext`.

    The others are Typer parameters. ``--config`` and ``--json`` are on every command.
    """
    signature = inspect.signature(function, eval_str=True)
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in signature.parameters.values()][1:]
    shared: list[inspect.Parameter] = []
    for options in option_classes:
        taken = {parameter.name for parameter in (*own, *shared)}
        shared += [
            _parameter(option)
            for option in options_of(options).values()
            if option.name not in taken
        ]
    names = [parameter.name for parameter in shared]

    def command(**values: Any) -> None:
        given = {option: values.pop(option) for option in names}
        config = values.pop("config")
        output = Output(json=values.pop("json_output"))
        context = CommandContext(given, str(config) if config else None, output)
        with guard(output):
            function(context, **values)

    parameters = [*own, *shared, _CONFIG, _JSON]
    command.__name__ = function.__name__
    command.__doc__ = function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    app.command(name=name, cls=cls)(command)


def _parameter(option: Option) -> inspect.Parameter:
    if isinstance(option.default, bool):
        declared = typer.Option(option.flag, help=_help(option), show_default=False)
        annotation: Any = Annotated[bool | None, declared]
    else:
        declared = typer.Option(
            option.flag,
            help=_help(option),
            metavar=option.metavar or "TEXT",
            show_default=False,
        )
        annotation = Annotated[str | None, declared]
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _help(option: Option) -> str:
    if option.default in (None, (), False):
        return option.help
    default = f"{option.default:g}" if isinstance(option.default, float) else option.default
    return f"{option.help} [default: {default}]"


_CONFIG: Final = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="File of options; by default aegis.toml, if there is one here.",
            show_default=False,
        ),
    ],
)
_JSON: Final = inspect.Parameter(
    "json_output",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool, typer.Option("--json", help="Print JSON, errors too.", show_default=False)
    ],
)
