"""What the values of options may be: each function checks one kind and returns it.

The first paragraph of a function's docstring says what it takes, in the words of the
configuration reference; a function that makes a check gives it one, too.

A value is text, from a flag or a variable, or whatever TOML makes of it. A function
here raises ValueError whose text goes on after the name of the option: what is wrong,
and what to write instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from aegis.contracts import Role, check_id

__all__ = [
    "LOG_FORMATS",
    "LOG_LEVELS",
    "address",
    "choice",
    "count",
    "duration",
    "existing_file",
    "folder",
    "ids",
    "inbox_prefix",
    "name",
    "namespace",
    "redact_url",
    "role",
    "share",
    "size",
    "switch",
    "sync",
    "text",
    "token",
    "urls",
]

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("json", "console")

MAX_DURATION_SECONDS: Final = 7 * 24 * 3600.0
MAX_NAMESPACE_CHARACTERS: Final = 64
MIN_TOKEN_CHARACTERS: Final = 16
MAX_ID_FILE_BYTES: Final = 16 * 1024 * 1024
_DEFAULT_PORT: Final = 4222
_MAX_PORT: Final = 65535
_MAX_SHOWN: Final = 60

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(ms|s|m|h)?")
_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_INBOX: Final = re.compile(r"[A-Za-z0-9_=-]+(\.[A-Za-z0-9_=-]+)*")
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_SCHEMES: Final = ("nats", "tls")
_SWITCH: Final = {"1": True, "true": True, "yes": True, "on": True} | {
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def show(value: object) -> str:
    """Return ``value`` quoted, and cut if it is long."""
    shown = repr(value)
    return shown if len(shown) <= _MAX_SHOWN else shown[:_MAX_SHOWN] + "..."


def text(value: object) -> str:
    """Any text that is not empty."""
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {show(value)}")
    if not value:
        raise ValueError("must not be empty")
    return value


def duration(value: object) -> float:
    """Seconds, or text with a unit: 500ms, 2s, 1m, 1h. More than 0, at most a week."""
    advice = "give seconds, as in 0.5, or a unit, as in 500ms, 2s, 1m"
    seconds: float
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"{show(value)} is no duration; {advice}")
        seconds = float(match[1]) * _UNIT_SECONDS[match[2] or "s"]
    if not math.isfinite(seconds) or seconds <= 0:
        raise ValueError(f"{show(value)} must be more than 0; {advice}")
    if seconds > MAX_DURATION_SECONDS:
        raise ValueError(f"{show(value)} is more than a week; {advice}")
    return seconds


def count(lowest: int, highest: int) -> Callable[[object], int]:
    """Return a check for whole numbers from ``lowest`` to ``highest``."""

    def check(value: object) -> int:
        advice = f"give a whole number from {lowest} to {highest}"
        number: int | None = None
        if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip()):
            number = int(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            number = value
        if number is None or not lowest <= number <= highest:
            raise ValueError(f"{show(value)} does not fit; {advice}")
        return number

    check.__doc__ = f"A whole number from {lowest} to {highest}."
    return check


def size(lowest: int) -> Callable[[object], int]:
    """Return a check for numbers of bytes from ``lowest`` on; text may end in K, M, G or T."""

    def check(value: object) -> int:
        number: int | None = None
        if isinstance(value, str):
            match = re.fullmatch(r"([0-9]{1,15})([KMGT]?)(?:i?B)?", value.strip(), re.IGNORECASE)
            if match:
                number = int(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " ")
        elif isinstance(value, int) and not isinstance(value, bool):
            number = value
        if number is None or not lowest <= number < 2**63:
            raise ValueError(
                f"{show(value)} does not fit; give at least {lowest} bytes, as in 512M or 8G"
            )
        return number

    check.__doc__ = f"A number of bytes, at least {lowest}; as text also 512M, 8G."
    return check


def switch(value: object) -> bool:
    """True or false; as text also 1, 0, yes, no, on, off."""
    if isinstance(value, bool):
        return value
    found = _SWITCH.get(value.strip().lower()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{show(value)} is neither true nor false; give one of the two")
    return found


def choice(*allowed: str) -> Callable[[object], str]:
    """Return a check for one of a few words, in any case."""

    def check(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word not in allowed:
            raise ValueError(f"{show(value)} is unknown; give one of: {', '.join(allowed)}")
        return word

    check.__doc__ = f"One of: {', '.join(allowed)}."
    return check


def replicas(value: object) -> int:
    """1, 3 or 5."""
    number = count(1, 5)(value)
    if number % 2 == 0:
        raise ValueError(
            f"{number} servers outlive no more failures than {number - 1}; give 1, 3 or 5"
        )
    return number


def role(value: object) -> Role:
    """Active or standby."""
    return Role(choice(*Role)(value))


def name(value: object) -> str:
    """A name: up to 200 bytes without spaces."""
    found = text(value)
    if (problem := check_id(found)) is not None:
        raise ValueError(f"{show(found)} {problem}{_without_spaces(found)}")
    return found


def _without_spaces(name: str) -> str:
    """Return what to write instead of a name that has spaces, if that is all it lacks."""
    better = "-".join(name.split())
    return "" if check_id(better) is not None else f"; write {show(better)}"


def inbox_prefix(value: object) -> str:
    """The first tokens of a subject."""
    if not isinstance(value, str) or not _INBOX.fullmatch(value):
        raise ValueError(
            f"{show(value)} is no beginning of a subject; give words with dots between them, as in "
            "_INBOX.trader"
        )
    return value


def namespace(value: object) -> str:
    """Up to 64 letters, digits, ``-`` and ``_``, a letter or digit first."""
    found = text(value)
    if not _NAMESPACE.fullmatch(found) or len(found) > MAX_NAMESPACE_CHARACTERS:
        raise ValueError(
            f"{show(found)} cannot name a namespace; give up to {MAX_NAMESPACE_CHARACTERS} letters, "
            "digits, '-' and '_', a letter or digit first"
        )
    return found


def share(value: object) -> float:
    """A number from 0 to 1."""
    try:
        found = math.nan if isinstance(value, bool) else float(str(value))
    except ValueError:
        found = math.nan
    if not 0 <= found <= 1:
        raise ValueError(f"{show(value)} is no share of all; give a number from 0 to 1")
    return found


def address(value: object) -> str:
    """An IP address of this host, such as 127.0.0.1 or 0.0.0.0."""
    given = text(value)
    try:
        return str(ip_address("127.0.0.1" if given == "localhost" else given))
    except ValueError:
        raise ValueError("must be an IP address, such as 127.0.0.1 or 0.0.0.0") from None


def token(value: object) -> str:
    """At least 16 characters: letters, digits and ``. _ ~ + / -``."""
    given = text(value)
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", given):
        raise ValueError("must be letters, digits and . _ ~ + / - alone, as headers have it")
    if len(given) < MIN_TOKEN_CHARACTERS:
        raise ValueError(f"must have at least {MIN_TOKEN_CHARACTERS} characters")
    return given


def sync(value: object) -> str:
    """``always``, or a duration as NATS writes it, such as ``2m``."""
    from aegis.errors import ConfigurationError
    from aegis.transport._server_config import check_sync

    found = text(value)
    try:
        return check_sync(found)
    except ConfigurationError as error:
        raise ValueError(str(error).removeprefix("sync: ")) from None


def urls(value: object) -> tuple[str, ...]:
    """URLs such as nats://host:4222 or tls://host:4222, with commas between them or as a list."""
    found = tuple(_url(item) for item in _items(value))
    if not found:
        raise ValueError("names no server; give a URL, as in nats://127.0.0.1:4222")
    if len({urlsplit(url).scheme for url in found}) > 1:
        raise ValueError("mixes nats:// and tls://; either all servers use TLS or none")
    return found


