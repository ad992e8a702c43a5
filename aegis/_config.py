"""The options of Aegis: what there is, what it defaults to, and what goes together.

Values come from flags, then from ``AEGIS_*`` variables, then from ``aegis.toml``, then
from the defaults here. Each is checked; a wrong one is a `ConfigurationError` that names
the option as it stands in its source and says what to do.
"""

# `option` declares a field, as `attrs.field` does: it is no default that is shared.
# ruff: noqa: RUF009

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, cast

import attrs
from attrs import field, frozen

from aegis import _config_values as values
from aegis._config_sources import Found, Sources, option, options_of
from aegis._subjects import DEFAULT_NAMESPACE, escape
from aegis.contracts import Role
from aegis.errors import ConfigurationError

__all__ = [
    "ConnectOptions",
    "LogOptions",
    "RunOptions",
    "ServiceOptions",
    "connect_options",
    "default_instance_id",
    "log_options",
    "run_options",
]

MIN_LEADER_TIMEOUT_SECONDS: Final = 0.4
"""A candidate looks ten times a second, and takes a pause of half the time for its own."""

_SERVICE_TABLE: Final = "service"
_MAX_HOST_CHARACTERS: Final = 24


@frozen
class ConnectOptions:
    """How to reach the system. With no URL in ``nats`` it is the server of this host."""

    nats: tuple[str, ...] = option(
        (),
        values.urls,
        "NATS servers, with commas between them; without any, the server of this host.",
        variable="AEGIS_NATS_URL",
        metavar="URL[,URL]",
    )
    creds: Path | None = option(
        None,
        values.existing_file,
        "NATS credentials file, or one with the seed of an nkey.",
        metavar="FILE",
        names_file=True,
    )
    user: str | None = option(None, values.text, "NATS user.", metavar="NAME")
    password: str | None = option(
        None,
        values.text,
        "NATS password; better given as AEGIS_PASSWORD, which others cannot see.",
        metavar="TEXT",
        secret=True,
    )
    system_user: str | None = option(
        None, values.text, "User of the NATS system account (optional).", metavar="NAME"
    )
    system_password: str | None = option(
        None,
        values.text,
        "Its password; better given as AEGIS_SYSTEM_PASSWORD.",
        metavar="TEXT",
        secret=True,
    )
    system_creds: Path | None = option(
        None,
        values.existing_file,
        "Credentials file of the NATS system account (optional).",
        metavar="FILE",
        names_file=True,
    )
    tls_ca: Path | None = option(
        None,
        values.existing_file,
        "Certificates that the server's must be signed by.",
        metavar="FILE",
        names_file=True,
    )
    tls_cert: Path | None = option(
        None, values.existing_file, "Certificate of this client.", metavar="FILE", names_file=True
    )
    tls_key: Path | None = option(
        None, values.existing_file, "Key of that certificate.", metavar="FILE", names_file=True
    )
    inbox_prefix: str | None = option(
        None,
        values.inbox_prefix,
        "Where answers come to; by default _INBOX, and with --user _INBOX.USER.",
        metavar="SUBJECT",
    )
    namespace: str = option(
        DEFAULT_NAMESPACE, values.namespace, "Which system on the NATS servers.", metavar="NAME"
    )
    timeout: float = option(
        5.0, values.duration, "How long a call may take, in seconds.", metavar="SECONDS"
    )
    data_dir: Path | None = option(
        None,
        values.folder,
        "Data folder of this host's own server.",
        metavar="FOLDER",
        names_file=True,
    )

    @property
    def inbox(self) -> str:
        """The subject below which answers come: no other user is to listen there."""
        if self.inbox_prefix is not None:
            return self.inbox_prefix
        return f"_INBOX.{escape(self.user)}" if self.user else "_INBOX"

    @property
    def shown_urls(self) -> tuple[str, ...]:
        """The URLs without the passwords that may stand in them."""
        return tuple(values.redact_url(url) for url in self.nats)

    def __repr__(self) -> str:
        return f"ConnectOptions(nats={self.shown_urls!r}, namespace={self.namespace!r})"


