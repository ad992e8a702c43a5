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
from aegis.ops._feed_commands import feed
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


Watch = Annotated[
    bool, typer.Option("--watch", help="Show it again and again.", show_default=False)
]
Every = Annotated[
    float, typer.Option("--every", metavar="SECONDS", help="How often it is drawn anew.", min=0.1)
]


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


def send(
    context: CommandContext,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="service/resource.")],
    method: Annotated[str, typer.Argument(metavar="METHOD", help="Name of the command.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=VALUE", help="Its arguments; values are JSON, or else text."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for its result, and print that.")
    ] = False,
) -> None:
    """Send a command to a resource for good.

    It waits in the resource's mailbox until an owner is there, and takes effect exactly
    once. As in: aegis send account/ACC-1 deposit amount=10.5
    """
    from aegis.ops._send import send as send_command

    send_command(context, address, method, arguments or [], wait)


def dead_letters_list(
    context: CommandContext,
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="Only those to this service or resource.")
    ] = "",
) -> None:
    """List messages that could not be processed."""
    from aegis.ops._dead_letters import list_all

    list_all(context, address)


def dead_letters_show(
    context: CommandContext,
    sequence: Annotated[int, typer.Argument(metavar="ID", help="As listed.")],
) -> None:
    """Show all that is known of one."""
    from aegis.ops._dead_letters import show

    show(context, sequence)


def dead_letters_replay(
    context: CommandContext,
    sequence: Annotated[int, typer.Argument(metavar="ID", help="As listed.")],
    force: Annotated[
        bool,
        typer.Option("--force", help="Even if it may be a repeat of one that took effect."),
    ] = False,
) -> None:
    """Send one again, as a new message, and drop it."""
    from aegis.ops._dead_letters import replay

    replay(context, sequence, force)


def dead_letters_drop(
    context: CommandContext,
    sequence: Annotated[int, typer.Argument(metavar="ID", help="As listed.")],
) -> None:
    """Delete one for good."""
    from aegis.ops._dead_letters import drop

    drop(context, sequence)


def tree(
    context: CommandContext,
    resources: Annotated[
        int,
        typer.Option("--resources", metavar="N", help="How many to show of an instance.", min=0),
    ] = 20,
    watch: Watch = False,
    every: Every = 1.0,
) -> None:
    """Show nodes, services, instances and resources as a tree."""
    from aegis.ops._tree import tree as show_tree

    show_tree(context, resources, every if watch else None)


def list_services(
    context: CommandContext,
    service: Annotated[str | None, typer.Argument(metavar="SERVICE", help="Only this one.")] = None,
    watch: Watch = False,
    every: Every = 1.0,
) -> None:
    """List services and their instances."""
    from aegis.ops._routes import list_services as show_services

    show_services(context, service, every if watch else None)


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


def top(
    context: CommandContext,
    once: Annotated[
        bool, typer.Option("--once", help="Print it once, as --json does.", show_default=False)
    ] = False,
    every: Every = 1.0,
) -> None:
    """Watch the system at work: rates, queues, latencies, failovers.

    Keys sort, filter and open what is shown; ? tells them.
    """
    from aegis.ops._top import top as watch

    watch(context, every, once)


def events(
    context: CommandContext,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until interrupted.", show_default=False)
    ] = False,
    count: Annotated[
        int, typer.Option("--count", metavar="N", help="End after so many.", min=1)
    ] = 1,
) -> None:
    """Show what happens: registered, released, promoted, unhealthy, gone.

    Events are not kept: only those from now on are shown, one a line.
    """
    from aegis.ops._events import events as show_events

    show_events(context, None if follow else count)


def doctor(context: CommandContext) -> None:
    """Check server, stream, clocks and host; say what to do."""
    from aegis.ops._doctor import doctor as examine

    examine(context)


journal = typer.Typer(help="Read journals as an auditor does.", no_args_is_help=True)


def show_journal(
    context: CommandContext,
    address: Annotated[str, typer.Argument(metavar="SERVICE/RESOURCE", help="Whose journal.")],
    last: Annotated[
        int | None, typer.Option("--last", metavar="N", help="Only the last entries.")
    ] = None,
) -> None:
    """Print the journal of a resource: what each message did.

    A snapshot replaces what stood before it, so the journal begins with the last one.
    """
    from aegis.ops._journal import show

    show(context, address, last)


def verify_journal(
    context: CommandContext,
    address: Annotated[
        str | None,
        typer.Argument(metavar="SERVICE[/RESOURCE]", help="Which; by default all."),
    ] = None,
) -> None:
    """Check that journals can be read and keep the rules.

    Each record follows the one that it expected, no epoch falls, nothing took effect
    twice. The exit code is 1 if one does not; its first wrong record is named.
    """
    from aegis.ops._journal import verify

    if code := verify(context, address):
        raise typer.Exit(code)


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
add_command(app, send, ConnectOptions, LogOptions)
add_command(app, tree, ConnectOptions, LogOptions)
add_command(app, list_services, ConnectOptions, LogOptions, name="list-services")
add_command(app, show_route, ConnectOptions, LogOptions, name="show-route")
add_command(app, disconnect, ConnectOptions, LogOptions)
add_command(app, top, ConnectOptions, LogOptions)
add_command(app, events, ConnectOptions, LogOptions)
dead_letters = typer.Typer(
    name="dead-letters",
    help="Messages that could not be processed: list, show, replay, drop.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(dead_letters)
for work in (dead_letters_list, dead_letters_show, dead_letters_replay, dead_letters_drop):
    name = work.__name__.removeprefix("dead_letters_")
    add_command(dead_letters, work, ConnectOptions, LogOptions, name=name)
add_command(app, doctor, ConnectOptions, LogOptions)
add_command(journal, show_journal, ConnectOptions, LogOptions, name="show")
add_command(journal, verify_journal, ConnectOptions, LogOptions, name="verify")
app.add_typer(journal, name="journal")
app.add_typer(feed)
_delegate("bench", "aegis.ops._bench", "Measure throughput and latency beside NATS alone.")
_delegate("chaos", "aegis.ops._chaos", "Kill and freeze processes at random; check the books.")
_delegate("demo", "aegis.ops._demo", "Run a trading system, kill a node, and check the books.")
