"""JetStream's own messages: acknowledgements, refusals, stream configuration."""

# JSON has no types of ours.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import json
import re
from typing import Any, Final

from aegis.errors import ConfigurationError
from aegis.transport._base import (
    Appended,
    AppendOutcome,
    Refused,
    StreamConfig,
    StreamFacts,
    Unknown,
)
from aegis.transport._server_binary import MIN_SERVER_VERSION, is_supported_version

__all__ = [
    "API",
    "ApiError",
    "api_reply",
    "check_server",
    "create_problem",
    "facts_of",
    "outcome_of",
    "stream_differences",
    "stream_request",
]

API: Final = "$JS.API"

WRONG_LAST_SEQUENCE: Final = 10071
OTHER_UNDER_WAY: Final = 10164
STREAM_NOT_FOUND: Final = 10059
STREAM_NAME_IN_USE: Final = 10058
NO_META_LEADER: Final = 10008
CLUSTER_NOT_AVAILABLE: Final = 10009
NO_SUITABLE_PEERS: Final = 10005

_LAST: Final = re.compile(r"wrong last sequence: (\d+)")
_ACK: Final = re.compile(rb'\{"stream":"[^"\\]*","seq":([1-9]\d*)\}')


class ApiError(Exception):
    """JetStream refused a request of its API."""

    def __init__(self, code: int, error_code: int, description: str) -> None:
        super().__init__(description or f"code {code}, error {error_code}")
        self.code = code
        self.error_code = error_code

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later: JetStream is not up yet.

        Servers that have just started may not have heard of one another.
        """
        return self.error_code in (NO_META_LEADER, CLUSTER_NOT_AVAILABLE, NO_SUITABLE_PEERS)


def outcome_of(payload: bytes) -> AppendOutcome:
    """Return what an acknowledgement of the stream says.

    An error carries a ``seq`` of 0 besides: only ``error`` tells.
    """
    plain = _ACK.fullmatch(payload)
    if plain is not None:
        return Appended(int(plain[1]))
    try:
        reply = json.loads(payload)
        error = reply.get("error")
        if error is None:
            sequence = reply["seq"]
            if type(sequence) is int and sequence > 0:
                return Appended(sequence)
            return Unknown(f"an acknowledgement without a sequence: {payload[:100]!r}")
        return _refused(error)
    except (ValueError, AttributeError, KeyError, TypeError):
        return Unknown(f"an answer that is no acknowledgement: {payload[:100]!r}")


def _refused(error: dict[str, Any]) -> Refused:
    code = int(error.get("err_code") or error.get("code") or 0)
    text = str(error.get("description", ""))
    last = _LAST.search(text)
    return Refused(
        conflict=code in (WRONG_LAST_SEQUENCE, OTHER_UNDER_WAY),
        last_sequence=int(last[1]) if last else None,
        again=code == OTHER_UNDER_WAY,
        code=code,
        reason=text,
    )


def api_reply(payload: bytes) -> dict[str, Any]:
    """Return the answer of JetStream's API.

    Raises:
        ApiError: it is an error, or no answer of that API.
    """
    try:
        reply = json.loads(payload)
    except ValueError:
        reply = None
    if not isinstance(reply, dict):
        raise ApiError(500, 0, "the answer is not JSON")
    error = reply.get("error")
    if isinstance(error, dict):
        raise ApiError(
            int(error.get("code", 0)),
            int(error.get("err_code", 0)),
            str(error.get("description", "")),
        )
    return reply


# -- the stream ---------------------------------------------------------------------

_FIXED: Final[dict[str, Any]] = {
    "storage": "file",
    "retention": "limits",
    "discard": "new",
    "max_age": 0,
    "max_msgs": -1,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "allow_rollup_hdrs": True,
    "allow_msg_ttl": True,
    "allow_atomic": True,
    "deny_delete": False,
    "deny_purge": False,
    "sealed": False,
    "no_ack": False,
}
"""What every stream of ours has; a message is kept until we ourselves remove it."""

_ABSENT: Final[dict[str, Any]] = {
    "mirror": None,
    "sources": None,
    "republish": None,
    "subject_transform": None,
    "persist_mode": None,
    "discard_new_per_subject": False,
}
"""What no stream of ours may have; the server leaves these out when they are unset."""


def stream_request(config: StreamConfig) -> dict[str, Any]:
    """Return the body that creates the stream."""
    return {
        "name": config.name,
        "subjects": config.subjects,
        "num_replicas": config.replicas,
        "max_bytes": config.max_bytes,
        **_FIXED,
        **_letting_go(config),
    }


def _letting_go(config: StreamConfig) -> dict[str, Any]:
    """Return what is otherwise at a stream that does not keep its messages for ever."""
    if not config.max_age:
        return {}
    return {"discard": "old", "max_age": config.max_age * 1_000_000_000}


def facts_of(info: dict[str, Any]) -> StreamFacts:
    """Return what JetStream's information on a stream says."""
    config = info["config"]
    return StreamFacts(
        str(config["name"]), list(config.get("subjects") or []), bool(config.get("allow_atomic"))
    )


def stream_differences(found: dict[str, Any], config: StreamConfig) -> list[str]:
    """Return how the stream's configuration ``found`` differs from ours, in words."""
    differences: list[str] = []
    subjects = sorted(found.get("subjects") or [])
    if subjects != sorted(config.subjects):
        differences.append(f"subjects is {subjects}, not {sorted(config.subjects)}")
    # How large it may become is the operator's to change; that it has a bound is not.
    if int(found.get("max_bytes") or 0) <= 0:
        differences.append(f"max_bytes is not set; {config.max_bytes} would do")
    wanted = {"num_replicas": config.replicas, **_FIXED, **_letting_go(config)}
    if config.max_age:
        # How long it keeps what it has is the operator's to change, too.
        del wanted["max_age"]
    for name, value in wanted.items():
        ours: Any = False if value is False else (0 if value == 0 else value)
        theirs = found.get(name, False if isinstance(value, bool) else 0)
        if theirs != ours:
            differences.append(f"{name} is {theirs!r}, not {value!r}")
            if name == "num_replicas":
                differences[-1] += f": give replicas = {theirs!r} here, or change the stream"
    for name, unset in _ABSENT.items():
        theirs = found.get(name) or unset
        if theirs != unset and not (name == "persist_mode" and theirs == "default"):
            differences.append(f"{name} is set, and must not be")
    return differences


def check_server(info: dict[str, Any]) -> None:
    """Check what the server's INFO says of it.

    Raises:
        ConfigurationError: it is too old, or has no JetStream.
    """
    version = str(info.get("version", ""))
    if not is_supported_version(version):
        wanted = ".".join(map(str, MIN_SERVER_VERSION))
        raise ConfigurationError(
            f"the server is nats-server {version or 'of an unknown version'}; "
            f"{wanted} or newer is needed"
        )
    if not info.get("jetstream"):
        raise ConfigurationError(
            "the server runs without JetStream; start it with -js, or a jetstream block in its file"
        )


def create_problem(config: StreamConfig, error: ApiError) -> ConfigurationError:
    """Return why the stream cannot be created, and what to do."""
    advice = {
        10047: "give JetStream more room (max_file_store), or the stream less (--max-bytes)",
        10074: "replicas above 1 need a cluster of servers",
        10065: "another stream keeps some of these subjects; use another namespace",
        10039: "enable JetStream for this account",
    }.get(error.error_code, "see the server's log")
    return ConfigurationError(f"stream {config.name} cannot be created: {error}; {advice}")