@frozen
class LogOptions:
    """What is logged, and how it looks."""

    log_level: str = option(
        "info",
        values.choice(*values.LOG_LEVELS),
        "Least level of the log lines: " + ", ".join(values.LOG_LEVELS) + ".",
        metavar="LEVEL",
    )
    log_format: str | None = option(
        None,
        values.choice(*values.LOG_FORMATS),
        "json or console; by default console on a terminal and JSON elsewhere.",
        metavar="FORMAT",
    )


@frozen
class ServiceOptions:
    """One service to run: its class as ``file.py:Class`` or ``module:Class``."""

    target: str
    instance_id: str | None = option(
        None,
        values.name,
        "Name of the instance; by default made from service, host and chance.",
        metavar="ID",
    )
    resources: tuple[str, ...] = option(
        (),
        values.ids,
        "Resource that the instance holds, or @FILE with one a line; repeatable.",
        flag="--resource",
        variable="AEGIS_RESOURCES",
        metavar="ID|@FILE",
    )
    role: Role = option(
        Role.ACTIVE, values.role, "Role for the resources: active or standby.", metavar="ROLE"
    )


@frozen
class RunOptions(LogOptions):
    """How to run a node."""

    connect: ConnectOptions = field(factory=ConnectOptions)
    services: tuple[ServiceOptions, ...] = ()
    sync: str | None = option(
        None,
        values.sync,
        "When this host's own server forces writes to disk: always (the default), or every "
        "so often, as in 2m.",
        metavar="WHEN",
    )
    replicas: int = option(
        1, values.replicas, "How many NATS servers keep each message: 1, 3 or 5.", metavar="N"
    )
    max_bytes: int = option(
        8 * 1024**3,
        values.size(1024 * 1024),
        "How large the stream of all that is durable may become, if this node creates it.",
        metavar="BYTES",
    )
    force: bool = option(
        False,
        values.switch,
        "Take the resources from whoever owns them now; that becomes a standby.",
    )
    topic_max_bytes: int = option(
        1024**3,
        values.size(1024 * 1024),
        "How much of a tree of topics is kept for durable subscriptions, if this node is the "
        "first to keep it; the oldest goes first.",
        metavar="BYTES",
    )
    topic_max_age: float = option(
        7 * 86_400.0,
        values.duration,
        "How long it is kept, at most a week; more can be set at the stream itself.",
        metavar="SECONDS",
    )
    keep: bool = option(False, values.switch, "Leave this host's own server running afterwards.")
    admin_port: int = option(
        0,
        values.count(0, 65535),
        "Port of the admin HTTP, with metrics and health; 0 is off.",
        metavar="PORT",
    )
    log_messages: float = option(
        0.0,
        values.share,
        "Share of the requests whose messages are logged, from 0 to 1; the same on all nodes.",
        metavar="SHARE",
    )
    admin_host: str = option(
        "127.0.0.1",
        values.address,
        "Address that the admin HTTP listens on; beyond loopback it needs a token.",
        metavar="ADDRESS",
    )
    admin_token: str | None = option(
        None,
        values.token,
        "Bearer token of the admin HTTP; better given as AEGIS_ADMIN_TOKEN.",
        metavar="TEXT",
        secret=True,
    )
    no_supervisor: bool = option(
        False, values.switch, "This node never leads: it carries no supervisor."
    )
    supervisor_only: bool = option(
        False, values.switch, "This node only supervises: it runs no service."
    )
    heartbeat_interval: float = option(
        0.5, values.duration, "Time between two heartbeats of a node.", metavar="SECONDS"
    )
    heartbeat_timeout: float = option(
        2.0,
        values.duration,
        "Silence after which a node counts as gone; the same on all nodes.",
        metavar="SECONDS",
    )
    lease: float = option(
        2.0,
        values.duration,
        "How long a node answers queries without hearing from the leader; the same on all nodes.",
        metavar="SECONDS",
    )
    stall_timeout: float = option(
        10.0,
        values.duration,
        "How long an actor may make no progress while mail waits.",
        metavar="SECONDS",
    )
    leader_timeout: float = option(
        1.0,
        values.duration,
        "Silence after which a new leader is elected; the same on all nodes.",
        metavar="SECONDS",
    )
    max_resources_per_instance: int = option(
        1000, values.count(1, 1_000_000), "How many resources an instance may hold.", metavar="N"
    )
    mailbox_capacity: int = option(
        1024, values.count(1, 1_000_000), "How many messages may wait for one actor.", metavar="N"
    )
    workers: int = option(
        32, values.count(1, 1024), "Threads for handlers that are plain functions.", metavar="N"
    )


