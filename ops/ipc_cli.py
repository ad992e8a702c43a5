"""The command ``ipc-cli``: what routes messages, for scripts."""

from __future__ import annotations

import typer

from aegis._config import ConnectOptions, LogOptions
from aegis.ops._command_line import CommandGroup
from aegis.ops._options import add_command
from aegis.ops.cli import disconnect, list_services, show_route

__all__ = ["app", "main"]

app = typer.Typer(
    name="ipc-cli",
    cls=CommandGroup,
    help="Show services and routes, and evict instances.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main() -> None:
    """Run the command line; the exit code is 0, 1 (failed) or 2 (wrong use)."""
    app()


add_command(app, list_services, ConnectOptions, LogOptions, name="list-services")
add_command(app, show_route, ConnectOptions, LogOptions, name="show-route")
add_command(app, disconnect, ConnectOptions, LogOptions)
