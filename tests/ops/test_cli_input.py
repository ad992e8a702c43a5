"""Wrong input to the command line: one clear line, the right exit code, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from aegis import _connection
from aegis.ops import cli, ipc_cli
from aegis.ops._service_flags import split_services
from aegis.ops._values import parse_value
from aegis.transport import NatsOptions, NatsTransport, connect_nats
from aegis.transport._ports import free_port

ACTOR = """
from aegis import AegisActor, query

class Feed(AegisActor):
    service = "feed"

    @query
    async def last(self) -> float:
        return 1.5
"""


pytestmark = pytest.mark.usefixtures("logging_restored")


@pytest.fixture(autouse=True)
def in_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "feed.py").write_text(ACTOR)
    (tmp_path / "market.toml").write_text('calendar = "gone.toml"\n[feeds.a.simulated]')


def invoke(*arguments: str, app: Any = cli.app) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert "Traceback" not in result.output
    return result


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run", "error: there is no service to run; name one, as in accounts.py:Account, add"),
        ("run gone.py:Gone", "error: gone.py does not exist; name a Python file"),
        ("run feed.py:Fed", "error: feed.py has no class 'Fed'; did you mean feed.py:Feed?"),
        ("run feed.py --heartbeat-interval soon", "error: --heartbeat-interval: 'soon' is no"),
        ("run feed.py --lease 5", "error: --lease: lease (5 s, --lease) must not be longer than"),
        (
            "run feed.py --heartbeat-timeout 0.4",
            "error: --heartbeat-timeout: heartbeat_interval (0.5 s, the default) must be shorter",
        ),
        (
            "run feed.py --heartbeat-interval 2s",
            "error: --heartbeat-interval: heartbeat_interval (2 s, --heartbeat-interval) must be",
        ),
        (
            "run --supervisor-only --no-supervisor",
            "error: --supervisor-only: such a node does nothing with no_supervisor "
            "(--no-supervisor); leave one of them out",
        ),
        (
            "run --supervisor-only --resource ACC-1 --role standby",
            "error: --supervisor-only: such a node runs no service; leave out the services",
        ),
        ("run feed.py --resource @ids", "error: --resource: ids does not exist; name a file that"),
        ("run feed.py --role boss", "error: --role: 'boss' is unknown; give one of: active, stan"),
        ("run feed.py --replicas 3", "error: --replicas: 3 replicas need a cluster"),
        ("run feed.py --config no.toml", "error: --config: no.toml does not exist"),
        ("run feed.py --nats ftp://x", "error: --nats: 'ftp://x' does not begin with nats://"),
        ("run feed.py --supervisor-only", "error: --supervisor-only: such a node runs no service"),
        ("run --instance-id x", "error: --instance-id, --resource and --role need the service"),
        ("call feed last x", "error: 'x' is no argument; write name=value, as in amount=10.5"),
        ("call feed last x=1 x=2", "error: x: is given twice; leave one out"),
        ("call feed/ last", "error: 'feed/': a name must follow the '/'; write service,"),
        ("call /x last", "error: an address begins with a service name; write service,"),
        ("tree --timeout 0", "error: --timeout: '0' must be more than 0"),
        ("tree --log-level loud", "error: --log-level: 'loud' is unknown; give one of: debug,"),
        ("tree --user me", "error: --user: is for a NATS server of your own; name it with --nats"),
        ("doctor --creds none", "error: --creds: none does not exist; name a file that does"),
        ("bench --seconds x", "error: --seconds: invalid float value: 'x'; `aegis bench --help`"),
        ("bench --fast", "error: unrecognized arguments: --fast; `aegis bench --help` shows all"),
        ("chaos --minutes 0", "error: --minutes: 0 is not above 0 and at most 1440; `aegis chaos"),
        ("bench failover --only hug", "error: --only: 'hug' is none of: kill, kill-leader, kill-"),
        ("demo --seed x", "error: --seed: invalid int value: 'x'; `aegis demo --help` shows all"),
        ("show-route " + "x" * 201, f"error: RESOURCE: '{'x' * 60}' is 201 bytes long; at most"),
        ("list-services a\tb", "error: SERVICE: 'a\\tb' must not contain spaces or control"),
        ("disconnect a\x07", "error: INSTANCE: 'a\\x07' must not contain spaces or control"),
        ("list-services --namespace a.b", "error: --namespace: 'a.b' cannot name a namespace"),
        ("feed run no.toml --feed a", "error: no.toml: No such file or directory"),
        ("feed run market.toml --feed b", "error: there is no feed 'b' in the configuration; it"),
        ("feed run market.toml --feed a", "error: calendar: gone.toml cannot be read: No such"),
        ("feed drill no.toml", "error: no.toml: No such file or directory"),
        ("feed drill market.toml", "error: market.toml: a drill needs two feeds, an active one"),
        ("feed ticks rb*", "error: 'rb*' names no exchange that is known"),
        ("feed contracts rb*", "error: 'rb*' names no exchange that is known"),
        ("feed subscribe rb*", "error: 'rb*' names no exchange that is known"),
        ("feed record", "error: a recorder needs a folder (--to DIR) or a stream (--stream NAME)"),
    ],
)
def test_a_wrong_option_or_argument_is_one_line_and_exit_code_2(line: str, message: str) -> None:
    result = invoke(*line.split(" "))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--instance-id", "acct 1"], "--instance-id: 'acct 1' must not contain spaces or control"),
        (["--resource", "ACC 1"], "--resource: 'ACC 1' must not contain spaces or control"),
    ],
)
def test_a_name_with_a_space_is_refused_and_one_without_is_proposed(
    arguments: list[str], message: str
) -> None:
    result = invoke("run", "feed.py", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {message}")
    proposed = arguments[1].replace(" ", "-")
    assert result.stderr.endswith(f"; write {proposed!r}\n")


@pytest.mark.parametrize(
    ("line", "message", "command"),
    [
        ("fly", "No such command 'fly'", ""),
        ("show-rout X", "No such command 'show-rout'. Did you mean 'show-route'?", ""),
        ("--nope", "No such option: --nope", ""),
        ("run --hartbeat-interval 1", "No such option: --hartbeat-interval", " run"),
        ("run feed.py --role", "Option '--role' requires an argument", " run"),
        ("call feed", "Missing argument 'METHOD'", " call"),
        ("show-route", "Missing argument 'RESOURCE'", " show-route"),
        ("tree all", "Got unexpected extra argument(s) (all)", " tree"),
        ("tree --resources -1", "Invalid value for '--resources': Input should be", " tree"),
        (
            "run --instance-id a feed.py feed.py",
            "Invalid value: --instance-id stands before several services",
            " run",
        ),
    ],
)
def test_wrong_use_is_one_line_that_says_how_to_get_help_and_exit_code_2(
    line: str, message: str, command: str
) -> None:
    first, *rest = line.split()
    result = invoke(first, *rest)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.endswith(f"`aegis{command} --help` shows all\n")
    assert result.stderr.count("\n") == 1
    told = json.loads(invoke(first, "--json", *rest).stderr)["error"]
    assert (told["code"], f"error: {told['message']}\n") == (0, result.stderr)


@pytest.mark.parametrize("command", ["call feed last", "tree", "list-services", "show-route X"])
def test_without_a_server_each_command_fails_and_says_what_to_do(command: str) -> None:
    result = invoke(*command.split())
    assert result.exit_code == 1
    assert result.stderr == (
        "error 503: no server runs on this host; start one with `aegis run`, "
        "or name yours with --nats\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        *("tree", "list-services", "show-route X", "disconnect X", "events", "top"),
        *("call feed last", "send feed/X last", "dead-letters list", "journal verify"),
    ],
)
def test_no_command_looks_for_a_server_for_three_seconds(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[float] = []

    async def connect_noted(options: NatsOptions) -> NatsTransport:
        allowed.append(options.connect_timeout)
        return await connect_nats(options)

    monkeypatch.setattr(_connection, "connect_nats", connect_noted)
    result = invoke(*command.split(), "--nats", f"127.0.0.1:{free_port()}", "--timeout", "30")
    assert result.exit_code == 1
    assert result.stderr.startswith("error 503: no NATS server answers at nats://127.0.0.1:")
    assert 0 < sum(allowed) < 3


@pytest.mark.parametrize("group", ["journal", "dead-letters"])
def test_a_group_without_a_command_tells_what_it_has(group: str) -> None:
    result = invoke(group)
    assert (result.exit_code, result.stderr) == (2, "")
    assert f"Usage: aegis {group} [OPTIONS] COMMAND" in result.stdout
    assert "\n  show " in result.stdout


def test_errors_are_json_where_json_was_asked_for() -> None:
    result = invoke("tree", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    error = json.loads(result.stderr)["error"]
    assert error["code"] == 503
    assert "start one with `aegis run`" in error["message"]
    wrong = json.loads(invoke("run", "feed.py", "--lease", "x", "--json").stderr)["error"]
    assert (wrong["code"], wrong["option"], wrong["source"]) == (0, "lease", "--lease")


def test_variables_and_the_file_are_blamed_by_their_own_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGIS_TIMEOUT", "never")
    assert invoke("tree").stderr.startswith("error: AEGIS_TIMEOUT: 'never' is no duration")
    monkeypatch.delenv("AEGIS_TIMEOUT")
    (tmp_path / "aegis.toml").write_text("tiemout = 1")
    result = invoke("tree")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: aegis.toml: the key 'tiemout' is unknown; did you mean 'timeout'?\n"
    )


def test_a_data_folder_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = invoke("run", "feed.py", "--data-dir", "file")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --data-dir: file is not a folder; name one, or a path")


def test_debugging_shows_where_an_error_comes_from() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "aegis", "run", "feed.py:Fed"],
        env={**os.environ, "AEGIS_DEBUG": "1"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("Traceback")
    assert result.stderr.endswith("did you mean feed.py:Feed?\n")


def test_scripts_have_the_same_commands_under_a_name_of_their_own() -> None:
    result = invoke("list-services", app=ipc_cli.app)
    assert (result.exit_code, result.stdout) == (1, "")
    assert invoke("--help", app=ipc_cli.app).exit_code == 0
    assert invoke("tree", app=ipc_cli.app).exit_code == 2


def test_help_is_there_for_every_command_and_fits_the_terminal() -> None:
    listed = invoke("--help")
    assert listed.exit_code == 0
    for name in ("run", "call", "tree", "list-services", "show-route", "doctor", "bench", "demo"):
        assert f"\n  {name}" in listed.stdout
    for name in ("run", "call", "tree", "list-services", "show-route", "doctor"):
        shown = invoke(name, "--help")
        assert shown.exit_code == 0
        assert "--json" in shown.stdout
        assert max(map(len, shown.stdout.splitlines())) <= 80


def test_the_version_names_all_that_a_report_needs() -> None:
    lines = invoke("--version").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["aegis", "python", "nats-py", "nats-server"]


HEAVY = ("asyncio", "nats", "rich", "structlog", "pykka", "cattrs", "ssl")


def test_listing_the_commands_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['aegis', '--help']\n"
        "from aegis.ops.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        f"    print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert "LOADED []" in result.stdout


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10.5", 10.5),
        ("3", 3),
        ("-0.1", -0.1),
        ("1e3", 1000.0),
        ("0.1234567890123456789", "0.1234567890123456789"),
        ("1e999", "1e999"),
        ("18446744073709551615", 18446744073709551615),
        ("18446744073709551616", "18446744073709551616"),
        ("9" * 5000, "9" * 5000),
        ("true", True),
        ("null", None),
        ('"12"', "12"),
        ("hello", "hello"),
        ("007", "007"),
        ("NaN", "NaN"),
        ("", ""),
        ('{"a": [1, 2.5]}', {"a": [1, 2.5]}),
        ("{not json", "{not json"),
        ("a=b", "a=b"),
    ],
)
def test_values_are_json_with_exact_numbers_or_else_text(text: str, value: object) -> None:
    parsed = parse_value(text)
    assert (parsed, type(parsed)) == (value, type(value))


def test_options_of_a_service_belong_to_the_target_before_them() -> None:
    valued = {"--resource", "--instance-id", "--role", "--nats"}
    line = (
        "--nats x a.py:A --resource 1 --resource=2 --keep --role standby b.py:B --instance-id b-1"
    )
    assert split_services(line.split(), valued) == (
        {},
        [
            {"target": "a.py:A", "resources": ["1", "2"], "role": "standby"},
            {"target": "b.py:B", "instance_id": "b-1"},
        ],
    )
    assert split_services(["--role", "active", "--", "a"], valued) == (
        {"role": "active"},
        [{"target": "a"}],
    )