def default_instance_id(service: str) -> str:
    """Return a name for an instance of ``service`` that no other process makes.

    It tells the host, for whoever reads it, and ends in eight random digits.
    """
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0]) or "host"
    return f"{service}-{host[:_MAX_HOST_CHARACTERS]}-{secrets.token_hex(4)}"


def connect_options(sources: Sources) -> ConnectOptions:
    """Return how to connect.

    Raises:
        ConfigurationError: an option is wrong, or two do not go together.
    """
    sources.refuse_unknown(_known_keys())
    found = _find_all(sources, ConnectOptions)
    _check_connect(found)
    return ConnectOptions(**_values(found))


def log_options(sources: Sources) -> LogOptions:
    """Return how to log. Raises ConfigurationError."""
    return LogOptions(**_values(_find_all(sources, LogOptions)))


def run_options(sources: Sources, services: Sequence[Mapping[str, object]] = ()) -> RunOptions:
    """Return how to run a node.

    ``services`` are those of the command line: ``target`` and the other fields of
    `ServiceOptions`, as they were given. They replace the ``[[service]]`` tables of the
    file; one without a target completes the only table that there is.

    Raises:
        ConfigurationError: an option is wrong, or two do not go together.
    """
    connect = connect_options(sources)
    found = _find_all(sources, RunOptions)
    if found["supervisor_only"].value and (services or sources.table.get(_SERVICE_TABLE)):
        raise _refuse(
            "supervisor_only",
            found,
            "such a node runs no service; leave out the services with their --instance-id, "
            "--resource and --role, or leave out this option",
        )
    options = RunOptions(connect=connect, services=_services(sources, services), **_values(found))
    _check_run(options, found)
    return options


def _find_all(sources: Sources, cls: type) -> dict[str, Found]:
    """Return all options of ``cls``, the defaults too."""
    return {
        name: sources.find(option) or Found(option.default, "the default")
        for name, option in options_of(cls).items()
    }


def _values(found: Mapping[str, Found]) -> dict[str, Any]:
    return {name: item.value for name, item in found.items()}


def _known_keys() -> set[str]:
    known = {item.key for cls in (ConnectOptions, RunOptions) for item in options_of(cls).values()}
    return known | {_SERVICE_TABLE}


# -- services -----------------------------------------------------------------------------


def _services(
    sources: Sources, given: Sequence[Mapping[str, object]]
) -> tuple[ServiceOptions, ...]:
    tables = _service_tables(sources)
    if all(flags.get("target") for flags in given) and given:
        places = [attrs.evolve(sources, given=flags, table={}) for flags in given]
    else:
        if len(given) > 1 or (given and len(tables) != 1):
            raise ConfigurationError(
                "--instance-id, --resource and --role need the service that they belong to: "
                "write it before them, as in accounts.py:Account --resource ACC-1",
                option="target",
            )
        places = [attrs.evolve(table, given=given[0] if given else {}) for table in tables]
    services: list[ServiceOptions] = []
    seen: set[str] = set()
    for place in places:
        # A variable does not say which of several services it means.
        one = place if len(places) == 1 else attrs.evolve(place, environ={})
        target = one.given.get("target") or one.table.get("target")
        found = {n: f.value for n, o in options_of(ServiceOptions).items() if (f := one.find(o))}
        service = ServiceOptions(str(target), **found)
        services.append(service)
        if service.instance_id is None:
            continue
        if service.instance_id in seen:
            raise ConfigurationError(
                f"instance_id: two services are given {service.instance_id!r}; give each its own",
                option="instance_id",
            )
        seen.add(service.instance_id)
    return tuple(services)