def redact_url(url: str) -> str:
    """Return ``url`` without the password or token that it may hold."""
    at = url.rfind("@")
    if at < 0:
        return url
    scheme, separator, _ = url.partition("://")
    return f"{scheme}{separator}***@{url[at + 1:]}" if separator else f"***@{url[at + 1:]}"


def _url(value: str) -> str:
    shown = show(redact_url(value))
    advice = "give a URL such as nats://127.0.0.1:4222 or tls://nats.example.com:4222"
    parts: SplitResult
    try:
        parts = urlsplit(value if "://" in value else f"nats://{value}")
        port = parts.port
    except ValueError:
        raise ValueError(f"{shown} is no URL; {advice}") from None
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"{shown} does not begin with nats:// or tls://; {advice}")
    if not parts.hostname or port == 0 or any(c.isspace() for c in value):
        raise ValueError(f"{shown} names no host and port; {advice}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{shown} has something behind the port; {advice}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    login, at, _ = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{login}{at}{host}:{port or _DEFAULT_PORT}"


def existing_file(value: object) -> Path:
    """A file that can be read."""
    path = Path(text(value)).expanduser()
    _read_some(path, 1)
    return path.absolute()


def folder(value: object) -> Path:
    """A folder, which need not exist."""
    path = Path(text(value)).expanduser()
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is not a folder; name one, or a path where one can be made")
    return path.absolute()


def ids(value: object) -> tuple[str, ...]:
    """Names of up to 200 bytes without spaces; ``@file`` stands for the lines of that file.

    An id that itself begins with ``@`` is written with two.
    """
    found: dict[str, None] = {}
    for item in _items(value):
        for where, entry in _expanded(item):
            if (problem := check_id(entry)) is not None:
                raise ValueError(f"{where}{show(entry)} {problem}{_without_spaces(entry)}")
            if entry in found:
                raise ValueError(f"{where}{show(entry)} is given twice; leave one out")
            found[entry] = None
    return tuple(found)


def _expanded(item: str) -> Iterable[tuple[str, str]]:
    if not item.startswith("@"):
        yield "", item
    elif item.startswith("@@"):
        yield "", item[1:]
    else:
        path = Path(item[1:]).expanduser()
        if not item[1:]:
            raise ValueError("'@' names no file; write @ids.txt, or @@x for an id that is @x")
        try:
            content = _read_some(path, MAX_ID_FILE_BYTES + 1).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError(f"{path} is no UTF-8 text; write one id a line") from None
        if len(content) > MAX_ID_FILE_BYTES:
            raise ValueError(f"{path} has more than {MAX_ID_FILE_BYTES // 1024**2} MiB")
        lines = [
            (f"{path} line {i}: ", line.strip()) for i, line in enumerate(content.split("\n"), 1)
        ]
        entries = [(where, line) for where, line in lines if line]
        if not entries:
            raise ValueError(f"{path} holds no id; write one a line")
        yield from entries


def _items(value: object) -> list[str]:
    """Return the items of a list, or of text with commas between them."""
    if isinstance(value, str):
        return [part for part in (part.strip() for part in value.split(",")) if part]
    if isinstance(value, list | tuple):
        items: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
        return [text(item) for item in items]
    raise ValueError(f"must be text or a list of texts, not {show(value)}")


def _read_some(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; name a file") from None
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; name a file that does") from None
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); name a file that can"
        ) from None
