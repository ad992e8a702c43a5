"""Options: which source wins, what each refuses, and what goes together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from aegis._config import (
    ConnectOptions,
    LogOptions,
    RunOptions,
    ServiceOptions,
    connect_options,
    default_instance_id,
    log_options,
    run_options,
)
from aegis._config_sources import Sources, options_of
from aegis.contracts import Role, check_id
from aegis.errors import ConfigurationError

NATS = {"nats": "nats://127.0.0.1:4222"}
ACCOUNT = [{"target": "accounts.py:Account"}]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    toml: str | None = None,
    services: Sequence[Mapping[str, object]] = (),
) -> RunOptions:
    if toml is not None:
        Path("aegis.toml").write_text(toml)
    return run_options(Sources.read(flags, environ=environ or {}), services)


def refused(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        run(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_without_any_source_everything_has_its_default() -> None:
    assert run() == RunOptions()
    assert run().connect == ConnectOptions()


def test_a_flag_wins_over_a_variable_over_the_file_over_the_default() -> None:
    toml = "heartbeat_timeout = 9.0\nmailbox_capacity = 7\nworkers = 5"
    environ = {"AEGIS_HEARTBEAT_TIMEOUT": "8", "AEGIS_MAILBOX_CAPACITY": "6"}
    options = run({"heartbeat_timeout": "7s"}, environ, toml)
    assert options.heartbeat_timeout == 7.0
    assert options.mailbox_capacity == 6
    assert options.workers == 5
    assert options.heartbeat_interval == 0.5


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert run(environ={"AEGIS_WORKERS": ""}).workers == RunOptions().workers


def test_a_flag_that_was_not_given_is_none_or_an_empty_list() -> None:
    assert run({"workers": None, "resources": []}, {"AEGIS_WORKERS": "3"}).workers == 3


@pytest.mark.parametrize("cls", [ConnectOptions, LogOptions, ServiceOptions, RunOptions])
def test_every_option_has_a_flag_a_variable_a_key_and_help(cls: type) -> None:
    for name, option in options_of(cls).items():
        assert option.flag.startswith("--")
        assert option.variable.startswith("AEGIS_")
        assert option.key == name
        assert option.help.endswith(".")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0.5", 0.5), (".5", 0.5), ("500ms", 0.5), ("2s", 2.0), ("1m", 60.0), ("1h", 3600.0)],
)
def test_durations_are_seconds_or_have_a_unit(text: str, seconds: float) -> None:
    assert connect_options(Sources.read({"timeout": text}, environ={})).timeout == seconds


def test_urls_are_completed_and_may_stand_in_a_list() -> None:
    assert run({"nats": "one,two:4333"}).connect.nats == ("nats://one:4222", "nats://two:4333")
    toml = 'nats = ["tls://[::1]:1", "tls://user:pass@host"]'
    assert run(toml=toml).connect.nats == ("tls://[::1]:1", "tls://user:pass@host:4222")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("heartbeat_interval", "fast", "'fast' is no duration; give seconds, as in 0.5, or a"),
        ("heartbeat_interval", "0", "'0' must be more than 0"),
        ("heartbeat_interval", "-1", "'-1' is no duration"),
        ("lease", "nan", "'nan' is no duration"),
        ("stall_timeout", "10000000", "is more than a week"),
        ("workers", "many", "'many' does not fit; give a whole number from 1 to 1024"),
        ("workers", "0", "'0' does not fit"),
        ("admin_port", "65536", "'65536' does not fit; give a whole number from 0 to 65535"),
        ("admin_host", "example", "must be an IP address, such as 127.0.0.1 or 0.0.0.0"),
        ("admin_token", "short", "must have at least 16 characters"),
        ("admin_token", "sixteen letters!!", "must be letters, digits and"),
        ("mailbox_capacity", "1.5", "'1.5' does not fit"),
        ("max_bytes", "lots", "'lots' does not fit; give at least 1048576 bytes, as in 512M or 8G"),
        ("max_bytes", "1K", "'1K' does not fit"),
        ("replicas", "2", "2 servers outlive no more failures than 1; give 1, 3 or 5"),
        ("keep", "perhaps", "'perhaps' is neither true nor false; give one of the two"),
        ("sync", "never", "'never' is neither \"always\" nor a duration"),
        ("namespace", "a.b", "'a.b' cannot name a namespace"),
        ("namespace", "x" * 65, "cannot name a namespace"),
        ("log_level", "loud", "'loud' is unknown; give one of: debug, info, warning, error"),
        ("log_format", "xml", "'xml' is unknown; give one of: json, console"),
        ("nats", "http://host", "'http://host' does not begin with nats:// or tls://"),
        ("nats", "nats://host:port", "'nats://host:port' is no URL"),
        ("nats", "nats://:4222", "'nats://:4222' names no host and port"),
        ("nats", "nats://host/path", "has something behind the port"),
        ("nats", "nats://one,tls://two", "mixes nats:// and tls://"),
        ("nats", ",", "names no server"),
        ("creds", "missing.creds", "missing.creds does not exist; name a file that does"),
        ("creds", ".", "is a folder; name a file"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_it_has_in_its_source(
    option: str, value: str, message: str
) -> None:
    flag, variable = f"--{option.replace('_', '-')}", f"AEGIS_{option.upper()}"
    variable = "AEGIS_NATS_URL" if option == "nats" else variable
    by_flag = refused({option: value})
    assert by_flag.startswith(f"{flag}: ")
    assert message in by_flag
    by_variable = refused(environ={variable: value})
    assert by_variable.startswith(f"{variable}: ")
    assert message in by_variable
    in_file = refused(toml=f'{option} = "{value}"')
    assert in_file.startswith(f"{option} in aegis.toml: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("workers = true", "workers in aegis.toml: True does not fit"),
        ("keep = 1", "keep in aegis.toml: 1 is neither true nor false"),
        ("lease = []", "lease in aegis.toml: [] is no duration"),
        ("lease = inf", "lease in aegis.toml: inf must be more than 0"),
        ("namespace = 3", "namespace in aegis.toml: must be text, not 3"),
        ("nats = 4222", "nats in aegis.toml: must be text or a list of texts, not 4222"),
        ("hartbeat_interval = 1", "'hartbeat_interval' is unknown; did you mean 'heartbeat_int"),
        ("heartbeat-timeout = 1", "unknown; did you mean 'heartbeat_timeout'?"),
        ("colour = 1", "aegis.toml: the key 'colour' is unknown; `aegis run --help` lists"),
        ("service = 1", "service in aegis.toml: must be a list of tables; write [[service]]"),
        ("[service]\ntarget = 'a.py'", "must be a list of tables; write [[service]]"),
        ("[[service]]\nrole = 'active'", "[[service]] 1 of aegis.toml: has no target; add target"),
        (
            "[[service]]\ntarget = 'a.py'\nresource = 'x'",
            "[[service]] 1 of aegis.toml: the key 'resource' is unknown; did you mean 'resources'?",
        ),
        (
            "[[service]]\ntarget = 'a.py'\n[[service]]\ntarget = 'b.py'\nrole = 'boss'",
            "role in [[service]] 2 of aegis.toml: 'boss' is unknown; give one of: active, standby",
        ),
        ("lease = ", "aegis.toml is no TOML: Invalid value (at end of document); correct that"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place_to_correct(line: str, message: str) -> None:
    assert message in refused(toml=line)


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^--config: gone.toml does not exist; name"):
        Sources.read(config="gone.toml", environ={})
    with pytest.raises(ConfigurationError, match=r"^AEGIS_CONFIG: gone.toml does not exist"):
        Sources.read(environ={"AEGIS_CONFIG": "gone.toml"})
    with pytest.raises(ConfigurationError, match=r"is a folder; name a TOML file$"):
        Sources.read(config=tmp_path, environ={})
    (tmp_path / "latin.toml").write_bytes(b'user = "\xe9"')
    with pytest.raises(ConfigurationError, match=r"latin.toml is no UTF-8 text"):
        Sources.read(config="latin.toml", environ={})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"heartbeat_timeout": "0.3"},
            "--heartbeat-timeout: heartbeat_interval (0.5 s, the default) must be shorter than "
            "heartbeat_timeout (0.3 s, --heartbeat-timeout), or every node counts as gone",
        ),
        (
            {"heartbeat_interval": "2"},
            "--heartbeat-interval: heartbeat_interval (2 s, --heartbeat-interval) must be shorter",
        ),
        (
            {"lease": "3"},
            "--lease: lease (3 s, --lease) must not be longer than heartbeat_timeout (2 s, the",
        ),
        ({"lease": "0.4"}, "--lease: heartbeat_interval (0.5 s, the default) must be shorter than"),
        ({"stall_timeout": "0.1"}, "or progress is not seen in time"),
        (
            {"leader_timeout": "0.3"},
            "--leader-timeout: 0.3 s is too short to tell a dead leader from a busy one; "
            "give 0.4 s or more",
        ),
        (
            {"admin_port": "8080", "admin_host": "0.0.0.0"},
            "--admin-host: 0.0.0.0 can be reached from other hosts; set AEGIS_ADMIN_TOKEN",
        ),
        ({"replicas": "3"}, "--replicas: 3 replicas need a cluster of as many NATS servers"),
        ({"user": "me"}, "--user: is for a NATS server of your own; name it with --nats"),
        ({**NATS, "user": "me"}, "--user: is of no use without password; give both or none"),
        ({**NATS, "password": "x"}, "--password: is of no use without user"),
        ({**NATS, "system_user": "me"}, "--system-user: is of no use without system_password"),
        (
            {"supervisor_only": True, "no_supervisor": True},
            "--supervisor-only: such a node does nothing with no_supervisor",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    flags: dict[str, object], message: str
) -> None:
    assert message in refused(flags)


def test_credentials_file_and_user_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.creds").write_text("x")
    both = {**NATS, "creds": "a.creds", "user": "me", "password": "x"}
    assert "--creds: cannot be used with user (from --user); give one" in refused(both)
    only_key = {**NATS, "tls_key": "a.creds"}
    assert "--tls-key: is of no use without tls_cert" in refused(only_key)


def test_a_node_that_only_supervises_runs_no_service() -> None:
    message = refused({"supervisor_only": True}, services=ACCOUNT)
    assert message.startswith("--supervisor-only: such a node runs no service")
    assert run({"supervisor_only": True}).supervisor_only


def test_no_message_and_no_representation_shows_a_secret() -> None:
    options = run({"nats": "nats://me:hunter2@host", "user": "me", "password": "hunter2"})
    assert options.connect.password == "hunter2"
    assert "hunter2" not in repr(options)
    assert options.connect.shown_urls == ("nats://***@host:4222",)
    assert "hunter2" not in refused({"nats": "http://me:hunter2@host"})
    assert "hunter2" not in refused(toml='password = ["hunter2"]')


def test_a_secret_may_come_from_a_file_that_a_variable_names() -> None:
    Path("secret").write_text("hunter2\n")
    environ = {"AEGIS_PASSWORD_FILE": "secret", "AEGIS_ADMIN_TOKEN_FILE": "token"}
    Path("token").write_text("a-token-of-many-characters")
    options = run({**NATS, "user": "me"}, environ)
    assert options.connect.password == "hunter2"
    assert options.admin_token == "a-token-of-many-characters"
    both = {**environ, "AEGIS_PASSWORD": "other"}
    assert run({**NATS, "user": "me"}, both).connect.password == "other"
    Path("token").write_text("short")
    message = refused({**NATS, "user": "me"}, environ)
    assert message.startswith("AEGIS_ADMIN_TOKEN_FILE: ")
    assert "short" not in message.partition(":")[2].split()
    missing = refused(NATS, {"AEGIS_PASSWORD_FILE": "nowhere"})
    assert missing == "AEGIS_PASSWORD_FILE: nowhere cannot be read: No such file or directory"


def test_answers_come_to_a_place_of_the_users_own() -> None:
    me = {**NATS, "user": "me.and you", "password": "x"}
    assert run(NATS).connect.inbox == "_INBOX"
    assert run(me).connect.inbox == "_INBOX.me=2Eand=20you"
    assert run({**me, "inbox_prefix": "_INBOX.mine"}).connect.inbox == "_INBOX.mine"
    for wrong in ("a b", "a.>", ".a", "a..b", "*"):
        assert "is no beginning of a subject" in refused({**NATS, "inbox_prefix": wrong})


def test_services_of_the_command_line_replace_those_of_the_file() -> None:
    toml = '[[service]]\ntarget = "old.py:Old"'
    given = {"target": "new.py:New", "resources": ["A", "B"], "role": "standby"}
    assert run(toml=toml, services=[given]).services == (
        ServiceOptions("new.py:New", None, ("A", "B"), Role.STANDBY),
    )


def test_the_file_may_list_several_services_beside_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "ids.txt").write_text("A\n\n  B  \n")
    (folder / "my.toml").write_text(
        '[[service]]\ntarget = "a.py:A"\nresources = ["@ids.txt", "C"]\ninstance_id = "a-1"\n'
        '[[service]]\ntarget = "pack.b:B"\nrole = "standby"\n'
    )
    options = run_options(Sources.read(config="conf/my.toml", environ={}))
    assert options.services == (
        ServiceOptions(f"{folder}/a.py:A", "a-1", ("A", "B", "C")),
        ServiceOptions("pack.b:B", role=Role.STANDBY),
    )


def test_flags_without_a_target_complete_the_only_service_of_the_file() -> None:
    toml = '[[service]]\ntarget = "mod:A"\ninstance_id = "a-1"\nresources = ["A"]'
    options = run(toml=toml, services=[{"instance_id": "a-2"}])
    assert options.services == (ServiceOptions("mod:A", "a-2", ("A",)),)
    message = refused(toml=toml + "\n[[service]]\ntarget = 'b'", services=[{"role": "standby"}])
    assert "need the service that they belong to" in message


def test_variables_mean_the_service_only_if_it_is_the_only_one() -> None:
    environ = {"AEGIS_INSTANCE_ID": "a-9", "AEGIS_RESOURCES": "A,B", "AEGIS_ROLE": "standby"}
    one = run(environ=environ, services=ACCOUNT).services
    assert one == (ServiceOptions("accounts.py:Account", "a-9", ("A", "B"), Role.STANDBY),)
    two = run(environ=environ, services=[*ACCOUNT, {"target": "b"}]).services
    assert [service.instance_id for service in two] == [None, None]


def test_two_services_cannot_have_the_same_instance_id() -> None:
    services = [{"target": "a", "instance_id": "x"}, {"target": "b", "instance_id": "x"}]
    assert "two services are given 'x'; give each its own" in refused(services=services)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (["A", "A"], "--resource: 'A' is given twice; leave one out"),
        (["a b"], "--resource: 'a b' must not contain spaces or control characters"),
        (["x" * 201], "is 201 bytes long; at most 200 are allowed"),
        (["@ids.txt"], "--resource: ids.txt does not exist; name a file that does"),
        (["@"], "'@' names no file; write @ids.txt, or @@x for an id that is @x"),
        (["@twice.txt"], "--resource: twice.txt line 3: 'A' is given twice"),
        (["@empty.txt"], "empty.txt holds no id; write one a line"),
        (["@binary.txt"], "binary.txt is no UTF-8 text; write one id a line"),
        (["@."], "--resource: . is a folder; name a file"),
    ],
)
def test_a_bad_resource_is_refused_with_its_place(
    tmp_path: Path, resources: list[str], message: str
) -> None:
    (tmp_path / "twice.txt").write_text("A\n\nA\n")
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    assert message in refused(services=[{"target": "a", "resources": resources}])


def test_any_id_can_be_given_even_one_that_begins_with_the_sign_of_files(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbf#1\r\na,b\r\n\xe8\xb4\xa6\r\n")
    given = {"target": "a", "resources": ["@ids.txt", "@@x"]}
    assert run(services=[given]).services[0].resources == ("#1", "a,b", "账", "@x")


def test_instance_ids_made_by_default_tell_the_service_and_never_repeat() -> None:
    made = {default_instance_id("account") for _ in range(100)}
    assert len(made) == 100
    assert all(name.startswith("account-") and check_id(name) is None for name in made)


def test_log_options_have_the_same_sources() -> None:
    sources = Sources.read({"log_format": "JSON"}, environ={"AEGIS_LOG_LEVEL": "debug"})
    assert log_options(sources) == LogOptions("debug", "json")


def test_arguments_of_a_function_are_called_by_their_own_name() -> None:
    with pytest.raises(ConfigurationError, match=r"^timeout: 0 must be more than 0"):
        connect_options(Sources.read({"timeout": 0}, environ={}, flags=False))


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("1048576", 2**20), ("512M", 2**29), ("8G", 2**33), ("2 GiB", None), ("1t", 2**40)],
)
def test_sizes_may_have_a_unit(text: str, bytes_: int | None) -> None:
    if bytes_ is None:
        with pytest.raises(ConfigurationError):
            run_options(Sources({"max_bytes": text}, {}))
    else:
        assert run_options(Sources({"max_bytes": text}, {})).max_bytes == bytes_
