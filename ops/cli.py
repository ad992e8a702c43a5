"""The command ``aegis``.

Nothing is imported here that a command does not need to be listed: `aegis --help` must
answer at once. Each command's work is in a module of its own.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from aegis._config import ConnectOptions, LogOptions, RunOptions
from aegis.errors import AegisError
from aegis.ops._command_line import CommandGroup
from aegis.ops._options import CommandContext, add_command
from aegis.ops._service_flags import ServiceFlags, services_of

__all__ = ["app", "main"]

app = typer.Typer(
    name="aegis",
    cls=CommandGroup,
    help="Run and reach actors whose commands take effect exactly once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main() -> None:
    """Run the command line; the exit code is 0, 1 (failed) or 2 (wrong use)."""
    app()


def _print_versions(wanted: bool) -> None:
    if not wanted:
        return
    from aegis.ops._version import versions

    for name, number in versions().items():
        sys.stdout.write(f"{name} {number}\n")
    raise typer.Exit


@app.callback()
def aegis(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the versions of Aegis, Python and NATS.",
            callback=_print_versions,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Run and reach actors whose commands take effect exactly once."""


def run(
    context: CommandContext,
    ctx: typer.Context,
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="TARGET", help="Services, as file.py:Class or module:Class."),
    ] = None,
    instance_id: Annotated[
        str | None,
        typer.Option(
            "--instance-id",
            metavar="ID",
            help="Name of the instance; by default made from service, host and chance.",
        ),
    ] = None,
    resource: Annotated[
        list[str] | None,
        typer.Option(
            "--resource",
            metavar="ID|@FILE",
            help="Resource that it holds, or a file with one a line; repeatable.",
        ),
    ] = None,
    role: Annotated[
        str | None,
        typer.Option(
            "--role",
            metavar="ROLE",
            help="Role for its resources: active or standby. [default: active]",
        ),
    ] = None,
) -> None:
    """Run services on a node, until it is told to stop.

    With several services, --instance-id, --resource and --role belong to the one that
    stands before them. Without any, aegis.toml lists them. Without --nats, the server
    of this host is used, and started if there is none.
    """
    from aegis.ops._run import run as run_node

    run_node(context, services_of(ctx))


def call(
    context: CommandContext,
    address: Annotated[
        str,
        typer.Argument(metavar="ADDRESS", help="service, service@instance or service/resource."),
    ],
    method: Annotated[str, typer.Argument(metavar="METHOD", help="Name of the handler.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=VALUE", help="Its arguments; values are JSON, or else text."),
    ] = None,
) -> None:
    """Call a command or a query of an actor.

    Its result is printed. As in: aegis call account/ACC-1 deposit amount=10.5
    """
    from aegis.ops._call import call as call_actor

    call_actor(context, address, method, arguments or [])


def tree(
    context: CommandContext,
    resources: Annotated[
        int,
        typer.Option("--resources", metavar="N", help="How many to show of an instance.", min=0),
    ] = 20,
) -> None:
    """Show nodes, services, instances and resources as a tree."""
    from aegis.ops._tree import tree as show_tree

    show_tree(context, resources)


def list_services(
    context: CommandContext,
    service: Annotated[str | None, typer.Argument(metavar="SERVICE", help="Only this one.")] = None,
) -> None:
    """List services and their instances."""
    from aegis.ops._routes import list_services as show_services

    show_services(context, service)


def show_route(
    context: CommandContext,
    resource: Annotated[str, typer.Argument(metavar="RESOURCE", help="Its id, or service/id.")],
) -> None:
    """Show which instance holds a resource, and which stand by."""
    from aegis.ops._routes import show_route as show_holders

    show_holders(context, resource)


def disconnect(
    context: CommandContext,
    instance: Annotated[str, typer.Argument(metavar="INSTANCE", help="Its id.")],
) -> None:
    """Evict an instance: its standbys take over at once.

    Its process is told, and comes back as a standby.
    """
    from aegis.ops._routes import disconnect as evict

    evict(context, instance)


def doctor(context: CommandContext) -> None:
    """Check server, stream, clocks and host; say what to do."""
    from aegis.ops._doctor import doctor as examine

    examine(context)


def _delegate(name: str, module: str, help: str) -> None:
    """Add a command that reads its own arguments; its module may be a heavy one."""

    @app.command(
        name,
        help=help,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def command(ctx: typer.Context) -> None:
        from importlib import import_module

        from aegis.ops._output import Output, guard

        with guard(Output(json="--json" in ctx.args)):
            try:
                work: Any = import_module(module)
            except ModuleNotFoundError as error:
                if error.name != module:
                    raise
                raise AegisError(f"{name}: is not part of this installation") from error
            code = work.main(list(ctx.args))
            if code:
                raise typer.Exit(code)


add_command(app, run, RunOptions, ConnectOptions, cls=ServiceFlags)
add_command(app, call, ConnectOptions, LogOptions)
add_command(app, tree, ConnectOptions, LogOptions)
add_command(app, list_services, ConnectOptions, LogOptions, name="list-services")
add_command(app, show_route, ConnectOptions, LogOptions, name="show-route")
add_command(app, disconnect, ConnectOptions, LogOptions)
add_command(app, doctor, ConnectOptions, LogOptions)
_delegate("bench", "aegis.ops._bench", "Measure throughput and latency beside NATS alone.")
_delegate("chaos", "aegis.ops._chaos", "Kill and freeze processes at random; check the books.")
_delegate("demo", "aegis.ops._demo", "Run a trading system, kill a node, and check the books.")