def _service_tables(sources: Sources) -> list[Sources]:
    raw: Any = sources.table.get(_SERVICE_TABLE, [])
    tables: list[Any] = raw if isinstance(raw, list) else []  # pyright: ignore
    if tables is not raw or not all(isinstance(table, dict) for table in tables):
        raise ConfigurationError(
            f"{_SERVICE_TABLE} in {sources.file}: must be a list of tables; write [[service]], in "
            "double brackets, above each",
            option=_SERVICE_TABLE,
        )
    known = {"target"} | {item.key for item in options_of(ServiceOptions).values()}
    checked: list[Sources] = []
    for index, table in enumerate(cast("list[dict[str, Any]]", tables), 1):
        place = f"[[service]] {index} of {sources.file}"
        one = attrs.evolve(sources, given={}, table=table, place=place)
        one.refuse_unknown(known)
        target = table.get("target")
        if not isinstance(target, str) or not target:
            raise ConfigurationError(
                f'{place}: has no target; add target = "file.py:Class"', option="target"
            )
        file, colon, name = target.partition(":")
        if file.endswith(".py"):
            target = f"{sources.resolve(file)}{colon}{name}"
        checked.append(attrs.evolve(one, table=table | {"target": target}))
    return checked


# -- what goes together -------------------------------------------------------------------


def _refuse(option: str, found: Mapping[str, Found], problem: str) -> ConfigurationError:
    source = found[option].source
    return ConfigurationError(f"{source}: {problem}", option=option, source=source)


def _check_connect(found: Mapping[str, Found]) -> None:
    def given(option: str) -> bool:
        return found[option].value is not None

    if not found["nats"].value:
        for option in (
            "creds",
            "user",
            "password",
            "system_user",
            "system_password",
            "system_creds",
            "tls_ca",
            "tls_cert",
            "tls_key",
            "inbox_prefix",
        ):
            if given(option):
                raise _refuse(
                    option,
                    found,
                    "is for a NATS server of your own; name it with --nats, or leave this out",
                )
    for option, needed in (
        ("user", "password"),
        ("password", "user"),
        ("system_user", "system_password"),
        ("system_password", "system_user"),
        ("tls_cert", "tls_key"),
        ("tls_key", "tls_cert"),
    ):
        if given(option) and not given(needed):
            raise _refuse(option, found, f"is of no use without {needed}; give both or none")
    for option, other in (("creds", "user"), ("system_creds", "system_user")):
        if given(option) and given(other):
            raise _refuse(
                option, found, f"cannot be used with {other} (from {found[other].source}); give one"
            )


def _check_run(options: RunOptions, found: Mapping[str, Found]) -> None:
    _check_intervals(options, found)
    if options.supervisor_only and options.no_supervisor:
        raise _refuse(
            "supervisor_only",
            found,
            f"such a node does nothing with no_supervisor ({found['no_supervisor'].source}); "
            "leave one of them out",
        )
    if (
        options.admin_port
        and options.admin_token is None
        and not ip_address(options.admin_host).is_loopback
    ):
        raise _refuse(
            "admin_host",
            found,
            f"{options.admin_host} can be reached from other hosts; set AEGIS_ADMIN_TOKEN, or "
            "listen on 127.0.0.1",
        )
    if options.replicas > 1 and not options.connect.nats:
        raise _refuse(
            "replicas",
            found,
            f"{options.replicas} replicas need a cluster of as many NATS servers; name them with "
            "--nats, or leave this out",
        )


def _check_intervals(options: RunOptions, found: Mapping[str, Found]) -> None:
    if options.leader_timeout < MIN_LEADER_TIMEOUT_SECONDS:
        raise _refuse(
            "leader_timeout",
            found,
            f"{options.leader_timeout:g} s is too short to tell a dead leader from a busy one; "
            f"give {MIN_LEADER_TIMEOUT_SECONDS:g} s or more",
        )
    for shorter, longer, equal, why in (
        ("heartbeat_interval", "heartbeat_timeout", False, "or every node counts as gone"),
        ("heartbeat_interval", "lease", False, "or the lease ends before it can be renewed"),
        ("lease", "heartbeat_timeout", True, "or a node that counts as gone still answers"),
        ("heartbeat_interval", "stall_timeout", False, "or progress is not seen in time"),
    ):
        low, high = getattr(options, shorter), getattr(options, longer)
        if low < high or (equal and low == high):
            continue
        blamed = longer if found[shorter].source == "the default" else shorter
        relation = "must not be longer than" if equal else "must be shorter than"
        raise _refuse(
            blamed,
            found,
            f"{shorter} ({low:g} s, {found[shorter].source}) {relation} {longer} ({high:g} s, "
            f"{found[longer].source}), {why}",
        )
